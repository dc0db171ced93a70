"""Recomputing stored structures with an independent ASE calculator, so that a converged store is not a matter of faith."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from campaign.outcomes import Outcome
from campaign.spec import CampaignSpec, RelaxSection
from campaign.store.audit import Finding
from campaign.store.reader import StoreReader
from campaign.units import GPA_PER_EV_PER_ANG3

TOLERANCES: Final[dict[str, tuple[float, float]]] = {"float64": (1e-7, 1e-6), "float32": (1e-4, 5e-3)}
"""By precision of the model: eV per atom between the energies, eV/Å between the forces, ours and ASE's."""


def recompute_sample(
    store: StoreReader, spec: CampaignSpec, count: int, seed: int, on_done: Callable[[int, int], None] | None = None
) -> tuple[int, list[Finding]]:
    """Recompute up to `count` converged systems, drawn by `seed`; return how many, and what does not agree.

    Energy and forces must be those that are stored, and forces and stress by ASE must be below the thresholds of the campaign.

    Raises:
        MissingDependencyError: the model is not installed.
        ContractError: no independent calculator exists for this model.
    """
    converged = np.flatnonzero(store.read_system("outcome")[:, 0] == Outcome.CONVERGED)
    rows = np.sort(np.random.default_rng(seed).choice(converged, min(count, len(converged)), replace=False))
    calculator = _calculator(spec)
    findings = []
    for at, row in enumerate(rows.tolist()):
        if on_done is not None:
            on_done(at, len(rows))
        values = store.read([row])
        for text in _disagreements(values, calculator, spec):
            findings.append(
                Finding(
                    text,
                    f"system_id {int(values['system_id'][0, 0])}",
                    "The store or the model's package changed since; compare its version in the store's provenance, or relax it again.",
                )
            )
    return len(rows), findings


def _calculator(spec: CampaignSpec) -> Any:
    # torch and the model's own package are needed for nothing else here.
    import torch

    from campaign.models.registry import create_model

    model = create_model(spec.model.name, getattr(torch, spec.model.dtype), torch.device("cpu"), dict(spec.model.options))
    return model.ase_calculator()


def _disagreements(values: dict[str, Any], calculator: Any, spec: CampaignSpec) -> list[str]:
    from ase import Atoms

    pbc, cell, fixed = values["pbc"][0], values["cell"][0], values["fixed"]
    atoms = Atoms(numbers=values["atomic_numbers"], positions=values["positions"], cell=cell, pbc=pbc)
    atoms.info = {}
    atoms.calc = calculator
    energy_tolerance, force_tolerance = TOLERANCES[spec.model.dtype]
    energy, forces = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces(apply_constraint=False))
    texts = []
    stored = float(values["energy"][0, 0])
    if not abs(energy - stored) <= energy_tolerance * len(atoms):
        texts.append(f"ASE computes {energy:.8f} eV, {stored:.8f} eV are stored; they may differ by {energy_tolerance:g} eV per atom.")
    difference = float(np.abs(forces - values["forces"]).max(initial=0.0))
    if not difference <= force_tolerance:
        texts.append(f"ASE's forces differ by up to {difference:.3g} eV/Å from those stored; {force_tolerance:g} is allowed.")
    limit = spec.relax.fmax_ev_per_ang
    fmax = float(np.linalg.norm(np.where(fixed, 0.0, forces), axis=1).max(initial=0.0))
    if not fmax <= limit + force_tolerance:
        texts.append(f"fmax by ASE is {fmax:.6g} eV/Å; converged is up to {limit} eV/Å.")
    if spec.relax.cell != "fixed" and pbc.any() and atoms.cell.rank == 3:
        smax = largest_stress(np.asarray(atoms.get_stress(voigt=False)), cell, pbc, spec.relax)
        # A force error on every pair across the cell shows in the stress divided by an area.
        allowed = spec.relax.smax_ev_per_ang3 * (1 + 1e-6) + force_tolerance / 10
        if not smax <= allowed:
            texts.append(f"largest stress by ASE is {smax:.6g} eV/Å³; converged is up to {spec.relax.smax_ev_per_ang3} eV/Å³.")
    return texts


def largest_stress(stress: Float[ndarray, "3 3"], cell: Float[ndarray, "3 3"], pbc: Bool[ndarray, " 3"], relax: RelaxSection) -> float:
    """Return the largest component of stress and pressure that the cell could follow: along periodic directions, as mode and mask allow.

    >>> from campaign.spec import RelaxSection
    >>> relax = RelaxSection(fmax_ev_per_ang=0.1, smax_ev_per_ang3=0.1, max_steps=1, cell="full")
    >>> largest_stress(np.diag([0.1, 0.2, 0.3]), np.eye(3), np.array([True, True, False]), relax)
    0.2
    """
    basis = np.linalg.qr(cell[pbc].T)[0]
    projector = basis @ basis.T
    allowed = _allowed_strains(projector, relax.strain_mask)
    followed = allowed @ (stress + relax.pressure_gpa / GPA_PER_EV_PER_ANG3 * np.eye(3)).ravel()
    swelling = allowed @ projector.ravel()
    mean = swelling * (swelling @ followed) / max(swelling @ swelling, 1e-10)
    if relax.cell == "isotropic":
        followed = mean
    elif relax.cell == "fixed_volume":
        followed = followed - mean
    return float(np.abs(followed).max())


def _allowed_strains(projector: Float[ndarray, "3 3"], mask: Sequence[bool]) -> Float[ndarray, "9 9"]:
    """Return the projector on the symmetric matrices ε = PεP whose masked components are zero."""
    units = np.zeros((6, 3, 3))
    for unit, (row, column) in zip(units, ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)), strict=True):
        unit[row, column] = unit[column, row] = 1.0 if row == column else 0.5**0.5
    free = units[np.array(mask)]
    outside = (projector @ free @ projector - free).reshape(-1, 9)
    _, lengths, rows = np.linalg.svd(outside.T)
    basis = rows[lengths < 1e-5] @ free.reshape(-1, 9)
    return np.asarray(basis.T @ basis)
