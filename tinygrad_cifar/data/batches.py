"""Batches of a split: shuffled, augmented and standardised one step ahead of the network."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_cifar import loops, random
from tinygrad_cifar.data.augment import Augmentation
from tinygrad_cifar.data.splits import PIXELS, Split
from tinygrad_cifar.data.standardise import Standardiser
from tinygrad_cifar.errors import ConfigError

Batch = tuple[NDArray[Any], NDArray[np.int64]]
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""The environment variables that say how many threads BLAS may use; it reads its own when NumPy is imported."""
BLAS_KERNELS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Those that keep NumPy's BLAS, and that of no other framework, to the kernels of some other processor."""


class Batches:
    """One epoch of ``(x, y)`` each time it is iterated over.

    x is a C-contiguous (n, 3072) array of ``dtype``, standardised; y is int64 (n,). Each batch is a fresh array that
    the caller may keep or overwrite. With ``prefetch``, a thread prepares the next batch while the caller uses the
    current one; what comes out is the same, bit for bit, with it or without. So it is with numba (the extra ``fast``),
    whose loop gathers and standardises in one pass.

    The order of epoch e depends on two numbers only: a key, drawn from ``random.stream("shuffle")`` when the object
    is made, and e. So to resume a training exactly, make the object again with the same seed, or give it the
    ``state_dict()`` of the first one. Augmentation has a key of its own, from ``random.stream("augment")``.

    Args:
        split: the images and labels.
        batch_size: images in a batch; the last one may be smaller.
        standardiser: fitted on the training split.
        dtype: of x, float32 or float64.
        shuffle: a new order each epoch; False keeps the order of ``split``.
        augment: changes the uint8 images of each batch, for training only.
        drop_last: leave out a last batch that would be smaller.
        prefetch: prepare the next batch in a thread. By default where a variable of ``BLAS_THREADS`` keeps BLAS to
            fewer threads than there are cores: BLAS takes all cores otherwise, and one more thread only delays it.

    Raises:
        ConfigError: ``batch_size`` is not positive, or leaves no batch at all.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        standardiser: Standardiser,
        dtype: DTypeLike = np.float32,
        *,
        shuffle: bool = True,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        prefetch: bool | None = None,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.standardiser = standardiser
        self.dtype = np.dtype(dtype)
        self.augment = augment
        self.drop_last = drop_last
        self.prefetch = _core_is_free() if prefetch is None else prefetch
        self.epoch = 0
        self._order_key = _key("shuffle") if shuffle else None
        self._augment_key = _key("augment") if augment else None
        self._kernel: loops.Kernel | None = None
        if batch_size < 1 or len(self) == 0:
            raise ConfigError(
                f"batch_size={batch_size} makes no batch of {len(split):,} images; choose 1 to {len(split):,}."
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.drop_last:
            return len(self.split) // self.batch_size
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Begin epoch ``self.epoch``, and count it."""
        self._kernel = loops.kernel(loops.standardise) if self._fits() else None
        batches = self._prepare(self.epoch)
        self.epoch += 1
        return _one_ahead(batches) if self.prefetch else batches

    def state_dict(self) -> dict[str, int | None]:
        """What decides the order and the augmentation of the epochs to come; plain numbers, fit for JSON."""
        return {"epoch": self.epoch, "order_key": self._order_key, "augment_key": self._augment_key}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Go on where the object that gave ``state`` stood; an epoch that was begun counts as done.

        Raises:
            ConfigError: that object shuffled or augmented, and this one does not, or the reverse.
        """
        own = self.state_dict()
        if state.keys() != own.keys() or any((state[key] is None) != (own[key] is None) for key in own):
            raise ConfigError(f"{state} is no state of these batches: shuffle or augment was set otherwise.")
        self.epoch = int(state["epoch"] or 0)
        self._order_key, self._augment_key = state["order_key"], state["augment_key"]

    def _prepare(self, epoch: int) -> Iterator[Batch]:
        n = len(self.split)
        order = np.arange(n) if self._order_key is None else _generator(self._order_key, epoch).permutation(n)
        augment_rng = _generator(self._augment_key or 0, epoch)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self._batch(order[start : start + self.batch_size], augment_rng)

    def _fits(self) -> bool:
        """Whether the loop does what ``_batch`` would do."""
        plain = self.augment is None and type(self.standardiser) is Standardiser
        return plain and self.split.images.flags.carray

    def _batch(self, chosen: NDArray[np.int64], augment_rng: np.random.Generator) -> Batch:
        labels = self.split.labels[chosen].astype(np.int64)
        if self._kernel:
            scale, shift = self.standardiser.factors(self.dtype)
            x = np.empty((len(chosen), PIXELS), self.dtype)
            self._kernel(x, self.split.images, chosen, scale[0], shift[0])
            return x, labels
        # A function of its own, as a generator would keep the pixels until the next ones are there: these lie where
        # the last ones lay, which is still in the cache.
        pixels = self.split.images.take(chosen, axis=0)
        if self.augment is not None:
            pixels = self.augment(pixels, augment_rng)
        return self.standardiser.transform(pixels, self.dtype), labels


def _generator(key: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([key, epoch])


def _key(stream: str) -> int:
    return int(random.stream(stream).integers(2**63))


def _core_is_free() -> bool:
    """Whether BLAS was told to leave a core alone; NumPy does not say how many threads it really has."""
    told = (os.environ.get(name, "") for name in BLAS_THREADS)
    return any(n.isdecimal() and 0 < int(n) < (os.cpu_count() or 1) for n in told)


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each prepared by a thread while the caller uses the one before.

    An exception raised while preparing reaches the caller. When the caller stops early, leaving the block waits for
    the batch in preparation, and the thread ends.
    """
    with ThreadPoolExecutor(1, "prefetch") as thread:
        ahead = thread.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = thread.submit(next, batches, None)
            yield batch
