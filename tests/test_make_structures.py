"""The structures of the copper-gold study: what they are, that they are always the same, and what ingest makes of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms

from campaign.ingest import run_ingest
from campaign.spec import CampaignSpec, parse_spec
from campaign.store import StoreReader

STUDY = Path(__file__).parents[1] / "examples" / "cu_au"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_structures", STUDY / "make_structures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[CampaignSpec, tuple[int, int]]:
    folder = tmp_path_factory.mktemp("study")
    counts = maker.make_structures(folder / "structures")
    text = (STUDY / "campaign.toml").read_text(encoding="utf-8").replace("../../runs/cu-au", "run")
    return parse_spec(text, folder), counts


def test_ingest_takes_all_but_the_broken_ones(study: tuple[CampaignSpec, tuple[int, int]]) -> None:
    spec, (n_sound, n_broken) = study
    report = run_ingest(spec)
    assert (report.n_inputs, report.n_rejected) == (n_sound + n_broken, n_broken)
    assert n_sound >= 600 and not report.skipped and not report.dropped_arrays
    assert dict(report.reasons) == {
        "empty file": 1,
        "malformed": 1,  # the third frame of five
        "not finite": 1,
        "partial occupancy": 1,
        "truncated": 1,
        "two atoms on one spot": 1,
        "unknown element": 1,
    }
    inputs = StoreReader.open(report.paths.inputs)
    n_atoms, periodic = inputs.n_atoms(), inputs.read_system("pbc").sum(axis=1)
    bulk = n_atoms[periodic == 3]
    assert bulk.max() == 108 and {8, 16, 32, 48, 72, 108} <= set(bulk.tolist())
    assert {0, 2, 3} <= set(periodic.tolist()), "clusters, slabs and crystals"
    fixed = inputs.read_atoms("fixed", np.flatnonzero(periodic == 2))[1]
    assert fixed.any() and not fixed.all()


def test_the_same_seed_gives_the_same_files(maker: ModuleType, tmp_path: Path) -> None:
    for name in ("one", "two"):
        maker.make_structures(tmp_path / name)
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")} for name in ("one", "two")
    )
    assert first == second and len(first) == 60


def test_l10_has_layers(maker: ModuleType) -> None:
    atoms: Atoms = maker.ORDERED["L10-CuAu"]()
    heights = {symbol: {round(float(z), 3) for z in atoms.positions[atoms.symbols == symbol][:, 2]} for symbol in ("Cu", "Au")}
    assert len(heights["Cu"]) == len(heights["Au"]) == 1 and heights["Cu"] != heights["Au"]
