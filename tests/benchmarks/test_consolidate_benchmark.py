"""The consolidation benchmark runs, finds what is wrong, and its JSON has what the documents say. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign.consolidate import run_consolidate
from campaign.fields import INPUT_FIELDS, RESULT_FIELDS
from campaign.paths import CampaignPaths
from campaign.store import StoreReader, write_store
from campaign.store.digest import digest
from campaign.testing.plain_store import write_plain_store
from campaign.testing.synthetic import synthetic_systems

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "consolidate.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("consolidate")


def test_all_sides_run_and_the_json_has_its_parts(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    sizes = ["--structures", "300", "--shards", "2", "5", "--sides", "cp -r", "ours", "dask.array"]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "--folder", str(tmp_path), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    assert set(found) == {"benchmark", "options", "figures", "ratios", "targets", "versions", "hardware"}
    cases = [(figure["n_shards"], figure["side"]) for figure in found["figures"]]
    assert cases == [(n, side) for n in (2, 5) for side in ("cp -r", "ours", "dask.array")]
    for figure in found["figures"]:
        assert figure["gb_per_s"] == pytest.approx(figure["n_bytes"] / figure["seconds"] / 1e9)
        assert figure["peak_memory_mib"] > 1
    assert [ratio["of"] for ratio in found["ratios"]] == ["ours / cp -r", "ours / dask.array"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_wrong_store_is_told(tmp_path: Path, benchmark: Any) -> None:
    paths = CampaignPaths(tmp_path / "c")
    n_bytes = benchmark.make_campaign(paths, 120, 3)
    assert n_bytes == sum(file.stat().st_size for file in paths.root.rglob("*") if file.is_file())
    run_consolidate(paths)
    assert benchmark.wrong_rows(paths, 120) == []
    assert benchmark.wrong_rows(paths, 121) == ["not each system once, in order"]
    reader = StoreReader.open(paths.store)
    values = reader.read()
    name = paths.shard_names()[-1]
    values["energy"][StoreReader.open(paths.shard(name)).read_system("system_id")[3, 0]] += 1.0
    n_atoms, fields = reader.n_atoms(), reader.fields
    paths.store.rename(tmp_path / "right.zarr")
    write_store(paths.store, fields, n_atoms, values)
    assert benchmark.wrong_rows(paths, 120) == [f"energy differs from that of {name}"]


def test_shards_that_are_made_fast_have_the_bytes_of_others(tmp_path: Path) -> None:
    systems = synthetic_systems(5000, sizes=(1, 40))
    for name, fields in (("inputs", INPUT_FIELDS), ("shard", RESULT_FIELDS)):
        columns = {field.name: systems.columns[field.name] for field in fields}
        write_plain_store(tmp_path / f"{name}.fast", fields, systems.n_atoms, columns, {"job": 1})
        write_store(tmp_path / name, fields, systems.n_atoms, columns, {"job": 1})
        assert digest(tmp_path / f"{name}.fast") == digest(tmp_path / name)
        names = [
            sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
            for folder in (tmp_path / f"{name}.fast", tmp_path / name)
        ]
        assert names[0] == names[1]


def test_sizes_have_a_heavy_tail(benchmark: Any) -> None:
    sizes = benchmark.heavy_tailed_sizes(20_000)
    assert 12 <= np.median(sizes) <= 16 and 18 <= sizes.mean() <= 24 and sizes.max() > 250
