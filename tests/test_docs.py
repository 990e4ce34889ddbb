"""The documents tell the truth: their code runs, and prints what they say it prints."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tinygrad_cifar.operators import NUMPY

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/tour.md", "docs/verdicts.md", "docs/design.md"]

# A block of Python, and what it prints where a block of text stands right below it.
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[re.Match[str]]:
    return list(BLOCK.finditer((ROOT / page).read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_prints_what_stands_below_it(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        line = text.count("\n", 0, block.start("code")) + 1
        code = compile("\n" * (line - 1) + block["code"], page, "exec")  # so that an error names the line of the page
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == (block["output"] or ""), f"{page}:{line} prints something else"


def test_the_readme_example_is_one_block_of_at_most_20_lines() -> None:
    (example,) = blocks("README.md")
    assert example["output"], "the example's output stands below it"
    assert len(example["code"].splitlines()) <= 20


def cells(notebook: Path) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Of each cell its kind, its source, and what it printed on which stream."""
    return [
        (
            cell["cell_type"],
            "".join(cell["source"]),
            [(o["name"], "".join(o["text"])) for o in cell.get("outputs", []) if o["output_type"] == "stream"],
        )
        for cell in json.loads(notebook.read_text())["cells"]
    ]


def test_the_notebook_is_the_tour_and_runs(tmp_path: Path) -> None:
    if not (find_spec("ipykernel") and find_spec("nbclient")):
        pytest.skip("needs Jupyter's kernel and client: pip install 'tinygrad-cifar[docs]'")
    home = {"IPYTHONDIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, ROOT / "docs" / "notebook.py", tmp_path / "tour.ipynb"]
    environment = {**os.environ, **home, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    written = cells(tmp_path / "tour.ipynb")
    assert written == cells(ROOT / "docs" / "tour.ipynb"), "docs/tour.ipynb is not up to date: make notebook"

    tour = blocks("docs/tour.md")
    assert [source for kind, source, _ in written if kind == "code"] == [block["code"].strip() for block in tour]
    printed = ["".join(text for _, text in streams) for kind, _, streams in written if kind == "code"]
    assert printed == [block["output"] or "" for block in tour]


def test_the_notebook_shows_pictures_and_nothing_of_the_machine_that_wrote_it() -> None:
    text = (ROOT / "docs" / "tour.ipynb").read_text()
    assert "image/svg+xml" in text, "write it where Graphviz's dot is installed"
    assert "text/html" in text
    assert not re.search(r"/(home|root|tmp|Users)/|\b0x[0-9a-f]{6,}", text)
    assert len(text) < 100_000


def test_the_design_is_one_page() -> None:
    assert len((ROOT / "docs" / "design.md").read_text().splitlines()) <= 66


def test_the_reference_names_every_numpy_function_that_has_a_gradient() -> None:
    named = re.findall(r"`np\.([\w.]+)`", (ROOT / "docs" / "reference" / "tensor.md").read_text())
    assert {name.split(".")[-1] for name in named} == {function.__name__ for function in NUMPY}
