"""The hook that a run has. The same lines for all that keep the dynamics contract; each brings its own classes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from sides.exchange import Settings

FREQUENCY: Final = 10
"""Steps between two snapshots."""
HOOKS: Final = ("", "listener", "snapshot", "converged")
"""Nobody; one who wants to see each step and does nothing with it; `SnapshotHook`, `ConvergedSnapshotHook`, both to a store on disk."""


class Contract(NamedTuple):
    """Classes of the dynamics contract."""

    stages: Any
    snapshot_hook: Any
    converged_snapshot_hook: Any
    zarr_data: Any


class Listener:
    """Wants to see each step, and does nothing with it."""

    frequency = 1

    def __init__(self, stage: Any) -> None:
        self.stage = stage

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Do nothing."""


class Listening:
    """One who listens, with a new store if one is needed, and what was written by now."""

    def __init__(self, settings: Settings, contract: Contract) -> None:
        self.n_writes = 0
        self.hook: Any = None
        self._sink: Any = None
        if settings.hook == "listener":
            self.hook = Listener(contract.stages.AFTER_STEP)
        elif settings.hook:
            self._sink = contract.zarr_data(str(Path(tempfile.mkdtemp(dir=settings.folder)) / "store.zarr"))
            self._write, self._sink.write = self._sink.write, self._counted_write
            if settings.hook == "snapshot":
                self.hook = contract.snapshot_hook(self._sink, frequency=FREQUENCY)
            else:
                self.hook = contract.converged_snapshot_hook(self._sink)

    def _counted_write(self, *arguments: Any, **options: Any) -> None:
        self._write(*arguments, **options)
        self.n_writes += 1

    def end(self) -> dict[str, int]:
        """Return when all is on disk, with what was written."""
        if self._sink is None:
            return {}
        getattr(self._sink, "close", lambda: None)()
        return {"n_writes": self.n_writes, "n_written": len(self._sink)}
