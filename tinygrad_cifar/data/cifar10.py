"""Find CIFAR-10, fetch it once if it has to be fetched, and read it in either published layout."""

import gzip
import itertools
import os
import pickletools
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.data.splits import BATCH, CLASSES, PIXELS, Cifar10, Split
from tinygrad_cifar.data.synthetic import synthesise
from tinygrad_cifar.data.unpickle import restricted_loads
from tinygrad_cifar.errors import ConfigError, DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"
VARIABLE = "TINYGRAD_CIFAR_DATA"

FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
"""The six files that hold images; the binary layout adds ".bin"."""
BINARY_FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"
RECORD = 1 + PIXELS
"""Bytes of one image in the binary layout: its label, then its pixels."""

_AGAIN = "Delete it and download it again."
_REMEDIES = f"""Any of these helps:
  - give the path of a folder or .tar.gz that holds CIFAR-10 (binary or Python version), or set {VARIABLE} to it;
  - download {URL} by hand and give its path;
  - ask for the synthetic stand-in: --synthetic, or in Python load_cifar10(synthetic=True)."""

_Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class CifarUnavailableError(DataError):
    """No path was given, the cache is empty, and the archive could not be downloaded."""


def load_cifar10(
    path: str | os.PathLike[str] | None = None, *, download: bool = True, synthetic: bool = False
) -> Cifar10:
    """CIFAR-10 from ``path``, or else from ``$TINYGRAD_CIFAR_DATA``, the cache, or the published archive.

    Args:
        path: a folder that holds the published files (binary or Python version), a folder that holds such a folder
            under its published name, or a ``.tar.gz`` of either.
        download: whether the archive (163 MB) may be downloaded into the cache when nothing else is there.
        synthetic: True gives the synthetic stand-in, announced on stderr, whatever else there is.

    Raises:
        CifarUnavailableError: CIFAR-10 cannot be had without being told where it is.
        DataError: the files are missing, truncated, corrupt or not CIFAR-10; the message names file and byte.
        ConfigError: both a path and ``synthetic`` were given.
    """
    if synthetic:
        if path is not None:
            raise ConfigError(f"synthetic=True and the path {os.fspath(path)!r} contradict each other; give one.")
        return _announce("it was asked for")
    return _read(_locate(path, download))


def load_or_synthesise(path: str | os.PathLike[str] | None = None, *, download: bool = True) -> Cifar10:
    """``load_cifar10``, or the synthetic stand-in where CIFAR-10 cannot be had, announced on stderr.

    A path that was given, in ``path`` or in ``$TINYGRAD_CIFAR_DATA``, and fails is always an error.
    Look at ``.is_synthetic`` and write it beside whatever you report.
    """
    try:
        return load_cifar10(path, download=download)
    except CifarUnavailableError as error:
        return _announce(str(error))


def cache_folder() -> Path:
    """The folder of this user where the downloaded files are kept."""
    import pooch

    return Path(pooch.os_cache("tinygrad_cifar"))


def _announce(reason: str) -> Cifar10:
    line = "=" * 78
    print(
        f"{line}\nSYNTHETIC DATA, NOT CIFAR-10. Accuracies below say nothing about CIFAR-10.\nWhy: {reason}\n{line}",
        file=sys.stderr,
    )
    return synthesise()


def _locate(path: str | os.PathLike[str] | None, download: bool) -> Path:
    origin = "path" if path is not None else VARIABLE
    given = os.fspath(path) if path is not None else os.environ.get(VARIABLE) or None
    if given is not None:
        found = Path(os.path.expanduser(given))  # Path.expanduser raises where there is no such user
        if not given or not found.exists():
            what = found if given else "with an empty name"
            raise DataError(f"There is no file or folder {what} ({origin}).\n{_REMEDIES}")
        return found
    cached = cache_folder() / BINARY_FOLDER
    if cached.exists():
        return cached
    if not download:
        raise CifarUnavailableError(f"CIFAR-10 is not in the cache {cached}, and download is off.\n{_REMEDIES}")
    try:
        _download(cached)
    except (OSError, ValueError) as error:  # what requests and pooch raise: no network, a wrong checksum
        raise CifarUnavailableError(f"CIFAR-10 could not be downloaded: {error}\n{_REMEDIES}") from error
    return cached


def _download(folder: Path) -> None:
    """Fetch the archive, check it, and unpack its six files into ``folder``, which appears complete or not at all."""
    import pooch

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        with closing(_ProgressBar()) as bar:
            fetcher = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 18)
            archive = pooch.retrieve(URL, known_hash=HASH, fname="archive", path=scratch, downloader=fetcher)
        unpacked = Path(scratch, "unpacked")
        unpacked.mkdir()
        for name, _, raw in _archived_files(Path(archive)):
            (unpacked / name).write_bytes(raw)
        with suppress(OSError):  # another process was quicker; what it left is as good
            unpacked.rename(folder)


class _ProgressBar:
    """Rich's bar, with the methods that pooch calls."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("CIFAR-10"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=None)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, total: float) -> None:
        self._progress.start()
        self._progress.update(self._task, total=total)

    def update(self, n: int) -> None:
        self._progress.advance(self._task, n)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


def _read(path: Path) -> Cifar10:
    files = _archived_files(path) if path.is_file() else _folder_files(path)
    try:
        parts = {Path(name).stem: _parse(name, where, raw) for name, where, raw in files}
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}).") from error
    if missing := [name for name in FILES if name not in parts]:
        raise DataError(
            f"{path}: {', '.join(missing)} missing, in binary or Python form. "
            f"CIFAR-10 is six files of images; unpack or download them again."
        )
    train, test = [parts[name] for name in FILES[:5]], [parts[FILES[5]]]
    return Cifar10(_join(train), _join(test), source=str(path.resolve()))


def _join(parts: list[_Part]) -> Split:
    return Split(np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts]))


def _folder_files(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(name, name for messages, content) of the files of the first layout found in or below ``path``."""
    for folder, suffix in itertools.product((path, path / BINARY_FOLDER, path / PYTHON_FOLDER), (".bin", "")):
        files = [file for name in FILES if (file := folder / f"{name}{suffix}").is_file()]
        for file in files:
            _check_size(file.stat().st_size, str(file))
            yield file.name, str(file), file.read_bytes()
        if files:
            return


def _archived_files(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(name, name for messages, content) of the files in a ``.tar.gz``; nothing is unpacked to disk."""
    with path.open("rb") as file:
        try:
            with gzip.open(file) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
                for member in tar:
                    name = PurePosixPath(member.name).name
                    if member.isfile() and name.removesuffix(".bin") in FILES:
                        where = f"{path}: {member.name}"
                        _check_size(member.size, where)
                        yield name, where, tar.extractfile(member).read()  # type: ignore[union-attr]
                while unzipped.read(1 << 20):  # to the end, where gzip keeps its checksum
                    pass
        except DataError:
            raise
        except Exception as error:  # a corrupt archive can trip over anything: a wrong number, a header in a header
            raise DataError(
                f"{path}: not a readable .tar.gz; reading stopped near byte {file.tell():,} of "
                f"{path.stat().st_size:,} ({error}). {_AGAIN}"
            ) from error


def _check_size(size: int, where: str) -> None:
    """Refuse to read into memory what cannot be a published file: they are all about 30 MB."""
    if size > (limit := 2 * BATCH * RECORD):
        raise DataError(f"{where}: {size:,} bytes, more than any CIFAR-10 file has (under {limit:,}). {_AGAIN}")


def _parse(name: str, where: str, raw: bytes) -> _Part:
    return _parse_binary(where, raw) if name.endswith(".bin") else _parse_python(where, raw)


def _parse_binary(where: str, raw: bytes) -> _Part:
    expected = BATCH * RECORD
    if len(raw) < expected:
        raise DataError(
            f"{where}: truncated: it breaks off at byte {len(raw):,}, in record {len(raw) // RECORD:,}; "
            f"{BATCH:,} records of {RECORD:,} bytes make {expected:,}. {_AGAIN}"
        )
    if len(raw) > expected:
        raise DataError(
            f"{where}: too long: it should end at byte {expected:,} ({BATCH:,} records of {RECORD:,} "
            f"bytes), but has {len(raw):,}. {_AGAIN}"
        )
    records = np.frombuffer(raw, np.uint8).reshape(BATCH, RECORD)
    images, labels = records[:, 1:], records[:, 0]
    _check_labels(where, labels.tolist(), lambda record: record * RECORD)
    return images, labels


def _parse_python(where: str, raw: bytes) -> _Part:
    content = restricted_loads(raw, where)
    match content:
        case {b"data": np.ndarray(shape=(rows, columns)) as images, b"labels": list(labels)}:
            sizes = rows, columns, len(labels)
        case _:
            raise DataError(
                f"{where}: holds no b'data' and b'labels' (from byte 0 on), so it is no file of images of "
                f"CIFAR-10. {_AGAIN}"
            )
    if sizes != (BATCH, PIXELS, BATCH):
        raise DataError(
            f"{where}: wrong length: {rows:,} images of {columns:,} values and {len(labels):,} labels in "
            f"its {len(raw):,} bytes, not {BATCH:,} of {PIXELS:,}. {_AGAIN}"
        )
    _check_labels(where, labels, lambda record: _label_position(raw, record))
    return images, np.array(labels, np.uint8)


def _check_labels(where: str, labels: list[Any], position: Callable[[int], int]) -> None:
    """Refuse what is no class; ``position`` is the byte of a record's label."""
    for record, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < len(CLASSES):
            what = label if isinstance(label, int) else f"({type(label).__name__})"
            raise DataError(
                f"{where}: record {record:,} (byte {position(record):,}) has the label {what}; those of CIFAR-10 are "
                f"0 to {len(CLASSES) - 1}. The file is corrupt or another data set. {_AGAIN}"
            )


def _label_position(raw: bytes, record: int) -> int:
    """The byte of the ``record``-th number after the key "labels"."""
    tail = itertools.dropwhile(lambda operation: operation[1] != "labels", pickletools.genops(raw))
    numbers = (position or 0 for opcode, _, position in tail if opcode.name.startswith("BININT"))
    return next(itertools.islice(numbers, record, None), 0)
