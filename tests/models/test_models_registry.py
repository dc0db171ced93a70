"""The registry: every name, and one clear error for each way to ask wrongly."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import get_args

import pytest
import torch

from campaign import __version__
from campaign.errors import MissingDependencyError, SpecError, UnknownModelError
from campaign.models import registry
from campaign.models.registry import MODEL_NAMES, create_model, model_options, supported_elements
from campaign.spec import ModelSection

CPU = torch.device("cpu")


def test_names_are_those_of_the_spec() -> None:
    assert set(get_args(ModelSection.model_fields["name"].annotation)) == set(MODEL_NAMES)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_options_are_known_without_the_package(name: str) -> None:
    assert not {"self", "dtype", "device"} & set(model_options(name))


@pytest.mark.parametrize(
    ("name", "dtype"), [("lj", torch.float64), ("morse", torch.float32), ("emt", torch.float64), ("demo", torch.float32)]
)
def test_models_are_made_in_their_dtype(name: str, dtype: torch.dtype) -> None:
    model = create_model(name, dtype, CPU)
    assert model.name == name
    assert model.provenance()["dtype"] == str(dtype).removeprefix("torch.")


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"no model is called 'sevenet'; did you mean 'sevennet'\? Models are lj, .* Correct"):
        create_model("sevenet", torch.float32, CPU)


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"'lj' has no option 'sigmaa'; did you mean 'sigma'\? Correct"):
        create_model("lj", torch.float64, CPU, {"sigmaa": 1.0})
    with pytest.raises(SpecError, match=r"'emt' has no option 'asap_cutoff'; it has none"):
        create_model("emt", torch.float64, CPU, {"asap_cutoff": True})


def test_option_of_the_wrong_kind() -> None:
    with pytest.raises(SpecError, match=r"'lj' refuses its options .*'three'.* Mend"):
        create_model("lj", torch.float64, CPU, {"sigma": "three"})
    with pytest.raises(SpecError, match=r"'ase' refuses its options .*calculator.* Mend"):
        create_model("ase", torch.float64, CPU)


def test_dtype_that_a_model_does_not_have() -> None:
    with pytest.raises(SpecError, match=r"'sevennet' was asked for in float64; it computes in float32\. Set model\.dtype"):
        create_model("sevennet", torch.float64, CPU)


@pytest.mark.parametrize("name", ["chgnet", "mace"])
def test_missing_package_has_its_install_command(name: str, tmp_path) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed, so its absence cannot be seen; run this in an environment without it")
    weights = tmp_path / "weights"
    weights.touch()
    options = {"path": str(weights)} if name == "mace" else {}
    with pytest.raises(MissingDependencyError, match=rf"'{name}' needs the package '{name}'.*pip install 'relax-campaign\[{name}\]'"):
        create_model(name, torch.float32, CPU, options)


def test_mace_without_its_file() -> None:
    with pytest.raises(SpecError, match=r"no MACE model is at '/nowhere/mace\.model'; .* Give its path"):
        create_model("mace", torch.float32, CPU, {"path": "/nowhere/mace.model"})


def test_only_the_model_asked_for_is_imported() -> None:
    code = (
        "import sys, torch; from campaign.models.registry import create_model; create_model('lj', torch.float64, torch.device('cpu'));"
        "print(*(m for m in ('sevenn', 'e3nn', 'chgnet', 'mace', 'campaign.models.emt', 'campaign.hooks') if m in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
    assert run.stderr == ""


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_specs_own_precision_is_one_that_the_model_has(name: str) -> None:
    dtype = ModelSection.model_validate({"name": name}).dtype
    assert getattr(torch, dtype) is registry._ENTRIES[name].dtypes[0]


@pytest.mark.parametrize("name", ["lj", "morse", "emt", "demo"])
def test_fingerprint_follows_our_version_and_the_type_of_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(name, torch.float64, CPU)
    assert model.provenance()["relax-campaign"] == __version__
    assert model.provenance()["device"] == "cpu"
    before = model.fingerprint()
    for module in ("kernel_model", "demo"):
        monkeypatch.setattr(f"campaign.models.{module}.__version__", "9.9.9")
    assert model.fingerprint() != before
    monkeypatch.undo()
    assert model.fingerprint() == before
    if name != "demo":
        assert create_model(name, torch.float64, torch.device("cuda", 1)).provenance()["device"] == "cuda"


def test_elements_are_known_for_ingest() -> None:
    assert supported_elements("lj", "float64") is None
    assert supported_elements("emt", "float64", {}) == {1, 6, 7, 8, 13, 28, 29, 46, 47, 78, 79}
