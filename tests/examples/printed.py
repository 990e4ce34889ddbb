"""What an example prints, and what the README says that it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(example: Path, folder: Path, *arguments: str, **environment: str) -> str:
    """What ``example`` prints. A warning is an error."""
    command = [sys.executable, "-W", "error", example, *arguments]
    run = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def in_readme(example: Path) -> str:
    """The block of text below the first link to ``example``."""
    block = rf"\(examples/{example.name}\).*?^```text\n(.*?)^```\n"
    found = re.search(block, (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"the README does not show what {example.name} prints"
    return found[1]


def form(text: str) -> list[list[str]]:
    """The words of each line, whatever the figures among them are."""
    return [re.sub(r"\d[\d.,e+-]*", "#", line).split() for line in text.splitlines()]


def percentages(text: str) -> list[float]:
    """Those of the lines that tell how it ended: with an accuracy on the test images."""
    lines = [line for line in text.splitlines() if "test" in line]
    return [float(figure) for line in lines for figure in re.findall(r"([\d.]+) ?%", line)]
