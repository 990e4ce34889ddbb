import re
from pathlib import Path

import numpy as np

from tinygrad_cifar.report import Figure, Flag, Report, Section, Table, Text, to_html, to_markdown, write
from tinygrad_cifar.report.pictures import bands, loss_panels
from tinygrad_cifar.viz.figure import Picture


def example() -> Report:
    table = Table(("what", "how <much>"), [("a|b", "1.00"), ("c", "2.00")], "A table.")
    figures = [Figure(Picture(1, 1), "one", "The first & only."), Figure(Picture(1, 1), "two", "Images.", local=True)]
    return Report("A title", [Text("Some < text.")], [Section("Part", [Flag("Beware."), table, *figures])])


def test_html_is_one_file() -> None:
    page = to_html(example())
    assert page.startswith("<!doctype html>")
    for part in (
        "<h1>A title</h1>",
        "Some &lt; text.",
        '<p class="flag">Beware.',
        "how &lt;much&gt;",
        "first &amp; only",
    ):
        assert part in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_markdown() -> None:
    text = to_markdown(example())
    assert "| what | how <much> |\n| --- | ---: |\n| a\\|b | 1.00 |\n" in text
    assert "> **Note.** Beware." in text
    assert "![one](figures/one.png)" in text
    assert "figures/two.png" not in text


def test_images_of_the_data_set_stay_out_of_what_is_published(tmp_path: Path) -> None:
    assert write(example(), tmp_path / "new") == tmp_path / "new" / "report.html"
    assert [path.name for path in (tmp_path / "new" / "figures").iterdir()] == ["one.png"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"figures", "report.html", "report.md"}
    write(example(), tmp_path / "new")  # over the old one


def curves(seed: int, epochs: int = 5) -> dict[str, list[float]]:
    names = ("train_loss", "val_loss", "test_loss", "test_accuracy")
    along = [1.0 + epoch for epoch in range(epochs)]
    return {name: list(np.random.default_rng(seed).random(epochs)) for name in names} | {"test_epoch": along}


def test_bands_have_a_line_each_and_a_band_where_there_are_repeats() -> None:
    groups = {"one": [curves(0)], "two": [curves(1), curves(2)], "short": [curves(3), curves(4, epochs=2)], "none": []}
    picture = bands(groups, ("test_loss", "test_accuracy"))
    for axes in picture.axes:
        assert [line.get_label() for line in axes.lines] == ["one", "two", "short"]
        assert len(axes.collections) == 1
    mean = picture.axes[0].lines[1].get_ydata()
    assert np.allclose(mean, np.mean([curves(1)["test_loss"], curves(2)["test_loss"]], axis=0))


def test_loss_panels() -> None:
    picture = loss_panels({"a": curves(0), "b": curves(1), "c": curves(2)})
    assert [axes.get_visible() for axes in picture.axes] == [True, True, True, False]
    assert picture.axes[1].get_title(loc="left") == "b"


def test_losses_of_very_different_size_are_drawn_on_a_log_scale() -> None:
    wild = curves(0) | {"test_loss": [1.0, 2.0, 50.0, 3.0, 2.0]}
    loss, accuracy = bands({"wild": [wild]}, ("test_loss", "test_accuracy")).axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
