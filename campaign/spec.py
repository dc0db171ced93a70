"""What a campaign is asked to do: the frozen contents of `campaign.toml`, validated once.

Legal keys, defaults and help all come from the classes below. Every scalar with a unit has it in its name. Paths in a spec are
relative to the folder of the file they stand in; the copy that is frozen into the campaign directory holds them absolute. A campaign
directory may be moved all the same: `read_frozen_spec` takes the directory from where the copy lies.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from campaign.errors import SpecError, UnknownKeyError
from campaign.files import create_whole
from campaign.paths import CampaignPaths


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CampaignSection(_Section):
    """`[campaign]`: what it is called and where it lives."""

    name: str = Field(min_length=1, max_length=100, description="name for people and job queues")
    directory: str = Field(min_length=1, description="campaign directory, made by `campaign run`")

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError("must be printable, on one line, without blanks at its ends")
        return name


class InputsSection(_Section):
    """`[inputs]`: files, folders, globs (`**` too), ASE databases or stores."""

    paths: tuple[str, ...] = Field(min_length=1, strict=False, description="what to read, in this order; within one entry by name")
    base: str = Field(".", min_length=1, description="folder that the names of sources are relative to; by default the spec's own")


FLOAT32_MODELS: Final = frozenset({"sevennet", "chgnet"})
"""Models that compute in float32 and in nothing else; the others compute in float64 unless they are asked not to."""


def _own_dtype(given: dict[str, Any]) -> Literal["float64", "float32"]:
    return "float32" if given.get("name") in FLOAT32_MODELS else "float64"


class ModelSection(_Section):
    """`[model]`: the potential."""

    name: Literal["lj", "morse", "emt", "demo", "sevennet", "chgnet", "mace", "ase"] = Field(description="which potential")
    dtype: Literal["float64", "float32"] = Field(default_factory=_own_dtype, description="precision; by default the model's own")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    deterministic: bool = Field(False, description="a structure's bits do not depend on others, at the cost told in docs/models.md")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model, see docs/models.md")


class RelaxSection(_Section):
    """`[relax]`: optimizer and thresholds. A preset fills in what is not given."""

    preset: Literal["screening", "matbench", "phonon"] = Field("matbench", description="named set of thresholds")
    optimizer: Literal["fire", "fire2", "lbfgs"] = Field("fire", description="optimizer")
    fmax_ev_per_ang: float = Field(gt=0, strict=False, description="largest force on an atom when converged")
    smax_ev_per_ang3: float = Field(gt=0, strict=False, description="largest stress component when converged, where the cell relaxes")
    max_steps: int = Field(ge=0, description="optimizer steps before the outcome is max_steps")
    cell: Literal["fixed", "isotropic", "full", "fixed_volume"] = Field(
        "fixed", description="how the cell relaxes, along periodic directions only"
    )
    strain_mask: tuple[bool, bool, bool, bool, bool, bool] = Field(
        (True,) * 6, strict=False, description="Cartesian components of the strain that are free: xx, yy, zz, yz, xz, xy"
    )
    pressure_gpa: float = Field(
        0.0, allow_inf_nan=False, strict=False, description="pressure from outside on what the cell can follow; negative pulls"
    )
    fix_symmetry: bool = Field(False, description="keep the space group that each structure has (needs spglib)")
    maxstep_ang: float = Field(0.2, gt=0, le=1.0, strict=False, description="longest displacement of a system in one step (its 3N-vector)")

    @field_validator("strain_mask", "pressure_gpa")
    @classmethod
    def _cell_follows(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("cell") == "fixed" and value not in ((True,) * 6, 0.0):
            raise ValueError('does nothing while relax.cell is "fixed"; choose "full", "isotropic" or "fixed_volume", or leave it out')
        return value

    @field_validator("fix_symmetry")
    @classmethod
    def _no_mask(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not all(info.data.get("strain_mask", ())):
            raise ValueError("and a strain_mask exclude each other: a cell may have to strain what is masked. Leave one out")
        return value


PRESETS: Final[dict[str, dict[str, float | int]]] = {
    "screening": {"fmax_ev_per_ang": 0.05, "smax_ev_per_ang3": 0.005, "max_steps": 300},
    "matbench": {"fmax_ev_per_ang": 0.02, "smax_ev_per_ang3": 0.002, "max_steps": 500},
    "phonon": {"fmax_ev_per_ang": 0.001, "smax_ev_per_ang3": 0.0001, "max_steps": 2000},
}
"""Thresholds by preset; a key given in `[relax]` overrides them."""


class TrajectorySection(_Section):
    """`[trajectory]`: frames on the way."""

    every: int = Field(0, ge=0, description="store a frame every so many optimizer steps; 0 stores none")


class SlurmSection(_Section):
    """`[execution.slurm]`: what is asked of SLURM."""

    partition: str | None = Field(None, description="--partition")
    account: str | None = Field(None, description="--account")
    qos: str | None = Field(None, description="--qos")
    constraint: str | None = Field(None, description="--constraint")
    time_min: int = Field(60, ge=1, description="--time in minutes")
    gpus_per_rank: int = Field(0, ge=0, description="GPUs of each rank")
    cpus_per_rank: int = Field(1, ge=1, description="CPU cores of each rank")
    mem_gb: float = Field(4.0, gt=0, strict=False, description="memory of each rank")
    max_running: int | None = Field(None, ge=1, description="array tasks that may run at the same time")
    setup: tuple[str, ...] = Field((), strict=False, description="shell lines before the job, such as module load")
    extra: dict[str, str | int | bool] = Field(default_factory=dict, description="any other sbatch parameter")
    launcher: Literal["srun-pmix", "srun-pmi2", "mpirun", "none"] = Field("srun-pmix", description="what starts the ranks")

    @field_validator("partition", "account", "qos", "constraint")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.@:,&|*+\-\[\]()]+", value):
            raise ValueError("has characters that no SLURM name has")
        return value


class ExecutionSection(_Section):
    """`[execution]`: where and how wide."""

    executor: Literal["local", "slurm", "debug"] = Field("local", description="submitit's executor")
    array_tasks: int = Field(1, ge=1, description="array tasks of a round")
    ranks_per_task: int = Field(1, ge=1, description="MPI ranks of an array task, one per GPU or core")
    threads_per_rank: int | None = Field(None, ge=1, description="CPU threads of a rank; by default its share of the cores")
    launcher: Literal["mpirun", "none"] = Field("mpirun", description="for local and debug: MPI, or one process per rank with claim files")
    max_atoms_in_batch: int = Field(4096, ge=1, description="atoms of a rank's batch; a larger system runs alone")
    max_systems_in_batch: int = Field(512, ge=1, description="systems of a rank's batch")
    flush_s: float = Field(5.0, gt=0, strict=False, description="seconds until finished systems are on disk; docs/store.md: when longer")
    max_rounds: int = Field(3, ge=1, description="rounds that `campaign run` submits before it stops short")
    slurm: SlurmSection = SlurmSection.model_validate({})


class ConsolidateSection(_Section):
    """`[consolidate]`: who makes the store, with how much memory."""

    workers: Literal["auto", "threads", "local", "scheduler", "slurm"] = Field(
        "auto", description="threads, processes on this machine (local), a Dask scheduler, or jobs of SLURM; auto is one of the first two"
    )
    n_workers: int = Field(0, ge=0, description="threads, processes or jobs; 0 takes one for each core, and as many jobs as array tasks")
    scheduler: str | None = Field(None, min_length=1, description="address of the Dask scheduler, such as tcp://10.0.0.1:8786")
    memory_gb: float = Field(2.0, gt=0, strict=False, description="memory of one machine's share of the work")

    @field_validator("scheduler")
    @classmethod
    def _wanted(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("workers") != "scheduler":
            raise ValueError('does nothing unless consolidate.workers is "scheduler"; set that, or leave it out')
        return value


class CampaignSpec(_Section):
    """A whole spec. Frozen: the copy in the campaign directory never changes."""

    campaign: CampaignSection
    inputs: InputsSection
    model: ModelSection
    relax: RelaxSection
    trajectory: TrajectorySection = TrajectorySection.model_validate({})
    execution: ExecutionSection = ExecutionSection.model_validate({})
    consolidate: ConsolidateSection = ConsolidateSection.model_validate({})

    @model_validator(mode="after")
    def _has_scheduler(self) -> CampaignSpec:
        if self.consolidate.workers == "scheduler" and self.consolidate.scheduler is None:
            raise ValueError('consolidate.workers is "scheduler" and consolidate.scheduler is missing; give its address')
        return self

    @property
    def paths(self) -> CampaignPaths:
        """Paths of the campaign directory."""
        return CampaignPaths(Path(self.campaign.directory))


def parse_spec(text: str, folder: Path, source: str = "campaign.toml") -> CampaignSpec:
    """Return the spec in `text`; relative paths in it are taken from `folder`.

    Raises:
        UnknownKeyError: a key that nothing reads, with the nearest known one.
        SpecError: not TOML, a value out of range, a key missing; the text has one line per fault.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source} is not valid TOML: {error}. Mend that line.") from error
    _refuse_unknown_keys(raw, CampaignSpec, source)
    relax = raw.setdefault("relax", {})
    if isinstance(relax, dict):
        raw["relax"] = {**PRESETS.get(str(relax.get("preset", "matbench")), {}), **relax}
    try:
        spec = CampaignSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(_describe(error, source)) from None
    options = dict(spec.model.options)
    if isinstance(options.get("path"), str) and options["path"]:
        options["path"] = _resolve(options["path"], folder)
    absolute = {
        "model": spec.model.model_copy(update={"options": options}),
        "campaign": spec.campaign.model_copy(update={"directory": _resolve(spec.campaign.directory, folder)}),
        "inputs": spec.inputs.model_copy(
            update={"paths": tuple(_resolve(path, folder) for path in spec.inputs.paths), "base": _resolve(spec.inputs.base, folder)}
        ),
    }
    return spec.model_copy(update=absolute)


def read_spec(path: str | Path) -> CampaignSpec:
    """Return the spec in a file.

    Raises:
        SpecError: the file cannot be read, or see `parse_spec`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the spec {path}: {error}. Give the path of a campaign.toml; `campaign init` writes one.") from error
    return parse_spec(text, path.absolute().parent, str(path))


def read_frozen_spec(paths: CampaignPaths) -> CampaignSpec:
    """Return the spec of a campaign as it was frozen, with the directory that the campaign has now: it may have been moved or copied.

    Raises:
        SpecError: it cannot be read.
    """
    spec = read_spec(paths.spec)
    return spec.model_copy(update={"campaign": spec.campaign.model_copy(update={"directory": str(paths.root)})})


def frozen_toml(spec: CampaignSpec) -> bytes:
    """Return what `freeze_spec` writes: absolute paths, all defaults spelled out. Equal specs give equal bytes."""
    import tomli_w

    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True)).encode()


def freeze_spec(spec: CampaignSpec) -> None:
    """Write the spec into its campaign directory, with absolute paths and all defaults spelled out.

    Raises:
        FileExistsError: there is one already; a frozen spec never changes.
        FileWriteError: it cannot be written.
    """
    create_whole(spec.paths.spec, frozen_toml(spec))


def _resolve(path: str, folder: Path) -> str:
    # An URL is left alone; normpath keeps globs as they are.
    return path if "://" in path else os.path.normpath(folder / Path(path).expanduser())


def _refuse_unknown_keys(raw: dict[str, Any], section: type[BaseModel], source: str, prefix: str = "") -> None:
    known = section.model_fields
    for key, value in raw.items():
        if key not in known:
            near = _nearest(key, known)
            hint = f"did you mean {prefix + near!r}?" if near else f"known are {', '.join(sorted(known))}."
            raise UnknownKeyError(f"{source}: unknown key {prefix + key!r}; {hint} Correct or remove it.")
        annotation = known[key].annotation
        if isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            _refuse_unknown_keys(value, annotation, source, f"{prefix}{key}.")


def _nearest(key: str, known: Iterable[str]) -> str | None:
    # People leave the unit out (fmax) more often than they mistype, so a common beginning counts before similarity.
    begun = [name for name in known if name.startswith(f"{key}_")]
    return next(iter(begun or difflib.get_close_matches(key, known, 1, 0.5)), None)


def _describe(error: ValidationError, source: str) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        if fault["type"] == "default_factory_not_called":
            continue  # what follows from a key that is wrong itself, and is told above
        where = ".".join(str(part) for part in fault["loc"])
        seen = "" if fault["type"] == "missing" else f" (given: {fault['input']!r})"
        near = _nearest_choice(fault["input"], str(fault.get("ctx", {}).get("expected", "")))
        lines.append(f"{source}: {where}: {fault['msg']}{seen}. {f'Did you mean {near!r}?' if near else 'Correct it.'}")
    return "\n".join(lines)


def _nearest_choice(given: object, expected: str) -> str | None:
    """Return the word that pydantic expected, such as in "'lj', 'emt' or 'mace'", nearest to the one given."""
    choices = re.findall(r"'([^']+)'", expected)
    return next(iter(difflib.get_close_matches(given, choices, 1, 0.6)), None) if isinstance(given, str) else None
