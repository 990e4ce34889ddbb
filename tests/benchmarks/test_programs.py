"""A benchmark that compares different computations is worthless: all programs must compute the same losses."""

import dataclasses
import itertools
import shutil

import pytest

from benchmarks.networks import NETWORKS, Network
from benchmarks.programs import PROGRAMS, SkipProgramError, losses
from benchmarks.step import check

TINY = {
    name: dataclasses.replace(network, sizes=(12, *(min(size, 7) for size in network.sizes[1:])), batch=16)
    for name, network in NETWORKS.items()
}
PEERS = [name for name in PROGRAMS if name not in ("limit", "numpy_hand", "torch_compile")]


def losses_or_skip(program: str, network: Network) -> list[float]:
    try:
        return losses(program, network)
    except SkipProgramError as error:
        pytest.skip(str(error))
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "jax", "autograd", "mygrad", "tinygrad"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("network", TINY.values(), ids=TINY)
@pytest.mark.parametrize("program", PEERS)
def test_every_program_computes_the_losses_of_the_step_by_hand(program: str, network: Network) -> None:
    check(losses_or_skip(program, network), losses("numpy_hand", network), "float32")


@pytest.mark.parametrize("network", TINY.values(), ids=TINY)
@pytest.mark.parametrize("program", ["torch_eager", "autograd", "mygrad", "tinygrad_jit", "tinygrad_cifar_eager"])
def test_they_agree_to_rounding_in_float64(program: str, network: Network) -> None:
    network = dataclasses.replace(network, dtype="float64")
    check(losses_or_skip(program, network), losses("numpy_hand", network), "float64")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
@pytest.mark.parametrize("network", [TINY["3-layer-bn"]], ids=["3-layer-bn"])
def test_torch_compile_too(network: Network) -> None:
    check(losses_or_skip("torch_compile", network), losses("numpy_hand", network), "float32")


def test_the_check_sees_another_learning_rate() -> None:
    network = TINY["3-layer-bn"]
    other = losses("numpy_hand", dataclasses.replace(network, optimizer="adam"))
    with pytest.raises(SkipProgramError, match="computes something else"):
        check(other, losses("numpy_hand", network), "float32")


def test_the_limit_runs() -> None:
    from benchmarks.step import timed_program

    timed_program("limit", dataclasses.asdict(TINY["9-layer-bn"]))(3)


def test_what_the_first_calls_compile_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import step
    from benchmarks.programs import Program

    calls = itertools.count()
    monkeypatch.setattr(step, "load", lambda name, network: Program(lambda x, labels: next(calls)))
    step.timed_program("limit", dataclasses.asdict(TINY["1-layer"]))
    assert next(calls) == 3  # one compiles, or, as tinygrad and we do, two; the third is as those that are timed


def test_a_worker_measures_and_says_why_it_skips() -> None:
    from benchmarks.harness import Worker

    settings = dataclasses.asdict(TINY["1-layer"])
    worker = Worker("benchmarks.step:timed_program", name="numpy_hand", network=settings)
    try:
        assert worker.skipped is None
        times = worker.measure(seconds=0.001, blocks=3)
    finally:
        worker.close()
    assert len(times) == 3
    assert all(time > 0 for time in times)

    absent = Worker("benchmarks.step:timed_program", name="no_such_program", network=settings)
    assert "no_such_program" in (absent.skipped or "")
    absent.close()


def test_the_tables_give_medians_and_ratios() -> None:
    from benchmarks.step import tables

    times = {"limit": [1e-4, 2e-4, 3e-4], "torch_eager": [4e-4]}
    text = tables({"net": times, "other": {**times, "jax_jit": [1e-4]}})
    assert "| network, batch | limit | torch_eager | jax_jit |" in text
    assert "| net | 200 | 400 | – |" in text
    assert "| net | 1.00 | 2.00 | – |" in text
    assert "| net | 0.50 | 1.00 | – |" in text


def test_every_program_has_a_colour() -> None:
    from benchmarks.harness import COLOURS

    assert set(COLOURS) == set(PROGRAMS)


def test_imports_sees_what_is_loaded() -> None:
    from benchmarks.imports import third_party

    assert third_party() == ["numpy"]
