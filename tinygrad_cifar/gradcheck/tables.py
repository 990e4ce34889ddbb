"""Tables of text: lined up for a terminal, and as Markdown."""

from collections.abc import Iterable, Sequence

Row = Sequence[str]


def lined_up(header: Row, rows: Iterable[Row]) -> list[str]:
    """One line per row, with columns of one width each."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]


def markdown(header: Row, rows: Iterable[Row]) -> list[str]:
    """The lines of a Markdown table."""
    table = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
