"""The command line: ``tinygrad-cifar train | data | evaluate | graph | bench | reproduce | check | search``.

What is heavy is imported by the command that needs it, so that ``--help`` is quick.
"""

import dataclasses
import functools
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tinygrad_cifar.errors import ConfigError, NonFiniteError, TinygradCifarError
from tinygrad_cifar.train.config import CHOICES, Config
from tinygrad_cifar.train.presets import DEFAULT, PRESETS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train small networks on CIFAR-10 with tinygrad_cifar, and look at them.",
)

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def main() -> None:
    """Run the command line; what goes wrong is one message on stderr and exit code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal or a pipe may not know every character
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands its own down, which may not be installed here
    try:
        app(prog_name="tinygrad-cifar")
    except (TinygradCifarError, OSError, MemoryError) as error:
        sys.exit(f"error: {str(error) or 'there is not enough memory'}")


# Settings of a Config as options ---------------------------------------------------------------------------------


def _words(name: str, words: Iterable[str]) -> Any:
    """A choice of words, as typer wants it."""
    return Enum(name, {word: word for word in words})


def _listed(words: Iterable[str]) -> str:
    """The words of a choice, for the help text: its lines break between them, as those of a metavar do not."""
    return f": {', '.join(words)}" if words else ""


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _option(name: str, kind: Any, option: Any) -> inspect.Parameter:
    """What typer reads as an option; it is None where it is not given."""
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _setting_option(setting: "dataclasses.Field[Any]", kind: Any) -> inspect.Parameter:
    default = "" if setting.default is None else f" (default {_written(setting.default)})"
    words = CHOICES.get(setting.name, ())
    option = typer.Option(
        help=setting.metadata["meaning"] + _listed(words) + default,
        metavar="WORD" if words else None,
        rich_help_panel=setting.metadata["group"],
        show_default=False,
    )
    if words:
        kind = _words(setting.name, words)
    elif kind in (tuple[int, ...], str | float):
        kind = str
    return _option(setting.name, kind, option)


Preset = _words("Preset", PRESETS)
ABOUT_THE_RUN = {"data", "synthetic", "seed"}  # settings that make no other experiment of it
BASES = [
    _option(
        "preset",
        Preset,
        typer.Option(
            help="start from a network of the documents"
            f"{_listed(PRESETS)} (default {DEFAULT}, if only images and seed are set)",
            metavar="WORD",
        ),
    ),
    _option("config", Path, typer.Option(help="start from the config.json of a run", exists=True, dir_okay=False)),
]


def with_settings(*wanted: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: a command gets an option for settings of Config, which are named one by one or by their group.

    The command's parameter ``config`` becomes the options --preset and --config and all settings, and receives the
    Config that they describe.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        kinds = get_type_hints(Config)
        options = [
            _setting_option(setting, kinds[setting.name])
            for setting in dataclasses.fields(Config)
            if setting.metadata["group"] in wanted or setting.name in wanted
        ]
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(command).parameters.values() if p.name != "config"
        ]  # fmt: skip
        parameters = [*BASES, *own, *options]

        def wrapper(preset: Any, config: Path | None, **given: Any) -> None:
            settings = {p.name: value for p in options if (value := given.pop(p.name)) is not None}
            command(config=_config(preset, config, settings), **given)

        functools.update_wrapper(wrapper, command)
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _config(preset: Enum | None, file: Path | None, settings: dict[str, Any]) -> Config:
    if preset and file:
        raise ConfigError("--preset and --config both say where to start from: give one of them.")
    if preset or not (file or settings.keys() - ABOUT_THE_RUN):
        base = PRESETS[preset.value if preset else DEFAULT]
    else:
        base = _from_file(file) if file else Config()
    return base.with_settings(**{name: _read(name, value) for name, value in settings.items()})


def _from_file(file: Path) -> Config:
    try:
        return Config.from_json(file.read_bytes())
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _read(name: str, value: Any) -> Any:
    """What was typed, as the value of a setting."""
    if isinstance(value, Enum):
        return value.value
    if name == "hidden":
        try:
            return () if value in ("", "none") else tuple(int(width) for width in value.split(","))
        except ValueError:
            raise ConfigError(f"--hidden takes widths as 50,50, or none; not {value!r}.") from None
    if name == "init":
        try:
            return float(value)
        except ValueError:
            return value
    return value


# Commands --------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: tinygrad-cifar train --hidden 50,50 --batch-norm --lam 0.005 --schedule triangular")
@with_settings("Network", "Optimiser", "Schedule", "Data")
def train(
    config: Config,
    out: Annotated[
        Path | None, typer.Option(help="folder for the run (default runs/TIME_NETWORK)", show_default=False)
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="replay the steps in planned memory: the same, sooner")
    ] = True,
) -> None:
    """Train a network, test it, and leave a run folder."""
    from tinygrad_cifar.train import progress, run

    folder = out or Path("runs", f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{config.title}")
    try:
        say = functools.partial(print, end="\n\n", flush=True)
        result = run(config, folder, watchers=(progress(),), say=say, compile=compile)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}\nRun folder: {folder}") from None
    except KeyboardInterrupt:
        reached = "has the history and the weights up to the last epoch" if folder.exists() else "was not begun"
        print(f"\nkilled; {folder} {reached}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(f"\n{result}\nRun folder: {folder}")
    if result.interrupted:
        print(f"interrupted; what was reached is in {folder}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


@app.command(epilog="Example: tinygrad-cifar data --grid images.png")
def data(
    path: Annotated[
        str | None, typer.Option("--data", help="folder or .tar.gz (default $TINYGRAD_CIFAR_DATA, cache, download)")
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="the synthetic stand-in instead of CIFAR-10")] = False,
    grid: Annotated[Path | None, typer.Option(help="write the first images of the training set as a picture")] = None,
    count: Annotated[int, typer.Option(help="how many images the picture has", min=1, max=1000)] = 100,
) -> None:
    """Fetch CIFAR-10 if need be, verify it, and show where it lies and what is in it."""
    import numpy as np
    from rich import print as show
    from rich.table import Column, Table

    from tinygrad_cifar.data import load_cifar10

    cifar = load_cifar10(path, synthetic=synthetic)
    print(f"{cifar.source}: complete and readable")
    table = Table("class", Column("training images", justify="right"), Column("test images", justify="right"))
    counts = [np.bincount(split.labels, minlength=len(cifar.classes)) for split in (cifar.train, cifar.test)]
    for name, *numbers in zip(cifar.classes, *counts, strict=True):
        table.add_row(name, *(f"{number:,}" for number in numbers))
    table.add_row("all", f"{len(cifar.train):,}", f"{len(cifar.test):,}", style="bold")
    show(table)
    if grid:
        from tinygrad_cifar.viz import image_grid

        shown = cifar.train.subset(min(count, len(cifar.train)))
        image_grid(shown.images, shown.labels, cifar.classes).savefig(grid)
        print(f"wrote {grid}")


@app.command(epilog="Example: tinygrad-cifar evaluate runs/my-run --best")
def evaluate(
    run: Annotated[Path, typer.Argument(help="a run folder, or a .safetensors file of one")],
    best: Annotated[bool, typer.Option("--best", help="the weights of the best validation accuracy")] = False,
    path: Annotated[str | None, typer.Option("--data", help="where CIFAR-10 lies (default: as in training)")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="the confusion matrix (default RUN/confusion.png)", show_default=False)
    ] = None,
) -> None:
    """Test a trained network: accuracy, accuracy of each class, and a picture of the confusion matrix."""
    from rich import print as show
    from rich.table import Column, Table

    from tinygrad_cifar.data import load_cifar10
    from tinygrad_cifar.train import evaluate as measure
    from tinygrad_cifar.train import load_run
    from tinygrad_cifar.train.runs import evaluation_batches
    from tinygrad_cifar.viz import confusion_matrix, confusion_picture, per_class_accuracy

    model, config = load_run(run, best=best)
    if path is not None:
        config = config.with_settings(data=path)
    cifar = load_cifar10(config.data, synthetic=config.synthetic)
    result = measure(model, evaluation_batches(config, cifar, cifar.test))
    matrix = confusion_matrix(result.labels, result.predictions, cifar.classes)
    table = Table("class", Column("accuracy", justify="right"))
    for name, accuracy in zip(cifar.classes, per_class_accuracy(matrix), strict=True):
        table.add_row(name, f"{100 * accuracy:.2f} %")
    show(table)
    print(f"test accuracy {100 * result.accuracy:.2f} %, loss {result.loss:.4f}")
    target = picture or (run if run.is_dir() else run.parent) / "confusion.png"
    drawn = confusion_picture(matrix, cifar.classes)
    if cifar.is_synthetic:
        drawn.suptitle("SYNTHETIC DATA, NOT CIFAR-10")
    drawn.savefig(target)
    print(f"wrote {target}")


@app.command(epilog="Example: tinygrad-cifar graph --hidden 50,50 --batch-norm --out network.svg")
@with_settings("Network")
def graph(
    config: Config,
    batch_size: Annotated[int, typer.Option(help="images in the batch that is drawn", min=2)] = 100,
    out: Annotated[Path, typer.Option(help="the picture: .svg, .png, .pdf, or .dot")] = Path("network.svg"),
) -> None:
    """Draw the graph of ops that a network records."""
    from tinygrad_cifar import viz
    from tinygrad_cifar.data.splits import PIXELS
    from tinygrad_cifar.train import build_model

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        written = viz.save(viz.graph(build_model(config), (batch_size, PIXELS)), out)
    for warning in caught:
        print(warning.message, file=sys.stderr)
    print(f"wrote {written}")


@app.command(epilog="Example: tinygrad-cifar bench --hidden 50,50 --batch-norm --batch-size 100")
@with_settings("Network", "Optimiser")
def bench(
    config: Config,
    explain: Annotated[bool, typer.Option("--explain", help="also the compiled step, line by line with times")] = False,
) -> None:
    """Time a training step on this machine: eager, compiled, and the matrix products that it cannot do without."""
    from tinygrad_cifar.train.bench import bench as measure

    result = measure(config)
    print(result)
    if explain:
        print(f"\n{result.program}")


@app.command(epilog="Example: tinygrad-cifar reproduce a3.bn-3layer --quick")
def reproduce(
    names: Annotated[
        list[str], typer.Argument(help="list; or what to reproduce: a3, a3.bn-3layer, ..., all", metavar="NAME...")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="a look in a minute, on fewer images and epochs")] = False,
    repeats: Annotated[
        int | None,
        typer.Option(help="seeds per setting (default: each recipe's own number)", min=1, show_default=False),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="processes (default: one per core)", min=1, show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of runs and reports (default runs/reproduce)", show_default=False)
    ] = None,
    path: Annotated[str | None, typer.Option("--data", help="where CIFAR-10 lies (default as for data)")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="the synthetic stand-in instead of CIFAR-10")] = False,
) -> None:
    """Run the documents' experiments again and write reports that compare; what is finished is never run twice."""
    from tinygrad_cifar import recipes

    if names == ["list"]:
        from rich import print as show

        show(recipes.listing())
        return
    plan = recipes.Plan(
        out or Path("runs", "reproduce-quick" if quick else "reproduce"),
        quick, repeats, jobs or os.cpu_count() or 1, path, synthetic,
    )  # fmt: skip
    try:
        pages = recipes.reproduce(recipes.select(recipes.DOCUMENTS, names), plan)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on with what is in {plan.out}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for page in pages:
        print(f"wrote {page} and report.md beside it")


Document = _words("Document", ("a1", "a2", "a3"))


def _entries(text: str) -> Any:
    """What ``check_gradients`` takes: a number, or a word."""
    if text in ("all", "directions"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--entries takes a number above 0, all, or directions; not {text!r}.")


@app.command(epilog="Example: tinygrad-cifar check --hidden 50,50 --batch-norm --lam 0.005 --images 10")
@with_settings("Network", "lam", "l2_convention", "data", "synthetic", "split", "standardise", "seed")
def check(
    context: typer.Context,
    config: Config,
    images: Annotated[int, typer.Option(help="training images that the cost is taken over", min=2)] = 10,
    entries: Annotated[str, typer.Option(help="of each parameter: a number, all, or directions")] = "1000",
    order: Annotated[int, typer.Option(help="2 checks second derivatives as well", min=1, max=2)] = 1,
    document: Annotated[
        Document | None,  # type: ignore[valid-type]
        typer.Option(help="print the gradient checks of a document instead, with its columns"),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="the report as Markdown, to paste")] = False,
) -> None:
    """Check a network's gradients on CIFAR-10: a verdict for every parameter, and which op is to blame.

    The exit code is 1 if a gradient is wrong, or if nothing could be proven.
    """
    import numpy as np
    from rich.console import Console

    from tinygrad_cifar import nn, random
    from tinygrad_cifar.data import Standardiser
    from tinygrad_cifar.gradcheck import check_gradients, documents
    from tinygrad_cifar.tensor import Tensor
    from tinygrad_cifar.train.build import build_model, load_data, split_data

    if document:
        _refuse_others(context, "document", "config", "images", "data", "synthetic", "split", "standardise", "seed")
    random.manual_seed(config.seed)
    train, _ = split_data(config, load_data(config))
    shown = train.subset(images)
    x = Standardiser.fit(train.images, config.standardise).transform(shown.images, np.float64)
    y = shown.labels.astype(int)
    if tables := documents.DOCUMENTS.get(_read("document", document)):
        print("\n\n".join(str(table) for table in tables(x, y)))
        return
    model = build_model(config)
    inputs = Tensor(x.astype(config.dtype))

    def cost() -> Tensor:
        loss = nn.F.cross_entropy(model(inputs), y)
        return loss + nn.l2_penalty(model, config.lam, config.l2_convention) if config.lam else loss  # type: ignore[arg-type]

    report = check_gradients(cost, model, entries=_entries(entries), order=2 if order == 2 else 1)
    if markdown:
        print(report.to_markdown())
    else:
        console = Console()
        if console.is_terminal:
            console.print(report)
        else:
            print(report)
    raise typer.Exit(0 if report.ok else 1)


def _refuse_others(context: typer.Context, option: str, *with_effect: str) -> None:
    """Raise ConfigError where an option was given that ``option`` leaves without effect."""
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}  # type: ignore[union-attr]
    if idle := sorted(given - {option, *with_effect}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise ConfigError(f"with --{option}, {names} would change nothing: leave out one or the other.")


@app.command(epilog="Example: tinygrad-cifar search --vary lam=log:1e-5:1e-1 --trials 30 --jobs 2 --noise-seeds 5")
@with_settings("Network", "Optimiser", "Schedule", "Data")
def search(
    config: Config,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="what to vary, once for each setting: lr=log:1e-3:1e-1 or lr=linear:0:0.1 (random; with :8 a grid of "
            "8), or a list, lam=1e-6,1e-5,0",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="how many (default all of a grid, or 50)", min=1, show_default=False)
    ] = None,
    study: Annotated[str, typer.Option(help="name of the search in its storage")] = "search",
    storage: Annotated[
        str, typer.Option(help="SQLite file, .journal file or postgresql+psycopg://USER@HOST/NAME; goes on with it")
    ] = "search.db",
    jobs: Annotated[int, typer.Option(help="processes here, each on one core", min=1)] = 1,
    noise_seeds: Annotated[int, typer.Option(help="repeat the best trial with so many other seeds", min=0)] = 0,
    prune: Annotated[bool, typer.Option("--prune", help="end trials early that are worse than the median")] = False,
    narrow: Annotated[bool, typer.Option("--narrow", help="then a fine search, STUDY-fine, around the best")] = False,
    top: Annotated[int, typer.Option(help="rows of the table", min=1)] = 10,
    figure: Annotated[Path | None, typer.Option(help="the picture (default STUDY.png)", show_default=False)] = None,
    range_test: Annotated[
        bool, typer.Option("--range-test", help="only the learning-rate range test: where to search for the rate")
    ] = False,
) -> None:
    """Search hyper-parameters: random or grid, coarse to fine; the same command goes on after a kill."""
    from tinygrad_cifar.search import farm
    from tinygrad_cifar.search.range_test import range_test_of
    from tinygrad_cifar.search.space import Space, parse_variation

    if range_test:
        if vary:
            raise ConfigError("--range-test varies the learning rate by itself: leave --vary out.")
        tested = range_test_of(config)
        target = figure or Path("range_test.png")
        tested.figure(target)
        print(f"{tested}\nwrote {target}")
        return
    if not vary:
        raise ConfigError("a search needs something to vary, as --vary lam=log:1e-5:1e-1.")
    varied = [parse_variation(text) for text in vary]
    space, found = Space(dict(varied)), None
    if len(space.names) < len(varied):
        raise ConfigError("--vary names a setting twice: give all its values in one list or range.")
    first = figure or Path(f"{study}.png")
    rounds = [(study, first), (f"{study}-fine", first.with_stem(f"{first.stem}-fine"))]
    for name, picture in rounds if narrow else rounds[:1]:
        space = found.narrowed() if found else space
        print(f"\nStudy {name}: {space}", flush=True)
        try:
            found = farm.search(
                space, config, trials and min(trials, space.size or trials), name=name, storage=storage, jobs=jobs,
                noise_seeds=noise_seeds, prune=prune, say=functools.partial(print, flush=True),
            )  # fmt: skip
        except KeyboardInterrupt:
            print(f"\nkilled; {storage} has the trials so far, and the same command goes on", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        print(f"\n{found.table(top)}")
        found.figure(picture)
        print(f"wrote {picture}")
