"""What importing us costs, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "zarr", "dask", "distributed", "prefect", "submitit", "mpi4py", "ase", "numpy", "pandas", "plotly", "warp")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"import sys\n{statement}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import campaign", "import campaign.spec, campaign.paths, campaign.fields, campaign.errors"])
def test_vocabulary_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_by(statement) & set(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    statement = (
        "from typer.testing import CliRunner; from campaign.cli import app\nassert CliRunner().invoke(app, ['--help']).exit_code == 0"
    )
    assert not loaded_by(statement) & set(HEAVY)


def test_layers() -> None:
    """import-linter's contracts, which `.importlinter` states."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_path_below_a_campaign_is_spelled_in_paths_alone() -> None:
    names = ("inputs.zarr", "store.zarr", "trajectory.zarr", "report.html")
    spelled = []
    for file in [*(ROOT / "campaign").rglob("*.py"), *(ROOT / "slurm").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        if file.name == "paths.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and isinstance(node.body[0], ast.Expr)
        }
        spelled += [
            f"{file.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings and node.value in names
        ]
    assert spelled == []
