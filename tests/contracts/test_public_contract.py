"""Names, places, arguments and defaults of the dynamics contract (nvalchemi-toolkit 0.2.0), which scripts written against it rely on.

Arguments come in this order and have these defaults. Ours may take further ones, and may give a default to one that has none there.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import pytest

from campaign.hooks import DynamicsStage

NEEDED = object()
"""Of an argument without a default there."""

AFTER_STEP, AFTER_COMPUTE, ON_CONVERGE = DynamicsStage.AFTER_STEP, DynamicsStage.AFTER_COMPUTE, DynamicsStage.ON_CONVERGE
RUN = {"n_steps": None, "hooks": None, "convergence_hook": None}

CLASSES: dict[str, dict[str, Any]] = {
    "campaign.hooks.NeighborListHook": {"config": NEEDED, "skin": ..., "max_neighbors": None, "stage": None},
    "campaign.hooks.WrapPeriodicHook": {"frequency": 1, "stage": ...},
    "campaign.dynamics.base.BaseDynamics": {
        "model": NEEDED,
        "hooks": None,
        "convergence_hook": None,
        "n_steps": None,
        "exit_status": 1,
    },
    "campaign.dynamics.base.ConvergenceHook": {"criteria": None, "source_status": None, "target_status": None, "frequency": 1},
    "campaign.dynamics.base.FusedStage": {"sub_stages": NEEDED},
    "campaign.dynamics.FIRE": {"model": NEEDED, "dt": NEEDED},
    "campaign.dynamics.FIREVariableCell": {"model": NEEDED, "dt": NEEDED},
    "campaign.dynamics.FIRE2": {"model": NEEDED, "dt": NEEDED},
    "campaign.dynamics.NVE": {"model": NEEDED, "dt": NEEDED, **RUN},
    "campaign.dynamics.NVTLangevin": {
        "model": NEEDED,
        "dt": NEEDED,
        "temperature": NEEDED,
        "friction": NEEDED,
        "random_seed": 42,
        **RUN,
    },
    "campaign.dynamics.SizeAwareSampler": {
        "dataset": NEEDED,
        "max_atoms": None,
        "max_edges": None,
        "max_batch_size": None,
        "bin_width": 1,
        "shuffle": False,
    },
    "campaign.dynamics.DemoDynamics": {"model": NEEDED, "n_steps": NEEDED, "dt": 1.0, "hooks": None, "convergence_hook": None},
    "campaign.dynamics.hooks.SnapshotHook": {"sink": NEEDED, "frequency": 1, "stage": AFTER_STEP},
    "campaign.dynamics.hooks.ConvergedSnapshotHook": {"sink": NEEDED, "frequency": 1, "stage": ON_CONVERGE},
    "campaign.dynamics.hooks.FreezeAtomsHook": {
        "frequency": 1,
        "freeze_category": -1,
        "zero_forces": True,
        "stage": DynamicsStage.BEFORE_PRE_UPDATE,
    },
    "campaign.dynamics.hooks.LoggingHook": {
        "backend": NEEDED,
        "frequency": 1,
        "log_path": None,
        "custom_scalars": None,
        "writer_fn": None,
        "stage": AFTER_STEP,
    },
    "campaign.dynamics.hooks.NaNDetectorHook": {"frequency": 1, "extra_keys": None, "stage": AFTER_COMPUTE},
    "campaign.dynamics.hooks.MaxForceClampHook": {"max_force": NEEDED, "stage": AFTER_COMPUTE, "frequency": 1},
    "campaign.dynamics.sinks.DataSink": {},
    "campaign.dynamics.sinks.GPUBuffer": {"capacity": NEEDED, "max_atoms": NEEDED, "max_edges": NEEDED, "device": "cuda"},
    "campaign.dynamics.sinks.HostMemory": {"capacity": NEEDED},
    "campaign.dynamics.sinks.ZarrData": {"store": NEEDED, "capacity": 1_000_000, "config": None},
    "campaign.models.demo.DemoModel": {},
    "campaign.models.demo.DemoModelWrapper": {"model": NEEDED},
}
"""Arguments of constructors; `...` is a default of which only the meaning is in the contract."""

METHODS: dict[str, list[str]] = {
    "campaign.data.AtomicData": ["from_atoms", "to", "add_node_property", "add_edge_property", "add_system_property", "num_nodes"],
    "campaign.data.Batch": [
        *("from_data_list", "empty", "empty_like", "get_data", "to_data_list", "index_select", "put", "defrag", "trim", "zero"),
        *("append", "append_data", "add_key", "to", "clone", "cpu", "cuda", "contiguous", "pin_memory"),
        *("num_graphs", "batch_size", "num_nodes", "num_edges", "system_capacity", "batch_idx", "batch_ptr", "edge_ptr"),
        *("num_nodes_list", "num_edges_list", "num_nodes_per_graph", "num_edges_per_graph", "max_num_nodes", "keys"),
    ],
    "campaign.dynamics.base.BaseDynamics": [
        *("step", "run", "compute", "pre_update", "post_update", "masked_update", "refill_check", "register_hook"),
        *("register_bookkeeping_key", "model_is_conservative", "__add__", "__enter__", "__exit__"),
    ],
    "campaign.dynamics.base.ConvergenceHook": ["from_fmax", "from_forces", "evaluate", "num_criteria", "__call__"],
    "campaign.dynamics.base.FusedStage": ["step", "run", "compile", "register_fused_hook", "all_complete", "refill_check"],
    "campaign.dynamics.SizeAwareSampler": ["build_initial_batch", "request_replacement", "request_replacements_budget", "exhausted"],
    "campaign.dynamics.sinks.DataSink": [
        *("write", "read", "zero", "drain", "__len__", "capacity", "is_full", "local_rank", "global_rank"),
    ],
}

STAGES = [
    *("BEFORE_STEP", "BEFORE_PRE_UPDATE", "AFTER_PRE_UPDATE", "BEFORE_COMPUTE", "AFTER_COMPUTE", "BEFORE_POST_UPDATE"),
    *("AFTER_POST_UPDATE", "AFTER_STEP", "ON_CONVERGE"),
]


def find(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", CLASSES)
def test_arguments(path: str) -> None:
    cls = find(path)
    wanted = CLASSES[path]
    ours = [p for name, p in inspect.signature(cls.__init__).parameters.items() if name != "self"]
    positional = [p for p in ours if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert [p.name for p in positional[: len(wanted)]] == list(wanted)
    for parameter, default in zip(positional, wanted.values(), strict=False):
        if default is not NEEDED and default is not ...:
            assert parameter.default == default, parameter.name
    for parameter in ours[len(wanted) :]:
        optional = parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        assert optional, f"{parameter.name} is not in the contract and has no default"


@pytest.mark.parametrize("path", METHODS)
def test_members(path: str) -> None:
    cls = find(path)
    assert [name for name in METHODS[path] if not hasattr(cls, name)] == []


def test_stages() -> None:
    base = importlib.import_module("campaign.dynamics.base")
    assert base.DynamicsStage is DynamicsStage
    assert [(stage.name, stage.value) for stage in DynamicsStage] == [(name, i) for i, name in enumerate(STAGES)]


def test_what_hooks_are_told() -> None:
    hooks = importlib.import_module("campaign.hooks")
    common = ["batch", "model", "global_rank", "workflow"]
    assert [field.name for field in dataclasses.fields(hooks.HookContext)] == common
    told = [field.name for field in dataclasses.fields(hooks.DynamicsContext)]
    assert told[:6] == [*common, "step_count", "converged_mask"]
    assert issubclass(hooks.DynamicsContext, hooks.HookContext)


@pytest.mark.parametrize("name", ["write", "read", "zero", "__len__", "capacity"])
def test_what_a_sink_must_define(name: str) -> None:
    assert name in find("campaign.dynamics.sinks.DataSink").__abstractmethods__
