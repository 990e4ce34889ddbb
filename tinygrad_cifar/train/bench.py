"""What a training step costs on this machine: eager, compiled, and its matrix products alone."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinygrad_cifar import nn, random
from tinygrad_cifar.compiler import compile as compile_step
from tinygrad_cifar.data.batches import BLAS_KERNELS
from tinygrad_cifar.data.splits import CLASSES, PIXELS
from tinygrad_cifar.tensor import Array
from tinygrad_cifar.train.build import build_model, build_trainer
from tinygrad_cifar.train.config import Config

ROUNDS = 7
SECONDS = 0.1  # of a program in a round
PRODUCTS = "matrix products"


@dataclass(frozen=True)
class Bench:
    """What ``bench`` measured.

    Attributes:
        title: the network, the batch and what trains it.
        batch: images a step.
        seconds: of a step, by program: "matrix products", "eager", "compiled".
        recording: seconds of the compiled step's first two calls, which record and plan it.
        program: the compiled step line by line, with the time of each.
    """

    title: str
    batch: int
    seconds: dict[str, float]
    recording: float
    program: str

    def __str__(self) -> str:
        rows = [self.title, f"{'':16}{'µs a step':>12}{'images a second':>18}{'products, share':>18}"]
        for name, seconds in self.seconds.items():
            share = self.seconds[PRODUCTS] / seconds
            rows.append(f"{name:16}{1e6 * seconds:12,.0f}{self.batch / seconds:18,.0f}{100 * share:16.0f} %")
        steps = self.recording / self.seconds["eager"]
        rows.append(f"recorded and planned in {1e3 * self.recording:,.0f} ms, as long as {steps:.0f} eager steps")
        for name in BLAS_KERNELS:
            if name in os.environ:
                rows.append(
                    f"{name}={os.environ[name]} keeps NumPy's products from this processor's own kernels: unset it"
                )
        return "\n".join(rows)


def bench(config: Config) -> Bench:
    """Time the ``Trainer``'s step for ``config``: forward, backward, penalty, update; data and schedule left out.

    The programs take turns, a tenth of a second each, seven times; what counts is the median. Images are standard
    normal noise and the learning rate is 0, so that the weights stay what they were: speed depends on neither.
    """
    random.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    x = rng.standard_normal((config.batch_size, PIXELS)).astype(config.dtype)
    labels = rng.integers(len(CLASSES), size=config.batch_size)
    model = build_model(config)
    trainer = build_trainer(config, model, compile=False)
    compiled = compile_step(trainer._pass)
    weights = [m.weight.data.T.copy(order="K") for m in model.modules() if isinstance(m, nn.Linear)]
    products = matrix_products(weights, config.batch_size)
    programs: dict[str, Callable[[], object]] = {
        PRODUCTS: lambda: products(x),
        "eager": lambda: trainer._pass(x, labels),
        "compiled": lambda: compiled(x, labels),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    first = compile_step(trainer._pass)
    _timed(lambda: first(x, labels), 2)  # what the first program of a process loads, as numba's loops, is not counted
    recording = _timed(programs["compiled"], 2)
    counts = {name: _repeats(program) for name, program in programs.items()}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            times[name].append(_timed(program, counts[name]) / counts[name])
    medians = {name: statistics.median(of) for name, of in times.items()}
    title = f"{config.title}, batch {config.batch_size}, {config.optimizer}, {config.dtype}"
    return Bench(title, config.batch_size, medians, recording, compiled.explain())


def matrix_products(weights: list[Array], batch: int) -> Callable[[Array], None]:
    """The products of one step and a plain update, into ready buffers: what no implementation can go without.

    Forward X W; backward dW = X^T G and dX = G W^T, the latter not for the first layer; then W -= lr dW. The update is
    plain for every optimiser: what Adam costs on top is part of what a program may save.

    Args:
        weights: (in, out), changed by the update.
        batch: rows of the X that the returned function takes.
    """
    gradients = [np.zeros_like(w) for w in weights]
    rng = np.random.default_rng(2)
    outputs = [rng.standard_normal((batch, w.shape[1])).astype(w.dtype) for w in weights]
    upstream = [1e-3 * z for z in outputs]
    rate = np.asarray(1e-6, weights[0].dtype)  # small: the weights stay ordinary numbers

    def run(x: Array) -> None:
        inputs = [x, *outputs[:-1]]
        for x_i, w, z in zip(inputs, weights, outputs, strict=True):
            np.matmul(x_i, w, out=z)
        for i in reversed(range(len(weights))):
            np.matmul(inputs[i].T, upstream[i], out=gradients[i])
            if i:
                np.matmul(upstream[i], weights[i].T, out=upstream[i - 1])
        for w, g in zip(weights, gradients, strict=True):
            np.multiply(g, rate, out=g)
            np.subtract(w, g, out=w)

    return run


def _timed(program: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        program()
    return time.perf_counter() - begin


def _repeats(program: Callable[[], object]) -> int:
    """How many runs take about ``SECONDS``; finding out is the warm-up."""
    count = 4
    while (spent := _timed(program, count)) < SECONDS / 2:
        count *= 2
    return max(1, round(count * SECONDS / spent))
