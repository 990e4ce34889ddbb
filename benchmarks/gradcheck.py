"""Gradient checkers on trial: ``python -m benchmarks.gradcheck``.

Two ways to be wrong: calling a right gradient wrong (random networks with kinks, dead units, float32, ...), and letting
a wrong rule pass (the table in ``tests/gradcheck/wrong_rules.py``). The same networks go to this project's checker, to
``torch.autograd.gradcheck`` and to HIPS autograd's ``check_grads``; the latter two with their default settings.

Dropout masks are frozen for all; without that both peers would alarm at every network that has dropout.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.gradcheck_peers import Checker, hips_checkers, torch_checkers
from tests.gradcheck.cases import Case, case
from tests.gradcheck.wrong_rules import WRONG, WrongRule
from tinygrad_cifar.gradcheck import check_gradients
from tinygrad_cifar.gradcheck.faults import replaced_rule
from tinygrad_cifar.gradcheck.random_networks import RandomNetwork
from tinygrad_cifar.gradcheck.replay import record

EXAMPLES = """\
  python -m benchmarks.gradcheck                          2,000 right networks, 5 networks for each wrong rule
  python -m benchmarks.gradcheck --networks 100 --rules 1 a first look
  python -m benchmarks.gradcheck --networks 0 --rules 20  the wrong rules alone
  python -m benchmarks.gradcheck --no-peers               this project's checker alone
"""

PEERS: dict[str, Callable[..., tuple[Checker, Checker]]] = {
    "torch.autograd.gradcheck": torch_checkers,
    "HIPS check_grads": hips_checkers,
}
OURS = "tinygrad_cifar"
COLOURS = {
    OURS: harness.COLOURS["tinygrad_cifar_compile"],
    "torch.autograd.gradcheck": harness.COLOURS["torch_eager"],
    "HIPS check_grads": harness.COLOURS["autograd"],
}


def peers() -> dict[str, Callable[..., tuple[Checker, Checker]]]:
    """Those that are installed; what is missing is said aloud."""
    found = {}
    for name, build in PEERS.items():
        try:
            build()
            found[name] = build
        except ImportError as error:
            print(f"SKIPPED {name}: {error}", file=sys.stderr)
    return found


# No false alarm ------------------------------------------------------------------------------------------------------


def false_alarms(networks: int, for_peers: int, seed: int, others: dict[str, Any]) -> dict[str, Any]:
    """Right networks, and how often each checker calls one wrong. The peers get the first ``for_peers`` of them."""
    rng = np.random.default_rng(seed)
    checkers = {(name, dtype): build(dtype)[0] for name, build in others.items() for dtype in ("float32", "float64")}
    tried: Counter[str] = Counter()
    alarm: Counter[str] = Counter()
    entries: Counter[str] = Counter()
    called_wrong: list[str] = []
    for i in range(networks):
        network = RandomNetwork.draw(rng)
        report = check_gradients(network.loss, network.model)
        for parameter in report.parameters.values():
            entries.update(parameter.counts)
        tried[f"{OURS} {network.dtype}"] += 1
        if report.blame:
            alarm[f"{OURS} {network.dtype}"] += 1
            called_wrong.append(repr(network))
        if i < for_peers:
            program, _ = record(network.loss, dict(network.model.named_parameters()))
            for name in others:
                for dtype in {network.dtype, "float64"}:
                    what = f"{name} {network.dtype if dtype == network.dtype else 'converted'}"
                    tried[what] += 1
                    alarm[what] += checkers[name, dtype](program)
        if i % 10 == 9:
            print(f"{i + 1} of {networks} networks", file=sys.stderr)
    return {"tried": dict(tried), "alarms": dict(alarm), "entries": dict(entries), "called_wrong": called_wrong}


def false_alarms_table(found: dict[str, Any], others: list[str]) -> str:
    def share(name: str, what: str) -> str:
        return _share(found["alarms"].get(f"{name} {what}", 0), found["tried"].get(f"{name} {what}", 0))

    rows = [[OURS, share(OURS, "float64"), share(OURS, "float32"), "(converts by itself)"]]
    rows += [[name, share(name, "float64"), share(name, "float32"), share(name, "converted")] for name in others]
    header = ["checker", "float64 models", "float32 models", "float32, converted to float64 first"]
    entries = ", ".join(f"{count:,} {verdict}" for verdict, count in found["entries"].items())
    told = f"Entries: {entries}."
    wrong = [f"Called wrong: {text}" for text in found["called_wrong"]]
    return "\n\n".join(["**Right networks called wrong**", harness.markdown(header, rows), told, *wrong])


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({100 * count / max(1, total):.1f} %)"


# No miss -------------------------------------------------------------------------------------------------------------


def misses(seeds: int, others: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{rule: {"tried": ..., "blamed": ..., "pattern": ..., checker: how often it raised the alarm}}."""
    checkers = {name: build()[1] for name, build in others.items()}
    found: dict[str, dict[str, Any]] = {}
    for i, wrong in enumerate(WRONG, start=1):
        if i % 10 == 0:
            print(f"wrong rule {i} of {len(WRONG)}", file=sys.stderr)
        counts: Counter[str] = Counter()
        for seed in range(seeds):
            network = case(wrong.op, seed)
            counts += _try(wrong, network, checkers)
        found[str(wrong)] = {name: counts[name] for name in ("tried", OURS, "blamed", "named", "pattern", *others)}
    return found


def _try(wrong: WrongRule, network: Case, checkers: dict[str, Checker]) -> Counter[str]:
    program, _ = record(network.loss, network.parameters)
    with replaced_rule(wrong.op, wrong.rule):
        report = check_gradients(network.loss, network.parameters)
        found = Counter({"tried": 1, OURS: int(report.blame is not None), "pattern": int(bool(wrong.pattern))})
        if report.blame:
            found["blamed"] = int(report.blame.op == wrong.op)
            found["named"] = int(bool(wrong.pattern) and wrong.pattern in report.blame.pattern)
        found.update({name: int(check(program)) for name, check in checkers.items()})
    return found


def misses_table(found: dict[str, dict[str, Any]], others: list[str]) -> str:
    total = _total(found)

    def share(name: str, of: str = "tried") -> str:
        return _share(total[name], total[of])

    rows = [[OURS, share(OURS), share("blamed"), share("named", "pattern")]]
    rows += [[name, share(name), "–", "–"] for name in others]
    header = ["checker", "found", "right op blamed", "cause named, where it has a name"]
    parts = [f"**Wrong rules found, of {len(found)} rules**", harness.markdown(header, rows)]
    columns = [OURS, "blamed", *others]
    partly = {rule: counts for rule, counts in found.items() if min(counts[name] for name in columns) < counts["tried"]}
    if partly:
        missed = [[rule, *[str(counts[name]) for name in columns]] for rule, counts in partly.items()]
        parts.append(f"Not found by all of them, out of {next(iter(found.values()))['tried']} networks:")
        parts.append(harness.markdown(["rule", *columns], missed))
    return "\n\n".join(parts)


def _total(found: dict[str, dict[str, Any]]) -> Counter[str]:
    return sum((Counter(counts) for counts in found.values()), Counter())


# Both ----------------------------------------------------------------------------------------------------------------


def summary(record: dict[str, Any]) -> str:
    """The record of a run as Markdown."""
    parts = []
    if "false_alarms" in record:
        parts.append(false_alarms_table(record["false_alarms"], record["peers"]))
    if "misses" in record:
        parts.append(misses_table(record["misses"], record["peers"]))
    where = harness.describe(record["environment"] | {"load": 0.0, "variables": {}})  # counts do not depend on speed
    return "\n\n".join([*parts, where])


def plot(record: dict[str, Any], path: Path) -> None:
    """How often each checker is wrong: about right networks, and about wrong rules."""
    from tinygrad_cifar.viz.figure import Picture, plain

    tried, alarms, total = record["false_alarms"]["tried"], record["false_alarms"]["alarms"], _total(record["misses"])
    picture = Picture(8, 3.5)
    axes = picture.add_subplot()
    for i, (name, colour) in enumerate({name: COLOURS[name] for name in (OURS, *record["peers"])}.items()):
        right = [f"{name} float64", f"{name} float32"]
        shares = [100 * alarms.get(what, 0) / max(1, tried.get(what, 0)) for what in right]
        shares.append(100 * (total["tried"] - total[name]) / total["tried"])
        bars = axes.bar([group + (i - 1) * 0.27 for group in range(3)], shares, 0.25, label=name, color=colour)
        axes.bar_label(bars, [f"{share:.1f}" for share in shares], fontsize="small")
    labels = [
        "right networks in float64\ncalled wrong",
        "right networks in float32\ncalled wrong",
        "wrong rules\nnot found",
    ]
    axes.set(xticks=range(3), xticklabels=labels, ylabel="%", ylim=(0, 110))
    plain(axes)
    picture.legend(loc="outside upper center", fontsize="small", ncols=3, frameon=False)
    harness.save(picture, path)


def main() -> None:
    parser = harness.described(__doc__, EXAMPLES)
    parser.add_argument("--networks", type=int, default=2000, help="right networks (default 2000)")
    parser.add_argument("--peer-networks", type=int, default=300, help="of these, how many the peers get (default 300)")
    parser.add_argument("--rules", type=int, default=5, metavar="N", help="networks for each wrong rule (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the right networks (default 0)")
    parser.add_argument("--no-peers", action="store_true", help="this project's checker alone")
    parser.add_argument("--quick", action="store_true", help="a look: 30 right networks, 1 for each wrong rule")
    parser.add_argument("--json", type=harness.new_file, metavar="FILE", help="also write every figure there")
    arguments = parser.parse_args()
    networks, rules = (30, 1) if arguments.quick else (arguments.networks, arguments.rules)
    others = {} if arguments.no_peers else peers()
    record: dict[str, Any] = {"environment": harness.environment(), "peers": list(others)}
    if networks:
        record["false_alarms"] = false_alarms(networks, arguments.peer_networks, arguments.seed, others)
    if rules:
        record["misses"] = misses(rules, others)
    harness.deliver(arguments, record, summary(record))


if __name__ == "__main__":
    harness.run(main)
