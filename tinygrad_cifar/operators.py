"""What one can write with a Tensor: operators, methods, and NumPy's own functions.

Everything here only finds the op in the registry and calls it.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_cifar.errors import UnsupportedError

if TYPE_CHECKING:
    from tinygrad_cifar.tensor import Op, Tensor

Operand = Any  # a Tensor, or anything that NumPy takes for an array

OPS: dict[str, "Op"] = {}  # name -> op, filled by the files of ops/
NUMPY: dict[Callable[..., Any], Callable[..., Any]] = {}  # NumPy's function -> ours


def is_tensor(x: Any) -> TypeGuard["Tensor"]:
    """Whether x is a Tensor, for files that stand below ``tensor.py``."""
    return isinstance(x, Operators)


def unwrap(x: Any, copy: bool = False) -> Any:
    """Tensors become arrays, also inside lists, tuples and dicts (as in an index or in ``np.stack([t, u])``).

    An index or a condition is copied: the gradient rule needs it, and its changes are not counted as an input's are.
    """
    if isinstance(x, Operators):
        return x.data.copy() if copy else x.data
    if isinstance(x, list | tuple):
        return type(x)(unwrap(i, copy) for i in x)
    return {k: unwrap(v) for k, v in x.items()} if isinstance(x, dict) else x


class Operators:
    """The surface of Tensor."""

    __slots__ = ()

    data: NDArray[Any]

    @staticmethod
    def _like(array: Any) -> "Tensor":
        """A Tensor outside every graph."""
        raise NotImplementedError

    def __setitem__(self, index: Any, value: Operand) -> None:
        raise NotImplementedError

    # NumPy's protocols ----------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method == "reduce" and ufunc in _REDUCTIONS and out is None and kwargs.keys() <= {"axis", "keepdims"}:
            return OPS[_REDUCTIONS[ufunc]](*inputs, **{"axis": 0} | kwargs)
        if method != "__call__" or kwargs:
            call = f"{ufunc.__name__}.{method}" if method != "__call__" else ufunc.__name__
            given = "".join(f" with {name}=" for name in kwargs)
            raise UnsupportedError(f"np.{call}{given} is not supported on Tensors; use t.numpy().")
        if ufunc in NUMPY:
            result = NUMPY[ufunc](*inputs)
        elif ufunc in _CONSTANT_UFUNCS:
            result = self._like(np.asarray(ufunc(*unwrap(inputs))))
        else:
            raise UnsupportedError(
                f"np.{ufunc.__name__} has no gradient rule here. Use t.numpy() where no gradient is needed, "
                "or give it a rule with tinygrad_cifar.custom_op."
            )
        return result if out is None else _assign(out[0], result)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if function in NUMPY:
            try:
                inspect.signature(NUMPY[function]).bind(*args, **kwargs)
            except TypeError as error:
                raise UnsupportedError(f"np.{function.__name__} on Tensors: {error}.") from error
            return NUMPY[function](*args, **kwargs)
        if function in _CONSTANT_FUNCTIONS:
            result = function(*unwrap(args), **unwrap(kwargs))
            return self._like(np.asarray(result)) if isinstance(result, np.ndarray | np.generic) else result
        raise UnsupportedError(
            f"np.{function.__name__} is not supported on Tensors. Use t.numpy() where no gradient is needed."
        )

    # Operators ------------------------------------------------------------------------------------------------

    def __add__(self, other: Operand) -> "Tensor":
        return OPS["add"](self, other)

    def __radd__(self, other: Operand) -> "Tensor":
        return OPS["add"](other, self)

    def __sub__(self, other: Operand) -> "Tensor":
        return OPS["subtract"](self, other)

    def __rsub__(self, other: Operand) -> "Tensor":
        return OPS["subtract"](other, self)

    def __mul__(self, other: Operand) -> "Tensor":
        return OPS["multiply"](self, other)

    def __rmul__(self, other: Operand) -> "Tensor":
        return OPS["multiply"](other, self)

    def __truediv__(self, other: Operand) -> "Tensor":
        return OPS["divide"](self, other)

    def __rtruediv__(self, other: Operand) -> "Tensor":
        return OPS["divide"](other, self)

    def __pow__(self, other: Operand) -> "Tensor":
        return OPS["power"](self, other)

    def __rpow__(self, other: Operand) -> "Tensor":
        return OPS["power"](other, self)

    def __matmul__(self, other: Operand) -> "Tensor":
        return OPS["matmul"](self, other)

    def __rmatmul__(self, other: Operand) -> "Tensor":
        return OPS["matmul"](other, self)

    def __neg__(self) -> "Tensor":
        return OPS["negative"](self)

    def __pos__(self) -> "Tensor":
        return OPS["clone"](self)

    def __abs__(self) -> "Tensor":
        return OPS["abs"](self)

    def __getitem__(self, index: Any) -> "Tensor":
        return OPS["getitem"](self, index=unwrap(index, copy=True))

    def __iter__(self) -> Iterator["Tensor"]:
        if self.data.ndim == 0:
            raise TypeError("iteration over a 0-d Tensor")
        return (self[i] for i in range(len(self.data)))

    # Comparisons give boolean Tensors, which never have a gradient.

    def __lt__(self, other: Operand) -> "Tensor":
        return self._like(np.asarray(self.data < unwrap(other)))

    def __le__(self, other: Operand) -> "Tensor":
        return self._like(np.asarray(self.data <= unwrap(other)))

    def __gt__(self, other: Operand) -> "Tensor":
        return self._like(np.asarray(self.data > unwrap(other)))

    def __ge__(self, other: Operand) -> "Tensor":
        return self._like(np.asarray(self.data >= unwrap(other)))

    def __eq__(self, other: object) -> "Tensor":  # type: ignore[override]
        return self._like(np.asarray(self.data == unwrap(other)))

    def __ne__(self, other: object) -> "Tensor":  # type: ignore[override]
        return self._like(np.asarray(self.data != unwrap(other)))

    __hash__ = object.__hash__

    def __invert__(self) -> "Tensor":
        return self._like(np.asarray(~self.data))

    def __and__(self, other: Operand) -> "Tensor":
        return self._like(np.asarray(self.data & unwrap(other)))

    def __or__(self, other: Operand) -> "Tensor":
        return self._like(np.asarray(self.data | unwrap(other)))

    # Methods, named as NumPy's and PyTorch's ------------------------------------------------------------------

    def astype(self, dtype: DTypeLike) -> "Tensor":
        """Convert; the gradient is converted back on its way. Integers and booleans never have one."""
        dtype = np.dtype(dtype)
        return OPS["astype"](self if dtype.kind == "f" else self.data, dtype=dtype)

    def clone(self) -> "Tensor":
        """A copy in memory of its own that stays connected to the graph."""
        return OPS["clone"](self)

    def exp(self) -> "Tensor":
        return OPS["exp"](self)

    def log(self) -> "Tensor":
        return OPS["log"](self)

    def sqrt(self) -> "Tensor":
        return OPS["sqrt"](self)

    def abs(self) -> "Tensor":
        return OPS["abs"](self)

    def clip(self, min: float | None = None, max: float | None = None) -> "Tensor":
        return OPS["clip"](self, min=min, max=max)

    def relu(self) -> "Tensor":
        return OPS["relu"](self)

    def sigmoid(self) -> "Tensor":
        return OPS["sigmoid"](self)

    def tanh(self) -> "Tensor":
        return OPS["tanh"](self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return OPS["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return OPS["mean"](self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> "Tensor":
        return OPS["var"](self, axis=axis, ddof=ddof, keepdims=keepdims)

    def std(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> "Tensor":
        return NUMPY[np.std](self, axis=axis, ddof=ddof, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return OPS["max"](self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return OPS["min"](self, axis=axis, keepdims=keepdims)

    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return OPS["logsumexp"](self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> "Tensor":
        return self._like(np.asarray(self.data.argmax(axis)))

    def argmin(self, axis: int | None = None) -> "Tensor":
        return self._like(np.asarray(self.data.argmin(axis)))

    def all(self, axis: Any = None) -> "Tensor":
        return self._like(np.asarray(self.data.all(axis)))

    def any(self, axis: Any = None) -> "Tensor":
        return self._like(np.asarray(self.data.any(axis)))

    def reshape(self, *shape: Any) -> "Tensor":
        return OPS["reshape"](self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> "Tensor":
        """Permute the axes as NumPy does: all reversed, or in the order that ``axes`` gives."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return OPS["transpose"](self, axes=order or None)

    @property
    def T(self) -> "Tensor":
        return OPS["transpose"](self)

    def swapaxes(self, axis1: SupportsIndex, axis2: SupportsIndex) -> "Tensor":
        return OPS["swapaxes"](self, axis1=axis1, axis2=axis2)

    def squeeze(self, axis: Any = None) -> "Tensor":
        return OPS["squeeze"](self, axis=axis)


def _assign(out: Any, result: Any) -> Any:
    """``np.add(a, b, out=t)``: write the result into ``t``, as ``t[...] = result`` would."""
    if not isinstance(out, Operators):
        raise UnsupportedError("out= must be a Tensor when an operand is one; an ndarray would lose the graph.")
    out[...] = result
    return out


_REDUCTIONS = {np.add: "sum", np.maximum: "max", np.minimum: "min"}
_CONSTANT_UFUNCS = {
    np.sign, np.floor, np.ceil, np.rint, np.trunc, np.greater, np.greater_equal, np.less, np.less_equal, np.equal,
    np.not_equal, np.isfinite, np.isinf, np.isnan, np.signbit, np.logical_and, np.logical_or, np.logical_not,
    np.logical_xor, np.bitwise_and, np.bitwise_or, np.invert,
}  # fmt: skip
_CONSTANT_FUNCTIONS = {
    np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.argmax, np.argmin, np.argsort, np.shape, np.ndim,
    np.size, np.allclose, np.array_equal, np.isclose, np.all, np.any, np.count_nonzero, np.nonzero, np.array2string,
    np.array_repr, np.array_str, np.may_share_memory, np.shares_memory, np.result_type, np.unique, np.bincount,
}  # fmt: skip
