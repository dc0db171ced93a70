"""Files that are missing, cut or changed by a bit: right data or an error that names the file, never silently wrong numbers.

Every kind of file of every kind of store, by every damage; JSON documents also where the damaged one is legal and says something else.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_campaign import make_campaign, write_shard
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

import campaign
from campaign.consolidate import run_consolidate
from campaign.errors import CampaignError, IncompleteError, StoreDamagedError, StoreError
from campaign.fields import INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS
from campaign.files import write_json
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.plan import RoundPlan, run_plan
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
from campaign.store.audit import audit_store
from campaign.store.digest import digest
from campaign.testing.store_rows import made_up_columns, slice_columns
from campaign.verify import run_verify

SIZES = np.array([3, 0, 2, 7, 1], dtype=np.int64)
SEED = int(os.environ.get("CAMPAIGN_FAULT_SEED", "20261125"))

Damage = Callable[[bytes, random.Random], bytes | None]


def flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_digit(raw: bytes, rng: random.Random) -> bytes:
    """Another digit, one bit away: the document stays legal JSON."""
    places = [at for at, value in enumerate(raw) if value in b"0123456789"]
    changed = bytearray(raw)
    if places:
        changed[rng.choice(places)] ^= 1
    return bytes(changed)


def flip_letter(raw: bytes, rng: random.Random) -> bytes:
    """Another letter, one bit away, in a name or a value."""
    places = [at for at, value in enumerate(raw) if chr(value).isalpha() and chr(value ^ 1).isalpha()]
    changed = bytearray(raw)
    changed[rng.choice(places)] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Damage] = {
    "missing": lambda raw, rng: None,
    "empty": lambda raw, rng: b"",
    "cut": lambda raw, rng: raw[: rng.randrange(len(raw))],
    "last byte cut": lambda raw, rng: raw[:-1],
    "zeros": lambda raw, rng: bytes(len(raw)),
    "zeros at the end": lambda raw, rng: raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2),
    **{f"bit {number}": flip for number in range(6)},
}
LEGAL: dict[str, Damage] = {f"{change.__name__} {number}": change for change in (flip_digit, flip_letter) for number in range(8)}

KINDS = {
    "root": r"zarr\.json",
    "group": r"\w+/zarr\.json",
    "pointer document": r"meta/atoms_ptr/zarr\.json",
    "array document": r"(core|custom)/\w+/zarr\.json",
    "pointers": r"meta/atoms_ptr/c/.*",
    "masks": r"meta/(samples|atoms)_mask/c/.*",
    "system chunk": r"(core/energy|core/cell|custom/(system_id|outcome|error))/c/.*",
    "atom chunk": r"core/(positions|atomic_numbers|forces)/c/.*",
    "text": r"labels/\w+/c/.*",
}


def files_of(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def shard() -> MemoryStore:
    store = MemoryStore()
    with ShardWriter.create(store, RESULT_FIELDS, {"job": 1}, chunking=Chunking(2, 8)) as writer:
        columns = made_up_columns(RESULT_FIELDS, SIZES, 0)
        for start, stop in ((0, 2), (2, 5)):
            writer.append(*slice_columns(RESULT_FIELDS, SIZES, columns, start, stop))
            writer.flush()
    return store


def whole(fields: Any) -> MemoryStore:
    store = MemoryStore()
    write_store(store, fields, SIZES, made_up_columns(fields, SIZES, 0), {"note": "Å"}, Chunking(2, 4, 4, 8))
    return store


STORES = {
    "shard": (shard, RESULT_FIELDS),
    "inputs.zarr": (lambda: whole(INPUT_FIELDS), INPUT_FIELDS),
    "store.zarr": (lambda: whole(STORE_FIELDS), STORE_FIELDS),
    "trajectory.zarr": (lambda: whole(TRAJECTORY_FIELDS), TRAJECTORY_FIELDS),
}


@pytest.mark.parametrize("name", STORES)
def test_damage_is_seen_or_does_no_harm(name: str) -> None:
    make, fields = STORES[name]
    sound = files_of(make())
    columns = made_up_columns(fields, SIZES, 0)
    n_cases = n_seen = 0
    for kind, pattern in KINDS.items():
        keys = sorted(key for key in sound if re.fullmatch(pattern, key))
        for damage, change in {**DAMAGES, **(LEGAL if "json" in pattern else {})}.items() if keys else ():
            rng = random.Random(f"{SEED} {name} {kind} {damage}")
            key = rng.choice(keys)
            damaged = change(sound[key], rng)
            if damaged == sound[key]:
                continue
            files = {other: cpu.Buffer.from_bytes(raw) for other, raw in sound.items() if other != key}
            if damaged is not None:
                files[key] = cpu.Buffer.from_bytes(damaged)
            n_cases += 1
            n_seen += is_seen(MemoryStore(files), columns, key, f"{name}: {key} ({kind}), {damage}")
            if n_cases % 5 == 0:
                findings = audit_store(MemoryStore(files), fields, "").findings
                assert kind in ("root", "group") or "document" in kind or any(key in str(finding) for finding in findings), (key, damage)
    print(f"{name}: {n_cases} cases, {n_seen} were seen, the others did no harm")
    assert n_cases >= 125
    assert n_seen > n_cases // 2


def is_seen(store: MemoryStore, columns: dict[str, Any], key: str, case: str) -> bool:
    """Tell whether reading all of a damaged store says so, by an error that names the file; else all numbers must be right."""
    try:
        reader = StoreReader.open(store)
        values = reader.read()
        counts = reader.n_atoms()
    except StoreError as error:
        assert key in str(error), f"{case}: {error}"
        return True
    np.testing.assert_array_equal(counts, SIZES, err_msg=case)
    assert set(values) == set(columns), case
    for column, expected in columns.items():
        np.testing.assert_array_equal(values[column], expected, err_msg=f"{case}: {column}")
        assert values[column].shape == expected.shape, case
    return False


@pytest.fixture(scope="module")
def sound_campaign(fast_folder: Path) -> CampaignPaths:
    """A campaign with a plan, two shards and a store."""
    paths, spec = make_campaign(Path(tempfile.mkdtemp(dir=fast_folder)), 4)
    run_plan(paths, spec)
    # Made-up results are below no threshold, so none may say that it converged.
    for rank in range(2):
        write_shard(paths, ShardName(1, 0, rank, 0), [2 * rank, 2 * rank + 1], [Outcome.MAX_STEPS] * 2)
    run_consolidate(paths)
    report = run_verify(paths)
    assert report.ok, report.findings
    return paths


CASES = [
    ("inputs.zarr", "custom/system_id/c/0/0"),
    ("inputs.zarr", "zarr.json"),
    ("shards/0001-00000-00001-000.zarr", "core/energy/c/0/0"),
    ("shards/0001-00000-00001-000.zarr", "core/energy/zarr.json"),
    ("shards/0001-00000-00001-000.zarr", "zarr.json"),
    ("store.zarr", "core/positions/c/0/0"),
    ("store.zarr", "core/positions/zarr.json"),
    ("store.zarr", "zarr.json"),
]


@pytest.mark.parametrize("damage", ["missing", "cut", "bit 0", "flip_digit 0"])
@pytest.mark.parametrize(("place", "file"), CASES)
def test_every_command_sees_damage(sound_campaign: CampaignPaths, tmp_path: Path, place: str, file: str, damage: str) -> None:
    paths = CampaignPaths(tmp_path / "run")
    shutil.copytree(sound_campaign.root, paths.root)
    expected = digest(paths.store)
    victim = paths.root / place / file
    rng = random.Random(f"{SEED} {place} {file} {damage}")
    raw = victim.read_bytes()
    damaged = {**DAMAGES, **LEGAL}[damage](raw, rng)
    if damaged == raw:
        damaged = flip(raw, rng)  # a chunk without a digit
    victim.unlink()
    if damaged is not None:
        victim.write_bytes(damaged)
    report = run_verify(paths)
    assert not report.ok
    assert any(place in str(finding) for finding in report.findings), report.findings
    follows = file == "core/positions/zarr.json"  # what the root's copy says is followed
    try:
        view = campaign.open(paths.root)
        table = view.table.compute()
        energies = table.energy.to_numpy()
        positions = [atoms.positions for atoms in view if len(atoms)]
    except CampaignError as error:
        assert str(paths.root / place) in str(error)
    else:
        # The view shows the store, or what it does not need is damaged.
        assert place != "store.zarr" or follows
        np.testing.assert_array_equal(energies[:4], [-0.0, -1.0, -2.0, -3.0])
        assert len(positions) == 4
    try:
        run_consolidate(paths)
    except StoreError as error:
        assert str(paths.root / place) in str(error)
        assert place != "store.zarr"
    else:
        # What consolidation does not read, or what it makes anew.
        assert digest(paths.store) == expected


@pytest.mark.parametrize("damage", [*DAMAGES, *LEGAL])
def test_a_damaged_plan_is_named(sound_campaign: CampaignPaths, tmp_path: Path, damage: str) -> None:
    raw = sound_campaign.plan(1).read_bytes()
    sound = RoundPlan.read(sound_campaign.plan(1))
    rng = random.Random(f"{SEED} plan {damage}")
    for number in range(4):
        victim = tmp_path / f"{number}.json"
        damaged = {**DAMAGES, **LEGAL}[damage](raw, rng)
        if damaged is not None:
            victim.write_bytes(damaged)
        try:
            plan = RoundPlan.read(victim)
        except StoreDamagedError as error:
            assert str(victim) in str(error)
        else:
            assert plan.to_json() == sound.to_json()


def test_plans_and_stores_of_the_first_releases_have_no_checksum(sound_campaign: CampaignPaths, tmp_path: Path) -> None:
    values = RoundPlan.read(sound_campaign.plan(1)).to_json()
    values.pop("checksum")
    write_json(tmp_path / "plan.json", values)
    assert RoundPlan.read(tmp_path / "plan.json").token == values["token"]


def test_inputs_without_an_outcome_are_no_damage(sound_campaign: CampaignPaths, tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path / "run")
    shutil.copytree(sound_campaign.root, paths.root)
    shutil.rmtree(paths.store)
    shutil.rmtree(paths.shard(ShardName(1, 0, 1, 0)))
    with pytest.raises(IncompleteError, match="2 of 5 inputs"):
        run_consolidate(paths)
