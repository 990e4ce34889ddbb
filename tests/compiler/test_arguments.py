"""What a step is called with: floats that change, and the things that choose a program."""

import functools
import math

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim
from tinygrad_cifar.errors import CompileError, GraphError

F = nn.functional

COMPUTED = {
    "scaled": lambda t, r: t * (r * 0.5), "twice": lambda t, r: t * r * r, "from the left": lambda t, r: (2 - r) * t,
    "Adam's correction": lambda t, r: t * (r / (1 - 0.9**r)), "of itself": lambda t, r: t * (r % 0.3 + r // 0.3),
    "signs": lambda t, r: t * -abs(r - 0.5) + (+r), "power": lambda t, r: t * (r**2 - 2**r),
    "bounds": lambda t, r: t.clip(-r, r), "an op's setting": lambda t, r: F.leaky_relu(t, r * 0.1),
    "of NumPy": lambda t, r: t.data * np.sqrt(r),
    "NumPy's number": lambda t, r: t.data * (r * np.float64(2)), "chosen": lambda t, r: np.where(t.data > 0, r, -r),
    "beside a result": lambda t, r: t * (t.data.sum() * r), "divmod": lambda t, r: t * divmod(r, 0.3)[1],
    "returned": lambda t, r: (r, [r * 2, t]), "its type": lambda t, r: t * r if isinstance(r, float) else t,
    "printed": lambda t, r: print(f"{r:.3f} {r}") or t * r,
}  # fmt: skip
SEEN = {
    "math": lambda t, r: t * math.sqrt(r), "whole": lambda t, r: t * int(10 * r),
    "rounded": lambda t, r: t * round(r, 1), "a key": lambda t, r: t * {0.7: 1.0}.get(r, 2.0),
    "an array": lambda t, r: t * np.full(3, r, np.float32),
    "cut": lambda t, r: t * math.trunc(10 * r), "true": lambda t, r: t * (1.0 if r - 0.7 else 3.0),
}  # fmt: skip
COMPARED = {
    "less": lambda t, r: t * (0.5 if r < 0.3 else 0.25), "largest": lambda t, r: t * max(r, 0.3),
    "data": lambda t, r: t if (0 * t.data).sum() + 0.5 > r else t * 2, "index": lambda t, r: t * [1.0, 2.0][r > 0.3],
    "equal": lambda t, r: t if r == 0.7 else t * 2,
}  # fmt: skip


def scaler(use):
    w = tg.Tensor(np.array([-1, 0.5, 2], np.float32), requires_grad=True)

    def step(x, rate):
        w.grad = None
        out = use(w * tg.Tensor(x), rate)
        if isinstance(out, tg.Tensor):
            out.sum().backward()
        return out, 0 if w.grad is None else w.grad.data

    return step


def parts(x):
    if isinstance(x, tuple | list | dict):
        x = x.values() if isinstance(x, dict) else x
        return [part for i in x for part in parts(i)]
    return [np.asarray(x.data if isinstance(x, tg.Tensor) else x)]


def compared(use, rates):
    """The compiled step, after it was called with these rates and was eager's equal, bit for bit."""
    eager, compiled = scaler(use), tg.compile(scaler(use))
    for i, rate in enumerate(rates):
        x = np.arange(3, dtype=np.float32) + i
        for a, b in zip(parts(eager(x, rate)), parts(compiled(x, rate)), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
    return compiled


RATES = [0.7, 0.2, 0.5, 0.1, 0.9, 0.7]


@pytest.mark.parametrize("use", COMPUTED.values(), ids=COMPUTED)
def test_arithmetic_on_a_float_argument_is_done_anew_by_a_replay(use):
    assert len(compared(use, RATES).recordings) == 2


@pytest.mark.parametrize("use", SEEN.values(), ids=SEEN)
def test_a_value_that_python_sees_holds_for_one_program(use):
    compiled = compared(use, [*RATES, 0.7, 0.7, 0.7])
    ((newest, *_),) = compiled.programs.values()
    assert len(compiled.recordings) < 9
    assert "return MISS" in newest.explain()
    assert any("looks at a number, which was another one" in reason for reason in compiled.recordings)


@pytest.mark.parametrize("use", COMPARED.values(), ids=COMPARED)
def test_ways_that_take_turns_are_programs_of_their_own(use):
    compiled = compared(use, [0.7, 0.2] * 6)
    ((*programs,),) = compiled.programs.values()
    assert len(programs) == 2
    assert len(compiled.recordings) == 4


class Own(optim.SGD):
    """Its rate falls with the steps, and its update computes with the rate."""

    def coefficients(self, steps):
        return {"lr": self.lr / (1 + steps), "momentum": self.momentum}

    def update(self, w, g, t, *, lr, momentum):
        w -= np.multiply(g, lr * (1 - momentum), out=t)


RATE_READ = {
    "not read": lambda loss, optimizer: loss, "returned": lambda loss, optimizer: {"loss": loss, "lr": optimizer.lr},
    "scales": lambda loss, optimizer: loss * (optimizer.lr * 0.5),
    "compared": lambda loss, optimizer: loss if optimizer.lr < 0.05 else -loss,
}  # fmt: skip


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, Own])
@pytest.mark.parametrize("read", RATE_READ.values(), ids=RATE_READ)
def test_a_learning_rate_that_a_schedule_changes_may_be_read_in_the_step(read, kind):
    results = []
    for wrap in (lambda step: step, tg.compile):
        model = nn.Linear(3, 2).astype(np.float64)
        model.load_state_dict({"weight": np.arange(6).reshape(2, 3) / 6, "bias": np.zeros(2)})
        optimizer = kind(model.parameters(), lr=0.1)

        @wrap
        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(tg.Tensor(x)), np.array([0, 1, 1, 0]))
            loss.backward()
            optimizer.step()
            for p in model.parameters():
                p.data *= 1 - 0.01 * optimizer.lr
            return read(loss, optimizer)

        found = []
        for i in range(40):
            optimizer.lr = np.float64(0.1) / (1 + 0.1 * i)
            found += [*parts(step(np.full((4, 3), i / 40) + np.eye(4, 3))), model.weight.numpy().copy()]
            assert type(optimizer.lr) is float
        results.append(found)
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    assert len(step.recordings) <= 4


def test_training_and_evaluation_in_turns():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    step = tg.compile(lambda x: model(tg.Tensor(x)))
    for i in range(12):
        model.train(i % 2 == 0)
        out = step(np.ones((2, 3), np.float32))
        assert (out.numpy() == 0).any() == model.training or not model.training
    assert len(step.recordings) == 4


def test_things_choose_a_program():
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    step = tg.compile(lambda model, act, x: act(model(tg.Tensor(x))))
    x = np.ones((4, 3), np.float32)
    for i in range(12):
        model, act = models[i % 2], [F.relu, F.tanh][i // 6]
        assert np.array_equal(step(model, act, x).numpy(), act(model(tg.Tensor(x))).numpy())
    assert len(step.programs) == 4


class Course:
    def __init__(self, lr):
        self.model = nn.Linear(3, 2)
        self.model.load_state_dict({"weight": np.arange(6).reshape(2, 3) / 6, "bias": np.zeros(2)})
        self.optimizer = optim.SGD(self.model.parameters(), lr)

    def step(self, x, labels):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss


class Compiled(Course):
    step = tg.compile(Course.step)


def test_a_method_is_compiled_for_each_instance():
    eager, compiled = ([kind(0.1), kind(0.2)] for kind in (Course, Compiled))
    for i in range(5):
        x, labels = tg.Tensor(np.eye(2, 3, dtype=np.float32) + i), np.array([0, 1])
        for ours, theirs in zip(compiled, eager, strict=True):
            assert np.array_equal(ours.step(x, labels).numpy(), theirs.step(x, labels).numpy())
    assert len(Compiled.step.programs) == 2
    assert len(compiled[0].step.recordings) == 4


def test_a_partial_function_is_a_step():
    w = nn.Linear(3, 2)
    step = tg.compile(functools.partial(lambda model, x: model(tg.Tensor(x)), w))
    for i in range(4):
        x = np.full((4, 3), i, np.float32)
        assert np.array_equal(step(x).numpy(), w(tg.Tensor(x)).numpy())
    assert len(step.recordings) == 2


def call(step, numbers):
    for number in numbers:
        step(np.ones(3, np.float32), number)


def test_a_model_compiled_alone_computes_and_has_no_graph():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    compiled = tg.compile(model)
    x = tg.Tensor(np.ones((2, 3), np.float32))
    for _ in range(4):
        out = compiled(x)
        assert np.array_equal(out.numpy(), model(x).numpy())
        with pytest.raises(GraphError, match="compile a whole step"):
            out.sum().backward()
    assert "training" not in vars(compiled)


def test_a_value_that_is_never_the_same_is_told_with_its_line():
    step = tg.compile(scaler(SEEN["math"]))
    with pytest.raises(CompileError, match=r"every call is a new one.*test_arguments\.py:\d+ looks at a number"):
        call(step, [1 / (i + 1) for i in range(99)])


def test_a_whole_number_that_counts_is_told():
    step = tg.compile(lambda x, i: tg.Tensor(x) * i)
    with pytest.raises(CompileError, match="must be an array or a float"):
        call(step, range(99))
