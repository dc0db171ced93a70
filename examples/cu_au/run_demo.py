"""The copper-gold study from nothing to its report: write the structures, run the campaign, print what came out.

    python run_demo.py

An earlier run of this demo is removed first, so that each run shows the whole way. It is the same as:

    python make_structures.py && campaign run campaign.toml
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from make_structures import make_structures

from campaign.spec import read_spec

HERE = Path(__file__).parent


def main() -> int:
    """Run the demo; return the exit code of `campaign run`."""
    spec_path = HERE / "campaign.toml"
    directory = read_spec(spec_path).paths
    if directory.spec.exists():
        print(f"removing the earlier run {directory.root}")
        shutil.rmtree(directory.root)
    n_sound, n_broken = make_structures(HERE / "structures")
    print(f"wrote {n_sound} structures and {n_broken} broken ones to {HERE / 'structures'}", flush=True)
    return subprocess.run([sys.executable, "-m", "campaign.cli", "run", str(spec_path)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
