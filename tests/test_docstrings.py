"""Every example in a docstring runs, and gives what it says.

All modules of the package are looked at, and the examples that are found are counted against those that are written, so that none is
passed over in silence, as happens to functions behind a decorator that hides them.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import campaign
from campaign.errors import MissingDependencyError

FLAGS = doctest.ELLIPSIS | doctest.FAIL_FAST


def modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(campaign.__path__, "campaign."):
        if not module.name.endswith("__main__"):
            yield module.name


def with_examples() -> list[str]:
    return [name for name in modules() if ">>> " in source(name).read_text(encoding="utf-8")]


def source(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def n_written(name: str) -> int:
    return sum(line.strip().startswith(">>> ") for line in source(name).read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
        tests = doctest.DocTestFinder(exclude_empty=True).find(module)
        assert sum(len(test.examples) for test in tests) == n_written(name), f"{name} has examples that are not run"
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
        for test in tests:
            runner.run(test, out=report.append)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    assert not runner.failures, "".join(report)


def test_there_are_examples() -> None:
    rooms = {name.split(".")[1] for name in with_examples()}
    assert {"data", "dynamics", "hooks", "models", "neighbors", "store", "fields", "outcomes"} <= rooms


def test_scripts_have_none() -> None:
    for path in Path(campaign.__path__[0]).rglob("__main__.py"):
        assert ">>> " not in path.read_text(encoding="utf-8"), f"{path} is run, not imported; put examples elsewhere"
