import json
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar import random
from tinygrad_cifar.data import Batches, Compose, RandomHorizontalFlip, RandomShift, Standardiser, synthesise
from tinygrad_cifar.data.batches import BLAS_THREADS
from tinygrad_cifar.errors import ConfigError

SPLIT = synthesise(train=50, test=1).train
SPLIT.images[:, 0] = np.arange(50)  # an image tells its number
STANDARDISER = Standardiser.fit(SPLIT.images, "mean")
AUGMENT = Compose([RandomHorizontalFlip(), RandomShift(2)])


def make(batch_size=8, seed=None, **options):
    if seed is not None:
        random.manual_seed(seed)
    return Batches(SPLIT, batch_size, STANDARDISER, **options)


def numbers(epoch):
    """The numbers of the images of an epoch, in the order in which they came."""
    return np.concatenate([STANDARDISER.inverse(x)[:, 0] for x, _ in epoch])


def assert_same(ours, theirs):
    for (x, y), (expected_x, expected_y) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, expected_x, strict=True)
        np.testing.assert_array_equal(y, expected_y, strict=True)


def prefetchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_standardised_images_and_their_labels(dtype):
    for x, y in make(dtype=dtype):
        chosen = STANDARDISER.inverse(x)[:, 0]
        np.testing.assert_array_equal(x, STANDARDISER.transform(SPLIT.images[chosen], dtype), strict=True)
        np.testing.assert_array_equal(y, SPLIT.labels[chosen].astype(np.int64), strict=True)
        assert x.flags.c_contiguous
        assert x.flags.writeable


@given(st.integers(1, 60), st.booleans(), st.booleans(), st.integers(0, 99))
def test_an_epoch_is_a_permutation(batch_size, shuffle, prefetch, seed):
    batches = make(batch_size, seed, shuffle=shuffle, prefetch=prefetch)
    for _ in range(2):
        epoch = list(batches)
        assert len(epoch) == len(batches) == -(-50 // batch_size)
        assert [len(y) for _, y in epoch[:-1]] == [batch_size] * (len(epoch) - 1)
        assert sorted(numbers(epoch)) == list(range(50))


def test_each_epoch_has_its_own_order():
    batches = make()
    first, second = numbers(batches), numbers(batches)
    assert (first != second).any()
    assert (first != np.arange(50)).any()


def test_without_shuffle_the_order_is_kept_and_no_stream_is_used():
    before = random.stream("shuffle").bit_generator.state
    np.testing.assert_array_equal(numbers(make(shuffle=False)), np.arange(50))
    assert random.stream("shuffle").bit_generator.state == before


@given(st.integers(1, 50))
def test_drop_last_gives_whole_batches_only(batch_size):
    epoch = list(make(batch_size, drop_last=True))
    assert [len(y) for _, y in epoch] == [batch_size] * (50 // batch_size)
    assert len(make(batch_size, drop_last=True)) == len(epoch)


@given(st.integers(0, 99), st.sampled_from([None, AUGMENT]))
def test_the_same_seed_gives_the_same_bits_with_prefetch_or_without(seed, augment):
    ahead, plain = (make(seed=seed, augment=augment, prefetch=prefetch) for prefetch in (True, False))
    for _ in range(3):
        assert_same(ahead, plain)


def test_another_seed_gives_another_order():
    assert (numbers(make(seed=1)) != numbers(make(seed=2))).any()


def test_augmentation_does_not_change_the_order():
    plain, augmented = make(seed=3), make(seed=3, augment=AUGMENT)
    for (_, y), (_, expected) in zip(augmented, plain, strict=True):
        np.testing.assert_array_equal(y, expected)


def test_an_epoch_left_early_does_not_change_the_next():
    left, whole = make(seed=4, augment=AUGMENT), make(seed=4, augment=AUGMENT)
    next(iter(left))
    list(whole)
    assert_same(left, whole)


def test_training_resumes_exactly_from_the_state():
    batches = make(seed=5, augment=AUGMENT)
    list(batches), list(batches)
    state = json.loads(json.dumps(batches.state_dict()))
    resumed = make(seed=99, augment=AUGMENT)
    resumed.load_state_dict(state)
    assert resumed.epoch == 2
    assert_same(resumed, batches)


def test_training_resumes_exactly_from_the_seed_and_the_epoch():
    batches = make(seed=6)
    list(batches)
    resumed = make(seed=6)
    resumed.epoch = 1
    assert_same(resumed, batches)


def test_a_state_of_other_settings_is_refused():
    with pytest.raises(ConfigError, match="shuffle or augment was set otherwise"):
        make().load_state_dict(make(augment=AUGMENT).state_dict())
    with pytest.raises(ConfigError, match="no state of these batches"):
        make().load_state_dict({})


def test_a_batch_stays_as_it_was_while_others_come():
    kept = [(x, x.copy(), y, y.copy()) for x, y in make()]
    for x, x_then, y, y_then in kept:
        np.testing.assert_array_equal(x, x_then)
        np.testing.assert_array_equal(y, y_then)


def test_overwriting_a_batch_harms_nobody():
    batches = make(seed=7)
    for x, y in batches:
        x[:], y[:] = np.nan, -1
    fresh = make(seed=7)
    list(fresh)
    assert_same(batches, fresh)


def test_the_split_is_left_alone():
    before = SPLIT.images.copy(), SPLIT.labels.copy()
    list(make(augment=AUGMENT))
    np.testing.assert_array_equal(SPLIT.images, before[0])
    np.testing.assert_array_equal(SPLIT.labels, before[1])


# The thread


@pytest.mark.parametrize(
    ("threads", "expected"), [(None, False), ("", False), ("0", False), ("1", True), ("3", True), ("4", False)]
)
def test_by_default_batches_are_prefetched_where_blas_leaves_a_core(monkeypatch, threads, expected):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for name in BLAS_THREADS:
        monkeypatch.delenv(name, raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert make().prefetch is expected
    assert make(prefetch=True).prefetch
    assert not make(prefetch=False).prefetch


def test_the_next_batch_is_prepared_while_the_caller_works():
    prepared = [threading.Event() for _ in range(3)]

    def watched(images, _rng):
        next(event for event in prepared if not event.is_set()).set()
        return images

    epoch = iter(make(25, augment=watched, prefetch=True))
    assert not prepared[0].is_set()  # nothing starts before it is asked for
    next(epoch)
    assert prepared[1].wait(10)
    assert not prepared[2].is_set()
    epoch.close()


@pytest.mark.parametrize("prefetch", [True, False])
def test_an_exception_reaches_the_caller_where_it_belongs(prefetch):
    calls = []

    def fails_at_the_third(images, _rng):
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("third batch")
        return images

    epoch = iter(make(augment=fails_at_the_third, prefetch=prefetch))
    next(epoch), next(epoch)
    with pytest.raises(ZeroDivisionError, match="third batch"):
        next(epoch)
    assert prefetchers() == []


@pytest.mark.parametrize("taken", [1, 3])
def test_leaving_midway_ends_the_thread(taken):
    epoch = iter(make(prefetch=True))
    for _ in range(taken):
        next(epoch)
    assert len(prefetchers()) == 1
    del epoch
    assert prefetchers() == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_loop_ends_the_thread(interruption):
    def loop():
        for _ in make(prefetch=True):
            raise interruption

    with pytest.raises(interruption):
        loop()
    assert prefetchers() == []


def test_a_finished_epoch_ends_the_thread():
    list(make(prefetch=True))
    assert prefetchers() == []


def test_two_epochs_at_once_do_not_disturb_each_other():
    batches, alone = make(seed=8, prefetch=True), make(seed=8)
    pairs = list(zip(batches, batches, strict=True))
    assert_same([first for first, _ in pairs], alone)
    assert_same([second for _, second in pairs], alone)


@pytest.mark.parametrize(("batch_size", "drop_last"), [(0, False), (-1, False), (51, True)])
def test_a_batch_size_that_makes_no_batch(batch_size, drop_last):
    with pytest.raises(ConfigError, match="choose 1 to 50"):
        make(batch_size, drop_last=drop_last)
