import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.errors import CheckpointError
from tinygrad_cifar.train import Epoch, History

numbers = st.floats(allow_nan=False)
epochs = st.builds(Epoch, st.integers(1, 99), st.integers(1, 10**6), *[numbers] * 8)


@given(st.lists(epochs, max_size=5))
def test_csv_is_read_back_exactly(rows: list[Epoch]) -> None:
    assert History.from_csv(History(rows).to_csv()) == History(rows)


@pytest.mark.parametrize("text", ["", "epoch,loss\n1,2\n", History().to_csv() + "1,2\n", History().to_csv() + "x," * 9])
def test_what_is_no_history(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"not a history|broken line"):
        History.from_csv(text)


def test_the_best_epoch_is_the_earliest_of_equals() -> None:
    history = History()
    assert history.best is None
    for number, accuracy in enumerate([0.2, 0.5, 0.5, 0.4], start=1):
        history.append(Epoch(number, number, 0.1, 0, 0, 0, 0, 0, accuracy, 1.0))
    assert history.best is history[1]
    assert history.columns()["val_accuracy"] == [0.2, 0.5, 0.5, 0.4]
