"""A replay is the eager step: the same numbers, bit for bit, whatever changes between the calls."""

import copy
import pickle
import re
import tracemalloc
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim, random
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.train import Trainer

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.GELU]
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "classic": lambda p: optim.SGD(p, 0.1, momentum=0.9, form="classic"),
    "adagrad": lambda p: optim.Adagrad(p, 0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.5),
    "adam": lambda p: optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, 0.01),
}
LOSSES = {"cross_entropy": nn.F.cross_entropy, "hinge": nn.F.hinge}


class Training:
    """A model, its optimiser and its step, compiled or not. Two of them with the same settings are equal."""

    def __init__(self, compiled, sizes=(12, 8, 5), activation=nn.ReLU, optimizer="sgd", batch_norm=False, p=0.0,
                 lam=0.0, loss="cross_entropy", dtype=np.float32):  # fmt: skip
        tg.manual_seed(3)
        modules = []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            modules.append(nn.Linear(fan_in, fan_out))
            if i < len(sizes) - 2:
                modules += [nn.BatchNorm1d(fan_out)] * batch_norm + [activation()] + [nn.Dropout(p)] * (p > 0)
        self.model = nn.Sequential(*modules).astype(dtype)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.dtype = dtype
        model, optimizer_, loss_of = self.model, self.optimizer, LOSSES[loss]

        def step(x, labels):
            optimizer_.zero_grad()
            scores = model(tg.Tensor(x))
            value = loss_of(scores, labels)
            cost = value + nn.l2_penalty(model, lam) if lam else value
            cost.backward()
            optimizer_.step()
            return cost, value, (scores.data.argmax(axis=1) == labels).sum()

        self.step = tg.compile(step) if compiled else step

    def run(self, sizes, rates=None, seed=0, **between):
        """The results of steps on batches of these sizes; ``between[f"at{i}"]`` is called before step i."""
        tg.manual_seed(7)
        rng = np.random.default_rng(seed)
        results = []
        features, classes = self.model[0].in_features, list(self.model)[-1].out_features
        for i, n in enumerate(sizes):
            x = rng.standard_normal((n, features)).astype(self.dtype)
            labels = rng.integers(classes, size=n)
            if rates:
                self.optimizer.lr = rates[i % len(rates)]
            between.get(f"at{i}", lambda training: None)(self)
            cost, value, right = self.step(x, labels)
            results.append((cost.item(), value.item(), int(right)))
        return results

    def state(self):
        state = {**self.model.state_dict(), **self.optimizer.state_dict()}
        for name, p in self.model.named_parameters():
            state[f"gradient of {name}"] = p.grad.numpy() if p.grad is not None else np.zeros(())
        return state


def assert_equal(batches=(10,) * 6, rates=None, between=None, **settings):
    eager, compiled = Training(False, **settings), Training(True, **settings)
    assert eager.run(batches, rates, **between or {}) == compiled.run(batches, rates, **between or {})
    ours, theirs = eager.state(), compiled.state()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(ours[name], theirs[name], equal_nan=True), name
    return compiled


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser(optimizer):
    training = assert_equal(optimizer=optimizer, batch_norm=True, rates=[0.1, 0.05, 0.025])
    assert len(training.step.recordings) == 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_activation(activation, dtype):
    assert_equal(activation=activation, dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 20), min_size=2, max_size=5),
    activation=st.sampled_from(ACTIVATIONS[:5]),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    batch_norm=st.booleans(),
    p=st.sampled_from([0.0, 0.3]),
    lam=st.sampled_from([0.0, 0.01]),
    loss=st.sampled_from(sorted(LOSSES)),
    dtype=st.sampled_from([np.float32, np.float64]),
    batches=st.lists(st.sampled_from([16, 16, 16, 5]), min_size=3, max_size=12),
    rates=st.lists(st.floats(1e-4, 0.1), min_size=1, max_size=4),
)
def test_random_networks_steps_and_schedules(batches, rates, **settings):
    assert_equal(batches, rates, **settings)


def test_a_short_last_batch_is_a_second_program():
    training = assert_equal([16, 16, 16, 5] * 3, batch_norm=True, optimizer="adam")
    assert len(training.step.programs) == 2


def test_dropout_draws_from_the_stream_that_the_seed_restarts():
    assert_equal([16] * 8, p=0.5, between={"at5": lambda training: tg.manual_seed(11)})


def test_the_mode_of_the_model_is_a_guard():
    between = {"at4": lambda t: t.model.eval(), "at7": lambda t: t.model.train(), "at10": lambda t: t.model.eval()}
    training = assert_equal([16] * 12, batch_norm=True, p=0.5, between=between)
    (programs,) = training.step.programs.values()
    assert len(programs) == 2
    assert len(training.step.recordings) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.optimizer.load_state_dict({**t.optimizer.state_dict(), "lr": 0.01}),
        lambda t: t.model.load_state_dict({k: v[::-1] if v.ndim else v for k, v in t.model.state_dict().items()}),
        lambda t: setattr(t.model[0].weight, "data", 0.5 * t.model[0].weight.data),
        lambda t: setattr(t.model[0].weight, "requires_grad", False),
        lambda t: setattr(t.optimizer, "momentum", 0.5),
        lambda t: setattr(t.optimizer, "weight_decay", 0.5),
        lambda t: setattr(t.model[1], "momentum", 0.5),
        lambda t: setattr(t.model[1], "running_mean", tg.Tensor(np.ones(8, np.float32))),
        lambda t: setattr(t.model, "2", nn.Tanh()),
        lambda t: t.model[0].register_forward_hook(lambda module, inputs, output: output * 2),
    ],
)
def test_what_changes_between_two_calls_is_noticed(change):
    assert_equal([10] * 10, batch_norm=True, optimizer="momentum", between={"at5": change})


def test_the_reason_for_a_recording_is_told():
    training = Training(True, batch_norm=True, optimizer="momentum")
    training.run([10] * 3 + [4] * 3)
    training.optimizer.momentum = 0.5
    training.run([10] * 3)
    reasons = training.step.recordings
    assert reasons[0] == reasons[2] == "arguments of a new kind"
    assert reasons[4] == "SGD.momentum changed"
    assert "planned" in reasons[5]


def test_an_optimiser_with_a_step_of_its_own():
    class Own(optim.SGD):
        def step(self):
            for slot in self._slots:
                slot.tensor.data -= self.lr * slot.tensor.grad.data

    w = tg.Tensor(np.ones(3, np.float32), requires_grad=True)
    optimizer = Own([w], 0.5)

    @tg.compile
    def step(x):
        optimizer.zero_grad()
        (w * tg.Tensor(x)).sum().backward()
        optimizer.step()

    expected, x = np.ones(3, np.float32), np.arange(3, dtype=np.float32)
    for i in range(9):
        optimizer.lr = 0.5 / (i + 1)
        step(x + i)
        expected -= optimizer.lr * (x + i)
        assert np.array_equal(w.numpy(), expected)
    assert len(step.recordings) == 2


def test_explain_and_graph_show_the_program():
    training = Training(True, batch_norm=True, p=0.5, optimizer="adam")
    training.run([10] * 4)
    before = training.state()
    text = training.step.explain()
    assert re.search(r" dot\d+\(", text)
    assert "test_replay.py" in text
    assert all(np.array_equal(value, training.state()[name]) for name, value in before.items())
    assert 'label="dot' in training.step.graph().source
    assert re.fullmatch(
        r"\d+ operations in [\d,]+ bytes of buffers, recorded twice .* \d+ ms", training.step.recordings[1]
    )


def test_there_is_nothing_to_show_before_the_second_call():
    step = tg.compile(lambda x: x + 1)
    for _ in range(2):
        assert "call the step twice" in step.explain()
        with pytest.raises(CompileError, match="call the step twice"):
            step.graph()
        step(tg.Tensor(np.ones(3)))
    assert "add" in step.explain()


def test_lines_of_a_step_in_this_package_are_its_own():
    model = nn.Linear(3, 2)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    for _ in range(2):
        trainer._update(np.ones((4, 3), np.float32), np.array([0, 1, 1, 0]))
    assert "trainer.py:" in trainer._update.explain()


def test_gradients_after_a_replay_are_the_eager_ones():
    w = tg.Tensor(np.ones((3, 2)), requires_grad=True)

    @tg.compile
    def step(x):
        w.grad = None
        (x @ w).exp().sum().backward()

    for i in range(5):
        x = np.full((4, 3), 0.1 * i)
        step(x)
        assert np.allclose(w.grad.numpy(), x.T @ np.exp(x @ w.numpy()))


def test_forward_alone_and_structured_results():
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    forward = tg.compile(lambda x: {"scores": model(x), "both": (x.shape, [x * 2])})
    kept = []
    for i in range(5):
        x = tg.Tensor(np.full((2, 4), i, np.float32))
        result = forward(x)
        kept.append(result["scores"])
        assert np.array_equal(result["scores"].numpy(), model(x).numpy())
        assert result["both"][0] == (2, 4)
        assert np.array_equal(result["both"][1][0].numpy(), 2 * x.numpy())
    assert not np.array_equal(kept[-1].numpy(), kept[-2].numpy()), "results are the caller's own"


class Pair(NamedTuple):
    x: Any
    scale: Any


def test_named_tuples_go_in_and_come_out():
    step = tg.compile(lambda pair: Pair(pair.x * pair.scale, pair.scale))
    for i in range(5):
        pair = step(Pair(tg.Tensor(np.arange(3.0) + i), tg.Tensor(np.float64(i))))
        assert np.array_equal(pair.x.numpy(), (np.arange(3.0) + i) * i)
        assert pair.scale.item() == i


def test_an_argument_changed_in_place():
    def step(x):
        x *= 2

    compiled = tg.compile(step)
    for x in [np.ones((4, 6))] * 5 + [np.ones((4, 12))[:, ::2]] * 5:
        before = x.copy()
        compiled(x)
        assert np.array_equal(x, 2 * before)


def test_a_float_argument_is_an_input_and_others_select_a_program():
    w = tg.Tensor(np.ones(3), requires_grad=True)

    @tg.compile
    def step(x, rate, power=1):
        w.grad = None
        (w**power * tg.Tensor(x)).sum().backward()
        w.data -= rate * w.grad.data
        return w

    expected = np.ones(3)
    for i in range(12):
        power = 1 + i % 2
        x, rate = np.arange(3.0) + i, 0.01 / (i + 1)
        gradient = power * expected ** (power - 1) * x
        expected = expected - rate * gradient
        assert np.allclose(step(x, rate, power=power).numpy(), expected)
    assert len(step.programs) == 2
    assert len(step.recordings) == 4


def test_a_condition_on_the_data_chooses_the_program():
    @tg.compile
    def clipped(x):
        return x * 2 if (x.data > 10).any() else x + 1

    for value in [1.0, 2.0, 3.0, 20.0, 30.0, 40.0, 4.0]:
        x = tg.Tensor(np.full(3, value))
        assert clipped(x).numpy()[0] == (value * 2 if value > 10 else value + 1)
    assert len(clipped.recordings) == 4


def test_indexing_joining_and_numpy_functions():
    table = tg.Tensor(np.arange(12.0).reshape(4, 3), requires_grad=True)

    def step(x, rows):
        table.grad = None
        chosen = table[rows] * x
        parts = np.concatenate([chosen[:, :1], np.maximum(chosen[:, 1:], 2)], axis=1)
        loss = np.where(x > 0, parts, -parts).var(axis=0).sum() + np.einsum("ij,kj->", chosen, table)
        loss.backward()
        return loss, table.grad

    compiled = tg.compile(step)
    rng = np.random.default_rng(0)
    for _ in range(6):
        x, rows = rng.standard_normal((5, 3)), rng.integers(4, size=5)
        expected = [t.numpy().copy() for t in step(tg.Tensor(x), rows)]
        for ours, theirs in zip(compiled(tg.Tensor(x), rows), expected, strict=True):
            assert np.array_equal(ours.numpy(), theirs)
    assert len(compiled.recordings) == 2


def test_arguments_may_lie_in_memory_in_any_way():
    training, other = Training(True), Training(False)
    rng = np.random.default_rng(0)
    for i in range(12):
        x, labels = rng.standard_normal((8, 12)).astype(np.float32), rng.integers(5, size=8)
        x = [x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]][i % 3]
        assert training.step(x, labels)[0].item() == pytest.approx(other.step(x, labels)[0].item(), abs=1e-6)


def test_a_replay_allocates_nothing_large():
    training = Training(True, (300, 50, 50, 10), batch_norm=True, optimizer="adam")
    training.run([100] * 3)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((100, 300)).astype(np.float32), rng.integers(10, size=100)
    training.step(x, labels)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(20):
            training.step(x, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 8192  # every object of the replay together: no array of 1 KiB is among them


def test_random_state_outside_of_the_step_is_left_alone():
    training = Training(True, p=0.5)
    training.run([8] * 4)
    assert type(random._streams) is dict
    assert isinstance(random.stream("dropout"), np.random.Generator)


class Loop:
    """A user's loop that holds its compiled step."""

    def __init__(self):
        self.model = nn.Linear(3, 2)
        self.optimizer = optim.SGD(self.model.parameters(), 0.1)
        self.compiled = tg.compile(self.step)

    def step(self, x):
        self.optimizer.zero_grad()
        loss = (self.model(tg.Tensor(x)) ** 2).sum()
        loss.backward()
        self.optimizer.step()
        return loss

    def run(self):
        return [self.compiled(np.full((2, 3), i, np.float32)).item() for i in range(4)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loop: pickle.loads(pickle.dumps(loop))])
def test_a_copy_trains_by_itself(copied):
    loop = Loop()
    loop.run()
    other, weights = copied(loop), loop.model.weight.numpy().copy()
    losses = other.run()
    assert np.array_equal(loop.model.weight.numpy(), weights)
    assert loop.run() == losses


def test_pieces_of_arrays_whose_axes_are_permuted():
    """Their memory has no gaps, so that a replay finds the pieces in it."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 2)).astype(np.float32).transpose(1, 0, 2)

    def step(x):
        return x.data[1:] * weights[:2, 0] + x.data[:2, :, 1:]

    replayed = tg.compile(step)
    for _ in range(4):
        x = tg.Tensor(rng.standard_normal((2, 3, 2)).astype(np.float32).transpose(1, 2, 0))
        assert np.array_equal(replayed(x), step(x))
    assert "ndarray(" in replayed.explain()
