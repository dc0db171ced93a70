"""SLURM's commands as far as a test needs them. Real SLURM is tested in tests/cluster."""

from __future__ import annotations

from pathlib import Path


class FakeSlurm:
    """Programs in PATH that print a text and write down their arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def says(self, command: str, text: str, code: int = 0) -> None:
        program = self.folder / command
        (self.folder / f"{command}.out").write_text(text)
        program.write_text(f'#!/bin/bash\necho "$@" >> "{self.folder}/{command}.args"\ncat "{self.folder}/{command}.out"\nexit {code}\n')
        program.chmod(0o755)

    def asked(self, command: str) -> list[str]:
        file = self.folder / f"{command}.args"
        return file.read_text().splitlines() if file.exists() else []
