"""Shards under a Hypothesis state machine; the machine itself is in `campaign/testing/store_machine.py`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from campaign.testing.store_machine import ShardMachine

TestShards = ShardMachine.TestCase
# Each step writes some twenty files with fsync, so the default number of examples would take minutes.
TestShards.settings = settings(max_examples=8, stateful_step_count=16, deadline=None, suppress_health_check=[HealthCheck.too_slow])
