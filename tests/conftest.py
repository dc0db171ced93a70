"""What tests of several rooms share: an S3 server for the session, and a bucket of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from campaign.testing.s3_server import make_bucket, s3_environment, s3_server


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """Address of a running S3 server, a process of its own."""
    with s3_server() as address:
        yield address


@pytest.fixture
def s3_bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket; the environment tells obstore where it is."""
    for name, value in s3_environment(s3_address).items():
        monkeypatch.setenv(name, value)
    return make_bucket(s3_address, f"test-{secrets.token_hex(6)}")
