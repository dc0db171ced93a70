"""A real SLURM on this machine for the tests of this folder. Whoever asks for them gets it or a failure, never a skip."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
START_TIMEOUT_S = 600.0
"""With Debian's packages to install it takes a minute or two, else seconds."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The running cluster: `environ` is what its clients need."""

    environ: dict[str, str]

    def run(self, *command: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a command that may ask SLURM or submit to it."""
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
        )


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Start the cluster and stop it after the last test. Its state and logs are deleted unless a test failed."""
    if os.geteuid() != 0:
        pytest.fail("tests marked slurm start a SLURM cluster, with networks and daemons of its own, which only root can do")
    try:
        started = _script("up.sh")
        if started.returncode:
            pytest.fail(f"up.sh ended with {started.returncode}:\n{started.stdout[-2000:]}\n{started.stderr[-2000:]}", pytrace=False)
        slurm_conf = started.stdout.splitlines()[-1]
        # What MPI and SLURM said to whoever runs the tests is not for these jobs.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "MPI4PY_", "OMPI_"))}
        yield Cluster({**inherited, "SLURM_CONF": slurm_conf})
    finally:
        _script("down.sh", *([] if request.session.testsfailed else ["--purge"]))


def _script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(HERE / name), *arguments], capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
