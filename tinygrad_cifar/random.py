"""One seed, separate streams: what one part draws never shifts what another part draws."""

import contextlib
import zlib
from collections.abc import Iterator

import numpy as np

from tinygrad_cifar.errors import ConfigError

_seed = 0
_streams: dict[str, np.random.Generator] = {}


def manual_seed(seed: int) -> None:
    """Restart every random stream from ``seed`` (a non-negative integer).

    Until it is called the seed is 0, so a program is reproducible even when it says nothing.

    Raises:
        ConfigError: it is no such integer.
    """
    global _seed
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"a seed is an integer of at least 0, not {seed!r}.")
    _seed = int(seed)
    _streams.clear()


def stream(name: str) -> np.random.Generator:
    """The generator of the stream ``name``: "init", "shuffle", "dropout", "augment", or any other.

    The same seed and name give the same numbers on every machine, whatever the other streams have drawn.
    """
    if name not in _streams:
        _streams[name] = np.random.default_rng([_seed, zlib.crc32(name.encode())])
    return _streams[name]


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """``with preserved():`` leaves every stream as it was, whatever is drawn inside."""
    before = {name: generator.bit_generator.state for name, generator in _streams.items()}
    try:
        yield
    finally:
        for name in list(_streams):
            if name in before:
                _streams[name].bit_generator.state = before[name]
            else:
                del _streams[name]
