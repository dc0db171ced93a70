"""docs/contract.md: its examples run, one after the other, as a reader would run them, and its table is the one that the tests prove."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from intended_differences import DIFFERENCES

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 4
    names: dict[str, object] = {"__name__": "page"}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {i + 1}", "exec"), names)
    assert (tmp_path / "trajectory.zarr").is_dir()


def test_the_page_lists_the_intended_differences_and_no_others() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Where we differ on purpose")[1].split("\n## ")[0]
    rows = re.findall(r"^\|.*\|$", section, re.M)[2:]
    assert rows == [f"| {name} | {row.there} | {row.here} | {row.why} |" for name, row in DIFFERENCES.items()]


def test_each_intended_difference_is_shown_by_a_test() -> None:
    shown = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "differs":
                assert isinstance(node.args[0], ast.Constant), f"{file.name}:{node.lineno}: the row's name is spelled out"
                shown.add(node.args[0].value)
    assert shown == set(DIFFERENCES)
