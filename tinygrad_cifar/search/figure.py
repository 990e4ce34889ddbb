"""Pictures of a search: accuracy over each setting, and over the plane of the first two."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.axes import Axes

from tinygrad_cifar.search.space import Range, written
from tinygrad_cifar.viz.figure import BLUE, FAINT, INK, VERMILION, Picture, plain

if TYPE_CHECKING:
    from tinygrad_cifar.search.study import Study, Trial

SYMBOLS = {"lam": "λ", "lr": "η", "eta_max": "η_max", "eta_min": "η_min"}
WIDE = 20.0  # a list whose largest value is so many times the smallest is drawn on a log scale


def draw(study: "Study", path: str | PathLike[str] | None) -> Picture:
    """See ``Study.figure``."""
    best = study.best
    names = study.plan.space.names
    panels = len(names) + (len(names) > 1)
    picture = Picture(0.5 + 4.8 * panels, 4.4)
    axes = picture.subplots(1, panels, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=False):
        _accuracy_over(ax, study, name)
    axes[0].legend(frameon=False, fontsize=10, labelcolor=INK, loc="best")
    if len(names) > 1:
        _plane(picture, axes[-1], study, names[0], names[1])
    settings = " · ".join(f"{SYMBOLS.get(name, name)} {written(value)}" for name, value in best.settings.items())
    picture.suptitle(
        f"{study.plan.config.title}: {len(study.trials)} trials · best {settings} · validation {best.val_accuracy:.2%}",
        fontsize=12, color=INK,
    )  # fmt: skip
    if path is not None:
        picture.savefig(path)
    return picture


def _accuracy_over(ax: Axes, study: "Study", name: str) -> None:
    plain(ax)
    x = _along(study.ranking, name)
    ax.plot(x, [100 * trial.val_accuracy for trial in study.ranking], "o", color=BLUE, markersize=5, alpha=0.8)
    ax.plot(x[0], 100 * study.best.val_accuracy, "*", color=VERMILION, markersize=13, label="best")
    if study.seed_noise is not None:
        again = study.noise_accuracies
        ax.axhspan(100 * min(again), 100 * max(again), color=VERMILION, alpha=0.15, label="the best with other seeds")
    ax.set_ylabel("validation accuracy, %", fontsize=11, color=INK)
    _dress(ax, "x", study, name)


def _plane(picture: Picture, ax: Axes, study: "Study", across: str, up: str) -> None:
    plain(ax)
    unranked = [trial for trial in study.trials if trial.state != "complete"]
    ax.plot(_along(unranked, across), _along(unranked, up), "x", color=FAINT, markersize=5)
    ranking = study.ranking[::-1]  # the best on top
    dots = ax.scatter(
        _along(ranking, across), _along(ranking, up), c=[100 * trial.val_accuracy for trial in ranking],
        cmap="viridis", s=42, edgecolors="white", linewidths=0.4,
    )  # fmt: skip
    ax.plot(
        _along(ranking[-1:], across), _along(ranking[-1:], up), "o",
        markersize=13, markerfacecolor="none", markeredgecolor=VERMILION, markeredgewidth=1.5,
    )  # fmt: skip
    picture.colorbar(dots, ax=ax, label="validation accuracy, %")
    if unranked:
        ax.set_title("× pruned or diverged", fontsize=10, color=FAINT, loc="right")
    _dress(ax, "x", study, across)
    _dress(ax, "y", study, up)


def _dress(ax: Axes, axis: Literal["x", "y"], study: "Study", name: str) -> None:
    """Label an axis; where the values span factors, its scale is logarithmic, with room for 0 if it is one of them."""
    ax.set(**{f"{axis}label": SYMBOLS.get(name, name)})
    ranges = [values for block in study.plan.space.blocks if isinstance(values := block[name], Range)]
    values = _along(study.trials, name)
    if not all(isinstance(value, int | float) for value in values):
        return
    smallest = min((value for value in values if value > 0), default=1)
    spans_factors = all(r.scale == "log" for r in ranges) if ranges else max(values) > WIDE * smallest
    set_scale = getattr(ax, f"set_{axis}scale")
    if not spans_factors:
        ax.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 4))
    elif min(values) > 0:
        set_scale("log")
    else:
        set_scale("symlog", linthresh=smallest)


def _along(trials: Sequence["Trial"], name: str) -> list[Any]:
    """The coordinates of trials on the axis of a setting; what is no number becomes a word of its own place."""
    values = [trial.settings[name] for trial in trials]
    return [value if type(value) in (int, float) else written(value) for value in values]
