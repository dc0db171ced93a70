"""Every error this project raises on purpose, sorted by what a person does next.

    CampaignError
    ├── SpecError                  mend campaign.toml or the command line
    │   ├── UnknownKeyError            a key that the spec does not know
    │   ├── UnknownModelError          a model name that the registry does not know
    │   ├── CampaignExistsError        the directory is a campaign already
    │   └── CampaignNotFoundError      the directory is no campaign
    ├── InputError                 mend an input structure
    ├── MissingDependencyError     install something
    ├── ResourceError              ask for more memory, disk or time
    │   ├── MissingDeviceError         a device was asked for that is not there
    │   ├── DeviceLostError            a GPU does not answer this process any more
    │   ├── FileWriteError             a file or folder of the campaign cannot be written
    │   ├── SinkFullError              a sink has no room for what was written
    │   └── NeighborListError          a cell so small or flat that its neighbour list would be endless
    ├── JobError                   look at the scheduler
    │   ├── SubmissionError            the job was not accepted
    │   └── LauncherError              the ranks of a job cannot work together
    ├── IncompleteError            go on with the campaign: `campaign resume`
    ├── StoreError                 look at the files
    │   ├── StoreExistsError           create was asked for, something is there
    │   ├── StoreNotFoundError         open was asked for, nothing is there
    │   ├── StoreDamagedError          what is there does not add up
    │   ├── FieldError                 a field is missing, unknown or has the wrong shape
    │   └── ModelMismatchError         shards of different models would be mixed
    └── ContractError              mend the code that calls us
        ├── HookError                  a hook that cannot be registered
        │   └── HookFrequencyError         a frequency that is no positive integer
        ├── ArgumentError              a call was given a value that it does not take
        ├── OperandError               a call was given something of the wrong type
        ├── SamplerError               new systems were asked for without a sampler, or of an empty one
        ├── ModelOutputError           a model did not return what the dynamics needs
        ├── EmptySinkError             a read from a sink that holds nothing
        └── BatchError                 tensors of a batch that do not fit each other
            ├── BatchIndexError            a system that a batch does not have
            └── BatchKeyError              a key that a batch does not have

`code` is stable and for programs; the text is for people and has three parts: what was seen and where, what is allowed, what to do.
All errors pickle, since they cross ranks and Dask workers. Some are also the built-in error that callers of the dynamics contract expect.
"""

from __future__ import annotations

from typing import ClassVar


class CampaignError(Exception):
    """Base of all errors raised on purpose.

    `code` names the kind for programs; `exit_code` is what the command line ends with.
    """

    code: ClassVar[str] = "campaign"
    exit_code: ClassVar[int] = 1


class SpecError(CampaignError, ValueError):
    """The spec or the command line asks for something that is not legal."""

    code = "spec"
    exit_code = 2


class UnknownKeyError(SpecError):
    """The spec has a key that nothing reads; the text names the nearest known one."""

    code = "spec.unknown_key"


class UnknownModelError(SpecError):
    """No model of that name is registered."""

    code = "spec.unknown_model"


class CampaignExistsError(SpecError):
    """The directory holds a campaign already; `campaign resume` goes on with it."""

    code = "spec.campaign_exists"


class CampaignNotFoundError(SpecError):
    """The directory holds no campaign."""

    code = "spec.campaign_not_found"


class InputError(CampaignError, ValueError):
    """A structure cannot be used; the text names file, frame and reason."""

    code = "input"
    exit_code = 2


class MissingDependencyError(CampaignError, ImportError):
    """An optional package is not installed; the text has the install command."""

    code = "missing_dependency"
    exit_code = 2


class ResourceError(CampaignError):
    """More of something finite is needed: memory, disk, quota, time."""

    code = "resource"


class MissingDeviceError(ResourceError, RuntimeError):
    """A device was asked for that this machine does not have, or that cannot do what was asked."""

    code = "resource.missing_device"


class DeviceLostError(ResourceError, RuntimeError):
    """A GPU does not answer this process any more; `by_kernel` says whether code that ran there did it, and not the machine."""

    code = "resource.device_lost"

    def __init__(self, message: str, by_kernel: bool = False) -> None:
        super().__init__(message)
        self.by_kernel = by_kernel


class FileWriteError(ResourceError, OSError):
    """A file or folder cannot be written, made or removed: no room, no right, or a file system that is read-only or gone."""

    code = "resource.file_write"

    # OSError shows errno and path in its own way when they are set, which is wrong for a sentence.
    __str__ = Exception.__str__


class SinkFullError(ResourceError, RuntimeError):
    """A sink has no room for all systems of a write; nothing was written."""

    code = "resource.sink_full"


class NeighborListError(ResourceError):
    """The neighbour list of some systems would be endless or larger than memory; `systems` has their positions in the batch."""

    code = "resource.neighbor_list"

    def __init__(self, message: str, systems: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.systems = systems


class JobError(CampaignError):
    """The scheduler, or a job under it, did not do what was asked."""

    code = "job"


class SubmissionError(JobError):
    """A job was not accepted."""

    code = "job.submission"


class LauncherError(JobError):
    """The processes of a job do not form the group of ranks that was asked for."""

    code = "job.launcher"


class IncompleteError(CampaignError):
    """Inputs have no outcome yet, and what was asked for needs all of them."""

    code = "incomplete"


class StoreError(CampaignError):
    """A store on disk, in memory or behind a URL cannot be used."""

    code = "store"


class StoreExistsError(StoreError, FileExistsError):
    """A store was to be created where something exists."""

    code = "store.exists"


class StoreNotFoundError(StoreError, FileNotFoundError):
    """A store was to be opened where there is none."""

    code = "store.not_found"


class StoreDamagedError(StoreError):
    """Arrays of a store do not add up; the text names array and position."""

    code = "store.damaged"


class FieldError(StoreError, ValueError):
    """A field is missing, unknown, or has another shape or dtype than declared."""

    code = "store.field"


class ModelMismatchError(StoreError):
    """Shards were computed by different models and must not be mixed."""

    code = "store.model_mismatch"


class ContractError(CampaignError):
    """Code that calls the library does something that its contract rules out."""

    code = "contract"


class HookError(ContractError, TypeError):
    """A hook has no usable stage, frequency or signature."""

    code = "contract.hook"


class HookFrequencyError(HookError, ValueError):
    """A hook's frequency is no positive integer."""

    code = "contract.hook_frequency"


class ArgumentError(ContractError, ValueError):
    """A call was given a value that it does not take, such as a mask of the wrong length."""

    code = "contract.argument"


class OperandError(ContractError, TypeError):
    """A call was given something of a type that it cannot work with, such as a model that is no `BaseModelMixin`."""

    code = "contract.operand"


class SamplerError(ContractError, RuntimeError):
    """New systems were asked for where no sampler is, or where it has none that fits."""

    code = "contract.sampler"


class ModelOutputError(ContractError, RuntimeError):
    """A model did not return an output that the dynamics needs."""

    code = "contract.model_output"


class EmptySinkError(ContractError, RuntimeError):
    """A sink was read before anything was written to it."""

    code = "contract.empty_sink"


class BatchError(ContractError, ValueError):
    """Tensors that should form a batch, or become part of one, do not fit."""

    code = "contract.batch"


class BatchIndexError(BatchError, IndexError):
    """A batch has no such system, or none was named."""

    code = "contract.batch_index"


class BatchKeyError(BatchError, KeyError):
    """A batch has no such key."""

    code = "contract.batch_key"

    # KeyError shows the repr of its argument, which is wrong for a sentence.
    __str__ = Exception.__str__
