"""What each output shard of a store is made from, so that one that is there already need not be written again.

The origin of an output shard is a fingerprint of all that decides its bytes: the sources of its rows, the rows there, sizes, codecs. A
source is known by its name, its root document and when that was last changed. A store has its origins in the root attribute `origins`;
one that is being written has them in a file, so a consolidation that was killed goes on where it was, and one with a few more shards
takes over what is unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from campaign.errors import StoreDamagedError
from campaign.fields import Field, Level
from campaign.files import naming, sync_folder
from campaign.store.chunk_codec import codec_of
from campaign.store.consolidation_plan import ConsolidationPlan, systems_of_atoms
from campaign.store.csr import pointers
from campaign.store.durable import make_folder_durably, write_durably
from campaign.store.layout import ArraySpec, field_array

ORIGINS_FILE: Final = "origins.json"
"""In a store that is being written; gone when it is published."""

ATTRIBUTE: Final = "origins"

Origins = dict[str, list[str]]
"""By level, the origin of output shard 0, 1, …"""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A store on this file system whose output shards may be taken over, and what they were made from."""

    folder: str
    origins: Origins

    def has(self, spec: ArraySpec, number: int, origin: str) -> bool:
        """Tell whether it has output shard `number` of an array with this origin."""
        known = self.origins.get(spec.level, [])
        return number < len(known) and known[number] == origin


def origins_of(plan: ConsolidationPlan, folders: Sequence[str], fields: Sequence[Field], carried: Sequence[Field]) -> Origins:
    """Return the origins of all output shards of a plan."""
    identities = [_identity(name, folder) for name, folder in zip(plan.sources, folders, strict=True)]
    documents = [json.dumps(field_array(field, plan.chunking).document(0), sort_keys=True) for field in fields]
    shared = json.dumps([documents, [field.name for field in carried], identities[0].hex() if carried else ""]).encode()
    # Eight bytes of each identity stand for the source of a row; the whole ones of all sources that occur are taken in as well.
    short = np.frombuffer(b"".join(identity[:8] for identity in identities), dtype="<u8")
    ptr = pointers(plan.n_atoms)
    found: Origins = {}
    for level, n_rows in ((Level.SYSTEM, plan.n_systems), (Level.ATOM, int(ptr[-1]))):
        step = plan.chunking.rows(level)[1]
        found[str(level)] = []
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            first, last = (start, stop) if level is Level.SYSTEM else systems_of_atoms(ptr, start, stop)
            digest = hashlib.blake2b(shared, digest_size=16)
            skip = start - int(ptr[first]) if level is Level.ATOM else 0
            digest.update(np.array([start, stop, skip, step], dtype="<i8").tobytes())
            used = plan.source[first:last]
            for number in np.unique(used).tolist():
                digest.update(identities[number])
            digest.update(short[used].tobytes())
            for column in (plan.row, plan.system_ids, plan.n_atoms):
                digest.update(np.ascontiguousarray(column[first:last], dtype="<i8").tobytes())
            found[str(level)].append(digest.hexdigest())
    return found


def read_origins(staging: Path) -> Origins:
    """Return the origins of what lies in a staging folder; none if there is nothing to go on with."""
    try:
        found = json.loads((staging / ORIGINS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def begin_staging(staging: Path, origins: Origins, specs: Sequence[ArraySpec]) -> int:
    """Leave in a staging folder the whole output shards that have these origins, and nothing else; return how many there are.

    A file has its name only once it is whole and on disk, so one that is there needs no more than a look at its origin.

    Raises:
        OSError: files cannot be removed or written.
    """
    earlier = Earlier(str(staging), read_origins(staging))
    kept = {
        spec.chunk_key(number)
        for spec in specs
        for number, origin in enumerate(origins[str(spec.level)])
        if earlier.has(spec, number, origin) and (staging / spec.chunk_key(number)).is_file()
    }
    for parent, folders, files in os.walk(staging, topdown=False):
        for name in files:
            path = Path(parent) / name
            if path.relative_to(staging).as_posix() not in kept:
                path.unlink()
        for name in folders:
            path = Path(parent) / name
            if not any(path.iterdir()):
                path.rmdir()
    write_durably(staging / ORIGINS_FILE, json.dumps(origins).encode())
    return len(kept)


def published_origins(folder: Path, attributes: Mapping[str, Any]) -> Earlier:
    """Return what may be taken over from a published store."""
    origins = attributes.get(ATTRIBUTE)
    return Earlier(str(folder), origins if isinstance(origins, dict) else {})


def take_over(earlier: Earlier, spec: ArraySpec, number: int, origin: str, target: Path) -> bool:
    """Give an output shard of an earlier store a second name below `target` if it has this origin and is undamaged.

    Raises:
        OSError: the folder cannot be written.
    """
    if not earlier.has(spec, number, origin):
        return False
    key = spec.chunk_key(number)
    there, here = Path(earlier.folder) / key, target / key
    try:
        raw = there.read_bytes()
        codec_of(spec).split(raw)
    except (OSError, StoreDamagedError):
        return False  # it is written again
    make_folder_durably(here.parent)
    try:
        os.link(there, here)
        sync_folder(here.parent)
    except OSError:
        # No second names on this file system, or too many of them.
        write_durably(here, raw)
    return True


def _identity(name: str, folder: str) -> bytes:
    """Fingerprint of a source: whoever changes a store writes its root document anew."""
    root = Path(folder) / "zarr.json"
    with naming(root):
        key = hashlib.sha256(f"{name} {root.stat().st_mtime_ns}".encode()).digest()
        return hashlib.blake2b(root.read_bytes(), digest_size=32, key=key).digest()
