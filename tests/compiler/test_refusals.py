"""What a replay could not repeat faithfully is refused, with the line at fault, or guarded."""

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim
from tinygrad_cifar.errors import CompileError, ShapeError

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 1, 0])


def call(step, times=3):
    for i in range(times):
        step(X + np.float32(i), LABELS)


@pytest.mark.parametrize(
    "read",
    [
        lambda t: float(t.sum()), lambda t: int(t.sum()), lambda t: t.sum().item(), lambda t: np.asarray(t),
        lambda t: t.tolist(), lambda t: np.array_equal(t.data, t.data), lambda t: [1, 2][t.data.argmax() * 0],
    ],
)  # fmt: skip
def test_reading_a_value_inside_the_step_names_the_line(read):
    with pytest.raises(CompileError, match=r"test_refusals\.py:\d+"):
        call(tg.compile(lambda x, labels: read(tg.Tensor(x) * 2)))


def test_a_value_that_slips_out_unseen_is_found_at_the_second_call():
    with pytest.raises(CompileError, match=r"cannot see"):
        call(tg.compile(lambda x, labels: tg.Tensor(x) * np.array(x, copy=True)))


def test_numbers_that_change_between_calls():
    rates = iter([0.1, 0.2, 0.3])
    with pytest.raises(CompileError, match=r"the number 0\.1 was 0\.2"):
        call(tg.compile(lambda x, labels: tg.Tensor(x) * next(rates)))


def test_a_generator_of_ones_own():
    rng = np.random.default_rng(0)
    with pytest.raises(CompileError, match="stream"):
        call(tg.compile(lambda x, labels: tg.Tensor(x) * rng.random(3, np.float32)))


def test_an_array_that_nobody_reads_is_no_leak():
    numbers = iter(range(9))

    def step(x, labels):
        tg.Tensor(np.full(3, next(numbers)))
        return tg.Tensor(x) * 2

    call(tg.compile(step))


def test_counting_inside_the_step():
    class Loop:
        steps = 0

        def __init__(self):
            self.steps = 0

        def step(self, x, labels):
            self.steps += 1
            return tg.Tensor(x) * 2

    with pytest.raises(CompileError, match=r"Loop\.steps"):
        call(tg.compile(Loop().step))


def test_counting_in_the_closure():
    count = 0

    def step(x, labels):
        nonlocal count
        count += 1
        return tg.Tensor(x) * 2

    with pytest.raises(CompileError, match="count"):
        call(tg.compile(step))


def test_storing_an_activation_on_the_model():
    model = nn.Linear(3, 2)

    def step(x, labels):
        model.seen = model(tg.Tensor(x))
        return model.seen

    model.seen = None
    with pytest.raises(CompileError, match=r"seen"):
        call(tg.compile(step))


def test_a_tensor_that_gets_another_array():
    model = nn.Linear(3, 2)

    def step(x, labels):
        model.weight.data = 0.5 * model.weight.data
        return model(tg.Tensor(x))

    data = model.weight.data
    with pytest.raises(CompileError, match=r"test_refusals\.py:\d+: .*another array"):
        call(tg.compile(step))
    assert type(model.weight.data) is np.ndarray
    assert np.array_equal(model.weight.data, 0.5 * data)


def test_pieces_of_an_argument_that_is_not_contiguous():
    step = tg.compile(lambda x: tg.Tensor(x)[1:] * 2)
    step(X[:, ::2])
    with pytest.raises(CompileError, match="not contiguous"):
        step(X[:, ::2])


def test_gradients_that_add_up_over_calls():
    model = nn.Linear(3, 2)

    def step(x, labels):
        nn.F.cross_entropy(model(tg.Tensor(x)), labels).backward()

    with pytest.raises(CompileError, match="zero_grad"):
        call(tg.compile(step))


def test_gradients_cleared_outside_and_then_forgotten():
    model = nn.Linear(3, 2)

    def step(x, labels):
        nn.F.cross_entropy(model(tg.Tensor(x)), labels).backward()

    compiled = tg.compile(step)
    for _ in range(4):
        model.zero_grad()
        compiled(X, LABELS)
    with pytest.raises(CompileError, match="zero_grad"):
        compiled(X, LABELS)


def test_wrong_labels_are_as_wrong_in_a_replay_and_change_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = optim.SGD(model.parameters(), 0.1)

    @tg.compile
    def step(x, labels):
        optimizer.zero_grad()
        loss = nn.F.cross_entropy(model(tg.Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        return loss

    call(step, 4)
    weights = model.state_dict()["0.weight"]
    for bad in ([0, 1, 2, 0], [0, -1, 1, 0]):
        with pytest.raises(ShapeError, match="labels"):
            step(X, np.array(bad))
    assert np.array_equal(model.state_dict()["0.weight"], weights)
    assert len(step.recordings) == 2


def test_a_condition_on_what_the_step_itself_changes():
    model = nn.Linear(3, 2)

    def step(x, labels):
        model.weight.data -= 0.1 * x.sum()
        return model(tg.Tensor(x)) * (2 if (model.weight.data > 0).any() else 3)

    with pytest.raises(CompileError, match="condition depends"):
        call(tg.compile(step))


def test_an_argument_that_requires_a_gradient():
    with pytest.raises(CompileError, match="detach"):
        tg.compile(lambda x: x * 2)(tg.Tensor(X, requires_grad=True))


def test_after_a_refusal_everything_is_as_before():
    model = nn.Linear(3, 2)
    data, stream = model.weight.data, tg.random.stream("dropout") if hasattr(tg, "random") else None
    with pytest.raises(CompileError):
        tg.compile(lambda x: model(tg.Tensor(x)).sum().item())(X)
    assert model.weight.data is data
    assert type(tg.Tensor(X).data) is np.ndarray
    assert np.asarray(tg.Tensor(X)).shape == (4, 3)
    del stream
