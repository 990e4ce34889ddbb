"""What a training changes, kept so that it can be put back."""

from typing import TYPE_CHECKING

from tinygrad_cifar import random
from tinygrad_cifar.data import Batches

if TYPE_CHECKING:
    from tinygrad_cifar.train.trainer import Trainer


class Snapshot:
    """All that decides an epoch, at its beginning."""

    def __init__(self, trainer: "Trainer", train: Batches) -> None:
        self.model = trainer.model.state_dict()
        self.optimizer = trainer.optimizer.state_dict()
        self.batches = train.state_dict()
        self.dropout = random.stream("dropout").bit_generator.state
        self.steps = trainer.steps

    def restore(self, trainer: "Trainer", train: Batches) -> None:
        """Make ``trainer`` and its batches begin that epoch again."""
        trainer.model.load_state_dict(self.model)
        trainer.model.train()
        trainer.optimizer.load_state_dict(self.optimizer)
        train.load_state_dict(self.batches)
        random.stream("dropout").bit_generator.state = self.dropout
        trainer.steps = self.steps
