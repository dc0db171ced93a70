"""Names, arguments and defaults of every public class, against those of the installed reference.

Arguments come in the reference's order and have its defaults. Ours may take further ones behind, and may give a default to one that has
none there.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from two_packages import PLACES, Package, differs, ours, same, same_error, theirs

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"

PIPELINE = {"has_neighbor", "is_first_stage", "is_final_stage", "local_rank", "stream"}
OF_MODELS = {"__add__", "add_output_head", "direct_derivative_keys", "distributed_setup", "distributed_teardown", "distribution_spec"}
ENGINES = ["BaseDynamics", "FusedStage", "DemoDynamics", "FIRE", "FIRE2", "FIREVariableCell", "NVE", "NVTLangevin"]

NOT_HERE: dict[str, set[str]] = {
    **dict.fromkeys(ENGINES, PIPELINE),
    "AtomicData": {"from_structure", "from_dict", "to_namedtuple", "debug", "contiguous", "pin_memory"},
    "Batch": {"from_raw_dicts", "from_dict", "to_namedtuple", "debug", "model_dump", "send", "recv", "isend", "irecv"},
    "BaseModelMixin": {*OF_MODELS, "export_model"},
    "DemoModelWrapper": OF_MODELS,
}
"""Members of the reference's classes that we leave out; the page says so."""

NO_SUCH_ARGUMENT = {"attr_map", "method", "neighbor_list_method"}
"""Arguments that we leave out: they choose between implementations. The page says so."""

OPERATORS = [
    "__call__",
    "__add__",
    "__len__",
    "__iter__",
    "__contains__",
    "__getitem__",
    "__setitem__",
    "__delitem__",
    "__enter__",
    "__exit__",
]

DATACLASSES = ["HookContext", "DynamicsContext"]
ENUMERATIONS = ["DynamicsStage", "NeighborListFormat"]
# An AtomicData has fields for arguments, a Batch is made by class methods; protocols, enumerations and base classes are not constructed.
NOT_CONSTRUCTED = [
    "AtomicData",
    "Batch",
    "Hook",
    "DynamicsStage",
    "DataSink",
    "BaseModelMixin",
    "ModelConfig",
    "NeighborConfig",
    "NeighborListFormat",
]


def arguments(function: Any) -> list[tuple[str, Any]]:
    """Names and defaults of positional and keyword arguments, in order."""
    given = [q for q in inspect.signature(function).parameters.values() if q.name != "self" and q.name not in NO_SUCH_ARGUMENT]
    named = [q for q in given if q.kind not in (q.VAR_POSITIONAL, q.VAR_KEYWORD)]
    return [(q.name, "needed" if q.default is q.empty else q.default) for q in named]


def comparable(default: Any) -> Any:
    """Enumerations are other classes there."""
    return getattr(default, "name", default)


def members(package: Package, name: str) -> set[str]:
    """What a class has beyond its bases from other packages."""
    cls = getattr(package, name)
    inherited = {*dir(torch.nn.Module), *(dir(BaseModel) if issubclass(cls, BaseModel) else ())}
    validators = set(getattr(getattr(cls, "__pydantic_decorators__", None), "model_validators", ()))
    public = {member for member in dir(cls) if not member.startswith("_")} | set(OPERATORS) & set(dir(cls))
    return public - inherited - validators


def check_arguments(there: Any, here: Any, unlike: frozenset[str] = frozenset()) -> None:
    wanted, seen = arguments(there), arguments(here)
    assert [name for name, _ in seen[: len(wanted)]] == [name for name, _ in wanted]
    for (name, default), (_, own) in zip(wanted, seen, strict=False):
        if default != "needed" and name not in unlike:
            assert comparable(own) == comparable(default), name
    for name, own in seen[len(wanted) :]:
        assert own != "needed", f"{name} is not in the contract and has no default"


@pytest.mark.parametrize("name", [name for name in PLACES if name not in NOT_CONSTRUCTED and name not in DATACLASSES])
def test_constructors(name: str) -> None:
    unlike = {"FIRE2": FIRE2_DEFAULTS, "NeighborListHook": frozenset({"skin"})}.get(name, frozenset())
    there, here = (getattr(package, name).__init__ for package in (theirs(), ours()))
    if name == "FIREVariableCell":
        # What is ours stands behind, and only by name.
        wanted = [argument for argument, _ in arguments(there)]
        assert [argument for argument, _ in arguments(here)][: len(wanted)] == wanted
    check_arguments(there, here, unlike)


FIRE2_DEFAULTS = frozenset({"delaystep", "dtgrow", "dtshrink", "alphashrink", "alpha0", "tmax", "tmin", "maxstep"})


def test_defaults_of_fire2_are_those_of_ase() -> None:
    def defaults(p: Package) -> list[Any]:
        return [default for name, default in arguments(p.FIRE2.__init__) if name in FIRE2_DEFAULTS]

    differs("FIRE2", defaults, [60, 1.05, 0.75, 0.985, 0.09, 0.08, 0.005, 0.1], [20, 1.1, 0.5, 0.99, 0.25, 1.0, 2e-3, 0.2])


@pytest.mark.parametrize("name", [name for name in PLACES if name not in ENUMERATIONS])
def test_members(name: str) -> None:
    missing = members(theirs(), name) - members(ours(), name) - {"max_atoms", "max_edges", "max_batch_size"}
    assert missing <= NOT_HERE.get(name, set())
    for member in members(theirs(), name) & members(ours(), name):
        there, here = getattr(getattr(theirs(), name), member), getattr(getattr(ours(), name), member)
        if inspect.isroutine(there) and member not in ("__exit__", "from_atoms"):
            assert inspect.isroutine(here), member
            check_arguments(there, here, frozenset({"as_state_dict"}))


def test_what_is_left_out_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    left_out = set().union(*NOT_HERE.values()) | NO_SUCH_ARGUMENT
    assert [name for name in sorted(left_out) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", DATACLASSES)
def test_contexts(name: str) -> None:
    def fields(p: Package) -> list[Any]:
        cls = getattr(p, name)
        assert issubclass(cls, p.HookContext)
        return [
            [field.name, field.kw_only, "needed" if field.default is dataclasses.MISSING else field.default]
            for field in dataclasses.fields(cls)
            # Of the reference's newer main, with a default.
            if field.name != "active_graph_mask"
        ]

    assert same(fields)[0] == ["batch", True, "needed"]
    same_error(lambda p: getattr(p, name)(), TypeError)
    same_error(lambda p: getattr(p, name)(None), TypeError)


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_enumerations(name: str) -> None:
    assert len(same(lambda p: [[member.name, member.value] for member in getattr(p, name)])) in (2, 9)


def test_properties_of_a_structure() -> None:
    wanted = {name: field.is_required() for name, field in theirs().AtomicData.model_fields.items()}
    needed = {name: value for name, value in arguments(ours().AtomicData.__init__) if value == "needed"}
    assert set(needed) == {name for name, required in wanted.items() if required}
    data = ours().AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.ones(1, dtype=torch.int64))
    # An absent property is None and no error, which is how scripts ask for it.
    assert {name: getattr(data, name) is None for name in wanted if name in FILLED_IN} == dict.fromkeys(FILLED_IN, False)
    assert {getattr(data, name) for name in wanted if name not in {*FILLED_IN, "info"}} == {None}


FILLED_IN = ["atomic_numbers", "positions", "atomic_masses", "atom_categories", "velocities"]


def test_levels_of_the_properties_of_a_structure() -> None:
    cls = theirs().AtomicData
    declared = {"atom": cls._default_node_keys, "edge": cls._default_edge_keys, "system": cls._default_system_keys}
    data = ours().AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.ones(1, dtype=torch.int64))
    for level, names in declared.items():
        assert {str(data.level_of(name)) for name in names} == {level}


@pytest.mark.parametrize("name", ["ModelConfig", "NeighborConfig"])
def test_configurations_of_models(name: str) -> None:
    def fields(p: Package) -> list[Any]:
        config = p.ModelConfig() if name == "ModelConfig" else p.NeighborConfig(cutoff=3.0)
        return [[key, getattr(config, key)] for key in sorted(type(config).model_fields)]

    assert len(same(fields)) >= 4
    same_error(lambda p: getattr(p, name)(bogus=1), ValueError)


def test_what_a_sink_must_define() -> None:
    assert same(lambda p: set(p.DataSink.__abstractmethods__)) == ["__len__", "capacity", "read", "write", "zero"]
    same_error(lambda p: p.DataSink(), TypeError)


def test_what_a_hook_is() -> None:
    class Whole:
        stage, frequency = None, 1

        def __call__(self, ctx: Any, stage: Any) -> None: ...

    assert same(lambda p: [isinstance(Whole(), p.Hook), isinstance(object(), p.Hook)]) == [True, False]
