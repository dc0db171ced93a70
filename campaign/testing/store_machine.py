"""A Hypothesis state machine for shards: append, flush, kill, reopen, read, consolidate, in any order, against lists in memory.

A third party that brings another writer or another place to store subclasses `ShardMachine` and overrides `open_writer`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from campaign.errors import CampaignError
from campaign.fields import CARRIED_FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS
from campaign.outcomes import RUNNING
from campaign.paths import CampaignPaths, ShardName
from campaign.store.consolidation import run_consolidation
from campaign.store.consolidation_plan import InputIndex, ShardIndex, plan_consolidation
from campaign.store.durable import DurableStore
from campaign.store.layout import Chunking
from campaign.store.reader import StoreReader
from campaign.store.writer import ShardWriter, write_store
from campaign.testing.store_faults import FailingStore, kill_after
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard, compare_rows, consolidated_rows

N_INPUTS = 12


class ShardMachine(RuleBasedStateMachine):
    """Shards of one campaign, one of them being written."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="shards 'é "))
        self.sizes = np.arange(N_INPUTS, dtype=np.int64) % 5
        columns = made_up_columns(INPUT_FIELDS, self.sizes, 0)
        columns["system_id"] = np.arange(N_INPUTS)[:, None]
        columns["outcome"] = np.full((N_INPUTS, 1), RUNNING)
        self.paths = CampaignPaths(self.folder)
        write_store(self.paths.inputs, INPUT_FIELDS, self.sizes, columns)
        self.twins: dict[str, TwinShard] = {}
        self.opened: dict[str, tuple[StoreReader, int]] = {}
        self.seed = 0

    def open_writer(self, path: Path, system_rows: int, atom_rows: int) -> tuple[ShardWriter, FailingStore]:
        """Return a writer of a new shard at `path`, and the store by which it can be killed."""
        store = FailingStore(DurableStore(path))
        # Flushed by time only after an hour: what is committed then depends on the rules alone.
        return ShardWriter.create(store, RESULT_FIELDS, {}, 3600.0, Chunking(system_rows, atom_rows)), store

    @initialize(system_rows=st.integers(1, 8), atom_rows=st.integers(1, 16))
    def begin(self, system_rows: int, atom_rows: int) -> None:
        """Open the first shard."""
        self._open(system_rows, atom_rows)

    def _open(self, system_rows: int, atom_rows: int) -> None:
        self.name = str(ShardName(1, 0, 0, len(self.twins)))
        self.writer, self.store = self.open_writer(self.folder / self.name, system_rows, atom_rows)
        self.twin = self.twins[self.name] = TwinShard(RESULT_FIELDS)

    @rule(ids=st.lists(st.integers(0, N_INPUTS - 1), max_size=6))
    def append(self, ids: list[int]) -> None:
        """Add systems; their columns are written over afterwards, as a caller may do with its buffers."""
        self.seed += 1
        sizes = self.sizes[ids]
        columns = made_up_columns(RESULT_FIELDS, sizes, self.seed)
        columns["system_id"] = np.array(ids, dtype=np.int64)[:, None]
        self.writer.append(sizes, columns)
        self.twin.append(sizes, columns)
        for column in columns.values():
            column[...] = 0

    @rule()
    def flush(self) -> None:
        """Make everything durable."""
        self.writer.flush()
        self.twin.acknowledge()

    @rule(n_writes=st.integers(0, 60), system_rows=st.integers(1, 8), atom_rows=st.integers(1, 16))
    def kill(self, n_writes: int, system_rows: int, atom_rows: int) -> None:
        """Kill the writer so many writes into its next commit; another attempt opens another shard."""
        self.store.fails = kill_after(self.store.n_writes + n_writes)
        try:
            self.writer.flush()
            self.twin.acknowledge()
        except CampaignError:
            pass
        self.writer.abandon()
        self._settle(self.name)
        self._open(system_rows, atom_rows)

    @rule(system_rows=st.integers(1, 8), atom_rows=st.integers(1, 16))
    def close(self, system_rows: int, atom_rows: int) -> None:
        """End a shard well and open the next."""
        self.writer.close()
        self.twin.acknowledge()
        self._settle(self.name)
        self._open(system_rows, atom_rows)

    @rule()
    def read_while_written(self) -> None:
        """A reader that opens now sees a prefix with the right numbers."""
        self.twin.check(StoreReader.open(self.folder / self.name))

    @rule()
    def reopen(self) -> None:
        """Readers that were opened earlier still see what they saw then; opened again, they see what was committed since."""
        for name, (reader, n_systems) in self.opened.items():
            if reader.n_systems != n_systems:
                raise AssertionError(f"{name} showed {n_systems} systems and now {reader.n_systems}, to a reader that stayed open")
            compare_rows(reader, self.twins[name].rows[:n_systems])
            if StoreReader.open(self.folder / name).n_systems < n_systems:
                raise AssertionError(f"{name} showed {n_systems} systems, and fewer when it was opened again")
        again = StoreReader.open(self.folder / self.name)
        self.opened[self.name] = (again, again.n_systems)

    @precondition(lambda self: len(self.twins) > 1)
    @rule(budget_bytes=st.sampled_from([2**30, 2**28]))
    def consolidate(self, budget_bytes: int) -> None:
        """All that is visible becomes one store, each system once."""
        visible = {}
        indices = []
        for name, twin in self.twins.items():
            reader = StoreReader.open(self.folder / name)
            visible[name] = twin.rows[: reader.n_systems]
            indices.append(ShardIndex(name, reader.read_system("system_id")[:, 0], reader.n_atoms()))
        inputs = InputIndex(self.paths.inputs.name, self.sizes, np.zeros(N_INPUTS, dtype=bool))
        plan = plan_consolidation(inputs, indices, STORE_FIELDS, budget_bytes, allow_incomplete=True)
        sources = {name: self.folder / name for name in plan.sources}
        run_consolidation(plan, sources, self.paths.store_staging, self.paths.store, STORE_FIELDS, CARRIED_FIELDS)
        expected = consolidated_rows(visible)
        reader = StoreReader.open(self.paths.store)
        compare_rows(reader, expected)
        rows = reader.read_system("system_id")[:, 0]
        inputs_reader = StoreReader.open(self.paths.inputs)
        for field in CARRIED_FIELDS:
            np.testing.assert_array_equal(reader.read(names=[field.name])[field.name], inputs_reader.read(rows, [field.name])[field.name])

    @invariant()
    def finished_shards_keep_their_rows(self) -> None:
        """A shard that nobody writes any more shows the same number of systems for ever."""
        for name, n_systems in getattr(self, "settled", {}).items():
            seen = StoreReader.open(self.folder / name).n_systems
            if seen != n_systems:
                raise AssertionError(f"{name} had {n_systems} systems and now has {seen}")

    def _settle(self, name: str) -> None:
        reader = StoreReader.open(self.folder / name)
        self.twins[name].check(reader)
        self.settled = {**getattr(self, "settled", {}), name: reader.n_systems}

    def teardown(self) -> None:
        """End the writer and remove the files."""
        writer = getattr(self, "writer", None)
        if writer is not None:
            writer.abandon()
        shutil.rmtree(self.folder)
