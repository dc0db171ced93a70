"""Which systems kill the process that works on them: found by parts over attempts, since nobody can catch it while it happens.

    died twice with it in flight      ▶ suspect: apart from the others, in a batch with a part of those that died with it
    died again                        ▶ suspects in smaller parts, down to one
    died with it alone                ▶ twice if the signal was the process's own, three times if it was not: it ends `failed`

Parts run one after the other when all other work is done, so a death accuses one part and costs nobody else anything. An innocent system is
done as soon as it has been in a batch without the culprit, and nothing that is done is a suspect. Pure functions.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from campaign.worker.in_flight import Death

__all__ = ["Suspicion", "suspicion"]

SUSPECT_AFTER: Final = 2
"""Deaths with a system in flight that make it a suspect: once is a broken node or a killed job."""

N_PARTS: Final = 8
"""Parts that suspects are divided into. More than two, since a small batch costs a little speed and a death a whole round in the queue."""

MOST_ALONE: Final = 2
"""Deaths alone by a signal of the process's own that condemn a system."""

MOST_ALONE_SILENT: Final = 3
"""Deaths alone that condemn a system when some were from outside: a hang that the scheduler ended, or a kill that had other reasons."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What to do about systems that may kill their process."""

    parts: tuple[tuple[int, ...], ...] = ()
    """Ids that run apart, part by part."""
    condemned: Mapping[int, str] = field(default_factory=dict)
    """Ids that are not run any more, and why."""


def suspicion(deaths: Sequence[Death], left: Collection[int]) -> Suspicion:
    """Return what to do with the ids that are left, after these deaths.

    >>> from campaign.paths import ShardName
    >>> died = Death(ShardName(1, 0, 0, 0), frozenset(range(16)), signal=11)
    >>> suspicion([died], range(20)).parts
    ()
    >>> suspicion([died, died], range(20)).parts[:2]
    ((0, 1), (2, 3))
    """
    open_ids = set(left)
    n_deaths = Counter(system_id for death in deaths for system_id in death.system_ids & open_ids)
    alone: dict[int, list[Death]] = defaultdict(list)
    for death in deaths:
        if len(death.system_ids) == 1:
            alone[next(iter(death.system_ids))].append(death)
    condemned = {system_id: _sentence(alone[system_id]) for system_id in sorted(open_ids & alone.keys()) if _is_proof(alone[system_id])}
    suspects = [system_id for system_id in sorted(n_deaths) if n_deaths[system_id] >= SUSPECT_AFTER and system_id not in condemned]
    # Those that died together in the smallest company stand together.
    companies: dict[frozenset[int], list[int]] = defaultdict(list)
    for system_id in suspects:
        company = min((death.system_ids for death in deaths if system_id in death.system_ids), key=lambda ids: (len(ids), sorted(ids)))
        companies[company].append(system_id)
    parts = [part for company in sorted(companies.values()) for part in _parts(company)]
    return Suspicion(tuple(parts), condemned)


def _parts(system_ids: list[int]) -> list[tuple[int, ...]]:
    size = -(-len(system_ids) // N_PARTS)
    return [tuple(system_ids[first : first + size]) for first in range(0, len(system_ids), size)]


def _is_proof(alone: list[Death]) -> bool:
    by_itself = sum(death.is_own_doing for death in alone)
    return by_itself >= MOST_ALONE or len(alone) >= MOST_ALONE_SILENT


def _sentence(alone: list[Death]) -> str:
    signals = sorted({signal.Signals(death.signal).name for death in alone if death.signal is not None})
    numbers = sorted({death.signal for death in alone if death.signal is not None})
    causes = [f"signal {number}, {name}" for number, name in zip(numbers, signals, strict=True)]
    causes += ["its GPU was lost"] * any(death.lost_device for death in alone)
    cause = ", ".join(causes) or "ended from outside"
    return f"the process died ({cause}) while this system was relaxed alone, {len(alone)} times"
