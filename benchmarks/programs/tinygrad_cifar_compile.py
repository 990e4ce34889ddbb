"""This project: the eager step, recorded once and replayed by ``tg.compile``."""

import tinygrad_cifar as tg
from benchmarks.networks import Network
from benchmarks.programs import Program, SkipProgramError
from benchmarks.programs.tinygrad_cifar_eager import prepare, step_of


def program(network: Network) -> Program:
    if not hasattr(tg, "compile"):
        raise SkipProgramError("tinygrad_cifar.compile does not exist yet")
    return Program(tg.compile(step_of(network)), prepare)
