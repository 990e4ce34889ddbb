"""The documents tell the truth: their code runs, and prints what they say it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

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
