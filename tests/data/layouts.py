"""Write a data set in CIFAR-10's two published layouts, so that reading them can be tested without CIFAR-10."""

import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.data import Cifar10, Split
from tinygrad_cifar.data.cifar10 import BINARY_FOLDER, FILES, PYTHON_FOLDER


def write_binary(cifar: Cifar10, parent: Path) -> Path:
    folder = parent / BINARY_FOLDER
    folder.mkdir(parents=True)
    for name, split in _parts(cifar):
        np.column_stack([split.labels, split.images]).tofile(folder / f"{name}.bin")
    (folder / "batches.meta.txt").write_text("\n".join(cifar.classes))
    return folder


def write_python(cifar: Cifar10, parent: Path) -> Path:
    folder = parent / PYTHON_FOLDER
    folder.mkdir(parents=True)
    for name, split in _parts(cifar):
        (folder / name).write_bytes(python2_pickle(split))
    return folder


def write_archive(folder: Path) -> Path:
    path = folder.parent / f"{folder.name}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path


def _parts(cifar: Cifar10) -> Iterator[tuple[str, Split]]:
    size = len(cifar.test)
    for i, name in enumerate(FILES[:5]):
        yield name, Split(cifar.train.images[i * size :][:size], cifar.train.labels[i * size :][:size])
    yield FILES[5], cifar.test


def python2_pickle(split: Split) -> bytes:
    """A batch as Python 2's cPickle wrote it, with protocol 2: byte strings, memo and all."""
    memo = iter(range(1, 255))
    put = lambda: b"q" + bytes([next(memo)])  # noqa: E731
    labels = b"]" + put() + b"(" + b"".join(map(integer, split.labels.tolist())) + b"e"
    entries = {
        b"batch_label": string(b"training batch 1 of 5") + put(),
        b"labels": labels,
        b"data": array(split.images),
        b"filenames": b"](" + string(b"a.png") + string(b"b.png") + b"e",
    }
    return b"\x80\x02}" + put() + b"(" + b"".join(string(k) + put() + v for k, v in entries.items()) + b"u."


def string(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def integer(value: int) -> bytes:
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def array(values: NDArray[np.uint8], dtype: bytes = b"u1", content: bytes | None = None) -> bytes:
    """What NumPy pickles for an array; ``dtype`` and ``content`` let a test lie."""
    shape = b"(" + b"".join(map(integer, values.shape)) + b"t"
    create = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + string(dtype) + b"K\x00K\x01\x87R(K\x03" + string(b"|") + b"NNN" + 2 * integer(-1)
    kind += b"K\x00tb"
    return (
        create + b"(K\x01" + shape + kind + b"\x89" + string(values.tobytes() if content is None else content) + b"tb"
    )
