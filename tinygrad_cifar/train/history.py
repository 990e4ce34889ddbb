"""What was measured at the end of each epoch."""

import csv
import io
from dataclasses import astuple, dataclass, fields

from tinygrad_cifar.errors import CheckpointError


@dataclass(frozen=True)
class Epoch:
    """One row of a history.

    The train columns are averages over the epoch's batches, measured in training mode while the weights moved; the val
    columns are measured in evaluation mode with the weights of the epoch's end. For a measurement of the training
    images with fixed weights see ``evaluate``; a run reports one of its final weights.

    Attributes:
        epoch: counted from 1.
        step: updates since the beginning of the training.
        lr: the learning rate of the last of them.
        train_cost, val_cost: the loss plus the penalty on the weights.
        train_loss, val_loss: mean cross entropy, in nats.
        train_accuracy, val_accuracy: fractions in [0, 1].
        seconds: wall-clock time of the epoch, validation included.
    """

    epoch: int
    step: int
    lr: float
    train_cost: float
    train_loss: float
    train_accuracy: float
    val_cost: float
    val_loss: float
    val_accuracy: float
    seconds: float


COLUMNS = tuple(column.name for column in fields(Epoch))


class History(list[Epoch]):
    """The epochs of a training, in order; ``history.columns()`` is what ``viz.training_curves`` draws."""

    def __repr__(self) -> str:
        return f"History({len(self)} epochs)"

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest validation accuracy, the earliest of equals; None before the first."""
        return max(self, key=lambda row: row.val_accuracy, default=None)

    def columns(self) -> dict[str, list[float]]:
        """{column: one number per epoch}."""
        return {name: [getattr(row, name) for row in self] for name in COLUMNS}

    def to_csv(self) -> str:
        """A table with a header; floats are written so that they are read back exactly."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(astuple(row) for row in self)
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> "History":
        """The history that ``to_csv`` wrote.

        Raises:
            CheckpointError: other columns, or a value that is not a number.
        """
        rows = list(csv.reader(io.StringIO(text)))
        if not rows or tuple(rows[0]) != COLUMNS:
            raise CheckpointError(f"not a history: the first line must be {','.join(COLUMNS)}.")
        kinds = [column.type for column in fields(Epoch)]
        try:
            epochs = [Epoch(*(kind(v) for kind, v in zip(kinds, row, strict=True))) for row in rows[1:]]  # type: ignore[operator]
        except ValueError as error:
            raise CheckpointError(f"the history has a broken line: {error}.") from error
        return cls(epochs)
