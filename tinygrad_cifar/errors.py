"""Typed errors. Each message says what was wrong, where, and what to do about it."""

from typing import Any


class TinygradCifarError(Exception):
    """Base of every error that the project raises on purpose."""


class ShapeError(TinygradCifarError, ValueError):
    """Shapes do not fit together, or a gradient does not have the shape of its tensor."""


class DtypeError(TinygradCifarError, TypeError):
    """float32 and float64 met without an explicit conversion, or an integer tensor wants a gradient."""


class GraphError(TinygradCifarError, RuntimeError):
    """The recorded graph cannot be walked: already freed, or without anything to differentiate."""


class MutationError(GraphError):
    """A value that backward needs was changed in place after it was recorded."""


class UnsupportedError(TinygradCifarError, TypeError):
    """A NumPy function or an argument of one that Tensors do not support."""


class NonFiniteError(TinygradCifarError, ArithmeticError):
    """A loss, value or gradient became infinite or not a number."""


class DataError(TinygradCifarError, ValueError):
    """A data file is missing, truncated, corrupt or not what it claims to be."""


class CheckpointError(TinygradCifarError, ValueError):
    """A run folder or a state_dict does not fit the model or cannot be read."""


class ConfigError(TinygradCifarError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class CompileError(TinygradCifarError, RuntimeError):
    """A step does something that a replay could not repeat faithfully. It was done once; ``result`` is what it gave."""

    result: Any = None


class SearchError(TinygradCifarError, RuntimeError):
    """A hyper-parameter search cannot be begun, continued or finished."""
