from __future__ import annotations

import pytest
from goldens import CASES, TOKEN, check, parameters_text, spec_of
from submitit.slurm.slurm import _make_sbatch_string

from campaign.errors import SpecError
from slurm.parameters import SIGNAL_DELAY_S, job_name, sbatch_flags, signal_delay_s, slurm_parameters


def test_parameters_are_those_of_the_golden() -> None:
    check("slurm_parameters.json", parameters_text())


@pytest.mark.parametrize("case", CASES)
def test_submitit_takes_them_and_each_flag_comes_once(case: str) -> None:
    text = _make_sbatch_string(command="true", folder="/data/jobs", map_count=2, **slurm_parameters(spec_of(CASES[case]), TOKEN))
    flags = [line.split("=")[0] for line in text.splitlines() if line.startswith("#SBATCH")]
    print(text)
    assert len(flags) == len(set(flags))
    assert "#SBATCH --wckey" not in flags
    assert f"--job-name=Cu-Au-{TOKEN}" in text


def test_a_job_name_is_ascii_readable_and_ends_with_the_token() -> None:
    assert job_name(spec_of("", name="Cu–Au (α)"), "1f00") == "Cu-Au-1f00"
    assert job_name(spec_of("", name="α" * 30), "1f00") == "campaign-1f00"
    assert job_name(spec_of("", name="x" * 100), "1f00") == "x" * 40 + "-1f00"


@pytest.mark.parametrize(
    ("time_min", "delay_s"),
    [
        (1, 15),  # a quarter of a minute is better than a signal at the start
        (8, 120),
        (1000, SIGNAL_DELAY_S),
    ],
)
def test_jobs_are_asked_to_leave_in_time(time_min: int, delay_s: int) -> None:
    assert signal_delay_s(spec_of(f"[execution.slurm]\ntime_min = {time_min}")) == delay_s


@pytest.mark.parametrize("flag", ["array", "job-name", "job_name", "output", "time", "signal"])
def test_flags_of_our_own_are_refused(flag: str) -> None:
    spec = spec_of(f'[execution.slurm]\nextra = {{ {flag} = "x" }}')
    with pytest.raises(SpecError, match=rf"extra has {flag.replace('-', '_')}.*Allowed is any other flag.*remove it"):
        sbatch_flags(spec, TOKEN)


@pytest.mark.parametrize("nodes", ["3", '"two"', "0", "true"])
def test_nodes_must_divide_the_ranks(nodes: str) -> None:
    spec = spec_of(f"ranks_per_task = 4\n[execution.slurm]\nextra = {{ nodes = {nodes} }}")
    with pytest.raises(SpecError, match=r"extra.nodes is .*ranks_per_task 4.*Allowed is a number.*change one"):
        sbatch_flags(spec, TOKEN)
