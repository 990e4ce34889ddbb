"""Every example is counted once, in the row of its class; the picture writes what the matrix says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tinygrad_cifar.errors import DataError, ShapeError

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50)


@given(PAIRS)
def test_each_example_is_counted_once(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs, np.uint8).T
    matrix = tg.viz.confusion_matrix(labels, predictions, np.int64(5))
    assert matrix.shape == (5, 5)
    for i in range(5):
        for j in range(5):
            assert matrix[i, j] == pairs.count((i, j))
    accuracy = tg.viz.per_class_accuracy(matrix)
    for i in range(5):
        of_class = predictions[labels == i]
        assert np.array_equal(accuracy[i], np.mean(of_class == i) if len(of_class) else np.nan, equal_nan=True)


def test_the_picture_writes_counts_and_accuracies() -> None:
    matrix = tg.viz.confusion_matrix([0, 0, 0, 1], [0, 0, 1, 1], ["cat", "dog", "fish"])
    picture = tg.viz.confusion_picture(matrix, ["cat", "dog", "fish"])
    cells, bars = picture.axes
    assert [text.get_text() for text in cells.texts] == ["2", "1", "0", "0", "1", "0", "0", "0", "0"]
    assert [text.get_text() for text in bars.texts] == ["66.7 %", "100.0 %", "none"]
    assert cells.get_title(loc="left") == "75.00 % of 4 right"
    assert [label.get_text() for label in cells.get_yticklabels()] == ["cat", "dog", "fish"]
    picture.canvas.draw()


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(ShapeError, match="one class each"):
        tg.viz.confusion_matrix([0, 1], [0], 2)
    with pytest.raises(DataError, match=r"argmax\(axis=1\)"):
        tg.viz.confusion_matrix([0, 1], [0.5, 0.7], 2)
    with pytest.raises(DataError, match=r"predictions\[1\] is 2, outside the 2 classes"):
        tg.viz.confusion_matrix([0, 1], [0, 2], 2)
    with pytest.raises(ShapeError, match="class names"):
        tg.viz.confusion_picture(np.eye(2, dtype=int), ["a"])
    with pytest.raises(ShapeError, match="whole numbers"):
        tg.viz.confusion_picture(np.eye(2), ["a", "b"])
    with pytest.raises(DataError, match="counts no example"):
        tg.viz.confusion_picture(np.zeros((2, 2), int), ["a", "b"])
