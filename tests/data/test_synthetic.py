import numpy as np

from tinygrad_cifar.data import synthesise
from tinygrad_cifar.random import stream


def test_it_has_the_shape_of_cifar10():
    cifar = synthesise(train=1200, test=300)
    assert cifar.is_synthetic
    for split, n in ((cifar.train, 1200), (cifar.test, 300)):
        assert split.images.shape == (n, 3072)
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert set(split.labels) == set(range(10))
    assert 100 < cifar.train.images.mean() < 150
    assert 40 < cifar.train.images.std() < 70


def test_a_seed_gives_the_same_bytes_and_another_seed_others():
    one, same, other = (synthesise(train=30, test=10, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.train.images, same.train.images)
    np.testing.assert_array_equal(one.test.labels, same.test.labels)
    assert (one.train.images != other.train.images).mean() > 0.9


def test_it_leaves_the_random_streams_alone():
    before = stream("shuffle").bit_generator.state
    synthesise(train=10, test=10)
    assert stream("shuffle").bit_generator.state == before


def test_neighbouring_pixels_are_alike_as_in_photographs():
    pictures = synthesise(train=200, test=1).train.images.reshape(-1, 32, 32).astype(float)
    assert np.abs(np.diff(pictures, axis=2)).mean() < 0.6 * pictures.std()


def test_a_linear_classifier_learns_it_but_not_perfectly():
    cifar = synthesise(train=6000, test=1000)
    # Ridge regression onto one-hot labels is a linear classifier that needs no training loop.
    x, xt = ((split.images / 255 - 0.5).reshape(-1, 3, 8, 4, 8, 4).mean((3, 5)).reshape(len(split), -1)
             for split in (cifar.train, cifar.test))  # fmt: skip
    w = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ np.eye(10)[cifar.train.labels])
    assert 0.40 < ((xt @ w).argmax(1) == cifar.test.labels).mean() < 0.70
