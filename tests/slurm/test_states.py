from __future__ import annotations

import pytest

from slurm.states import Action, JobState


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_an_action_and_a_sentence(state: JobState) -> None:
    assert isinstance(state.action, Action)
    assert state.sentence.endswith(".")


@pytest.mark.parametrize(
    ("text", "state", "action"),
    [
        ("RUNNING", JobState.RUNNING, Action.WAIT),
        ("CANCELLED by 1000", JobState.CANCELLED, Action.PLAN_REST),
        ("CANCELLED+", JobState.CANCELLED, Action.PLAN_REST),  # a narrow column cuts
        ("PREEMPTED", JobState.PREEMPTED, Action.PLAN_REST),  # no failure
        ("COMPLETING", JobState.COMPLETING, Action.WAIT),  # may still write
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY, Action.EXAMINE),
        ("A_STATE_OF_TOMORROW", JobState.UNKNOWN, Action.ASK),
        ("", JobState.UNKNOWN, Action.ASK),
    ],
)
def test_parse(text: str, state: JobState, action: Action) -> None:
    assert JobState.parse(text) is state
    assert state.action is action
