"""Stores as inputs: an inputs.zarr, a published store with its final positions, and what others wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_campaign import make_campaign, structures, write_shard

from campaign.consolidate import run_consolidate
from campaign.outcomes import Outcome
from campaign.paths import ShardName
from campaign.store import StoreReader
from campaign.structures.files import iter_frames
from campaign.structures.frame import Frame, RefusalKind
from campaign.structures.paths import InputFile


def read(path: Path) -> list[Frame]:
    return list(iter_frames(InputFile(str(path), path.name)))


def test_an_inputs_store_gives_its_structures_back(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    frames = read(paths.inputs)
    assert [frame.index for frame in frames] == list(range(7))
    for frame, expected in zip(frames[:6], structures(6), strict=True):
        assert frame.refusal is None and frame.atoms is not None
        assert np.allclose(frame.atoms.positions, expected.positions, atol=1e-7)
        assert np.allclose(frame.atoms.cell.array, expected.cell.array)
        assert frame.atoms.numbers.tolist() == expected.numbers.tolist() and frame.atoms.pbc.all()
        assert frame.atoms.get_tags().tolist() == expected.get_tags().tolist()
        assert frame.atoms.info["number"] == expected.info["number"]
        assert frame.atoms.info["origin"] == {"source": "in/a b.extxyz", "frame": frame.index}
        assert bool(frame.atoms.constraints) == bool(expected.constraints)
    assert frames[6].refusal is not None and frames[6].refusal.kind is RefusalKind.REFUSED_EARLIER
    assert "the file is empty" in frames[6].refusal.text


def test_a_published_store_gives_final_positions(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), range(6), [Outcome.CONVERGED] * 5 + [Outcome.MAX_STEPS])
    run_consolidate(paths)
    before = StoreReader.open(paths.inputs)
    frames = read(paths.store)
    assert [frame.refusal is None for frame in frames] == [True] * 6 + [False]
    for frame in frames[:6]:
        assert frame.atoms is not None
        assert np.array_equal(frame.atoms.positions, before.read_atoms("positions", [frame.index])[1] + 0.125)
        assert frame.atoms.calc is None


def test_a_store_that_is_damaged_is_a_refusal(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    (paths.inputs / "core" / "positions" / "c" / "0" / "0").unlink()
    (frame,) = read(paths.inputs)
    assert frame.refusal is not None and frame.refusal.kind is RefusalKind.UNREADABLE and "StoreDamagedError" in frame.refusal.text


def test_a_url_that_cannot_be_opened_is_a_refusal() -> None:
    (frame,) = iter_frames(InputFile("ftp://host/store.zarr", "ftp://host/store.zarr"))
    assert frame.refusal is not None and frame.refusal.kind is RefusalKind.UNREADABLE
