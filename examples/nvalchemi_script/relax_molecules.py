"""Relax a few molecules in one batch, with the same script on either package: `python relax_molecules.py [campaign | nvalchemi]`.

The argument is the root of every import and the only thing that differs. The script has what scripts for nvalchemi have: an optimizer of
its own, a `FusedStage` that relaxes roughly and then tightly with one model evaluation per step, guards, a log, a trajectory, and a sink
for what has converged. The model is the demonstration network, which knows no chemistry; what is to be seen is how the parts go together.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import torch
from ase.build import molecule

parser = argparse.ArgumentParser(description="Relax a few molecules with the demonstration model.")
parser.add_argument("package", nargs="?", choices=["campaign", "nvalchemi"], default="campaign")
parser.add_argument("--output", type=Path, default=Path(), help="folder for relax.csv and trajectory.zarr")

MOLECULES = ["H2O", "CH3OH", "C6H6", "C2H6"]
ROUGH, TIGHT = 0.05, 0.01
"""Largest forces on an atom, in eV/Å, at which the two stages end."""


def main(root: str, output: Path) -> None:
    """Relax all molecules and print a line for each."""
    data, dynamics, models = import_module(f"{root}.data"), import_module(f"{root}.dynamics"), import_module(f"{root}.models.demo")
    hooks, sinks = import_module(f"{root}.dynamics.hooks"), import_module(f"{root}.dynamics.sinks")

    class Descent(dynamics.BaseDynamics):
        """Steepest descent: each atom goes along its force, at most 0.2 Å a step."""

        __needs_keys__: ClassVar = {"forces"}
        __provides_keys__: ClassVar = {"positions"}

        def __init__(self, model: object, rate: float, **options: object) -> None:
            super().__init__(model, **options)
            self.rate = rate

        def pre_update(self, batch: object) -> None:
            step = self.rate * batch.forces
            length = step.norm(dim=1, keepdim=True).clamp(min=1e-12)
            batch.positions.add_(step * (0.2 / length).clamp(max=1.0))

    torch.manual_seed(3)
    model = models.DemoModelWrapper(models.DemoModel()).double().eval()
    structures = [data.AtomicData.from_atoms(molecule(name), dtype=torch.float64) for name in MOLECULES]
    for atoms in structures:
        atoms.energy, atoms.forces = torch.zeros(1, 1, dtype=torch.float64), torch.zeros_like(atoms.positions)
    batch = data.Batch.from_data_list(structures)
    batch["system_id"] = torch.arange(len(MOLECULES)).unsqueeze(1)
    before = model(batch)["energy"].detach().flatten().tolist()
    batch.positions.requires_grad_(False)

    relaxed, trajectory = sinks.HostMemory(capacity=100), sinks.ZarrData(output / "trajectory.zarr", capacity=10_000)
    rough = Descent(model, 2.0, convergence_hook=dynamics.ConvergenceHook.from_fmax(ROUGH))
    tight = Descent(model, 1.0, convergence_hook=dynamics.ConvergenceHook.from_fmax(TIGHT))
    tight.register_hook(hooks.ConvergedSnapshotHook(relaxed))
    stage = rough + tight
    stage.register_hook(hooks.NaNDetectorHook())
    stage.register_hook(hooks.MaxForceClampHook(max_force=5.0))
    stage.register_hook(hooks.LoggingHook("csv", frequency=10, log_path=output / "relax.csv"))
    stage.register_hook(hooks.SnapshotHook(trajectory, frequency=10))
    batch = stage.run(batch, n_steps=2000)

    print("molecule  status  energy before  after (eV)  largest force (eV/Å)")
    for place, name in enumerate(MOLECULES):
        atoms = batch.get_data(place)
        fmax = float(atoms.forces.norm(dim=1).max())
        print(f"{name:8}  {int(batch.status[place]):6}  {before[place]:13.4f}  {float(atoms.energy):10.4f}  {fmax:20.4f}")
    converged = sorted(set(relaxed.read().system_id.flatten().tolist()))
    print(f"{len(converged)} of {len(MOLECULES)} relaxed in {stage.step_count} steps; {len(trajectory)} frames")


if __name__ == "__main__":
    arguments = parser.parse_args()
    main(arguments.package, arguments.output)
