"""Write docs/cli.md from the `--help` of every command: `python docs/generate_cli.py`. A test fails when the page is stale."""

from __future__ import annotations

from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from campaign.cli import app

PAGE = Path(__file__).with_name("cli.md")

HEAD = """\
# Commands

Written by `python docs/generate_cli.py`; do not edit.

Exit codes: 0 every input has an outcome; 1 the campaign stopped short, or `verify` found something; 2 wrong usage or a bad spec.
"""


def reference() -> str:
    """The text of the page."""
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"})
    names = list(get_command(app).commands)  # type: ignore[attr-defined]
    parts = [HEAD]
    for words in [[], *([name] for name in names)]:
        shown = runner.invoke(app, [*words, "--help"], prog_name="campaign").output
        text = "\n".join(line.rstrip() for line in shown.strip().splitlines())
        parts.append(f"## {' '.join(['campaign', *words])}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
