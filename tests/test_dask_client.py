"""Who does the Dask tasks: on loopback alone, within one budget, at an address, and told when nobody is there."""

from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from campaign.cli import app
from campaign.dask_client import Connection, DaskWorkers, connected, usable_cores
from campaign.errors import StoreError
from campaign.store import StoreReader
from campaign.store.digest import digest
from campaign.terminal import TerminalObserver
from campaign.testing.synthetic import synthetic_systems, write_synthetic_campaign


def test_threads_need_no_cluster() -> None:
    for workers, n_threads in ((DaskWorkers(), usable_cores()), (DaskWorkers("threads", 5), 5)):
        with connected(workers, 100) as connection:
            assert connection == Connection(None, n_threads, 1, 100)


def test_processes_on_loopback_and_the_address_of_their_scheduler(tmp_path_factory: pytest.TempPathFactory) -> None:
    paths = write_synthetic_campaign(tmp_path_factory.mktemp("made") / "c", synthetic_systems(30), consolidated=False)
    with connected(DaskWorkers("auto", 2), 900, is_large=True) as connection:
        assert connection.client is not None
        assert (connection.n_threads, connection.n_processes, connection.budget_bytes) == (1, 2, 300)
        address = connection.client.scheduler.address
        workers = connection.client.scheduler_info()["workers"]
        assert len(workers) == 2
        assert all(place.startswith("tcp://127.0.0.1:") for place in (address, *workers))
        assert (connection.dashboard is None) == (importlib.util.find_spec("bokeh") is None)
        said = CliRunner().invoke(app, ["consolidate", str(paths.root), "--scheduler", address], catch_exceptions=False)
        assert said.exit_code == 0 and "30 structures" in said.stdout
    by_cluster = digest(paths.store)
    assert StoreReader.open(paths.store).n_systems == 30
    paths.store.rename(paths.root / "by cluster")
    assert CliRunner().invoke(app, ["consolidate", str(paths.root)], catch_exceptions=False).exit_code == 0
    assert digest(paths.store) == by_cluster


def test_no_scheduler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(StoreError, match=r"no Dask scheduler at 'tcp://127\.0\.0\.1:9': .*Give an address such as"),
        connected(DaskWorkers("scheduler", address="tcp://127.0.0.1:9"), 100, timeout_s=1.0),
    ):
        pass


def test_the_terminal_shows_megabytes_and_the_dashboard(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalObserver() as observer:
        observer.started("consolidate")
        observer.connected(Connection(None, 1, 1, 100, "http://127.0.0.1:8787/status"))
        observer.consolidated(25_000_000, 100_000_000)
        assert [(bar.completed, bar.total) for bar in observer._bars.tasks] == [(25, 100)]
    assert "dashboard    http://127.0.0.1:8787/status" in capsys.readouterr().out
