"""The table of codecs: everything decodes to what it was, the pipelines write the same numbers, and what is no codec is noticed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("store_codecs")


def test_every_codec_gives_its_figures(table: Any) -> None:
    few = np.repeat(np.arange(64.0), 8)
    figures = [table.codec_figure("few", few, name, 1) for name in table.CODECS]
    assert [figure["codec"] for figure in figures] == list(table.CODECS)
    assert {table.CHOSEN, table.BEFORE} <= table.CODECS.keys()
    for figure in figures:
        assert figure["n_bytes"] == few.nbytes
        assert (figure["ratio"] == 1) if figure["codec"] == "none" else (0 < figure["ratio"] < 0.5)


def test_a_codec_that_loses_something_gets_no_figure(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved:
        def encode(self, values: Any) -> bytes:
            return bytes(values.astype(np.float32))

        def decode(self, data: bytes) -> bytes:
            return bytes(np.frombuffer(data, np.float32).astype(np.float64))

    monkeypatch.setitem(table.CODECS, "halved", Halved())
    with pytest.raises(SystemExit, match="halved gave back few otherwise than it was"):
        table.codec_figure("few", np.array([0.1]), "halved", 1)


def test_the_pipelines_write_files_that_zarr_reads(table: Any, tmp_path: Path) -> None:
    figures = table.pipeline_figures(np.random.default_rng(0).random((50, 3)), tmp_path, 1)
    assert {"ours", "zarr-python"} <= {figure["pipeline"] for figure in figures}
    assert all(figure["mb_per_s"] > 0 and figure["n_bytes"] == 32 * 50 * 3 * 8 for figure in figures)
