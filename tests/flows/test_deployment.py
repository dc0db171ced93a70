"""The flow as people start it: a Prefect server on its default SQLite, a worker, `prefect deployment run`; twice in a row."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 90.0
RUN_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Prefect:
    """A running server with a worker of the pool `campaign`."""

    url: str
    environment: dict[str, str]
    logs: Path

    def command(self, *words: str) -> str:
        """Run a `prefect` command in the project's folder and return what it printed."""
        done = subprocess.run(
            [str(BIN / "prefect"), *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.worker_log()
        return done.stdout

    def query(self, path: str, body: dict[str, object]) -> list[dict[str, object]]:
        """Ask the server's API."""
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, object]] = json.load(answer)
            return found

    def worker_log(self) -> str:
        """What server and worker said so far."""
        return "".join(log.read_text() for log in sorted(self.logs.glob("*.log")))


@contextmanager
def process(words: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended when the block ends."""
    with log.open("wb") as file:
        started = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    server = Prefect(url, environment, folder)
    with ExitStack() as stack:
        words = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        running = stack.enter_context(process(words, environment, folder / "server.log"))
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                assert running.poll() is None and time.monotonic() < deadline, server.worker_log()
                time.sleep(0.3)
        server.command("work-pool", "create", "--type", "process", "campaign")
        server.command("deploy", "--all", "--no-prompt")
        words = [str(BIN / "prefect"), "worker", "start", "--pool", "campaign", "--name", "test"]
        stack.enter_context(process(words, environment, folder / "worker.log"))
        yield server


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Eight rattled copper crystals and one that EMT does not know, in a folder whose name is awkward."""
    folder = tmp_path / "a 'quoted' é folder"
    folder.mkdir()
    crystals = []
    for seed in range(8):
        crystal = bulk("Cu", cubic=True) * (1, 1, 1 + seed % 2)
        crystal.rattle(0.05, seed=seed)
        crystals.append(crystal)
    crystals.append(bulk("Fe"))
    ase.io.write(folder / "crystals.extxyz", crystals)
    path = folder / "campaign.toml"
    path.write_text(
        '[campaign]\nname = "flow"\ndirectory = "run"\n[inputs]\npaths = ["crystals.extxyz"]\n[model]\nname = "emt"\n'
        '[relax]\ncell = "full"\n[execution]\nexecutor = "debug"\nranks_per_task = 2\n',
        encoding="utf-8",
    )
    return path


@pytest.mark.long
def test_deployment_run_twice(prefect: Prefect, spec: Path) -> None:
    for _ in range(2):
        printed = prefect.command("deployment", "run", "relax-campaign/local", "-p", f"spec={spec}", "--watch")
        assert "Completed" in printed, printed + prefect.worker_log()

    directory = spec.parent / "run"
    answer = subprocess.run([str(BIN / "campaign"), "status", str(directory), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["outcomes"] == {"converged": 8, "max_steps": 0, "diverged": 0, "invalid": 1, "failed": 0}
    assert (directory / "report.html").is_file()
    assert len(list((directory / "plans").iterdir())) == 1, "the second run found something to relax"

    progress = prefect.query("artifacts/filter", {"artifacts": {"key": {"any_": ["relaxation-progress"]}}})
    assert [artifact["data"] for artifact in progress] == [100.0, 100.0]
    names = {str(run["name"]).rsplit("-", 1)[0] for run in prefect.query("task_runs/filter", {"limit": 200})}
    assert names == {"ingest", "plan", "submit", "watch", "consolidate", "verify", "report"}
    assert "database is locked" not in prefect.worker_log()


@pytest.mark.long
def test_bad_spec_fails_the_run_with_its_reason(prefect: Prefect, tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    done = subprocess.run(
        [str(BIN / "prefect"), "deployment", "run", "relax-campaign/local", "-p", f"spec={missing}", "--watch"],
        cwd=ROOT,
        env=prefect.environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode != 0
    assert "cannot read the spec" in prefect.worker_log()


def test_prefect_is_installed_beside_this_python() -> None:
    assert shutil.which("prefect", path=str(BIN)), "pip install -e '.[dev]' brings it"
