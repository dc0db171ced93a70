"""Structures, batches, a model, a dataset and a hook that both packages take, for the scripts that compare them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from two_packages import Package

SIZES = (3, 1, 4)
"""Atoms of the systems of a usual batch."""

EDGES = (5, 1, 2)
"""Edges of the systems of a batch with neighbours; they are made up."""

FLOAT32, FLOAT64 = torch.float32, torch.float64


def structure(p: Package, n: int = 3, seed: int = 0, dtype: torch.dtype = FLOAT32, n_edges: int = 0, **properties: Any) -> Any:
    """Return a structure whose every number follows from `seed`; its energy is `seed`."""
    g = torch.Generator().manual_seed(seed)
    made: dict[str, Any] = {
        "positions": torch.randn(n, 3, generator=g, dtype=FLOAT64).to(dtype),
        "atomic_numbers": torch.randint(1, 90, (n,), generator=g),
        "atomic_masses": torch.rand(n, generator=g).to(dtype) + 1,
        "energy": torch.full((1, 1), float(seed), dtype=dtype),
        "forces": torch.randn(n, 3, generator=g).to(dtype),
    }
    if n_edges:
        made["neighbor_list"] = torch.randint(0, n, (n_edges, 2), generator=g)
        made["neighbor_list_shifts"] = torch.randint(-1, 2, (n_edges, 3), generator=g)
    return p.AtomicData(**{**made, **properties})


def lattice(size: float = 5.0, dtype: torch.dtype = FLOAT32) -> dict[str, Tensor]:
    """Return the properties that make a structure a slab in a cubic cell."""
    return {"cell": torch.eye(3, dtype=dtype)[None] * size, "pbc": torch.tensor([[True, True, False]])}


def batch(p: Package, sizes: Sequence[int] = SIZES, n_edges: Sequence[int] | None = None, **properties: Any) -> Any:
    """Return a batch of such structures with seeds 0, 1, 2 and so on."""
    edges = n_edges or [0] * len(sizes)
    return p.Batch.from_data_list([structure(p, n, i, n_edges=e, **properties) for i, (n, e) in enumerate(zip(sizes, edges, strict=True))])


def with_edges(p: Package, **properties: Any) -> Any:
    """Return a batch with neighbour lists."""
    return batch(p, (3, 2, 4), EDGES, **properties)


def with_ids(p: Package, first: int = 0, make: Callable[..., Any] = batch, **properties: Any) -> Any:
    """Return a batch with `status` 0 and `system_id` from `first` on."""
    made = make(p, **properties)
    made["system_id"] = torch.arange(first, first + len(made)).unsqueeze(1)
    made["status"] = torch.zeros(len(made), 1, dtype=torch.int64)
    return made


def at_rest(p: Package, **properties: Any) -> Any:
    """Return a batch whose forces and energies were never computed: all zero."""
    made = batch(p, **properties)
    made.forces.zero_()
    made.energy.zero_()
    return made


def tensors_of(data: Any) -> dict[str, Tensor]:
    """Return the tensors of a structure by name."""
    everything = data.model_dump(exclude_none=True) if hasattr(data, "model_dump") else data.to_dict()
    return {key: value for key, value in everything.items() if isinstance(value, Tensor)}


def mask(*entries: int) -> Tensor:
    """Return a mask from zeros and ones."""
    return torch.tensor(entries, dtype=torch.bool)


class Structures:
    """A dataset of structures of these sizes, as samplers take it; the energy of each is its position."""

    def __init__(self, p: Package, sizes: Sequence[int], n_edges: Sequence[int] | None = None, first_id: int | None = None) -> None:
        self.p, self.sizes, self.n_edges, self.first_id = p, sizes, n_edges or [0] * len(sizes), first_id

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        data = structure(self.p, self.sizes[index], index, n_edges=self.n_edges[index])
        if self.first_id is not None:
            data.add_system_property("system_id", torch.tensor([[self.first_id + index]]))
        return data, {}

    def get_metadata(self, index: int) -> tuple[int, int]:
        return self.sizes[index], self.n_edges[index]


def trap(
    p: Package, k: float = 1.0, outputs: Sequence[str] = ("energy", "forces"), stress: float = 0.0, calls: list[int] | None = None
) -> Any:
    """Return a model that holds every atom on a spring to the origin, under a constant isotropic stress; `calls` notes batch sizes."""

    class Trap(torch.nn.Module, p.BaseModelMixin):
        embedding_shapes: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.model_config = p.ModelConfig(outputs=frozenset(outputs))

        def compute_embeddings(self, data: Any, **_: Any) -> Any:
            return data

        def forward(self, data: Any, **_: Any) -> OrderedDict[str, Tensor]:
            if calls is not None:
                calls.append(data.num_graphs)
            x, n = data.positions, data.num_graphs
            energy = x.new_zeros(n, 1).index_add_(0, data.batch_idx.long(), 0.5 * k * (x * x).sum(1, keepdim=True))
            unit = torch.eye(3, dtype=x.dtype).repeat(n, 1, 1)
            made = {"energy": energy, "forces": -k * x, "stress": stress * unit}
            return OrderedDict((key, made[key]) for key in outputs)

    return Trap()


class Recorder:
    """A hook that notes its name, stage and step, and what `what` makes of the context, at some stages or all."""

    def __init__(
        self,
        p: Package,
        log: list[list[Any]],
        stages: Collection[str] | None = None,
        frequency: int = 1,
        name: str = "",
        what: Callable[[Any], Any] | None = None,
    ) -> None:
        self.log, self.stages, self.frequency, self.name, self.what = log, stages, frequency, name, what
        self.stage = p.DynamicsStage.AFTER_STEP

    def _runs_on_stage(self, stage: Any) -> bool:
        return self.stages is None or stage.name in self.stages

    def __call__(self, ctx: Any, stage: Any) -> None:
        self.log.append([self.name, stage.name, ctx.step_count, *([] if self.what is None else [self.what(ctx)])])


def below(energy: float) -> dict[str, Any]:
    """Return the arguments of a `ConvergenceHook` that is met at energies up to `energy`."""
    return {"criteria": {"key": "energy", "threshold": energy}}


def statuses(ctx: Any) -> list[int]:
    """Return the status of each system; for `Recorder`."""
    return ctx.batch.status.flatten().tolist()
