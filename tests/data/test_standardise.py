import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.data import KINDS, Standardiser
from tinygrad_cifar.errors import ConfigError, DtypeError, ShapeError

TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def pixels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


def statistics(images, kind):
    """Mean and std as the table in the docstring defines them, straight from the formula."""
    x = images.astype(np.longdouble) / 255
    channels = x.reshape(-1, 3, 1024)
    mean, std = {
        "none": lambda: (0, 1),
        "scalar-mean": lambda: (x.mean(), 1),
        "mean": lambda: (x.mean(0), 1),
        "pixel": lambda: (x.mean(0), x.std(0)),
        "channel": lambda: (np.repeat(channels.mean((0, 2)), 1024), np.repeat(channels.std((0, 2)), 1024)),
    }[kind]()
    return np.broadcast_to(mean, 3072), np.broadcast_to(std, 3072)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_exact(kind):
    images = pixels(301)
    mean, std = statistics(images, kind)
    fitted = Standardiser.fit(images, kind)
    np.testing.assert_allclose(fitted.mean, mean.astype(float), rtol=2e-16)
    np.testing.assert_allclose(fitted.std, std.astype(float), rtol=3e-16)


def test_statistics_do_not_overflow_or_cancel():
    # 50,000 nearly white images: the sum of squares of a channel passes 2**41, its square 2**80.
    images = np.broadcast_to(np.full(3072, 255, np.uint8), (50_000, 3072))
    one_darker = np.concatenate([images, np.full((1, 3072), 254, np.uint8)])
    fitted = Standardiser.fit(one_darker, "channel")
    n = 50_001
    np.testing.assert_allclose(fitted.mean, (255 * n - 1) / (255 * n), rtol=1e-15)
    np.testing.assert_allclose(fitted.std, np.sqrt(n - 1) / (255 * n), rtol=1e-15)


@given(st.integers(1, 40), st.integers(0, 9), st.sampled_from(KINDS), st.sampled_from(["float32", "float64"]))
def test_transform_is_the_formula(n, seed, kind, dtype):
    fitted, images = Standardiser.fit(pixels(50, 99), kind), pixels(n, seed)
    x = fitted.transform(images, dtype)
    assert x.dtype == dtype
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, (images / 255 - fitted.mean) / fitted.std, rtol=0, atol=TOLERANCE[dtype])


@given(st.integers(0, 12), st.sampled_from(KINDS), st.sampled_from(["float32", "float64"]))
def test_a_row_does_not_depend_on_its_neighbours(n, kind, dtype):
    fitted, images = Standardiser.fit(pixels(20), kind), pixels(12, 1)
    np.testing.assert_array_equal(fitted.transform(images[:n], dtype), fitted.transform(images, dtype)[:n])


@given(st.integers(1, 9), st.sampled_from(KINDS), st.sampled_from(["float32", "float64"]))
def test_inverse_gives_the_pixels_back(seed, kind, dtype):
    fitted, images = Standardiser.fit(pixels(30), kind), pixels(5, seed)
    back = fitted.inverse(fitted.transform(images, dtype))
    np.testing.assert_array_equal(back, images, strict=True)


def test_inverse_clips_what_no_pixel_can_show():
    fitted = Standardiser.fit(pixels(30), "pixel")
    x = np.array([[-100.0], [100.0]]) * np.ones(3072)
    np.testing.assert_array_equal(fitted.inverse(x), np.array([[0], [255]]) * np.ones(3072, int))


@pytest.mark.parametrize("kind", ["pixel", "channel"])
def test_the_fitted_split_gets_mean_0_and_std_1(kind):
    images = pixels(200)
    x = Standardiser.fit(images, kind).transform(images, np.float64).reshape(200, 3, 1024)
    axes = (0, 2) if kind == "channel" else 0
    np.testing.assert_allclose(x.mean(axes), 0, atol=1e-13)
    np.testing.assert_allclose(x.std(axes), 1, atol=1e-13)


def test_a_value_that_never_varies_becomes_0():
    images = pixels(20)
    images[:, 7] = 200
    fitted = Standardiser.fit(images, "pixel")
    assert fitted.std[7] == 1
    np.testing.assert_allclose(fitted.transform(images)[:, 7], 0, atol=1e-7)
    assert np.isfinite(Standardiser.fit(images[:1], "pixel").transform(images)).all()


def test_out_is_filled_and_returned():
    fitted, images, out = Standardiser.fit(pixels(9)), pixels(6), np.empty((6, 3072))
    assert fitted.transform(images, out=out) is out
    np.testing.assert_array_equal(out, fitted.transform(images, np.float64))


def test_the_images_are_left_alone():
    images = pixels(5)
    before = images.copy()
    Standardiser.fit(images).transform(images)
    np.testing.assert_array_equal(images, before)


def test_errors():
    fitted, images = Standardiser.fit(pixels(5)), pixels(5)
    with pytest.raises(ConfigError, match="'none', 'scalar-mean', 'mean', 'pixel', 'channel'"):
        Standardiser.fit(images, "minmax")
    with pytest.raises(DtypeError, match=r"must be uint8 .* not float64"):
        fitted.transform(images / 255)
    with pytest.raises(ShapeError, match=r"\(N, 3072\), not \(5, 3, 32, 32\)"):
        fitted.transform(images.reshape(5, 3, 32, 32))
    with pytest.raises(ShapeError, match="no images"):
        Standardiser.fit(images[:0])
    with pytest.raises(DtypeError, match="not to float16"):
        fitted.transform(images, np.float16)
    with pytest.raises(ShapeError, match="C-contiguous"):
        fitted.transform(images, out=np.empty((3072, 5), np.float32).T)
    with pytest.raises(ShapeError, match=r"shape \(5, 3072\); its shape is \(4, 3072\)"):
        fitted.transform(images, out=np.empty((4, 3072), np.float32))
