"""Tables of text: lined up for a terminal, and as Markdown. Columns from ``numbers`` on are set to the right."""

from collections.abc import Iterable, Sequence

Row = Sequence[str]


def lined_up(header: Row, rows: Iterable[Row], numbers: int | None = None) -> list[str]:
    """One line per row, with columns of one width each."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    forms = [f"{'<' if numbers is None or i < numbers else '>'}{width}" for i, width in enumerate(widths)]
    return ["  ".join(map(format, row, forms)).rstrip() for row in table]


def markdown(header: Row, rows: Iterable[Row], numbers: int | None = None) -> list[str]:
    """The lines of a Markdown table."""
    rule = ["---" if numbers is None or i < numbers else "---:" for i in range(len(header))]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, rule, *rows)]
