"""The PyTorch step, all of it under torch.compile (Inductor)."""

import shutil

import torch
import torch.nn.functional as F

from benchmarks.networks import Network
from benchmarks.programs import Program, SkipProgramError
from benchmarks.programs.torch_eager import OPTIMIZERS, model_of, prepare


def program(network: Network) -> Program:
    if not (shutil.which("g++") or shutil.which("clang++")):
        raise SkipProgramError("torch.compile needs a C++ compiler")
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](model.parameters(), lr=network.learning_rate)

    @torch.compile
    def step(x, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return Program(step, prepare)
