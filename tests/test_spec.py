"""The spec: what is legal, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaign.errors import SpecError, UnknownKeyError
from campaign.paths import CampaignPaths
from campaign.spec import PRESETS, freeze_spec, parse_spec, read_frozen_spec, read_spec
from campaign.spec_template import TEMPLATE, create_template
from campaign.worker.run import relax_settings

SMALL = """
[campaign]
name = "x"
directory = "runs/x"
[inputs]
paths = ["a.xyz"]
[model]
name = "lj"
"""


def test_template_is_a_legal_spec(tmp_path: Path) -> None:
    spec = parse_spec(TEMPLATE, tmp_path)
    assert spec.model.name == "emt"
    assert spec.relax.fmax_ev_per_ang == PRESETS["matbench"]["fmax_ev_per_ang"]


def test_template_is_never_overwritten(tmp_path: Path) -> None:
    create_template(tmp_path / "campaign.toml")
    with pytest.raises(SpecError, match="exists and is not overwritten"):
        create_template(tmp_path / "campaign.toml")


def test_paths_are_relative_to_the_spec(tmp_path: Path) -> None:
    spec = parse_spec(SMALL, tmp_path)
    assert spec.campaign.directory == str(tmp_path / "runs/x")
    assert spec.inputs.paths == (str(tmp_path / "a.xyz"),)


def test_path_of_a_model_is_relative_to_the_spec(tmp_path: Path) -> None:
    model = SMALL.replace('"lj"', '"mace"')
    spec = parse_spec(model + '[model.options]\npath = "weights/my.model"\nhead = "a"\n', tmp_path)
    assert spec.model.options == {"path": str(tmp_path / "weights/my.model"), "head": "a"}
    for absolute in ("/data/my.model", "s3://bucket/my.model"):
        assert parse_spec(model + f'[model.options]\npath = "{absolute}"\n', tmp_path).model.options == {"path": absolute}
    assert parse_spec(model + "[model.options]\npath = 3\n", tmp_path).model.options == {"path": 3}, "the model says what is wrong"


@pytest.mark.parametrize(("name", "dtype"), [("lj", "float64"), ("mace", "float64"), ("sevennet", "float32"), ("chgnet", "float32")])
def test_precision_is_the_models_own_and_frozen(tmp_path: Path, name: str, dtype: str) -> None:
    spec = parse_spec(SMALL.replace('"lj"', f'"{name}"'), tmp_path)
    assert spec.model.dtype == dtype
    spec.paths.root.mkdir(parents=True)
    freeze_spec(spec)
    assert f'dtype = "{dtype}"' in spec.paths.spec.read_text()
    assert parse_spec(SMALL + 'dtype = "float32"\n', tmp_path).model.dtype == "float32"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_preset_fills_what_is_not_given(tmp_path: Path, preset: str) -> None:
    spec = parse_spec(SMALL + f'[relax]\npreset = "{preset}"\nmax_steps = 7\n', tmp_path)
    assert spec.relax.max_steps == 7
    assert spec.relax.fmax_ev_per_ang == PRESETS[preset]["fmax_ev_per_ang"]


@pytest.mark.parametrize(
    ("text", "seen", "nearest"),
    [
        ("[relax]\nfmax = 0.1\n", "relax.fmax", "relax.fmax_ev_per_ang"),
        ("[relax]\nmaxsteps = 3\n", "relax.maxsteps", "relax.max_steps"),
        ('[execution.slurm]\npartiton = "a"\n', "execution.slurm.partiton", "execution.slurm.partition"),
        ("[relax]\npressure = 1.0\n", "relax.pressure", "relax.pressure_gpa"),
        ("[relax]\nstrain_masks = [true]\n", "relax.strain_masks", "relax.strain_mask"),
        ("[excution]\narray_tasks = 2\n", "excution", "execution"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, text: str, seen: str, nearest: str) -> None:
    with pytest.raises(UnknownKeyError) as caught:
        parse_spec(SMALL + text, tmp_path, "my.toml")
    assert caught.value.exit_code == 2
    for part in ("my.toml", repr(seen), repr(nearest), "Correct or remove"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[relax]\nmax_steps = -1\n", ("relax.max_steps", "greater than or equal to 0", "-1")),
        ('[relax]\ncell = "open"\n', ("relax.cell", "'fixed_volume'", "'open'")),
        ("[relax]\npressure_gpa = 1.5\n", ("relax.pressure_gpa", 'relax.cell is "fixed"', "1.5")),
        ("[relax]\nstrain_mask = [true, true, true, true, true, false]\n", ("relax.strain_mask", 'relax.cell is "fixed"')),
        ('[relax]\ncell = "full"\nstrain_mask = [true, true]\n', ("relax.strain_mask.2", "Field required")),
        ('[relax]\ncell = "full"\nstrain_mask = [1, 1, 1, 1, 1, 1]\n', ("relax.strain_mask.0", "valid boolean")),
        ('[relax]\ncell = "full"\npressure_gpa = inf\n', ("relax.pressure_gpa", "finite")),
        (
            '[relax]\ncell = "full"\nstrain_mask = [true, true, true, true, true, false]\nfix_symmetry = true\n',
            ("relax.fix_symmetry", "exclude each other"),
        ),
        ('[execution]\narray_tasks = "2"\n', ("execution.array_tasks", "integer", "'2'")),
        ("[relax\n", ("not valid TOML",)),
    ],
)
def test_illegal_value_says_what_is_allowed(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(SMALL + text, tmp_path)
    for part in parts:
        assert part in str(caught.value)


def test_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the spec"):
        read_spec(tmp_path / "none.toml")


def test_frozen_spec_reads_back_equal(tmp_path: Path) -> None:
    hostile = tmp_path / "a 'quoted' \"folder\" é\\"
    hostile.mkdir()
    spec = parse_spec(SMALL, hostile)
    spec.paths.root.mkdir(parents=True)
    freeze_spec(spec)
    assert read_spec(spec.paths.spec) == spec
    with pytest.raises(FileExistsError):
        freeze_spec(spec)


def test_frozen_spec_of_a_moved_campaign_has_its_new_directory(tmp_path: Path) -> None:
    spec = parse_spec(SMALL, tmp_path)
    spec.paths.root.mkdir(parents=True)
    freeze_spec(spec)
    assert read_frozen_spec(spec.paths) == spec
    moved = CampaignPaths(spec.paths.root.rename(tmp_path / "elsewhere"))
    frozen = read_frozen_spec(moved)
    assert frozen.paths == moved
    assert frozen.inputs == spec.inputs


def test_a_wrong_choice_is_told_once_with_the_nearest_right_one() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec('[campaign]\nname = "a"\ndirectory = "b"\n[inputs]\npaths = ["c"]\n[model]\nname = "emtt"\n', Path("/"))
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith("(given: 'emtt'). Did you mean 'emt'?")


def test_mask_and_pressure_reach_the_engine(tmp_path: Path) -> None:
    text = SMALL + '[relax]\ncell = "full"\nstrain_mask = [true, true, false, false, false, true]\npressure_gpa = 2\n'
    spec = parse_spec(text, tmp_path)
    assert spec.relax.pressure_gpa == 2.0
    keeping = parse_spec(SMALL + "[relax]\nfix_symmetry = true\n", tmp_path)
    assert not relax_settings(spec).fix_symmetry and relax_settings(keeping).fix_symmetry
    spec.paths.root.mkdir(parents=True)
    freeze_spec(spec)
    settings = relax_settings(read_spec(spec.paths.spec))
    assert settings.exits().strain_mask == (True, True, False, False, False, True)
    assert settings.exits().pressure_ev_per_ang3 == pytest.approx(2.0 / 160.21766208)
