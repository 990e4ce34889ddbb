"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tinygrad_cifar.viz.figure import Picture


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Flag:
    """A paragraph that must not be overlooked: a contradiction, a fault, a warning."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of text; the columns from ``numbers`` on are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: int = 1


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture with a caption.

    Attributes:
        name: of its file, without the ending; unique in the report.
        local: it shows images of the data set, so it goes into the HTML file alone and never beside the Markdown, which
            is made to be published.
    """

    picture: Picture
    name: str
    caption: str
    local: bool = False


Block = Text | Flag | Table | Figure


@dataclass
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Report:
    """A title, what is said before the first heading, and the sections."""

    title: str
    intro: list[Block] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
