"""What must be reached, against peers of the same run, or against figures that were recorded where a peer is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from figures import Target

from sides.measured import Case

RECORDED: Final[dict[tuple[str, int], dict[str, float]]] = {
    ("A", 1): {"torch-sim": 3.1, "nvalchemi": 11.1},
    ("A", 16): {"torch-sim": 20, "nvalchemi": 66, "compiled": 3900},
    ("A", 128): {"torch-sim": 36, "nvalchemi": 171, "compiled": 3850},
    ("A", 512): {"torch-sim": 34, "nvalchemi": 204, "compiled": 3750},
    ("B", 16): {"torch-sim": 13, "nvalchemi": 31, "compiled": 590},
    ("B", 128): {"torch-sim": 16, "nvalchemi": 36, "compiled": 600},
}
"""Structures/s of others, recorded on one machine with two cores; `compiled` on one of them. At N = 1: of one structure, size unknown."""
RECORDED_ASE: Final = {"A": 10.6, "B": 6.0}
"""Structures/s of plain ASE on one core of that machine: the yardstick that carries the figures above to the machine of today."""
PEERS: Final = ("ase", "torch-sim", "nvalchemi")
LEAST: Final = {"A": 12.0, "B": 10.0}
"""Times the best peer, at N ≥ 16."""
LEAST_SINGLE: Final = 20.0
LEAST_OF_COMPILED: Final = 0.5
"""Per core, at N ≥ 128."""
LEAST_ALLOY: Final = 50.0
"""Times ASE, on C."""
LEAST_REFILLED: Final = 1.5
"""Times our own run with fixed batches, on D."""


def targets_of(cases: Sequence[Case], ratios: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    """Yield the targets of the cases that were run."""
    for case in cases:
        of = {ratio["of"]: ratio for ratio in ratios if ratio["case"] == case.name}
        over = {name.removeprefix("ours / "): ratio for name, ratio in of.items()}
        if case.workload == "D":
            if "refilled / fixed" in of:
                measured = of["refilled / fixed"]["structures_per_s"]
                yield Target(f"{case.name} refilled over fixed batches", LEAST_REFILLED, measured, "both in this run")
        elif case.workload == "C":
            if "ase" in over:
                yield Target(f"{case.name} over ASE", LEAST_ALLOY, over["ase"]["structures_per_s"], "both in this run")
        else:
            yield from _against_peers(case, over)
            if case.n >= 128:
                yield from _against_compiled(case, over)


def _against_peers(case: Case, over: Mapping[str, Mapping[str, Any]]) -> Iterator[Target]:
    basis = {peer: (over[peer]["structures_per_s"], "in this run") for peer in PEERS if peer in over}
    recorded_n, times_ase = _recorded(case)
    for peer in set(PEERS) & set(times_ase) - set(over):
        if "ase" in over:
            # Theirs had all cores, and ASE one: so many ASEs of today, whose processes are as many of one core.
            estimate = over["ase"]["structures_per_s"] * over["ase"]["processes"][1] / times_ase[peer]
            basis[peer] = (estimate, f"as recorded at N={recorded_n}: {times_ase[peer]:.3g} times ASE on one core")
    if basis:
        best = min(basis, key=lambda peer: basis[peer][0])
        least = LEAST_SINGLE if case.n == 1 else LEAST[case.workload]
        yield Target(f"{case.name} over the best peer", least, basis[best][0], f"{best} {basis[best][1]}")


def _against_compiled(case: Case, over: Mapping[str, Mapping[str, Any]]) -> Iterator[Target]:
    recorded_n, times_ase = _recorded(case)
    if "compiled" in over:
        ours, theirs = over["compiled"]["processes"]
        share, text = over["compiled"]["structures_per_s"] * theirs / ours, "in this run, per core"
    elif "ase" in over and "compiled" in times_ase:
        ours, theirs = over["ase"]["processes"]
        share = over["ase"]["structures_per_s"] * theirs / ours / times_ase["compiled"]
        text = f"per core, as recorded at N={recorded_n}: {times_ase['compiled']:.3g} times ASE"
    else:
        return
    yield Target(f"{case.name} as a share of compiled code", LEAST_OF_COMPILED, share, text)


def _recorded(case: Case) -> tuple[int, dict[str, float]]:
    """Return the recorded figures for the next smaller N, in units of ASE on one core of the same machine; and that N."""
    n = max((n for workload, n in RECORDED if workload == case.workload and n <= case.n), default=0)
    return n, {side: rate / RECORDED_ASE[case.workload] for side, rate in RECORDED.get((case.workload, n), {}).items()}
