"""Each optimiser: its paper's formula written out, and PyTorch's figures over 50 steps."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tinygrad_cifar import Tensor, nn, optim
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.optim import optimizer as machinery

Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]

LR, DECAY = 0.05, 0.1


def sgd(w: Any, g: Any, s: Any, t: int) -> Any:
    return w - LR * g


def sgd_decayed(w: Any, g: Any, s: Any, t: int) -> Any:
    return w - LR * (g + DECAY * w)


def momentum_pytorch(w: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = 0.9 * s.get("v", 0) + g
    return w - LR * s["v"]


def momentum_classic(w: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = 0.9 * s.get("v", 0) + LR * g
    return w - s["v"]


def nesterov_pytorch(w: Any, g: Any, s: Any, t: int) -> Any:
    g = g + DECAY * w
    s["v"] = 0.9 * s.get("v", 0) + g
    return w - LR * (g + 0.9 * s["v"])


def nesterov_classic(w: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = 0.9 * s.get("v", 0) + LR * g
    return w - (0.9 * s["v"] + LR * g)


def adagrad(w: Any, g: Any, s: Any, t: int) -> Any:
    s["s"] = s.get("s", 0) + g**2
    return w - LR * g / (np.sqrt(s["s"]) + 1e-10)


def rmsprop(w: Any, g: Any, s: Any, t: int) -> Any:
    s["s"] = 0.99 * s.get("s", 0) + 0.01 * g**2
    return w - LR * g / (np.sqrt(s["s"]) + 1e-8)


def rmsprop_momentum(w: Any, g: Any, s: Any, t: int) -> Any:
    s["s"] = 0.9 * s.get("s", 0) + 0.1 * g**2
    s["v"] = 0.8 * s.get("v", 0) + g / (np.sqrt(s["s"]) + 1e-8)
    return w - LR * s["v"]


def adam(w: Any, g: Any, s: Any, t: int) -> Any:
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    m_hat, v_hat = s["m"] / (1 - 0.9**t), s["v"] / (1 - 0.999**t)
    return w - LR * m_hat / (np.sqrt(v_hat) + 1e-8)


def adam_decayed(w: Any, g: Any, s: Any, t: int) -> Any:
    return adam(w, g + DECAY * w, s, t)


def adamw(w: Any, g: Any, s: Any, t: int) -> Any:
    return adam(w, g, s, t) - LR * DECAY * w


CASES: dict[str, tuple[type[optim.Optimizer], dict[str, Any], Rule]] = {
    "SGD": (optim.SGD, {}, sgd),
    "SGD decayed": (optim.SGD, {"weight_decay": DECAY}, sgd_decayed),
    "SGD momentum": (optim.SGD, {"momentum": 0.9}, momentum_pytorch),
    "SGD momentum classic": (optim.SGD, {"momentum": 0.9, "form": "classic"}, momentum_classic),
    "SGD nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": DECAY}, nesterov_pytorch),
    "SGD nesterov classic": (optim.SGD, {"momentum": 0.9, "nesterov": True, "form": "classic"}, nesterov_classic),
    "Adagrad": (optim.Adagrad, {}, adagrad),
    "RMSprop": (optim.RMSprop, {}, rmsprop),
    "RMSprop momentum": (optim.RMSprop, {"alpha": 0.9, "momentum": 0.8}, rmsprop_momentum),
    "Adam": (optim.Adam, {}, adam),
    "Adam decayed": (optim.Adam, {"weight_decay": DECAY}, adam_decayed),
    "AdamW": (optim.AdamW, {"weight_decay": DECAY}, adamw),
}


@pytest.fixture(params=[7, 1 << 16], ids=["tiny blocks", "one block"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny blocks the parameters below are cut and merged in every possible way."""
    monkeypatch.setattr(machinery, "BLOCK", request.param)


def parameters(dtype: Any = np.float64) -> list[Tensor]:
    """Of several shapes and memory orders: the first and third are larger than a tiny block."""
    rng = np.random.default_rng(6)
    arrays = [rng.normal(size=(5, 4)).T, rng.normal(size=4), rng.normal(size=(3, 4)), rng.normal(size=()),
              rng.normal(size=2), rng.normal(size=(2, 2, 2)).T]  # fmt: skip
    return [nn.Parameter(array.astype(dtype)) for array in arrays]


def gradients(steps: int) -> Iterator[list[np.ndarray]]:
    rng = np.random.default_rng(7)
    for _ in range(steps):
        yield [rng.normal(size=p.shape) for p in parameters()]


def give(params: list[Tensor], arrays: list[np.ndarray]) -> None:
    """As from backward: in the parameter's memory order, or not."""
    for i, (p, g) in enumerate(zip(params, arrays, strict=True)):
        p.grad = Tensor(np.asfortranarray(g) if i % 2 == 0 else g)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("name", CASES)
def test_the_formula(name: str) -> None:
    kind, settings, rule = CASES[name]
    params = parameters()
    expected = [p.data.copy() for p in params]
    optimizer = kind(params, lr=LR, **settings)
    memories: list[dict[str, Any]] = [{} for _ in params]
    for t, arrays in enumerate(gradients(10), start=1):
        give(params, arrays)
        optimizer.step()
        expected = [rule(w, g, s, t) for w, g, s in zip(expected, arrays, memories, strict=True)]
        for p, w, g in zip(params, expected, arrays, strict=True):
            np.testing.assert_allclose(p.data, w, rtol=1e-12, atol=1e-14)
            assert p.grad is not None
            np.testing.assert_array_equal(p.grad.data, g)  # left as it was


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("name", [name for name in CASES if "classic" not in name])
def test_pytorchs_figures(torch: Any, name: str) -> None:
    kind, settings, _ = CASES[name]
    params = parameters()
    peers = [torch.nn.Parameter(torch.tensor(p.data.copy())) for p in params]
    optimizer = kind(params, lr=LR, **settings)
    peer = getattr(torch.optim, kind.__name__)(peers, lr=LR, **settings)
    for step, arrays in enumerate(gradients(50)):
        optimizer.lr = peer.param_groups[0]["lr"] = LR / (1 + step)
        give(params, arrays)
        for i, (p, q, g) in enumerate(zip(params, peers, arrays, strict=True)):
            q.grad = torch.tensor(g)
            if (step + i) % 4 == 0:  # each time some have no gradient
                p.grad = q.grad = None
        optimizer.step()
        peer.step()
    for p, q in zip(params, peers, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name: str) -> None:
    kind, settings, rule = CASES[name]
    params = parameters(np.float32)
    expected = [p.data.astype(float) for p in params]
    optimizer = kind(params, lr=LR, **settings)
    memories: list[dict[str, Any]] = [{} for _ in params]
    for t, arrays in enumerate(gradients(5), start=1):
        give(params, [g.astype(np.float32) for g in arrays])
        optimizer.step()
        expected = [rule(w, g, s, t) for w, g, s in zip(expected, arrays, memories, strict=True)]
    for p, w in zip(params, expected, strict=True):
        assert p.data.dtype == np.float32
        np.testing.assert_allclose(p.data, w, rtol=2e-5, atol=2e-6)


def test_adams_first_step_is_the_sign_of_the_gradient() -> None:
    p = nn.Parameter(np.zeros(3))
    p.grad = Tensor(np.array([5.0, -1e-3, 0.2]))
    optim.Adam([p], lr=0.1, eps=0.0).step()
    np.testing.assert_allclose(p.data, [-0.1, 0.1, -0.1])


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=-1.0),
        lambda p: optim.SGD(p, lr=math.nan),
        lambda p: optim.SGD(p, lr=math.inf),
        lambda p: optim.SGD(p, lr=0.1, weight_decay=-1.0),
        lambda p: optim.SGD(p, lr=0.1, momentum=1.0),
        lambda p: optim.SGD(p, lr=0.1, nesterov=True),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, form="sutskever"),
        lambda p: optim.Adam(p, betas=(0.9, 1.0)),
        lambda p: optim.Adam(p, betas=(0.9,)),
        lambda p: optim.Adam(p, eps=-1e-8),
        lambda p: optim.AdamW(p, weight_decay=-0.1),
        lambda p: optim.RMSprop(p, alpha=1.5),
        lambda p: optim.RMSprop(p, momentum=-0.5),
        lambda p: optim.Adagrad(p, eps=-1.0),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[list[Tensor]], Any]) -> None:
    with pytest.raises(ConfigError):
        make(parameters())


def test_repr_shows_the_settings() -> None:
    assert repr(optim.SGD(parameters(), lr=0.1, momentum=0.9)) == (
        "SGD(lr=0.1, weight_decay=0.0, momentum=0.9, nesterov=False, form='pytorch')"
    )
    assert repr(optim.Adam(parameters())) == "Adam(lr=0.001, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-08)"
