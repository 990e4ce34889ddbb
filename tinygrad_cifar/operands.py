"""What an op accepts: operands brought to one dtype, and complaints that name the op and its operands.

Calls come here only off the beaten track: with constants among the operands, and when something is wrong.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.errors import DtypeError, NonFiniteError, ShapeError, TinygradCifarError, UnsupportedError
from tinygrad_cifar.operators import is_tensor

if TYPE_CHECKING:
    from tinygrad_cifar.tensor import Op

Array = NDArray[Any]

PLAIN = frozenset({bool, int, float, str, tuple, list, slice, type(None), np.ndarray})  # may be keyword arguments


def harmonised(op: "Op", inputs: tuple[Any, ...]) -> list[Any]:
    """Operands of one dtype: scalars, lists and integers follow the float tensors; two float dtypes are an error."""
    floats = [x.dtype for x in inputs if (is_tensor(x) or isinstance(x, np.ndarray)) and x.dtype.kind == "f"]
    if any(d != floats[0] for d in floats):
        operands = ", ".join(f"{d}" for d in floats)
        raise DtypeError(
            f"{op.name}: operands of {operands} do not mix. Convert one of them on purpose: t.astype({floats[0]})."
        )
    return [_operand(x, floats[0] if floats else None) for x in inputs]


def _operand(x: Any, dtype: np.dtype[Any] | None) -> Any:
    if is_tensor(x):
        x = x.data
    elif isinstance(x, np.generic):
        return x.item()
    elif isinstance(x, bool | int | float):
        return x
    else:
        check_list(x)
        x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise DtypeError(f"an operand of dtype {x.dtype} is not a number; Tensors compute with floats and integers.")
    return x if dtype is None or x.dtype == dtype else x.astype(dtype)


def check_list(x: Any) -> None:
    """A list becomes one array, which knows nothing of the graphs that its entries belong to."""
    if isinstance(x, list | tuple) and _holds_graph(x):
        raise UnsupportedError("a list of Tensors would lose their gradients; np.stack joins them.")


def _holds_graph(x: Any) -> bool:
    if is_tensor(x):
        return x.requires_grad
    return isinstance(x, list | tuple) and any(_holds_graph(i) for i in x)


def argument(op: "Op", name: str, value: Any) -> Any:
    """A keyword argument as the forward takes it: NumPy's scalars as Python's, which leave float32 alone."""
    if is_tensor(value):
        if value.requires_grad:
            cure = "Give it by position." if name in op.inputs else f"Pass {name}=t.detach()."
            raise UnsupportedError(f"{op.name}: no gradient flows through {name}=. {cure}")
        value = value.data
    return value.item() if isinstance(value, np.generic) else value


def explained(op: "Op", inputs: tuple[Any, ...], arrays: list[Any], error: Exception) -> Exception:
    """What NumPy complained of in a forward, with the op and its operands named."""
    call = f"{op.name}({', '.join(describe(x) for x in inputs)})"
    if op.custom or isinstance(error, TinygradCifarError):
        return error
    if not any(np.asarray(a).dtype.kind == "f" for a in arrays):
        return DtypeError(f"{call} computes with floating-point numbers ({error}). Convert: t.astype(float).")
    return ShapeError(f"{call}: {error}") if isinstance(error, ValueError) else error


def check_precision(op: "Op", arrays: list[Any], out: Array) -> None:
    """A result has the float dtype of its operands, unless the op is there to convert."""
    if out.dtype.kind not in "fiub":
        raise DtypeError(f"{op.name} returned {out.dtype}, which is no number that Tensors compute with.")
    floats = [a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    if floats and out.dtype != floats[0] and op.name != "astype":
        raise DtypeError(
            f"{op.name} of {floats[0]} gave {out.dtype}: an array among its arguments, or in its forward, has another "
            f"precision. Convert it on purpose: .astype({floats[0]})."
        )


def check_finite(op: "Op", inputs: tuple[Any, ...], arrays: list[Any], out: Array) -> None:
    """Complain of the first inf or nan, and of a nan that comes in; an inf that comes in may be meant, as a mask."""
    if np.isfinite(out).all():
        return
    call = f"{op.name}({', '.join(describe(x) for x in inputs)})"
    nan = np.isnan(out)
    finite = all(np.isfinite(a).all() for a in arrays)
    if nan.any():
        for x, a in zip(inputs, arrays, strict=True):
            if np.isnan(a).any():
                raise NonFiniteError(
                    f"{call} is the first op that meets a nan, which is there before it: entry {_first(np.isnan(a))} "
                    f"of {describe(x)}. Look at where that comes from: data, weights that were loaded."
                )
    elif not finite:
        return
    entry = _first(nan if nan.any() else ~np.isfinite(out))
    raise NonFiniteError(
        f"{call} is the first op whose result is not {'finite' if finite else 'a number'}: entry {entry} is "
        f"{out[entry]}, although {'all its inputs are finite' if finite else 'none of its inputs is nan'}. Check its "
        "inputs' range, the learning rate and the initialisation."
    )


def _first(wrong: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(wrong)[0])


def describe(x: Any) -> str:
    """A short name for an operand in a message: ``weight (50, 3072) float32``."""
    if is_tensor(x):
        made = x.name or (x.node.op.name if x.node else "tensor")
        return f"{made} {x.shape} {x.dtype}"
    return f"array {x.shape} {x.dtype}" if isinstance(x, np.ndarray) else repr(x)
