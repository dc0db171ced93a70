"""Views of stores: what they hold, that looking is free, and that no structure is cut in two."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import campaign
from campaign.analysis import StoreView, Systems
from campaign.analysis.blocks import plan_blocks
from campaign.consolidate import run_consolidate
from campaign.errors import ContractError, FieldError, SpecError, StoreError, StoreNotFoundError
from campaign.fields import FIELDS, STORE_FIELDS
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.store import ShardWriter, write_store
from campaign.testing.synthetic import SyntheticSystems, synthetic_systems, write_shard, write_synthetic_campaign

SYSTEMS = synthetic_systems(60, odds=(0.6, 0.1, 0.1, 0.1, 0.1))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    return write_synthetic_campaign(tmp_path_factory.mktemp("view") / "a 'quoted' näme; x", SYSTEMS)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    return write_synthetic_campaign(tmp_path_factory.mktemp("live") / "run", SYSTEMS, consolidated=False)


@pytest.fixture
def no_computing() -> Iterator[None]:
    """A Dask scheduler that refuses: whatever computes fails the test."""

    def refuse(graph: Any, keys: Any, **options: Any) -> Any:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def small_blocks(view: StoreView) -> StoreView:
    return StoreView(view.source, view.where, max_block_atoms=100, max_block_systems=7)


def atoms_of(systems: SyntheticSystems, at: int) -> slice:
    ends = np.cumsum(systems.n_atoms)
    return slice(ends[at] - systems.n_atoms[at], ends[at])


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize("state", ["published", "running"])
def test_opening_and_selecting_compute_nothing(state: str, request: pytest.FixtureRequest) -> None:
    view = campaign.open(request.getfixturevalue(state))
    chosen = view.select("outcome == 'converged' and 'Au' in elements").select("n_atoms > 4")
    low = chosen.table[chosen.table["energy"] < 0]["fmax"].mean()
    norm = (chosen.array("forces") ** 2).sum()
    part, marked, dataset = view[10:20], view[np.arange(60) % 2 == 0], view.dataset
    masked_frame = view[part.dataset["energy"].shape[0] : 30].table["energy"].sum()
    mapped = chosen.map_systems(lambda systems: {"n": np.diff(systems.atoms_ptr)}, ["positions"], {"n": "int64"})
    assert len(view) == 60  # known without looking, as nothing is selected
    assert (len(part), len(marked), dict(dataset.sizes)) == (10, 30, {**dict(dataset.sizes), "system": 60, "atom": SYSTEMS.n_atoms.sum()})
    for lazy in (low, norm, mapped, masked_frame, part.array("forces").sum(), dataset["forces"].sum(), marked.table["fmax"].sum()):
        with pytest.raises(AssertionError, match="something was computed"):
            lazy.compute()
    with pytest.raises(AssertionError, match="something was computed"):
        len(chosen)


def test_the_table_is_what_was_written(published: CampaignPaths) -> None:
    table = small_blocks(campaign.open(published)).table
    assert table.npartitions > 5
    frame = table.compute()
    assert frame.index.tolist() == list(range(60))
    np.testing.assert_array_equal(frame["energy"], SYSTEMS.columns["energy"].ravel())
    np.testing.assert_array_equal(frame["n_atoms"], SYSTEMS.n_atoms)
    assert frame["outcome"].tolist() == [Outcome(code).label for code in SYSTEMS.outcomes()]
    assert frame.loc[frame["outcome"] == "max_steps", "error"].str.startswith("fmax is 0.08 eV/Å").all()
    assert set(frame["n_periodic"]) == {0, 3}
    assert frame["volume"].isna().equals(frame["n_periodic"] == 0)
    np.testing.assert_allclose(frame["energy_per_atom"] * frame["n_atoms"], frame["energy"])
    assert frame.loc[0, "formula"] == f"Cu{SYSTEMS.n_atoms[0]}"
    assert dict(frame.dtypes) == dict(table.dtypes)


def test_a_column_that_nobody_uses_is_not_read(published: CampaignPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    from campaign.store import StoreReader

    read: set[str] = set()
    original = StoreReader.read

    def noting(self: StoreReader, rows: Any = slice(None), names: Any = None) -> Any:
        read.update(names)
        return original(self, rows, names)

    monkeypatch.setattr(StoreReader, "read", noting)
    view = campaign.open(published)
    view.table["energy"].sum().compute()
    assert read == {"energy", "system_id"}
    read.clear()
    view.select("fmax < 1").table["n_steps"].sum().compute()
    assert read == {"n_steps", "fmax", "system_id"}


@pytest.mark.parametrize("name", ["positions", "forces", "cell", "atomic_numbers", "stress", "pbc"])
def test_arrays_are_cut_between_structures(published: CampaignPaths, name: str) -> None:
    view = small_blocks(campaign.open(published))
    array = view.array(name)
    np.testing.assert_array_equal(array.compute(), SYSTEMS.columns[name])
    assert array.dtype == SYSTEMS.columns[name].dtype
    per_system = FIELDS[name].level == "system"
    ends = np.arange(61) if per_system else np.concatenate([[0], np.cumsum(SYSTEMS.n_atoms)])
    assert set(np.cumsum(array.chunks[0]).tolist()) <= set(ends.tolist())
    # Chunk k holds the atoms of the systems of partition k.
    sizes = [int(part["n_atoms"].sum().compute()) for part in view.table.partitions]
    assert list(array.chunks[0]) == ([len(p) for p in view.table.partitions] if per_system else sizes)


def test_a_selection_of_arrays_has_the_atoms_of_the_selection(published: CampaignPaths) -> None:
    chosen = small_blocks(campaign.open(published)).select("outcome == 'converged' and n_atoms > 8")
    keep = (SYSTEMS.outcomes() == 0) & (SYSTEMS.n_atoms > 8)
    expected = np.concatenate([SYSTEMS.columns["forces"][atoms_of(SYSTEMS, at)] for at in np.flatnonzero(keep)])
    assert np.isnan(chosen.array("forces").chunks[0]).all()
    np.testing.assert_array_equal(chosen.array("forces").compute(), expected)
    np.testing.assert_array_equal(chosen.resolve().array("forces").compute(), expected)
    assert chosen.resolve().array("forces").shape == expected.shape
    assert len(chosen) == keep.sum()
    assert len(chosen.table) == keep.sum()


def test_selecting_by_a_mask(published: CampaignPaths) -> None:
    view = campaign.open(published)
    mask = np.arange(60) % 7 == 0
    assert view.select(mask).table.compute().index.tolist() == np.flatnonzero(mask).tolist()
    again = view.select("n_atoms > 8").select(np.ones(int((SYSTEMS.n_atoms > 8).sum()), bool))
    assert len(again) == (SYSTEMS.n_atoms > 8).sum()
    with pytest.raises(ContractError, match=r"given bool\[3\] for a view of 60 systems; allowed are .* Give one of these"):
        view.select(np.ones(3, bool))
    with pytest.raises(ContractError, match=r"given int64\[60\]"):
        view.select(np.arange(60))


def test_selecting_by_a_key_of_info(published: CampaignPaths) -> None:
    view = campaign.open(published)
    assert len(view.select("info.prototype == 'solution'")) == 20
    assert view.frame(["info.prototype"])["info.prototype"].tolist()[:3] == ["solution", "L1_2", "L1_2"]
    with pytest.raises(SpecError, match="unknown column 'enrgy'; did you mean 'energy'"):
        view.select("enrgy < 1")


def test_structures_come_back_whole(published: CampaignPaths) -> None:
    view = campaign.open(published)
    for at in (0, 17, -1):
        atoms = view[at]
        row = at % 60
        np.testing.assert_array_equal(atoms.positions, SYSTEMS.columns["positions"][atoms_of(SYSTEMS, row)])
        assert atoms.info["system_id"] == row
        if SYSTEMS.outcomes()[row] == 0:
            assert atoms.get_potential_energy() == SYSTEMS.columns["energy"][row, 0]
            np.testing.assert_array_equal(atoms.get_forces(), SYSTEMS.columns["forces"][atoms_of(SYSTEMS, row)])
    assert [len(atoms) for atoms in view] == SYSTEMS.n_atoms.tolist()
    with pytest.raises(IndexError, match=r"structure 60 was asked of a view of 60; allowed are -60 to 59"):
        view[60]


def test_one_structure_by_its_id(published: CampaignPaths) -> None:
    assert campaign.open(published).by_id(31).info["system_id"] == 31
    with pytest.raises(StoreError, match="system 999 has 0 rows here; one is needed"):
        campaign.open(published).by_id(999)


def test_a_running_campaign_shows_what_is_committed(running: CampaignPaths) -> None:
    view = campaign.open(running)
    frame = view.table.compute()
    assert sorted(frame.index) == list(range(60))
    by_id = frame.sort_index()
    np.testing.assert_array_equal(by_id["energy"], SYSTEMS.columns["energy"].ravel())
    assert by_id["outcome"].tolist() == [Outcome(code).label for code in SYSTEMS.outcomes()]
    # What shards do not hold is joined from the inputs, for every rank's rows.
    assert by_id["source"].tolist() == SYSTEMS.columns["source"].tolist()
    assert by_id["frame"].tolist() == SYSTEMS.columns["frame"].ravel().tolist()
    # Refused inputs were never computed.
    assert by_id.loc[by_id["outcome"] == "invalid", "volume_ratio"].isna().all()
    assert view.by_id(5).info["prototype"] == "L1_2"


def test_a_campaign_looks_the_same_before_and_after_consolidation(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", SYSTEMS, consolidated=False)
    before = campaign.open(paths).table.compute().sort_index()
    run_consolidate(paths)
    after = campaign.open(paths).table.compute()
    computed = before["outcome"] != "invalid"
    pd.testing.assert_frame_equal(before[computed], after[computed])
    texts = ["outcome", "source", "frame", "error", "n_atoms", "formula"]
    pd.testing.assert_frame_equal(before[texts], after[texts])


def test_rows_that_are_not_committed_are_not_seen(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", SYSTEMS, consolidated=False)
    before = campaign.open(paths)
    writer = ShardWriter.create(paths.shard(ShardName(2, 0, 0, 0)), [FIELDS["energy"], FIELDS["system_id"], FIELDS["outcome"]], flush_s=1e6)
    paths.shard(ShardName(2, 0, 1, 0)).mkdir()  # a shard that a rank is just making
    writer.append(np.array([1]), {"energy": np.array([[1.0]]), "system_id": np.array([[60]]), "outcome": np.array([[0]])})
    assert len(campaign.open(paths)) == 60
    writer.flush()
    assert len(campaign.open(paths)) == 61
    assert len(before) == 60
    assert len(before.table) == 60
    writer.close()


def test_a_system_that_was_done_twice_counts_once(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", SYSTEMS, consolidated=False)
    write_shard(paths, ShardName(1, 0, 0, 1), SYSTEMS.take(np.flatnonzero(SYSTEMS.outcomes() == 0)[:10]))
    assert sorted(campaign.open(paths).table.index.compute()) == list(range(60))


def test_a_campaign_that_has_done_nothing_is_an_empty_view(tmp_path: Path) -> None:
    view = campaign.open(write_synthetic_campaign(tmp_path / "run", SYSTEMS.take(np.zeros(0, np.int64)), consolidated=False))
    assert len(view) == 0
    assert list(view) == []
    assert len(view.select("energy < 0").table.compute()) == 0
    assert view.array("positions").compute().shape == (0, 3)


def test_a_folder_that_is_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="Give the folder of a store"):
        campaign.open(tmp_path / "nowhere")


def test_a_store_in_memory() -> None:
    store = MemoryStore()
    write_store(store, STORE_FIELDS, SYSTEMS.n_atoms, {f.name: SYSTEMS.columns[f.name] for f in STORE_FIELDS})
    assert campaign.open(store).table["energy"].count().compute() == np.isfinite(SYSTEMS.columns["energy"]).sum()


def radius(systems: Systems) -> dict[str, np.ndarray]:
    """Largest distance from the centroid, by looking at each structure alone."""
    return {"radius": np.array([np.linalg.norm(row["positions"] - row["positions"].mean(axis=0), axis=1).max() for row in systems])}


def test_map_systems_sees_whole_structures(published: CampaignPaths) -> None:
    expected = []
    for at in range(60):
        positions = SYSTEMS.columns["positions"][atoms_of(SYSTEMS, at)]
        expected.append(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max())
    frame = small_blocks(campaign.open(published)).map_systems(radius, ["positions"], {"radius": "float64"}).compute()
    np.testing.assert_array_equal(frame["radius"], expected)
    assert frame.index.tolist() == list(range(60))


def test_a_function_that_returns_the_wrong_number_of_rows_is_told(published: CampaignPaths) -> None:
    mapped = campaign.open(published).map_systems(lambda systems: {"n": np.zeros(3)}, ["positions"], {"n": "float64"})
    with pytest.raises(
        ContractError, match=r"returned shape \[3\] for 'n' of 60 systems; one value per system is allowed\. Mend the function"
    ):
        mapped.compute()


def test_text_is_no_array_and_unknown_fields_are_named(published: CampaignPaths) -> None:
    with pytest.raises(FieldError, match=r"'source' is text, and arrays hold numbers\. Take the column"):
        campaign.open(published).array("source")
    with pytest.raises(FieldError, match="field 'charges' was asked of a store that has"):
        campaign.open(published).array("charges")
    with pytest.raises(FieldError, match="column 'charges' was asked"):
        campaign.open(published).frame(["charges"])


def test_blocks_cross_processes(published: CampaignPaths, running: CampaignPaths) -> None:
    for paths in (published, running):
        view = campaign.open(paths)
        read = pickle.loads(pickle.dumps(view.blocks[0])).read([view.fields["energy"], view.fields["source"]])
        assert len(read["energy"]) == 60
        assert len(pickle.dumps(view.blocks[0])) < 5_000  # targets and rows, no open files


def test_the_same_numbers_in_other_processes(running: CampaignPaths) -> None:
    view = small_blocks(campaign.open(running)).select("outcome == 'converged'")
    with dask.config.set(scheduler="processes", num_workers=2):
        total = view.table["energy"].sum().compute()
    assert total == pytest.approx(np.nansum(SYSTEMS.columns["energy"].ravel()[SYSTEMS.outcomes() == 0]), rel=1e-12)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60), st.integers(1, 10))
def test_what_is_true_of_every_plan_of_blocks(n_atoms: list[int], max_atoms: int, max_systems: int) -> None:
    ptr = plan_blocks(np.array(n_atoms, np.int64), max_atoms, max_systems).tolist()
    if not n_atoms:
        assert ptr == [0, 0]
        return
    assert ptr[0] == 0
    assert ptr[-1] == len(n_atoms)
    for start, stop in pairwise(ptr):
        assert 0 < stop - start <= max_systems
        assert stop - start == 1 or sum(n_atoms[start:stop]) <= max_atoms
        if stop < len(n_atoms):  # no block could have been longer
            assert stop - start == max_systems or sum(n_atoms[start : stop + 1]) > max_atoms


def test_frames_hold_the_index_of_systems(published: CampaignPaths) -> None:
    frame = campaign.open(published).select("system_id >= 50").frame(["energy"])
    assert isinstance(frame, pd.DataFrame)
    assert frame.index.tolist() == list(range(50, 60))


def test_slices_lists_and_masks_are_views(published: CampaignPaths) -> None:
    view = campaign.open(published)
    assert view[10:20].system_ids.tolist() == list(range(10, 20))
    assert view[::-7].system_ids.tolist() == list(range(60))[::-7]
    assert view[[5, -1, 5]].table.compute().index.tolist() == [5, 59, 5]
    assert len(view[50:99]) == 10 and len(view[[]]) == 0
    chosen = view.select("n_atoms > 4")
    assert chosen[2:5].system_ids.tolist() == np.flatnonzero(SYSTEMS.n_atoms > 4)[2:5].tolist()
    np.testing.assert_array_equal(view[10:20][3].positions, view[13].positions)
    with pytest.raises(IndexError, match="structure 60 was asked of a view of 60"):
        view[[1, 60]]


def test_masks_of_every_kind_mean_the_same_systems(published: CampaignPaths) -> None:
    view = campaign.open(published)
    frame = view.frame(["n_atoms"])
    want = np.flatnonzero(SYSTEMS.n_atoms > 8)
    mask = SYSTEMS.n_atoms > 8
    shuffled = frame.sample(frac=1, random_state=0)
    for one in (
        mask,
        mask.tolist(),
        frame["n_atoms"] > 8,
        shuffled["n_atoms"] > 8,
        view.table["n_atoms"] > 8,
    ):
        assert view[one].system_ids.tolist() == want.tolist()
    assert len(view[view.array("system_id")[:, 0] < 7]) == 7
    with pytest.raises(ContractError, match="a mask of 10 ids for a view of 60 systems"):
        view[(frame["n_atoms"] > 8)[:10]]
    with pytest.raises(ContractError, match=r"given bool\[3\] for a view of 60 systems"):
        view[np.ones(3, bool)]


@pytest.mark.parametrize("state", ["published", "running"])
def test_a_dataset_has_every_field_with_its_unit(state: str, request: pytest.FixtureRequest) -> None:
    view = small_blocks(campaign.open(request.getfixturevalue(state)))
    data = view.dataset
    assert set(data.data_vars) | {"system_id"} == {field.name for field in STORE_FIELDS}
    order = data["system_id"].values
    assert sorted(order.tolist()) == list(range(60))
    at = np.concatenate([np.arange(len(SYSTEMS.columns["forces"]))[atoms_of(SYSTEMS, one)] for one in order])
    computed = SYSTEMS.outcomes()[order] != Outcome.INVALID
    np.testing.assert_array_equal(data["energy"].values[computed], SYSTEMS.columns["energy"].ravel()[order][computed])
    np.testing.assert_array_equal(data["positions"].values, SYSTEMS.columns["positions"][at])
    np.testing.assert_array_equal(data["owner"].values, np.repeat(np.arange(60), SYSTEMS.n_atoms[order]))
    np.testing.assert_array_equal(data["n_atoms"].values, SYSTEMS.n_atoms[order])
    assert data["source"].values.tolist() == SYSTEMS.columns["source"][order].tolist()
    assert (data["positions"].dims, data["forces"].attrs["units"], data["cell"].dims) == (
        ("atom", "xyz"),
        "eV/Å",
        ("system", "vector", "xyz"),
    )
    assert data["outcome"].attrs["flag_meanings"].split()[0] == "converged"
    # Chunk k of both dimensions holds the same systems.
    assert (
        np.cumsum(data.chunksizes["atom"]).tolist() == np.cumsum(data["n_atoms"].values)[np.cumsum(data.chunksizes["system"]) - 1].tolist()
    )
    per_system = (data["forces"] ** 2).sum("xyz").groupby(data["owner"].compute()).sum()
    expected = np.add.reduceat((SYSTEMS.columns["forces"][at] ** 2).sum(axis=1), np.cumsum(SYSTEMS.n_atoms[order]) - SYSTEMS.n_atoms[order])
    np.testing.assert_allclose(per_system.values[computed], expected[computed])


def test_a_dataset_of_a_selection(published: CampaignPaths) -> None:
    data = campaign.open(published).select("n_atoms > 8").dataset
    assert data.sizes["system"] == (SYSTEMS.n_atoms > 8).sum() and (data["n_atoms"] > 8).all()


def test_importing_the_package_stays_light() -> None:
    code = "import sys, campaign; print(sorted({'numpy', 'torch', 'zarr', 'dask', 'pandas', 'xarray', 'ase'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
