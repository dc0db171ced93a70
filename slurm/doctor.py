"""What `campaign doctor` looks at: can this machine, or this login node, run campaigns? Each check says what to do if not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from campaign.files import write_whole

MPI_TIMEOUT_S = 60.0
"""A launcher that hangs longer than this is of no use."""

# One write per rank, so that lines of two ranks do not mix.
_HELLO = """
import sys
from mpi4py import MPI
sys.stdout.write(f"{MPI.COMM_WORLD.size}/{MPI.COMM_WORLD.allreduce(1)}\\n")
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `text` says what was seen and, if it is not usable, what to do."""

    name: str
    ok: bool
    text: str


def run_checks() -> list[Check]:
    """Look at everything a campaign needs; what is optional (a GPU, SLURM) is reported and never fails."""
    return [_guarded(name, check) for name, check in _CHECKS.items()]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    # A check that raises is a finding, not the end of the others.
    try:
        return check()
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} at {sys.executable}; 3.11 or newer is needed")


def _torch() -> Check:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU, runs on the CPU"
    return Check("torch", True, f"{torch.__version__}; {device}; {os.cpu_count()} cores")


def _model() -> Check:
    """Evaluate one known energy: two argon atoms at the minimum of the Lennard-Jones potential have the energy -ε."""
    import torch

    from campaign.data import AtomicData, Batch
    from campaign.models.registry import create_model

    sigma, epsilon = 3.4, 0.0104
    options = {"sigma": sigma, "epsilon": epsilon, "rc": 1000.0}
    model = create_model("lj", torch.float64, torch.device("cpu"), options)
    pair = AtomicData(
        atomic_numbers=torch.tensor([18, 18]),
        positions=torch.tensor([[0.0, 0.0, 0.0], [2 ** (1 / 6) * sigma, 0.0, 0.0]], dtype=torch.float64),
    )
    batch = Batch.from_data_list([pair])
    for hook in model.make_neighbor_hooks():
        hook.update(batch)
    outputs = model(batch)
    energy = float(cast("torch.Tensor", outputs["energy"]))
    right = abs(energy + epsilon) < 1e-9
    return Check("kernels", right, f"energy of an argon pair {energy:.6f} eV, expected {-epsilon:.6f}")


def _mpi() -> Check:
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        return Check("mpi", False, "no mpiexec; pip install 'relax-campaign[local]', or set launcher = \"none\" in [execution]")
    done = subprocess.run([mpiexec, "-n", "2", sys.executable, "-c", _HELLO], capture_output=True, text=True, timeout=MPI_TIMEOUT_S)
    seen = done.stdout.split()
    if done.returncode:
        return Check("mpi", False, f"{mpiexec} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    if seen != ["2/2"] * 2:
        return Check("mpi", False, f"{mpiexec} started ranks that do not see each other ({seen}); it belongs to another MPI than mpi4py's")
    return Check("mpi", True, f"two ranks by {mpiexec} see each other")


def _disk() -> Check:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".campaign-doctor-") as folder:
        write_whole(Path(folder) / "probe", b"probe")
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return Check("disk", free_gb > 1.0, f"{Path.cwd()} takes durable writes; {free_gb:.0f} GB free")


def _slurm() -> Check:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return Check("slurm", True, 'no sbatch here: executor = "local" and "debug" work')
    done = subprocess.run([sbatch, "--version"], capture_output=True, text=True, timeout=10)
    if done.returncode:
        # Optional, so it does not fail the whole: packages may have put an sbatch here that knows no cluster.
        return Check(
            "slurm", True, f"{sbatch} knows no cluster, so only executors local and debug work: {done.stderr.strip().splitlines()[-1]}"
        )
    return Check("slurm", True, done.stdout.strip())


_CHECKS: dict[str, Callable[[], Check]] = {
    "python": _python,
    "torch": _torch,
    "kernels": _model,
    "mpi": _mpi,
    "disk": _disk,
    "slurm": _slurm,
}
