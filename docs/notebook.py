"""Write the tour as a notebook: its code as cells, run here, with what they print and show.

make notebook                               docs/tour.ipynb, from docs/tour.md
python docs/notebook.py elsewhere.ipynb     the same somewhere else
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.DOTALL | re.MULTILINE)


def notebook(page: str) -> nbformat.NotebookNode:
    """The cells of ``page``, not yet run. A block of text below one of code is its output, and is left out."""
    text_and_code = [part.strip() for part in BLOCK.split(page)]  # by turns
    make = (nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell)
    cells = [make[number % 2](part, id=f"cell-{number}") for number, part in enumerate(text_and_code) if part]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


if __name__ == "__main__":
    tour = notebook((DOCS / "tour.md").read_text())
    metadata = dict(tour.metadata)
    NotebookClient(tour, timeout=300, record_timing=False, coalesce_streams=True).execute()
    tour.metadata = metadata  # without the version of Python that happened to run it
    for cell in tour.cells:
        for output in cell.get("outputs", []):
            if len(output.get("data", {})) > 1:
                del output.data["text/plain"]  # a picture or a table says more, and is the same at every run
    nbformat.write(tour, sys.argv[1] if sys.argv[1:] else DOCS / "tour.ipynb")
