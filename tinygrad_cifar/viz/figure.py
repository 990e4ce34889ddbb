"""What the matplotlib pictures share: a figure without pyplot's global state, and one restrained style."""

from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinygrad_cifar.errors import ConfigError

INK, FAINT, RULE = "#222222", "#666666", "#dddddd"
# The blue and vermilion of Okabe & Ito's palette: apart for every kind of colour vision, and in print by lightness.
BLUE, VERMILION = "#0072b2", "#d55e00"


class Picture(Figure):
    """A matplotlib Figure that no window or backend holds on to, and that notebooks show inline by itself."""

    def __init__(self, width: float, height: float) -> None:
        """A white page of ``width`` x ``height`` inches."""
        super().__init__(figsize=(width, height), dpi=120, facecolor="white", layout="constrained")
        FigureCanvasAgg(self)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """As ``Figure.savefig``, but the paper stays white under a dark style too.

        Raises:
            ConfigError: matplotlib has no format for the suffix.
        """
        try:
            super().savefig(*args, **{"facecolor": "white", **kwargs})
        except ValueError as error:
            raise ConfigError(f"{args[0]}: {error}") from error

    def png(self, dpi: float | None = None) -> bytes:
        """The content of a PNG file."""
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def plain(axes: Axes) -> None:
    """Only what helps to read the values: two thin spines, a faint grid behind the data."""
    axes.set_facecolor("white")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=11)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def dress(axes: Axes, heading: str, along: str, size: int) -> None:
    """A plain panel for lines over ``along``, epochs or steps; ``size`` is that of its heading, in points."""
    plain(axes)
    axes.set_title(heading, fontsize=size, color=INK, loc="left")
    axes.set_xlabel(along, fontsize=size - 2, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if heading.endswith("accuracy"):
        axes.yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:.6g} %")


def bare(axes: Axes) -> None:
    """No spines, no tick marks."""
    axes.set_facecolor("white")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK, labelsize=11)
