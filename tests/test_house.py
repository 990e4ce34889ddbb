"""The rules of the house: imports point upward, the core needs NumPy alone, an evening is enough to read it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tinygrad_cifar as tg

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinygrad_cifar"

FLOORS = [
    {"errors", "random", "operators", "operands", "tensor", "loops", "tables"},
    {"ops"},
    {"engine"},
    {"gradcheck", "compiler", "nn", "optim"},
    {"data"},
    {"train", "viz"},
    {"recipes", "search", "report"},
    {"cli"},
    {"__init__", "__main__"},  # the front door: re-exports, and is imported by nobody
]
NEIGHBOURS_APART = [{"nn", "optim"}]

FIRST_EVENING = ["tensor.py", "ops/elementwise.py", "ops/neural.py", "engine.py", "gradcheck/check.py"]
FIRST_EVENING_LINES = 1200


def module_name(path: Path) -> str:
    """``ops/elementwise.py`` -> ``ops.elementwise``; a package is called by its folder, the root ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[0]


def floor(module: str) -> int:
    floors = [number for number, rooms in enumerate(FLOORS, start=1) if room(module) in rooms]
    assert floors, f"{module}: no floor of the house has a room of this name; give it one in FLOORS"
    return floors[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def import_statements(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """All that may run, those inside functions too; not those that only a type checker sees."""
    found: list[ast.Import | ast.ImportFrom] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.append(child)
        elif not is_type_checking(child):
            found += import_statements(child)
    return found


def internal_imports(module: str) -> set[str]:
    """The modules of the package that ``module`` imports."""
    path = MODULES[module]
    here = ["tinygrad_cifar", *path.relative_to(PACKAGE).parent.parts]
    names: list[str] = []
    for statement in import_statements(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        else:
            base = here[: len(here) + 1 - statement.level] if statement.level else []
            source = ".".join([*base, *(statement.module or "").split(".")]).strip(".")
            names += [f"{source}.{alias.name}" for alias in statement.names]
    inside = [name.split(".")[1:] for name in names if name.split(".")[0] == "tinygrad_cifar"]
    return {resolve(parts) for parts in inside} - {module}


def resolve(parts: list[str]) -> str:
    """``[ops, elementwise, add]`` -> ``ops.elementwise``: the longest beginning that is a module."""
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in MODULES:
            return ".".join(parts[:length])
    return "__init__"


IMPORTS = {module: internal_imports(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_upward(module: str) -> None:
    for imported in IMPORTS[module]:
        assert floor(imported) <= floor(module), f"{module} imports {imported}, which stands on a later floor"
        for apart in NEIGHBOURS_APART:
            assert {room(module), room(imported)} != apart, f"{module} and {imported} may not know each other"


def test_there_are_no_import_circles() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as circle:
        pytest.fail("import circle: " + " <- ".join(circle.args[1]))


def test_the_front_door_shows_every_room() -> None:
    folders = {module for module, path in MODULES.items() if path.name == "__init__.py"} - {"__init__", "ops"}
    assert folders <= set(tg.__all__) <= set(dir(tg))
    assert all(hasattr(tg, name) for name in tg.__all__)


def test_the_core_imports_numpy_alone() -> None:
    program = """
import json, sys
import numpy.random
before = set(sys.modules)
import tinygrad_cifar
after = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(after - set(sys.stdlib_module_names))))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(run.stdout)) <= {"numpy", "tinygrad_cifar"}


def test_the_first_evening_of_reading_is_short() -> None:
    """Blank lines are for free: they make it easier to read, not longer."""
    texts = {name: (PACKAGE / name).read_text().splitlines() for name in FIRST_EVENING}
    lines = {name: sum(bool(line.strip()) for line in text) for name, text in texts.items()}
    assert sum(lines.values()) < FIRST_EVENING_LINES, f"{sum(lines.values())} lines together: {lines}"


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout: there are no tracked files to look at")
    machine_path = re.compile(r"(?<![\w.~-])/(?:work|home|root|tmp|Users|mnt|opt)/\w")
    offences = []
    for name in listing.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".csv", ""}:
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
                if machine_path.search(line):
                    offences.append(f"{name}:{number}: {line.strip()}")
    assert not offences, "\n".join(offences)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_an_old_python_is_refused_before_it_leaves_an_environment(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.version_info = (3, 10)")
    unfinished = tmp_path / "venv" / "bin" / "python"
    unfinished.parent.mkdir(parents=True)
    unfinished.symlink_to(sys.executable)
    command = ["make", f"PYTHON={sys.executable}", f"VENV={tmp_path / 'venv'}", f"{tmp_path / 'venv' / '.installed'}"]
    old = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, cwd=ROOT, env=old, capture_output=True, text=True)
    assert run.returncode
    assert "Python 3.11 or newer is needed" in run.stderr
    assert list(tmp_path.glob("venv/**/*.*")) == [], "nothing was made"
