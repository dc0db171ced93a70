"""The one table of what differs from nvalchemi-toolkit 0.2.0 on purpose: docs/contract.md shows it, tests prove its rows by name."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What the reference does, what we do, and why where that does not go without saying; in the words of the page."""

    there: str
    here: str
    why: str = ""


DIFFERENCES: dict[str, Difference] = {
    # Structures and batches
    "masses": Difference("periodictable's", "ASE's", "structures come from ASE and are checked with it"),
    "constants": Difference("CODATA 2018", "those of `ase.units`", "the same; times differ by 3e-9, temperatures by 4e-7"),
    "from_atoms": Difference(
        "takes numbers (int32), cell and labels; a slab without a third vector is refused; no atoms make an empty structure",
        "takes velocities, constraints (`fixed`, `symprec`), tags, initial charges and magnetic moments too; numbers are "
        "int64; every structure has "
        "cell and pbc; `info` stays as it is; a slab is fine, no atoms are refused",
        "what came in must go out again",
    ),
    "own keys": Difference(
        "`add_node_property` takes any number of rows, and batching drops the key, as it drops keys without a level",
        "rows are checked; all of them are batched; a key without a level is refused",
        "levels are declared, never guessed from shapes",
    ),
    "uneven structures": Difference(
        "the first structure's keys decide: further ones are dropped, and a lattice that others lack is an error",
        "other keys are refused; a structure without a cell has a zero cell",
    ),
    "levels": Difference(
        "a key set on a batch is per system, unless it is one of a few; `keys` does not list it, and `ZarrData` does not store it; "
        "`atom_categories`, neighbour matrices and embeddings cannot be set at all",
        "has its declared level; `keys` lists it; it is stored",
    ),
    "edges": Difference(
        "a batch without a neighbour list has no numbers of edges", "zeros, one per system", "code that sums them need not ask"
    ),
    "batch_ptr": Difference("int64; int32 after `put`", "int32", "what kernels take"),
    "batch_idx": Difference("of a buffer is that of the first look at it, whatever is put in later", "follows"),
    "indices": Difference(
        "`index_select` and `trim` take masks that are too short; floats are cut to integers, booleans in a list are numbers",
        "IndexError, of `trim` ValueError; booleans in a list are a mask",
    ),
    "append": Difference(
        "drops keys that one side lacks, takes over neighbours of one side alone, mixes dtypes",
        "zeros for systems that lack a key; no neighbours unless both have them; other dtypes are refused",
    ),
    "renumbering": Difference(
        "neighbour matrices after `index_select` and `append`, neighbour lists after `defrag`, point to atoms of before",
        "all are renumbered",
        "they would name atoms of other systems",
    ),
    "put dtypes": Difference("`put` copies float32; of keys that the source lacks it says nothing", "every dtype; the latter are refused"),
    "put places": Difference(
        "with more systems than places none is copied; without `dest_mask` a second `put` overwrites values per system",
        "as many as fit; a second one adds",
    ),
    "buffer in use": Difference("keys and `num_nodes` of a buffer count all of its room", "only what is in use"),
    # Sinks
    "sink keys": Difference(
        "`ZarrData.read` loses every key of one's own, `status` and `system_id` too; `HostMemory` casts them to the dtype of positions",
        "all keys are kept, with level and dtype",
        "a result without its `system_id` is nobody's",
    ),
    "stored neighbours": Difference("`ZarrData` keeps neighbour lists", "it does not", "they can be made again"),
    "other keys": Difference(
        "a later write may have other keys or dtypes: new ones are dropped, missing ones make the store unreadable",
        "FieldError, nothing written",
    ),
    "views": Difference(
        "`HostMemory` keeps views of a batch that lives in main memory: a trajectory is its last frame again and again",
        "copies",
    ),
    "capacity": Difference("any number", "a whole number of 1 or more"),
    "mask shape": Difference("masks of shape [N, 1] pass", "[N] only"),
    "gpu buffer": Difference(
        "refuses any device but CUDA", '`device="cpu"` where asked for', "code around a buffer can be tried without a GPU"
    ),
    "sink choice": Difference(
        "systems that leave go to the first sink that is not full, which raises if its room is too small", "the next one is tried"
    ),
    "appending": Difference(
        "`ZarrData.write` reads pointers again, more each time",
        "reads nothing back",
        "40 → 116 ms per write after 200 writes",
    ),
    "kills": Difference(
        "a kill in the middle of a write misaligns the store",
        "fields, then pointers, then the count, each durable; readers see committed systems only",
        "results cost GPU-hours",
    ),
    "existing stores": Difference(
        "`ZarrData` over an existing store knows nothing of it; `zero()` removes whatever folder is there, and leaves store objects full",
        "reads what is there; one writer per store, ever; `zero()` empties stores and refuses what is none",
    ),
    "zarr config": Difference(
        "compression and chunks per array; unknown keys are ignored",
        "`flush_s`, `system_chunk_rows`, `atom_chunk_rows`; unknown keys are refused",
        "the layout is that of all our stores",
    ),
    # Hooks
    "once": Difference(
        "`ConvergedSnapshotHook` writes every system that meets the criteria, in each step in which it does",
        "each system once, ever; noted on the batch",
        "a system that stays in the batch was stored again and again",
    ),
    "matrix widths": Difference("snapshots with neighbour matrices cannot be read once their width has changed", "every sink copes"),
    "snapshots": Difference(
        "have what is on the batch",
        "with it the state of the dynamics, as `dynamics_…`; `with_state=False` leaves it out",
        "a run goes on from them with the bits of the one that was interrupted",
    ),
    "freezing": Difference(
        "`FreezeAtomsHook` puts atoms back at the end of a step",
        "before the model is evaluated too, and zeroes forces as soon as they are there",
        "forces on the others were those of displaced atoms; optimizers saw forces they could not follow",
    ),
    "log errors": Difference("`LoggingHook` loses errors of its writer thread", "raises them"),
    "log again": Difference("a second run starts the file anew", "continues it"),
    "log columns": Difference(
        "every number is a float",
        "`step`, `graph_idx` and `status` are integers; there is a column `system_id` where systems have one",
        "places in a batch change with each refill",
    ),
    "infinite forces": Difference(
        "`MaxForceClampHook` turns them into NaN", "leaves them alone", "the detector should see what the model gave"
    ),
    "degrees of freedom": Difference("temperatures count 3 per atom", "those that can move"),
    "hook checks": Difference(
        "stage and frequency are looked at; hooks of `register_fused_hook` may have no stage",
        "the signature and optional methods too; what is missing is a TypeError",
        "what is wrong is found before the first step",
    ),
    "default stages": Difference(
        "`NeighborListHook` and `WrapPeriodicHook` have none, so registering them without one fails",
        "BEFORE_COMPUTE and AFTER_POST_UPDATE",
    ),
    "wrapping": Difference(
        "Cartesian components are put back for directions that are not periodic; shifts of neighbours go stale; a batch without cells is "
        "an error",
        "whole periodic vectors; neighbours are made anew; nothing happens",
        "in a tilted slab atoms ended up in other places of the crystal",
    ),
    "shifts": Difference("neighbours have shifts if the batch has pbc", "always"),
    "converged_mask": Difference("told at the stages of later steps too", "told at ON_CONVERGE"),
    "skin": Difference("`NeighborListHook` takes no note of `config.skin`", "uses it unless `skin` is given"),
    "nonsense": Difference(
        "a time step of 0, a negative temperature, friction, skin or cutoff, a greatest force of 0, a frequency `True` pass",
        "are refused",
    ),
    # Dynamics
    "first step": Difference(
        "integrators and optimizers move a system with the forces it came with",
        "the first step of a system evaluates it and moves nothing; a `FusedStage` evaluates before it starts, as there",
        "forces from a dataset are another method's; without any, the first kick is wrong",
    ),
    "noise": Difference(
        "depends on place in the batch and on the engine's step",
        "keyed by seed, `system_id`, the system's own step, atom",
        "a trajectory is the same in any batch, after any refill",
    ),
    "fixed": Difference("all atoms move", 'components in `batch["fixed"]` do not', "ASE's constraints come with structures"),
    "systems that left": Difference(
        "are moved, evaluated there and put back", "stay where they are", "their energy and forces were those of another place"
    ),
    "missing outputs": Difference(
        "an output is dropped if the batch has no such key; `DemoDynamics` fails without forces or velocities", "the key is added"
    ),
    "budgets": Difference(
        "the step in which a system is handed on counts for its next sub-stage as well",
        "each sub-stage does its `n_steps`",
        "a stage of one step was skipped",
    ),
    "fused hooks": Difference(
        "those of `register_fused_hook` are silent at BEFORE_COMPUTE and AFTER_COMPUTE, against what its documentation says", "they fire"
    ),
    "counters": Difference("steps are counted on every batch of the process", "of this `FusedStage`"),
    "complete": Difference("all systems have exactly `exit_status`", "or more", "a run with a larger status never ended"),
    "entry_status": Difference("not given to systems of a sampler", "given"),
    "criteria": Difference(
        "unknown keys are ignored; an empty list is met by all; a tensor of more dimensions fails",
        "refused; refused; the largest value counts",
    ),
    "FIRE": Difference("moves masses; `dt` never falls below 0.02 of its start", "the steps of `ase.optimize.FIRE`"),
    "FIRE2": Difference(
        "defaults of its own, and other steps than ASE's with the same parameters",
        "defaults and steps of `ase.optimize.fire2`; its half step back is a step of its own",
    ),
    "variable cell": Difference(
        "`FIREVariableCell` never changes the cell", "relaxes it by small strains", "see [decision 2](decisions/0002-strain-steps.md)"
    ),
    "system ids": Difference("`SizeAwareSampler` numbers systems anew", "keeps a `system_id` that they bring"),
    "shuffling": Difference("with the process's random numbers", "with a seed of its own", "it can be repeated"),
    # Models
    "gradients": Difference("a model leaves `requires_grad` on the batch's positions", "it does not"),
    "unknown outputs": Difference("`active_outputs` that a model lacks are dropped", "ModelOutputError"),
    "embeddings": Difference("`graph_embeddings` of the demo model sum the first feature alone", "all of them"),
    "checkpoints": Difference(
        "`DemoModelWrapper.from_checkpoint` unpickles, and cannot use what `export_model` saved",
        "loads what `export_model` saved, tensors only",
        "no pickle is ever loaded",
    ),
    "wrong calls": Difference(
        "a call that cannot be right raises what Python meets first: AttributeError, IndexError, KeyError, RuntimeError",
        "ArgumentError or BatchError (ValueError), TypeError, before anything has changed",
    ),
}
"""By name, in the order of the page."""
