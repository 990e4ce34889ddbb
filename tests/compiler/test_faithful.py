"""Ordinary steps that a careless replay would get wrong without an error: they are right, or refused."""

import copy
import random as python_random
import threading
from collections import UserDict, deque
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim, random
from tinygrad_cifar.errors import CompileError

SCALE = 1.0
SETTINGS = {"rate": 0.5}
CLASSES = 3


class Config:
    rate = 0.5


@dataclass(slots=True)
class Slotted:
    rate: float = 0.5


class Loop:
    """A user's training loop as a class; ``step`` counts, and is not what is compiled."""

    decay = 0.5

    def __init__(self):
        self.rate, self.count = 0.5, 0
        self.w = weight()
        self.optimizer = optim.SGD([self.w], 0.1)

    def update(self, x):
        descend(self.optimizer, self.w, x)
        self.shrink()
        return self.w * self.share

    def shrink(self):
        self.w.data *= self.rate * self.decay

    @property
    def share(self):
        return self.rate / 2

    def step(self, x):
        self.count += 1
        return self.update(x)


class Base(nn.Module):
    def __init__(self, config):
        self.config = config

    def forward(self, x):
        return x * self.config.rate * SCALE


class Derived(Base):
    def forward(self, x):
        return super().forward(x) + 1


class ByName:
    """Settings by name, in a dict behind ``config.rate`` or ``config["rate"]``, as some libraries have them."""

    def __init__(self, **settings):
        self._settings = settings

    def __getattr__(self, name):
        return self._settings[name]

    def __getitem__(self, name):
        return self._settings[name]


class Scaled(nn.Module):
    def forward(self, x):
        return x * self.factor()

    def factor(self):
        return SCALE


def weight(value=1.0):
    return tg.Tensor(np.full(3, value, np.float32), requires_grad=True)


def descend(optimizer, w, x):
    optimizer.zero_grad()
    (w * tg.Tensor(x)).sum().backward()
    optimizer.step()


def batch(i):
    return np.arange(3, dtype=np.float32) + np.float32(i)


def at(call, change):
    """``call``, with ``change()`` before the fifth one."""

    def changing(i):
        if i == 5:
            change()
        return call(i)

    return changing


# Settings, wherever they are kept: ``compiled`` is ``tg.compile``, or leaves the step as it is ----------------------


def setting_in_a_dict(compiled):
    settings = {"rate": 0.5}
    step = compiled(lambda x: tg.Tensor(x) * settings["rate"])
    return at(lambda i: step(batch(i)), lambda: settings.update(rate=0.25))


def setting_in_a_nested_dict_of_an_object(compiled):
    loop = SimpleNamespace(settings={"optimizer": {"rate": 0.5}})
    step = compiled(lambda x: tg.Tensor(x) * loop.settings["optimizer"]["rate"])
    return at(lambda i: step(batch(i)), lambda: loop.settings["optimizer"].update(rate=0.25))


def setting_in_a_list(compiled):
    rates = [0.5, 0.1]
    step = compiled(lambda x: tg.Tensor(x) * rates[0])
    return at(lambda i: step(batch(i)), lambda: rates.reverse())


def setting_in_a_global_dict(compiled):
    SETTINGS["rate"] = 0.5
    step = compiled(lambda x: tg.Tensor(x) * SETTINGS["rate"])
    return at(lambda i: step(batch(i)), lambda: SETTINGS.update(rate=0.25))


def setting_in_a_class(compiled):
    Config.rate = 0.5
    step = compiled(lambda x: tg.Tensor(x) * Config.rate)
    return at(lambda i: step(batch(i)), lambda: setattr(Config, "rate", 0.25))


def setting_in_a_slot(compiled):
    config = Slotted()
    step = compiled(lambda x: tg.Tensor(x) * config.rate)
    return at(lambda i: step(batch(i)), lambda: setattr(config, "rate", 0.25))


def setting_in_a_module_of_python(compiled):
    module = type(np)("users_settings")
    module.rate = 0.5
    step = compiled(lambda x: tg.Tensor(x) * module.rate)
    return at(lambda i: step(batch(i)), lambda: setattr(module, "rate", 0.25))


def setting_read_in_a_helper_method(compiled):
    loop = Loop()
    step = compiled(loop.update)
    return at(lambda i: step(batch(i)), lambda: setattr(loop, "rate", 0.25))


def setting_of_the_class_taken_over_by_the_object(compiled):
    loop = Loop()
    step = compiled(loop.update)
    return at(lambda i: step(batch(i)), lambda: setattr(loop, "decay", 0.25))


def global_read_in_the_forward_of_a_module(compiled):
    globals()["SCALE"] = 1.0
    model = Scaled()
    step = compiled(lambda x: model(tg.Tensor(x)))
    return at(lambda i: step(batch(i)), lambda: globals().update(SCALE=3.0))


def setting_read_behind_super(compiled):
    config = SimpleNamespace(rate=0.5)
    model = Derived(config)
    step = compiled(lambda x: model(tg.Tensor(x)))
    return at(lambda i: step(batch(i)), lambda: setattr(config, "rate", 0.25))


def global_read_behind_super(compiled):
    globals()["SCALE"] = 1.0
    model = Derived(SimpleNamespace(rate=0.5))
    step = compiled(lambda x: model(tg.Tensor(x)))
    return at(lambda i: step(batch(i)), lambda: globals().update(SCALE=3.0))


def setting_behind_getattr(compiled):
    config = ByName(rate=0.5)
    step = compiled(lambda x: tg.Tensor(x) * config.rate)
    return at(lambda i: step(batch(i)), lambda: config._settings.update(rate=0.25))


def setting_behind_getitem(compiled):
    config = ByName(rate=0.5)
    step = compiled(lambda x: tg.Tensor(x) * config["rate"])
    return at(lambda i: step(batch(i)), lambda: config._settings.update(rate=0.25))


def setting_in_an_array_that_python_reads(compiled):
    rates = np.array([0.5, 0.1])
    step = compiled(lambda x: tg.Tensor(x) * rates[0] * (2 if rates[1] > 0.05 else 3))
    return at(lambda i: step(batch(i)), lambda: rates.__imul__(0.25))


def setting_on_a_function(compiled):
    def scale(x):
        return x * scale.rate

    scale.rate = 0.5
    step = compiled(lambda x: scale(tg.Tensor(x)))
    return at(lambda i: step(batch(i)), lambda: setattr(scale, "rate", 0.25))


def setting_by_a_name_in_a_string(compiled):
    config = SimpleNamespace(rate=0.5, decay=0.5, chosen="decay")
    step = compiled(lambda x: tg.Tensor(x) * getattr(config, "rate") * getattr(config, config.chosen))  # noqa: B009
    return at(lambda i: step(batch(i)), lambda: (setattr(config, "rate", 0.25), setattr(config, "decay", 0.1)))


def settings_in_other_containers(compiled):
    flags, rates, more, hidden = {"double"}, deque([0.5, 0.1]), UserDict(rate=0.5), {"rate": 0.5}
    shown = MappingProxyType(hidden)
    changes = [flags.clear, lambda: rates.rotate(1), lambda: more.update(rate=0.2), lambda: hidden.update(rate=0.1)]
    step = compiled(lambda x: tg.Tensor(x) * (2 if "double" in flags else 3) * rates[0] * more["rate"] * shown["rate"])

    def call(i):
        if 4 <= i < 8:
            changes[i - 4]()
        return step(batch(i))

    return call


def setting_of_a_compiled_step_within(compiled):
    settings = SimpleNamespace(rate=0.5)
    inner = compiled(lambda x: x * settings.rate)
    step = compiled(lambda x: inner(tg.Tensor(x)) + 1)
    return at(lambda i: step(batch(i)), lambda: setattr(settings, "rate", 0.25))


def rate_of_the_optimiser_returned(compiled):
    w = weight()
    optimizer = optim.SGD([w], 0.5)

    def step(x):
        descend(optimizer, w, x)
        return w, optimizer.lr

    step = compiled(step)
    return at(lambda i: step(batch(i)), lambda: setattr(optimizer, "lr", 0.25))


def weights_shrunk_with_the_rate_of_the_optimiser(compiled):
    w = weight()
    optimizer = optim.SGD([w], 0.5)

    def step(x):
        descend(optimizer, w, x)
        w.data *= 1 - optimizer.lr * 0.1
        return w

    step = compiled(step)
    return at(lambda i: step(batch(i)), lambda: setattr(optimizer, "lr", 0.25))


def setting_beside_an_object_without_a_real_dict(compiled):
    class Odd:
        __dict__ = 3

    settings = SimpleNamespace(rate=0.5, odd=Odd())
    step = compiled(lambda x: tg.Tensor(x) * settings.rate * (settings.odd is not None))
    return at(lambda i: step(batch(i)), lambda: setattr(settings, "rate", 0.25))


def parameters_in_a_list(compiled):
    weights = [weight(1), weight(2)]

    def step(x):
        return sum(w * tg.Tensor(x) for w in weights)

    step = compiled(step)
    return at(lambda i: step(batch(i)), lambda: weights.__setitem__(0, weight(5)))


def hook_on_a_parameter(compiled):
    w = weight()

    def step(x):
        w.grad = None
        (w * tg.Tensor(x)).sum().backward()
        return w.grad

    step = compiled(step)
    return at(lambda i: step(batch(i)), lambda: w.register_hook(lambda g: g * 2))


def second_hook_on_a_parameter(compiled):
    w = weight()
    w.register_hook(lambda g: g + 1)

    def step(x):
        w.grad = None
        (w * tg.Tensor(x)).sum().backward()
        return w.grad

    step = compiled(step)
    return at(lambda i: step(batch(i)), lambda: w.register_hook(lambda g: g * 2))


def number_that_is_an_argument(compiled):
    w = weight()

    def step(x, lam):
        w.grad = None
        loss = (w * tg.Tensor(x)).sum() + lam * (w * w).sum() * lam
        loss.backward()
        w.data -= lam * w.grad.data
        return loss, w

    step = compiled(step)
    return lambda i: step(batch(i), 0.1 / (i + 1))


def setting_that_changes_after_the_first_call(compiled):
    drop = SimpleNamespace(scale=0.5)
    step = compiled(lambda x: tg.Tensor(x) * drop.scale)

    def call(i):
        drop.scale = 0.5 if i < 1 else 0.25
        return step(batch(i))

    return call


def loop_variables_named_like_attributes(compiled):
    def step(x):
        t = tg.Tensor(x)
        return t.data * 2

    step = compiled(step)

    def call(i):
        globals()["data"] = batch(i)
        return step(globals()["data"])

    return call


def attributes_that_change_and_are_not_the_steps(compiled):
    loop = Loop()
    loop.update_ = compiled(loop.update)

    def call(i):
        loop.count += 1
        return loop.update_(batch(i))

    return call


# Data ----------------------------------------------------------------------------------------------------------


def buffer_of_the_users(compiled):
    buffer = np.zeros(3, np.float32)

    def step(x):
        np.multiply(tg.Tensor(x).data, 2, out=buffer)

    step = compiled(step)

    def call(i):
        step(batch(i))
        return buffer.copy()

    return call


def two_optimisers_of_one_parameter(compiled):
    w = weight()
    first, second = optim.SGD([w], 0.1), optim.SGD([w], 0.2, momentum=0.5)

    def step(x):
        for optimizer in (first, second):
            optimizer.zero_grad()
            (w * w * tg.Tensor(x)).sum().backward()
            optimizer.step()
        return w

    step = compiled(step)
    return lambda i: step(batch(i) / 20)


def weights_averaged_in_place(compiled):
    w, mean, array = weight(), tg.Tensor(np.zeros(3, np.float32)), np.zeros(3, np.float32)
    optimizer = optim.Adam([w], 0.1)

    def step(x):
        optimizer.zero_grad()
        (w * w * tg.Tensor(x)).sum().backward()
        optimizer.step()
        mean.data *= 0.9
        mean.data += 0.1 * w.data
        np.copyto(array, mean.data)
        return mean

    step = compiled(step)
    return lambda i: (step(batch(i)), array.copy())


def gradients_accumulated_and_clipped(compiled):
    w = weight()
    optimizer = optim.SGD([w], 0.1, momentum=0.9)

    def step(xs):
        optimizer.zero_grad()
        for x in xs:
            (w * w * tg.Tensor(x)).sum().backward()
        norm = np.sqrt((w.grad.data**2).sum())
        w.grad = tg.Tensor(w.grad.data * np.minimum(1, 1 / (norm + 1e-6)))
        optimizer.step()
        return norm, w

    step = compiled(step)
    return lambda i: step([batch(i), batch(i + 1)])


def layers_frozen_and_freed(compiled):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for p in model.parameters():
        p.data[...] = np.linspace(-1, 1, p.size).reshape(p.shape)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step(x):
        optimizer.zero_grad()
        loss = (model(tg.Tensor(x)) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss, model[0].weight, model[2].weight

    step = compiled(step)

    def call(i):
        for p in model[0].parameters():
            p.requires_grad = i % 8 < 4
        return step(np.stack([batch(i), batch(i + 1)]))

    return call


def numbers_that_stay_when_their_sources_change(compiled):
    def step(x):
        values = tg.Tensor(x).data * 2
        total = first = values.sum()
        total += 1  # a new number
        entry, mean = values[0], values.mean()
        values[0] = 7
        before, mean = mean, mean * 2
        before *= 3
        return first, total, entry, before, mean, values

    step = compiled(step)
    return lambda i: step(batch(i))


def one_row_for_two_layouts_and_dtypes(compiled):
    def step(x):
        values = np.outer(tg.Tensor(x).data, np.ones(3, np.float32))
        row, mask = values[0] * 2, values[1] > 3
        return [y + row for y in (values, values.T * 1)] + [y * mask for y in (values, values.astype(np.float64))]

    step = compiled(step)
    return lambda i: tuple(step(batch(i)))


def changes_what_out_returned(compiled):
    def step(x):
        y = np.add(tg.Tensor(x).data, 1, out=np.empty(3, np.float32))
        y *= 2
        return tg.Tensor(x) * y

    step = compiled(step)
    return lambda i: step(batch(i))


def an_error_in_between(compiled):
    w = weight()
    optimizer = optim.SGD([w], 0.1, momentum=0.9)

    def step(x):
        optimizer.zero_grad()
        loss = (w * tg.Tensor(x)).sum()
        loss.backward()
        optimizer.step()
        return loss, w

    step = compiled(step)

    def call(i):
        if i in (1, 5):
            with pytest.raises(Exception, match="shape"):
                step(np.ones(4, np.float32))
        return step(batch(i))

    return call


def an_error_of_the_users_in_between(compiled):
    w = weight()

    def step(x, fail):
        y = w * tg.Tensor(x)
        if fail:
            raise RuntimeError("the user's")
        return y

    step = compiled(step)

    def call(i):
        if i in (0, 1, 4):
            with pytest.raises(RuntimeError, match="user's"):
                step(batch(i), True)
        return step(batch(i), False)

    return call


def weights_loaded_in_between(compiled):
    model = nn.Linear(3, 2)
    model.weight.data[...] = 0.5
    start = model.state_dict()
    optimizer = optim.Adam(model.parameters(), 0.1)

    def step(x):
        optimizer.zero_grad()
        (model(tg.Tensor(x)) ** 2).mean().backward()
        optimizer.step()
        return model.weight

    step, saved = compiled(step), optimizer.state_dict()

    def change():
        model.load_state_dict(start)
        optimizer.load_state_dict(saved)

    return at(lambda i: step(batch(i)[None]), change)


def stream_that_was_held(compiled):
    step = compiled(lambda x: tg.Tensor(x) * random.stream("augment").random(3, np.float32))

    def call(i):
        if i == 4:
            tg.manual_seed(1)
        random.stream("augment").random()
        return step(batch(i))

    return call


RIGHT = [
    setting_in_a_dict, setting_in_a_nested_dict_of_an_object, setting_in_a_list, setting_in_a_global_dict,
    setting_in_a_class, setting_in_a_slot, setting_in_a_module_of_python, setting_read_in_a_helper_method,
    setting_of_the_class_taken_over_by_the_object, global_read_in_the_forward_of_a_module,
    setting_read_behind_super, global_read_behind_super, setting_behind_getattr, setting_behind_getitem,
    setting_in_an_array_that_python_reads, setting_on_a_function, setting_by_a_name_in_a_string,
    settings_in_other_containers, setting_of_a_compiled_step_within, rate_of_the_optimiser_returned,
    weights_shrunk_with_the_rate_of_the_optimiser,
    setting_beside_an_object_without_a_real_dict, parameters_in_a_list,
    hook_on_a_parameter, second_hook_on_a_parameter, number_that_is_an_argument,
    setting_that_changes_after_the_first_call, loop_variables_named_like_attributes,
    attributes_that_change_and_are_not_the_steps, buffer_of_the_users,
    two_optimisers_of_one_parameter, weights_averaged_in_place, gradients_accumulated_and_clipped,
    layers_frozen_and_freed, one_row_for_two_layouts_and_dtypes, changes_what_out_returned,
    numbers_that_stay_when_their_sources_change,
    an_error_in_between, an_error_of_the_users_in_between, weights_loaded_in_between,
    stream_that_was_held,
]  # fmt: skip


def plain(x):
    if isinstance(x, tuple):
        return [plain(i) for i in x]
    return np.array(x.numpy() if isinstance(x, tg.Tensor) else x).tolist()


def results(make, compiled, calls=40):
    tg.manual_seed(0)
    call = make(compiled)
    return [plain(call(i)) for i in range(calls)]


@pytest.mark.parametrize("make", RIGHT, ids=lambda make: make.__name__)
def test_the_replay_is_right(make):
    steps = []

    def compiled(step):
        steps.append(tg.compile(step))
        return steps[-1]

    assert results(make, compiled) == results(make, lambda step: step)
    assert any(step.programs for step in steps)


# Refused -------------------------------------------------------------------------------------------------------


def decides_by_its_own_generator(rng):
    return lambda x: tg.Tensor(x[::-1] if rng.random() < 0.5 else x)


def counts_in_a_list(_):
    count = [0]

    def step(x):
        count[0] += 1
        return tg.Tensor(x) * (2 if count[0] % 10 == 0 else 1)

    return step


def counts_in_a_dict(_):
    state = {"step": 0}

    def step(x):
        state["step"] += 1
        return tg.Tensor(x) * (2 if state["step"] % 10 == 0 else 1)

    return step


def appends_to_a_list(_):
    losses = []

    def step(x):
        loss = tg.Tensor(x).sum()
        losses.append(loss)
        return loss

    return step


def makes_an_attribute(_):
    model = nn.Linear(3, 3)

    def step(x):
        model.seen = model(tg.Tensor(x))
        return model.seen

    return step


def keeps_its_velocity_in_a_dict(_):
    state = {"velocity": np.zeros(3, np.float32)}

    def step(x):
        state["velocity"] = 0.9 * state["velocity"] + tg.Tensor(x).data
        return state["velocity"]

    return step


def counts_labels_in_an_array(_):
    counts = np.zeros(9)

    def step(x):
        counts[x.astype(int)] += 1
        return tg.Tensor(x) * 2

    return step


def stores_a_loss_in_an_array(_):
    losses = np.zeros(9, np.float32)

    def step(x):
        loss = tg.Tensor(x).sum()
        losses[0] = loss.data
        return loss

    return step


def draws_the_same_masks_again(_):
    random.stream("dropout")

    def step(x):
        with random.preserved():
            first = nn.F.dropout(tg.Tensor(x))
        return first + nn.F.dropout(tg.Tensor(x))

    return step


def restarts_the_streams(_):
    random.stream("dropout")

    def step(x):
        tg.manual_seed(0)
        return nn.F.dropout(tg.Tensor(x))

    return step


def mends_in_place(_):
    def step(x):
        y = tg.Tensor(x).data * 2
        np.nan_to_num(y, copy=False)
        return y

    return step


def changes_an_array_between_two_uses(_):
    def step(x):
        c = np.ones(3, np.float32)
        y = tg.Tensor(x) * c
        c[0] = 2
        return y + tg.Tensor(x) * c

    return step


def changes_a_buffer_by_its_own_name(_):
    def step(x):
        buffer = np.empty(3, np.float32)
        np.add(tg.Tensor(x).data, 1, out=buffer)
        buffer *= 2
        return tg.Tensor(x) * buffer

    return step


def tries_what_fails(_):
    def step(x):
        y = tg.Tensor(x).data * 2
        with pytest.raises(ValueError, match="broadcast"):
            y += np.ones(4)
        return y

    return step


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: decides_by_its_own_generator(np.random.default_rng(0)), "rng"),
        (lambda _: decides_by_its_own_generator(np.random.RandomState(0)), "rng"),
        (lambda _: decides_by_its_own_generator(python_random.Random(0)), "rng"),
        (lambda _: decides_by_its_own_generator(python_random), "Python's random"),
        (lambda _: decides_by_its_own_generator(np.random), r"np\.random"),
        (counts_in_a_list, r"count\[0\]"),
        (counts_in_a_dict, r"state\['step'\]"),
        (appends_to_a_list, "losses"),
        (makes_an_attribute, "Linear"),
        (keeps_its_velocity_in_a_dict, r"state\['velocity'\]"),
        (counts_labels_in_an_array, "counts"),
        (stores_a_loss_in_an_array, r"test_faithful\.py:\d+"),
        (draws_the_same_masks_again, "set back"),
        (restarts_the_streams, "set back"),
        (changes_an_array_between_two_uses, r"test_faithful\.py:\d+: an array that is used here is changed later"),
        (changes_a_buffer_by_its_own_name, r"test_faithful\.py:\d+: an array that is used here is changed later"),
        (mends_in_place, r"test_faithful\.py:\d+.*nan_to_num"),
    ],
)
def test_what_a_replay_would_leave_out_is_refused(make, said):
    step = tg.compile(make(None))
    with pytest.raises(CompileError, match=said):
        list(map(step, [batch(0), batch(1), batch(2)]))


class Lazy(nn.Module):
    """Makes its mask when it is first needed, and with ``anew`` at every call."""

    def __init__(self, anew):
        self.mask, self.anew = None, anew

    def forward(self, x):
        if self.mask is None or self.anew:
            self.mask = np.tril(np.ones((3, 3), np.float32))
        return tg.Tensor(x) @ self.mask


def test_what_is_made_when_it_is_first_needed_is_no_change():
    step = tg.compile(Lazy(anew=False))
    for i in range(5):
        assert np.array_equal(step(batch(i)).numpy(), batch(i) @ np.tril(np.ones((3, 3), np.float32)))
    assert step.recordings[0] == "the step set Lazy.mask"
    assert len(step.recordings) == 3
    step = tg.compile(Lazy(anew=True))
    step(batch(0))
    with pytest.raises(CompileError, match=r"Lazy\.mask"):
        step(batch(1))


def test_modes_that_the_step_itself_sets():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    copied = copy.deepcopy(model)

    def step_of(model):
        def step(x):
            trained = model.train()(tg.Tensor(x))
            with tg.no_grad():
                return trained, model.eval()(tg.Tensor(x))

        return step

    expected, ours = step_of(model), tg.compile(step_of(copied))
    batches = [np.random.default_rng(i).standard_normal((4, 3)).astype(np.float32) for i in range(6)]
    results = []
    for step in (expected, ours):
        tg.manual_seed(1)
        results.append([t.numpy().tobytes() for x in batches for t in step(x)])
    assert results[0] == results[1]
    assert len(ours.recordings) == 3


def test_an_operation_that_failed_is_not_replayed():
    step = tg.compile(tries_what_fails(None))
    for i in range(5):
        assert np.array_equal(step(batch(i)), 2 * batch(i))


def test_a_choice_whose_size_changes_is_refused_when_it_does():
    step = tg.compile(lambda x: x[x > 0].sum() + x.max())
    for values in ([-1, 2, 3], [4, -1, 5]):
        assert step(np.array(values, np.float32)) == sum(v for v in values if v > 0) + max(values)
    with pytest.raises(CompileError, match=r"test_faithful\.py:\d+: the result is \(1,\), but was \(2,\)"):
        step(np.array([-1, 7, -2], np.float32))


def test_what_came_unseen_from_a_batch_holds_for_this_batch():
    x, labels = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])
    step = tg.compile(lambda x, labels: tg.Tensor(x) - np.eye(CLASSES, dtype=np.float32)[labels])
    for _ in range(6):
        step(x, labels)
    assert len(step.recordings) == 2
    assert np.array_equal(step(x, labels + 1).numpy(), x - np.eye(CLASSES)[labels + 1])
    with pytest.raises(CompileError, match="values change"):
        step(x, labels * 0)


def test_steps_of_several_threads_do_not_meet():
    weights = np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)
    model = nn.Linear(50, 50)
    model.weight.data[...] = weights
    step = tg.compile(lambda x: nn.F.relu(model(tg.Tensor(x))))
    xs = [np.full((40 + i % 2, 50), i, np.float32) for i in range(8)]
    expected = [nn.F.relu(model(tg.Tensor(x))).numpy() for x in xs]
    wrong = []

    def work(i):
        for _ in range(100):
            if not np.array_equal(step(xs[i]).numpy(), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_other_threads_do_while_a_step_is_recorded_is_not_recorded():
    entered, done = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def forward(self, x):
            entered.set()
            done.wait(10)
            return nn.F.dropout(x)

    def train(step, calls, model):
        optimizer = optim.SGD(model.parameters(), 0.1)
        losses = []

        def eager(x):
            optimizer.zero_grad()
            loss = (model(tg.Tensor(x)) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = step(eager)
        for i in range(calls):
            losses.append(run(np.full((4, 3), i, np.float32)).item())
        return losses

    def model_of(*more):
        tg.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 3), *more)

    expected = train(lambda step: step, 6, model_of())
    done.set()
    recorded = train(lambda step: step, 6, model_of(Slow()))
    entered.clear(), done.clear()
    other, slow, losses = model_of(), model_of(Slow()), []
    compiled = threading.Thread(target=lambda: losses.extend(train(tg.compile, 6, slow)))
    compiled.start()
    assert entered.wait(10)
    assert train(lambda step: step, 6, other) == expected
    assert isinstance(random.stream("shuffle").random(), float)
    done.set()
    compiled.join()
    assert losses == recorded
