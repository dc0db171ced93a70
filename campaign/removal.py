"""What to remove so that structures are relaxed anew, said so that following it is enough.

What a removed shard held is taken from `store.zarr` while that is there, so who wants it computed again must remove the store as well;
it is made anew from the shards. Names of shards are folded into patterns, since a round may have thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from campaign.paths import CampaignPaths, ShardName


def removal_advice(paths: CampaignPaths, names: Collection[ShardName], with_store: bool = True) -> str:
    """Return one sentence that says what to remove, shell patterns below the campaign directory, and to resume then.

    Without the store, what it has of the shards stays as it is.
    """
    folder = paths.shards.name
    what = [f"{folder}/{pattern}" for pattern in shard_patterns(names, paths.shard_names())]
    if with_store and paths.store.exists():
        what.append(paths.store.name)
    listed = ", ".join(what[:-1]) + (" and " if len(what) > 1 else "") + "".join(what[-1:])
    return f"Remove {listed} in {paths.root}, then run `campaign resume`." if what else "Run `campaign resume`."


def shard_patterns(names: Collection[ShardName], known: Sequence[ShardName]) -> list[str]:
    """Return the shell patterns, as few as rounds and array tasks allow, that of the `known` shards match exactly `names`.

    >>> shards = [ShardName(1, 0, 0, 0), ShardName(1, 0, 1, 0), ShardName(1, 1, 0, 0), ShardName(2, 0, 0, 0)]
    >>> shard_patterns(shards[:3], shards), shard_patterns(shards[:2], shards), shard_patterns(shards[1:2], shards)
    (['0001-*.zarr'], ['0001-00000-*.zarr'], ['0001-00000-00001-000.zarr'])
    """
    there = Counter(prefix for name in known for prefix in _prefixes(name))
    wanted = Counter(prefix for name in set(names) for prefix in _prefixes(name))
    patterns: dict[str, None] = {}
    for name in sorted(set(names)):
        whole = (prefix for prefix in _prefixes(name) if wanted[prefix] == there[prefix] > 1)
        prefix = next(whole, None)
        patterns[f"{prefix}-*.zarr" if prefix else str(name)] = None
    return list(patterns)


def _prefixes(name: ShardName) -> tuple[str, str]:
    """What the names of all shards of its round, and of its array task, begin with."""
    round_, array_task, *_ = str(name).split("-")
    return round_, f"{round_}-{array_task}"
