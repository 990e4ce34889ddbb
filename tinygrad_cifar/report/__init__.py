"""Reports: sections of text, tables and figures, as one HTML file that needs nothing else, and as Markdown."""

from tinygrad_cifar.report.blocks import Block, Figure, Flag, Report, Section, Table, Text
from tinygrad_cifar.report.write import to_html, to_markdown, write

__all__ = ["Block", "Figure", "Flag", "Report", "Section", "Table", "Text", "to_html", "to_markdown", "write"]
