"""The command line: exit codes, errors in one clear text, `--json` as a contract, every command documented."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from campaign.cli import app

CAMPAIGN = str(Path(sys.executable).with_name("campaign"))
COMMANDS = ("init", "run", "status", "resume", "cancel", "consolidate", "verify", "repair", "script", "report", "export", "show", "doctor")


def campaign(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a person would, and check its exit code."""
    done = subprocess.run([CAMPAIGN, *map(str, words)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def write_spec(folder: Path, **sections: str) -> Path:
    """A small spec; keyword arguments add lines to a section."""
    parts = {
        "campaign": 'name = "small"\ndirectory = "run"\n',
        "inputs": 'paths = ["in.extxyz"]\n',
        "model": 'name = "emt"\n',
        "relax": 'cell = "full"\n',
        "execution": 'executor = "debug"\nlauncher = "none"\n',
    }
    for section, lines in sections.items():
        parts[section] = parts.get(section, "") + lines
    path = folder / "campaign.toml"
    path.write_text("".join(f"[{name}]\n{lines}" for name, lines in parts.items()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directory of a campaign over five crystals and a reject, run once by the command."""
    folder = tmp_path_factory.mktemp("finished 'q' é")
    crystals = []
    for seed in range(5):
        crystal = bulk("Cu", cubic=True)
        crystal.rattle(0.05, seed=seed)
        crystals.append(crystal)
    ase.io.write(folder / "in.extxyz", [*crystals, bulk("Fe")])
    shown = campaign("run", write_spec(folder)).stdout
    for part in ("converged", "5", "invalid", "store.zarr", "report.html", "structures/s", "verified"):
        assert part in shown, shown
    yield folder / "run"


def test_help_names_every_command_and_answers_at_once() -> None:
    shown = campaign("--help").stdout
    for command in COMMANDS:
        assert f" {command} " in shown
        assert campaign(command, "--help").stdout
    fastest = min(_seconds("--help") for _ in range(3))
    print(f"campaign --help: {fastest:.2f} s")


def _seconds(*words: str) -> float:
    start = time.perf_counter()
    campaign(*words)
    return time.perf_counter() - start


def test_commands_are_the_documented_ones() -> None:
    assert sorted(command.callback.__name__ for command in app.registered_commands if command.callback) == sorted(COMMANDS)


def test_init_then_run_without_structures(tmp_path: Path) -> None:
    path = tmp_path / "campaign.toml"
    campaign("init", path)
    assert "not overwritten" in campaign("init", path, code=2).stderr
    wrong = campaign("run", path, code=2)
    assert "structures" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ({"relax": "fmx_ev_per_ang = 0.1\n"}, ("unknown key 'relax.fmx_ev_per_ang'", "'relax.fmax_ev_per_ang'")),
        ({"model": "[model.options]\ncutof = 3.0\n"}, ("cutof",)),
    ],
)
def test_bad_spec_is_usage(tmp_path: Path, lines: dict[str, str], parts: tuple[str, ...]) -> None:
    ase.io.write(tmp_path / "in.extxyz", bulk("Cu"))
    wrong = campaign("run", write_spec(tmp_path, **lines), code=2)
    for part in parts:
        assert part in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_missing_spec_and_missing_campaign_are_usage(tmp_path: Path) -> None:
    assert "cannot read the spec" in campaign("run", tmp_path / "none.toml", code=2).stderr
    for command in ("status", "resume", "cancel", "consolidate", "verify", "repair", "script", "report"):
        assert "is no campaign directory" in campaign(command, tmp_path, code=2).stderr


def test_directory_that_is_a_campaign_is_refused(finished: Path) -> None:
    wrong = campaign("run", finished.parent / "campaign.toml", code=2)
    assert "is a campaign already" in wrong.stderr
    assert "campaign resume" in wrong.stderr


def test_status_json_is_a_contract(finished: Path) -> None:
    status = json.loads(campaign("status", finished, "--json").stdout)
    assert status["n_inputs"] == 6
    assert status["outcomes"] == {"converged": 5, "max_steps": 0, "diverged": 0, "invalid": 1, "failed": 0}
    assert status["state"] == "complete"
    assert status["structures_per_s"] > 0
    assert "converged" in campaign("status", finished).stdout


def test_an_incomplete_store_is_consolidated_where_asked(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    for name in ("shards", "store.zarr"):
        shutil.rmtree(copy / name)
    assert "--allow-incomplete" in campaign("consolidate", copy, code=1).stderr
    assert (
        "1 structures, 0 duplicate rows left out, 5 inputs without an outcome" in campaign("consolidate", copy, "--allow-incomplete").stdout
    )
    assert "are missing" in campaign("verify", copy, code=1).stdout
    assert "store.zarr.lock" not in {path.name for path in copy.iterdir()}


def test_a_calculator_without_stress_is_refused_where_the_cell_relaxes(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", bulk("Cu"))
    spec = write_spec(tmp_path)
    water = 'name = "ase"\noptions = { calculator = "ase.calculators.tip3p:TIP3P" }'
    spec.write_text(spec.read_text().replace('name = "emt"', water))
    wrong = campaign("run", spec, code=2).stderr
    assert "computes no stress" in wrong and 'relax.cell = "fixed"' in wrong and len(wrong.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_verify_is_a_contract_and_recomputes_with_ase(finished: Path) -> None:
    verified = json.loads(campaign("verify", finished, "--json", "--recompute", "3").stdout)
    assert verified["ok"] is True
    assert verified["findings"] == []


def test_resume_of_a_finished_campaign_does_nothing(finished: Path) -> None:
    plans = sorted((finished / "plans").iterdir())
    campaign("resume", finished)
    assert sorted((finished / "plans").iterdir()) == plans


def test_show_report_script(finished: Path) -> None:
    assert "in.extxyz" in campaign("show", finished, "0").stdout
    assert "Fe" in campaign("show", finished, "5").stdout
    campaign("show", finished, "6", code=2)
    assert campaign("report", finished).stdout.strip() == str(finished / "report.html")
    assert "has an outcome" in campaign("script", finished, code=1).stderr


def test_ingest_only_then_script(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", [bulk("Cu"), bulk("Fe")])
    shown = campaign("run", "--ingest-only", write_spec(tmp_path)).stdout
    assert "2 structures" in shown
    assert "campaign script" in shown
    script = campaign("script", tmp_path / "run").stdout
    assert script.startswith("#!")
    assert "#SBATCH --array=0" in script
    assert json.loads(campaign("status", tmp_path / "run", "--json").stdout)["outcomes"]["invalid"] == 1


@pytest.mark.parametrize(("format", "name"), [("extxyz", "out.extxyz"), ("ase-db", "out.db"), ("parquet", "out.parquet")])
def test_export(finished: Path, tmp_path: Path, format: str, name: str) -> None:
    target = tmp_path / name
    shown = campaign("export", finished, "--format", format, "-o", target, "--where", 'outcome == "converged" and n_atoms < 50').stdout
    assert "wrote 5 structures" in shown
    assert target.stat().st_size > 0
    campaign("export", finished, "--format", format, "-o", target, code=2)


def test_doctor() -> None:
    shown = campaign("doctor").stdout
    for part in ("python", "torch", "kernels", "mpi", "disk", "slurm"):
        assert part in shown


def test_wrong_option_is_usage() -> None:
    assert CliRunner().invoke(app, ["run"]).exit_code == 2
