"""From a report to files: report.html, self-contained, and report.md with its pictures in figures/."""

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tinygrad_cifar.report.blocks import Block, Figure, Flag, Report, Table, Text
from tinygrad_cifar.tables import markdown

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }}
h1 {{ font-size: 1.7rem; }}
h2 {{ font-size: 1.25rem; margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }}
a {{ color: #0072b2; }}
nav ul {{ list-style: none; padding: 0; columns: 2; }}
div.table {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
caption, figcaption {{ color: #666; font-size: .9rem; text-align: left; padding: .3rem 0; }}
figure {{ margin: 1.2rem 0; }}
img {{ max-width: 100%; height: auto; }}
p.flag {{ border-left: 4px solid #d55e00; padding: .2rem .8rem; background: #fdf3ec; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

DPI = 90  # of pictures: as wide as the page, and not larger than that


def write(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Write ``report`` into ``folder``, over an older one; returns the path of report.html."""
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for figure in _figures(report):
        if not figure.local:
            _replace(folder / "figures" / f"{figure.name}.png", figure.picture.png(DPI))
    _replace(folder / "report.md", to_markdown(report).encode())
    page = folder / "report.html"
    _replace(page, to_html(report).encode())
    return page


def to_html(report: Report) -> str:
    """One page with style and pictures inside, so that it can be sent as it is."""
    links = "".join(f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(report.sections))
    parts = [*map(_html, report.intro), f"<nav><ul>{links}</ul></nav>"]
    for i, section in enumerate(report.sections):
        parts += [f'<h2 id="s{i}">{escape(section.title)}</h2>', *map(_html, section.blocks)]
    return PAGE.format(title=escape(report.title), body="\n".join(parts))


def to_markdown(report: Report) -> str:
    """The same as Markdown; pictures are links into figures/."""
    parts = [f"# {report.title}", *map(_markdown, report.intro)]
    for section in report.sections:
        parts += [f"## {section.title}", *map(_markdown, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _html(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Flag(text):
            return f'<p class="flag">{escape(text)}</p>'
        case Table():
            caption = f"<caption>{escape(block.caption)}</caption>" if block.caption else ""
            rows = "".join(_html_row("td", row, block.numbers) for row in block.rows)
            return (
                f'<div class="table"><table>{caption}{_html_row("th", block.header, block.numbers)}{rows}</table></div>'
            )
        case Figure():
            image = base64.b64encode(block.picture.png(DPI)).decode()
            caption = escape(block.caption)
            return (
                f'<figure><img alt="{caption}" src="data:image/png;base64,{image}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )


def _html_row(tag: str, cells: Sequence[str], numbers: int) -> str:
    side = ["" if i < numbers else ' class="n"' for i in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{c}>{escape(cell)}</{tag}>' for c, cell in zip(side, cells, strict=True))}</tr>"


def _markdown(block: Block) -> str:
    match block:
        case Text(text):
            return text
        case Flag(text):
            return f"> **Note.** {text}"
        case Table():
            lines = markdown(block.header, block.rows, block.numbers)
            return "\n".join([f"{block.caption}\n" if block.caption else "", *lines]).strip()
        case Figure():
            if block.local:
                return f"*{block.caption}* (Images of the data set are in report.html alone.)"
            return f"![{block.name}](figures/{block.name}.png)\n\n*{block.caption}*"


def _figures(report: Report) -> list[Figure]:
    blocks = [*report.intro, *(block for section in report.sections for block in section.blocks)]
    return [block for block in blocks if isinstance(block, Figure)]


def _replace(path: Path, content: bytes) -> None:
    """Complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
