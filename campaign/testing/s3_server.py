"""A real S3 server on loopback in a process of its own: moto's, which knows conditional puts and keeps objects in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# The server lives as long as its standard input is open, so it ends with whoever started it, however that one ends.
_SERVER: Final = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server while the block runs; yield its address, such as `http://127.0.0.1:41231`.

    Raises:
        RuntimeError: it did not start; what it said is in the text.
    """
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address.startswith("http://"):
                raise RuntimeError(f"the S3 server did not start; it said {address!r}. Install moto[server].")
            yield address
        finally:
            process.kill()


def make_bucket(address: str, name: str) -> str:
    """Make an empty bucket on the server at `address` and return its URL."""
    with urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT")):
        return f"s3://{name}"


def s3_environment(address: str) -> dict[str, str]:
    """Return what the environment must say for obstore to use the server at `address`."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        # Loopback is never reached through a proxy that the machine may have.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
    }
