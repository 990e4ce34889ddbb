"""Gradient checks with a verdict for every entry, and a cause.

``check_gradients`` runs f once and records it. Every op's rule is checked alone, then the gradients as a whole: the
analytic and the numeric slopes are both taken from the record, in float64. ``verdicts.py`` says what a verdict means.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from tinygrad_cifar.engine import grad
from tinygrad_cifar.errors import ConfigError, GraphError
from tinygrad_cifar.gradcheck import blame, reasons
from tinygrad_cifar.gradcheck.probe import Entries, probes_for
from tinygrad_cifar.gradcheck.replay import record
from tinygrad_cifar.gradcheck.report import Blame, GradientReport, ParameterReport
from tinygrad_cifar.gradcheck.state import preserved
from tinygrad_cifar.gradcheck.unrecorded import unrecorded
from tinygrad_cifar.gradcheck.verdicts import Sides, scaled
from tinygrad_cifar.tensor import Tensor

Wrt = Any  # a Module, {name: Tensor}, [Tensor, ...] or one Tensor


def check_gradients(
    f: Callable[[], Tensor],
    wrt: Wrt,
    *,
    entries: int | Literal["all", "directions"] = "all",
    order: Literal[1, 2] = 1,
    seed: int = 0,
) -> GradientReport:
    """Compare the gradients of ``f()`` by ``wrt`` with numeric ones, and say which side is wrong and why.

    The result may have any shape: it is weighted with a random gradient from above. Everything is computed in float64
    from a record of f, so random masks stay what they were; parameters, running averages and random streams are
    afterwards bit for bit what they were before.

    Args:
        f: computes a Tensor from the parameters, anew at every call.
        wrt: what to differentiate by: a Module (all its parameters), {name: Tensor}, a list of Tensors, or one.
        entries: "all"; a number: that many per parameter, drawn at random; "directions": the slopes along 8 random
            directions of each parameter instead.
        order: 2 checks second derivatives as well: the gradient of `<gradient of f, v>` for a random v.
        seed: of the gradient from above and of all else that is drawn at random here.

    Raises:
        GraphError: f does not return a Tensor, its value is not finite, it uses what was recorded before the call, or
            it changes a recorded value outside of the graph.
        ConfigError: nothing to differentiate by, or something that cannot be; f is no function; a wrong setting.

    Examples:
        >>> report = check_gradients(lambda: F.cross_entropy(model(x), y), model)
        >>> assert report.ok, report
    """
    if not callable(f):
        raise ConfigError(
            "check_gradients: f must be a function that computes the result anew: lambda: cross_entropy(model(x), y)."
        )
    if order not in (1, 2):
        raise ConfigError(f"check_gradients: order is 1 or 2, not {order!r}.")
    start = time.perf_counter()
    parameters = named(wrt)
    rng = np.random.default_rng(seed)
    with preserved(f, parameters, wrt), np.errstate(all="ignore"):
        report = _check(f, parameters, entries, rng, "f takes")
        if order == 2 and report.ok:
            report = _check(_gradient_of(f, parameters, rng), parameters, entries, rng, "f, or an op's rule, takes")
            report.order = 2
    report.seconds = time.perf_counter() - start
    return report


def named(wrt: Wrt) -> dict[str, Tensor]:
    """The parameters to differentiate by, each once, with the names that the report will use."""
    if hasattr(wrt, "named_parameters"):
        pairs = [(name, p) for name, p in wrt.named_parameters() if p.requires_grad]
    elif isinstance(wrt, Mapping):
        pairs = list(wrt.items())
    elif not isinstance(wrt, Tensor | Iterable):
        raise ConfigError(
            "check_gradients: wrt is a Module, a Tensor, a list of Tensors or {name: Tensor}, not "
            f"a {type(wrt).__name__}."
        )
    else:
        tensors = [wrt] if isinstance(wrt, Tensor) else list(wrt)
        names = [getattr(t, "name", None) or "" for t in tensors]
        pairs = [
            (name if name and names.count(name) == 1 else f"[{i}] {name}".rstrip(), t)
            for i, (name, t) in enumerate(zip(names, tensors, strict=True))
        ]
    if not pairs:
        raise ConfigError("check_gradients: wrt names no tensor that requires a gradient.")
    found: dict[Tensor, str] = {}
    for name, t in pairs:
        if not isinstance(t, Tensor) or not t.requires_grad or not t.is_leaf:
            raise ConfigError(
                f"check_gradients: {name} must be a leaf Tensor with requires_grad=True: a parameter, or an input "
                "made with Tensor(array, requires_grad=True)."
            )
        found.setdefault(t, name)
    return {name: t for t, name in found.items()}


def _check(
    f: Callable[[], Tensor], parameters: dict[str, Tensor], entries: int | str, rng: np.random.Generator, taken: str
) -> GradientReport:
    with preserved(f, parameters):
        native, result = record(f, parameters)
    program = native.double()
    if not np.isfinite([result.data, program.values[program.out]]).all():
        raise GraphError("check_gradients: f's value is not finite, so it has no slopes; see tg.detect_anomaly().")
    upstream = blame.upstream_for(program, rng)
    weight = upstream.item() if upstream.size == 1 else 1.0  # a scalar's gradients are shown as backward gives them
    local = blame.faults(program, rng, {})
    sides = Sides(program, upstream, rng)
    reports, suspects = {}, {}
    for leaf, name in enumerate(program.names):
        probe = sides.probe(leaf)
        found = sides.examine(probe, probes_for(probe.value, entries, rng), bool(local))
        wrong = np.flatnonzero(found.verdicts == "wrong")
        if len(wrong):
            suspects[leaf] = found.probes.where[wrong[:100]] if isinstance(found.probes, Entries) else np.zeros(0, int)
        shown = scaled(found, 1 / weight)
        why = [*reasons.zeros(probe, shown), *reasons.kinks(probe, shown), *reasons.unresolved(probe, shown)]
        reports[name] = ParameterReport(name, probe.value.shape, shown, why)
    hidden = unrecorded(f, parameters, native)
    for name in hidden:
        reports[name].unrecorded = True
        reports[name].reasons = ["f depends on it in a way that was not recorded"]
    if suspects and not local:
        local = blame.faults(program, rng, suspects)
    out = f"{taken} its value out of the graph (.data, .numpy(), .detach(), no_grad())"
    uses = {name: f"{op} uses it as a constant: {out}" if op else out for name, op in hidden.items()}
    faults = [*local, *[Blame("not recorded", name, text) for name, text in uses.items()]]
    if suspects and not faults:
        faults = [Blame("backward", "", f"no op's rule is seen to err alone, but {_why_not_together(sides)}")]
    return GradientReport(reports, faults, result.shape, dtype=str(result.dtype), hooked=native.hooked)


def _why_not_together(sides: Sides) -> str:
    if sides.raised:
        return sides.raised
    if not all(np.isfinite(g[0]).all() for g in sides.gradients):
        return "inf or nan arises on the way: see tg.detect_anomaly()"
    return (
        "their gradients do not add up: does one use what another call left behind (a cache, a global), or err only "
        "where numbers are equal?"
    )


def _gradient_of(
    f: Callable[[], Tensor], parameters: dict[str, Tensor], rng: np.random.Generator
) -> Callable[[], Tensor]:
    """The function <gradient of <u, f>, v> for random u and v; its own gradient holds f's second derivatives."""
    tensors = list(parameters.values())
    vectors = [rng.standard_normal(t.shape) for t in tensors]
    seed = int(rng.integers(2**31))

    def product() -> Tensor:
        y = f()
        above = np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)
        gradients = grad(y, tensors, above, create_graph=True, allow_unused=True)
        terms = [(g * v.astype(g.dtype)).sum() for g, v in zip(gradients, vectors, strict=True)]
        return sum(terms[1:], terms[0])

    return product
