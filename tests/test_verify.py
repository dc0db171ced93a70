"""What `campaign verify` finds: nothing in a sound campaign, and each fault that a campaign can have by its name and place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from campaign.cli import app
from campaign.consolidate import run_consolidate
from campaign.fields import STORE_FIELDS, Level, encode_error
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths
from campaign.recompute import largest_stress
from campaign.spec import RelaxSection
from campaign.store import write_store
from campaign.testing.synthetic import SyntheticSystems, synthetic_systems, write_synthetic_campaign
from campaign.units import GPA_PER_EV_PER_ANG3
from campaign.verify import VerifyReport, run_verify


@pytest.fixture(scope="module")
def systems() -> SyntheticSystems:
    made = synthetic_systems(50, odds=(0.6, 0.1, 0.1, 0.1, 0.1))
    # The largest force of each system is what its fmax says.
    owner = np.repeat(np.arange(50), made.n_atoms)
    largest = np.zeros(50)
    np.maximum.at(largest, owner, np.linalg.norm(made.columns["forces"], axis=1))
    made.columns["forces"] *= (np.nan_to_num(made.columns["fmax"][:, 0]) / largest)[owner, None]
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, systems: SyntheticSystems) -> Path:
    paths = write_synthetic_campaign(tmp_path_factory.mktemp("made") / "c", systems, consolidated=False)
    run_consolidate(paths)
    return paths.root


@pytest.fixture
def paths(tmp_path: Path, made: Path) -> CampaignPaths:
    return CampaignPaths(shutil.copytree(made, tmp_path / "it's ö"))


def texts(report: VerifyReport) -> list[str]:
    return [str(finding) for finding in report.findings]


def test_a_sound_campaign_has_no_findings(paths: CampaignPaths) -> None:
    report = run_verify(paths)
    assert texts(report) == []
    assert report.ok and report.n_systems == 50 and report.n_bytes > 50_000 and report.n_recomputed == 0
    assert json.loads(json.dumps(report.to_json()))["ok"] is True
    assert report.summary.startswith("50 structures, each once")


def test_what_verify_prints_for_programs(paths: CampaignPaths) -> None:
    printed = json.loads(CliRunner().invoke(app, ["verify", str(paths.root), "--json"]).stdout)
    assert printed | {"n_bytes": 0} == {"ok": True, "n_systems": 50, "n_bytes": 0, "n_recomputed": 0, "findings": []}
    chunk = paths.store / "core/cell/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    done = CliRunner().invoke(app, ["verify", str(paths.root), "--json"])
    (finding,) = json.loads(done.stdout)["findings"]
    assert done.exit_code == 1 and set(finding) == {"what", "where", "advice"}
    assert (finding["where"], finding["advice"][:17]) == (f"{paths.store}/core/cell", "`campaign repair`")


def test_rejects_and_what_diverged_raise_no_warning(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    assert (systems.outcomes() == Outcome.INVALID).any() and (systems.outcomes() == Outcome.DIVERGED).any()
    with np.errstate(all="raise"):
        assert run_verify(paths).ok


def test_no_store_yet(paths: CampaignPaths) -> None:
    shutil.rmtree(paths.store)
    report = run_verify(paths)
    assert not report.ok
    assert texts(report) == [
        f"{paths.store}: there is no store at {paths.store}. Give the folder of a store, such as store.zarr. Run `campaign consolidate`."
    ]


@pytest.mark.parametrize("where", ["inputs", "shard", "store"])
def test_damage_anywhere_is_found(paths: CampaignPaths, where: str) -> None:
    folder = {"inputs": paths.inputs, "shard": paths.shard(paths.shard_names()[1]), "store": paths.store}[where]
    chunk = folder / "core/positions/c/0/0"
    raw = bytearray(chunk.read_bytes())
    raw[100] ^= 4
    chunk.write_bytes(raw)
    report = run_verify(paths)
    assert not report.ok and len(report.findings) == 1
    assert "core/positions/c/0/0 cannot be decoded" in texts(report)[0]
    assert ("restore it from a copy" if where == "inputs" else "`campaign repair` keeps what is good of it") in texts(report)[0]


def test_missing_inputs_are_found(paths: CampaignPaths) -> None:
    shutil.rmtree(paths.shard(paths.shard_names()[0]))
    shutil.rmtree(paths.store)
    run_consolidate(paths, allow_incomplete=True)
    report = run_verify(paths)
    assert not report.ok
    assert len(report.findings) == 1
    assert "of 50 inputs: 0, 4, " in texts(report)[0] and "are missing. Run `campaign resume`" in texts(report)[0]


Change = Callable[[SyntheticSystems], SyntheticSystems]


def rewrite(paths: CampaignPaths, change: Change) -> None:
    """Replace the store by one that differs from it as asked."""
    from campaign.store import StoreReader

    reader = StoreReader.open(paths.store)
    changed = change(SyntheticSystems(reader.n_atoms(), reader.read()))
    shutil.rmtree(paths.store)
    write_store(paths.store, STORE_FIELDS, changed.n_atoms, changed.columns)


def rows_of(systems: SyntheticSystems, outcome: Outcome) -> np.ndarray:
    return np.flatnonzero(systems.outcomes() == outcome)


def set_value(name: str, outcome: Outcome, value: object) -> Change:
    """Change a field of the second system with that outcome."""

    def change(systems: SyntheticSystems) -> SyntheticSystems:
        row = rows_of(systems, outcome)[1]
        at = row if name_is_per_system(name) else int(systems.n_atoms[:row].sum())
        systems.columns[name][at] = value
        return systems

    return change


def name_is_per_system(name: str) -> bool:
    return next(field.level for field in STORE_FIELDS if field.name == name) is Level.SYSTEM


FAULTS: dict[str, tuple[Change, str]] = {
    "a row twice": (lambda s: s.take(np.array([*range(50), 7])), "1 of 50 inputs: 7 is there more than once"),
    "a row missing": (lambda s: s.take(np.delete(np.arange(50), 11)), "1 of 50 inputs: 11 is missing"),
    "another order": (lambda s: s.take(np.arange(50)[::-1].copy()), "Rows are not sorted by system_id"),
    "an unknown outcome": (set_value("outcome", Outcome.FAILED, 17), "an outcome is one of the table"),
    "a result that says reject": (
        set_value("outcome", Outcome.MAX_STEPS, Outcome.INVALID),
        "a reject of ingest, and nothing else, is invalid",
    ),
    "no reason": (set_value("error", Outcome.DIVERGED, 0), "what is not converged has a reason in words"),
    "too many steps": (set_value("n_steps", Outcome.CONVERGED, 501), "steps lie between 0 and max_steps"),
    "another element": (set_value("atomic_numbers", Outcome.CONVERGED, 3), "a system has the atoms of its input"),
    "another periodicity": (set_value("pbc", Outcome.CONVERGED, [True, False, True]), "periodicity is that of the input"),
    "NaN in forces": (set_value("forces", Outcome.CONVERGED, np.nan), "what is converged has finite numbers"),
    "NaN in the cell": (set_value("cell", Outcome.CONVERGED, np.nan), "what is converged has finite numbers"),
    "fmax too large": (set_value("fmax", Outcome.CONVERGED, 0.021), "what is converged has fmax ≤ 0.02 eV/Å"),
    "fmax NaN": (set_value("fmax", Outcome.CONVERGED, np.nan), "what is converged has fmax ≤ 0.02 eV/Å"),
    "forces too large": (set_value("forces", Outcome.CONVERGED, [0, 0, 0.03]), "what is converged has forces ≤ 0.02 eV/Å"),
    "smax too large": (set_value("smax", Outcome.CONVERGED, 0.1), "what is converged has smax ≤ 0.002 eV/Å³"),
}


@pytest.mark.parametrize(("change", "seen"), FAULTS.values(), ids=FAULTS)
def test_each_rule_is_checked(paths: CampaignPaths, change: Change, seen: str) -> None:
    rewrite(paths, change)
    report = run_verify(paths)
    assert not report.ok
    assert any(seen in text for text in texts(report)), texts(report)


def test_a_force_on_a_fixed_component_does_not_count(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    def change(made: SyntheticSystems) -> SyntheticSystems:
        set_value("fixed", Outcome.CONVERGED, [False, False, True])(made)
        return set_value("forces", Outcome.CONVERGED, [0, 0, 5.0])(made)

    rewrite(paths, change)
    assert run_verify(paths).ok


def real_systems() -> list[Atoms]:
    """Crystals at their EMT lattice constants, and a slab and a cluster whose forces vanish by symmetry or are small."""
    crystals = [bulk("Cu", cubic=True, a=3.5898), bulk("Au", cubic=True, a=4.0554), bulk("Cu", a=3.5898)]
    dimer = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.2]])
    dimer.calc = EMT()
    from ase.optimize import BFGS

    BFGS(dimer, logfile=None).run(fmax=1e-3)
    dimer.calc = None
    return [*crystals, dimer]


@pytest.fixture
def computed(tmp_path: Path, made_by_ase: Path) -> CampaignPaths:
    return CampaignPaths(shutil.copytree(made_by_ase, tmp_path / "emt"))


@pytest.fixture(scope="module")
def made_by_ase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign whose numbers are those of ASE's EMT."""
    structures = real_systems()
    n_atoms = np.array([len(atoms) for atoms in structures])
    template = synthetic_systems(len(structures), odds=(1, 0, 0, 0, 0), clusters=0.0, sizes=(4,))
    columns = {
        field.name: np.zeros((int(n_atoms.sum()) if field.level is Level.ATOM else len(structures), *field.trailing), field.dtype)
        for field in STORE_FIELDS
        if field.dtype != "string"
    }
    columns |= {name: template.columns[name] for name in ("source", "info", "system_id", "frame")}
    for name in ("numbers", "positions", "forces"):
        values = []
        for atoms in structures:
            atoms.calc = EMT()
            values.append(atoms.get_forces() if name == "forces" else getattr(atoms, name))
        columns[{"numbers": "atomic_numbers"}.get(name, name)] = np.concatenate(values)
    columns["energy"] = np.array([[atoms.get_potential_energy()] for atoms in structures])
    columns["cell"] = np.array([atoms.cell.array for atoms in structures])
    columns["pbc"] = np.array([atoms.pbc for atoms in structures])
    columns["fmax"] = np.array([[np.linalg.norm(atoms.get_forces(), axis=1).max()] for atoms in structures])
    paths = write_synthetic_campaign(
        tmp_path_factory.mktemp("ase") / "emt", SyntheticSystems(n_atoms, columns), consolidated=False, n_ranks=2
    )
    run_consolidate(paths)
    return paths.root


def test_recomputing_with_ase_agrees(computed: CampaignPaths) -> None:
    report = run_verify(computed, recompute=10)
    assert texts(report) == []
    assert report.n_recomputed == 4
    assert run_verify(computed, recompute=2, seed=3).n_recomputed == 2


RECOMPUTE_FAULTS: dict[str, tuple[Change, str]] = {
    "an energy": (set_value("energy", Outcome.CONVERGED, -1.0), "-1.00000000 eV are stored; they may differ by 1e-07 eV per atom"),
    "a position": (set_value("positions", Outcome.CONVERGED, [0.1, 0, 0]), "ASE's forces differ by up to"),
    "a cell": (set_value("cell", Outcome.CONVERGED, np.eye(3) * 4.2), "largest stress by ASE is"),
}


@pytest.mark.parametrize(("change", "seen"), RECOMPUTE_FAULTS.values(), ids=RECOMPUTE_FAULTS)
def test_recomputing_finds_numbers_that_are_not_the_models(computed: CampaignPaths, change: Change, seen: str) -> None:
    rewrite(computed, change)
    assert run_verify(computed).ok
    report = run_verify(computed, recompute=10)
    assert not report.ok
    assert any(text.startswith("system_id 1:") and seen in text for text in texts(report)), texts(report)


def test_no_damage_no_reason_is_lost_in_the_error_field(paths: CampaignPaths) -> None:
    rewrite(paths, set_value("error", Outcome.FAILED, np.frombuffer(encode_error("  "), np.uint8)))
    assert any("has a reason in words" in text for text in texts(run_verify(paths)))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("full", 0.4), ("isotropic", 0.3), ("fixed_volume", 0.1)],
)
def test_largest_stress_of_a_slab_by_mode(cell: str, expected: float) -> None:
    """In the plane of a slab with σ = diag(0.4, 0.2): mean 0.3, and 0.1 beside it; what lies along the vacuum does not count."""
    relax = RelaxSection(fmax_ev_per_ang=0.1, smax_ev_per_ang3=0.1, max_steps=1, cell=cell)  # type: ignore[arg-type]
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0, orthogonal=False)
    stress = np.diag([0.4, 0.2, 7.0])
    assert largest_stress(stress, slab.cell.array, np.array([True, True, False]), relax) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [((1, 1, 1, 1, 1, 1), 0.5), ((0, 1, 0, 0, 0, 0), 0.3), ((1, 0, 1, 1, 1, 1), 0.5), ((0, 0, 1, 1, 1, 0), 0.0), ((0,) * 6, 0.0)],
)
def test_largest_stress_with_mask_and_pressure(mask: tuple[int, ...], expected: float) -> None:
    """As above, with 0.1 eV/Å³ from outside."""
    free = tuple(bool(x) for x in mask)
    how = {"fmax_ev_per_ang": 0.1, "smax_ev_per_ang3": 0.1, "max_steps": 1, "cell": "full"}
    relax = RelaxSection(**how, strain_mask=free, pressure_gpa=0.1 * GPA_PER_EV_PER_ANG3)  # type: ignore[arg-type]
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0, orthogonal=False)
    stress = np.diag([0.4, 0.2, 7.0])
    assert largest_stress(stress, slab.cell.array, np.array([True, True, False]), relax) == pytest.approx(expected)
