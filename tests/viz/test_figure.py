"""Pictures leave no trace: no pyplot, no backend, nothing that outlives them, whatever style the user has set."""

import gc
import subprocess
import sys
import weakref
from io import BytesIO

import matplotlib.style
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.image import imread

import tinygrad_cifar as tg
from tinygrad_cifar.viz.figure import INK, Picture


def test_neither_the_core_nor_the_pictures_touch_pyplot() -> None:
    program = """
import sys
import tinygrad_cifar as tg
assert not {"matplotlib", "graphviz"} & set(sys.modules)
tg.viz.training_curves({"epoch": [1, 2], "train_loss": [2.0, 1.0]})._repr_png_()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_a_picture_is_freed_with_its_last_reference() -> None:
    picture = tg.viz.image_grid(np.zeros((1, 3072), np.uint8))
    gone = weakref.ref(picture)
    del picture
    gc.collect()
    assert gone() is None


def test_notebooks_show_a_png() -> None:
    assert Picture(1, 1)._repr_png_().startswith(b"\x89PNG")


def test_a_dark_style_does_not_hide_the_words() -> None:
    with matplotlib.style.context("dark_background"):
        picture = tg.viz.training_curves({"epoch": [1, 2], "train_loss": [2.0, 1.0]}, config={"lr": 0.1})
        shown = imread(BytesIO(picture._repr_png_()))[..., :3]
    assert np.median(shown) == 1  # white paper
    words = [picture._suptitle, *picture.legends[0].get_texts(), *(axes.xaxis.label for axes in picture.axes)]
    assert {to_hex(text.get_color()) for text in words} == {INK}
