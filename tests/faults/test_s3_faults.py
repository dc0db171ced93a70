"""S3 requests that fail, hang or lose their answer: right data or a clear error within a bounded time, never damage that is none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from campaign.errors import StoreDamagedError, StoreError, StoreExistsError
from campaign.fields import FIELDS
from campaign.store import ShardWriter, StoreReader, targets, write_store
from campaign.testing.s3_faults import Fault, FaultyProxy, Rule, every, faulty_proxy, once
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard, compare_rows

SHARD_FIELDS = tuple(FIELDS[name] for name in ("system_id", "energy", "positions"))
SIZES = np.array([2, 0, 3], dtype=np.int64)
N_WRITES = 2
BOUND_S = 30.0
"""Three attempts of a second each, for each of the fields: a run that takes longer waits for something that never comes."""

# The answer to a PUT has no content that could be cut.
CASES = [(method, fault) for method in ("GET", "PUT") for fault in Fault if (method, fault) != ("PUT", Fault.CUT_ANSWER)]

WRITER = """
import sys
import numpy as np
from campaign.fields import FIELDS
from campaign.store import Chunking, ShardWriter
from campaign.testing.store_rows import made_up_columns

fields = [FIELDS[name] for name in ("system_id", "energy", "positions")]
sizes = np.array([2, 0, 3])
writer = ShardWriter.create(sys.argv[1], fields, flush_s=3600, chunking=Chunking(4, 8))
for seed in range(10_000):
    writer.append(sizes, made_up_columns(fields, sizes, seed))
    writer.flush()
    print(seed + 1, flush=True)
"""


@pytest.fixture(scope="module")
def running_proxy(s3_address: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_address) as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: FaultyProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> FaultyProxy:
    """A proxy on the way to `s3_bucket` that spoils nothing yet, and a client with little patience."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", running_proxy.address)
    for name, value in {"REQUEST_TIMEOUT_S": 0.5, "MAX_RETRIES": 2, "FIRST_PAUSE_S": 0.01, "LAST_PAUSE_S": 0.02}.items():
        monkeypatch.setattr(targets, name, value)
    running_proxy.restart(lambda number, method, path: None)
    return running_proxy


def write_shard(target: str) -> TwinShard:
    """Write a shard in several commits; the twin says what was appended and what acknowledged, also after an error."""
    twin = TwinShard(SHARD_FIELDS)
    writer = ShardWriter.create(target, SHARD_FIELDS, flush_s=3600.0)
    try:
        for seed in range(N_WRITES):
            columns = made_up_columns(SHARD_FIELDS, SIZES, seed)
            writer.append(SIZES, columns)
            twin.append(SIZES, columns)
            writer.flush()
            twin.acknowledge()
        writer.close()
    except StoreError as error:
        error.twin = twin  # type: ignore[attr-defined]
        raise
    finally:
        writer.abandon()
    return twin


@pytest.mark.parametrize("fault", Fault)
def test_one_request_that_fails_is_sent_again(proxy: FaultyProxy, s3_bucket: str, fault: Fault) -> None:
    write_shard(f"{s3_bucket}/sound.zarr")
    n_requests = len(proxy.requests)
    assert n_requests > 20
    # Spread over the creation and both commits; each fault begins elsewhere.
    for k in range(list(Fault).index(fault), n_requests, n_requests // 6):
        proxy.restart(once(fault, k))
        target = f"{s3_bucket}/{k}.zarr"
        try:
            twin = write_shard(target)
        except StoreError as error:
            # A write that may have gone through is not repeated after a time-out, and a cut answer to one is as good as lost.
            assert target in str(error), error
            twin = getattr(error, "twin", TwinShard(SHARD_FIELDS))
        assert len(proxy.spoiled) == 1, (k, proxy.spoiled)
        proxy.restart(once(fault, 4))
        started = time.monotonic()
        if twin.rows:
            twin.check(StoreReader.open(target))
        assert time.monotonic() - started < BOUND_S


@pytest.mark.parametrize(("method", "fault"), CASES)
@pytest.mark.parametrize("path", ["/c/", "zarr.json"])
def test_a_server_that_keeps_failing_is_a_clear_error_and_no_damage(
    proxy: FaultyProxy, s3_bucket: str, fault: Fault, method: str, path: str
) -> None:
    target = f"{s3_bucket}/s.zarr"
    if method == "GET":
        write_shard(target)
    proxy.restart(every(fault, method, path))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"s\.zarr") as caught:
        StoreReader.open(target).read() if method == "GET" else write_shard(target)
    assert time.monotonic() - started < BOUND_S
    assert not isinstance(caught.value, StoreDamagedError), caught.value
    assert "\n" not in str(caught.value)
    assert proxy.spoiled
    proxy.restart(lambda number, its_method, its_path: None)
    if method == "GET":
        assert StoreReader.open(target).n_systems == N_WRITES * len(SIZES)


@pytest.mark.parametrize("fault", [None, Fault.LOST_ANSWER, Fault.SLOW_DOWN])
def test_of_many_that_create_a_shard_one_gets_it(proxy: FaultyProxy, s3_bucket: str, fault: Fault | None) -> None:
    target = f"{s3_bucket}/s.zarr"
    rule: Rule = lambda number, method, path: fault if method == "PUT" and path.endswith("s.zarr/zarr.json") and number % 3 == 1 else None  # noqa: E731
    proxy.restart(rule)

    def attempt(seed: int) -> int | StoreError:
        try:
            with ShardWriter.create(target, SHARD_FIELDS, {"writer": seed}) as writer:
                writer.append(SIZES, made_up_columns(SHARD_FIELDS, SIZES, seed))
            return seed
        except StoreError as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(attempt, range(6)))
    proxy.restart(lambda number, method, path: None)
    winners = [end for end in ends if isinstance(end, int)]
    errors = [end for end in ends if isinstance(end, StoreError) and not isinstance(end, StoreExistsError)]
    # Who gets no answer three times does not know whether the shard is its own, and says so; never do two believe that it is theirs.
    assert len(winners) <= 1 and (fault or (winners and not errors)), ends
    assert all(target in str(error) for error in errors)
    if not winners:
        return
    twin = TwinShard(SHARD_FIELDS)
    twin.append(SIZES, made_up_columns(SHARD_FIELDS, SIZES, winners[0]))
    reader = StoreReader.open(target)
    assert reader.attributes["writer"] == winners[0]
    compare_rows(reader, twin.rows)


@pytest.mark.parametrize("n_flushes", [1, 4])
def test_a_killed_writer_leaves_what_it_acknowledged(s3_bucket: str, n_flushes: int) -> None:
    target = f"{s3_bucket}/s.zarr"
    process = subprocess.Popen([sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        for _ in range(n_flushes):
            process.stdout.readline()
        time.sleep(0.03 * n_flushes)
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split()
        assert process.wait() == -signal.SIGKILL
    acknowledged = int(said[-1]) if said else n_flushes
    reader = StoreReader.open(target)
    assert reader.n_systems >= acknowledged * len(SIZES)
    twin = TwinShard(SHARD_FIELDS)
    for seed in range(reader.n_systems // len(SIZES)):
        twin.append(SIZES, made_up_columns(SHARD_FIELDS, SIZES, seed))
    compare_rows(reader, twin.rows)
    with pytest.raises(StoreExistsError):
        write_store(target, SHARD_FIELDS, SIZES, made_up_columns(SHARD_FIELDS, SIZES, 0))
