"""Entries of `inputs.paths` → files in the order that gives ids."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.errors import SpecError
from campaign.structures.paths import expand_paths, natural_key, printable_path, split_pattern

HOSTILE = ["plain", "with blank", "qu'o\"te", "new\nline", "Körper", "[1-3]", "semi;colon & $HOME", "-rf", "#hash?%20"]


def claims(path: Path) -> bool:
    return path.suffix in {".xyz", ".cif"}


def names(base: Path, *entries: str) -> list[str]:
    return [file.source for file in expand_paths([str(base / entry) for entry in entries], claims, base).files]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")


def test_entries_keep_their_order_and_files_within_one_are_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/s10.xyz", "b/s2.xyz", "b/s2/x.xyz", "a/1.xyz")
    assert names(tmp_path, "b", "a") == ["b/s2/x.xyz", "b/s2.xyz", "b/s10.xyz", "a/1.xyz"]


@given(st.lists(st.text(string.ascii_letters + string.digits + "/.-", min_size=1), unique_by=lambda text: Path(text).parts))
def test_natural_order_is_a_total_order_that_does_not_depend_on_the_order_of_listing(paths: list[str]) -> None:
    backwards = paths[::-1]
    assert sorted(paths, key=natural_key) == sorted(backwards, key=natural_key)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("s2", "s10"),  # by value
        ("s01", "s1"),  # equal values: by text, always the same way
        ("a/z", "b/a"),  # folder by folder
        ("s", "s1"),  # nothing comes before something
        ("1", "a"),  # numbers before letters
    ],
)
def test_natural_order(first: str, second: str) -> None:
    assert sorted([second, first], key=natural_key) == [first, second]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_folders_and_files_are_names_and_not_patterns(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}/{name}.xyz", "1/decoy.xyz", "2/decoy.xyz")
    file = f"{name}/{name}.xyz"
    for entry in (file, name, f"{name}/*.xyz", f"{name}/**/*.xyz"):
        found = expand_paths([str(tmp_path / entry)], claims, tmp_path).files
        assert [Path(one.path) for one in found] == [tmp_path / file]
        assert found[0].source == file


def test_names_that_are_no_utf8_are_found_and_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.xyz")
    try:
        touch(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (file,) = expand_paths([str(tmp_path)], claims, tmp_path).files
    assert file.path == str(tmp_path / name)
    assert file.source == "\\xff\\xfe.xyz"
    file.source.encode()


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.cif", "s/x/b.cif", "s/x/y/c.cif", "s/x/y/c.txt", "s/.hidden/d.cif", "s/.e.cif")
    under = str(tmp_path / "s")
    assert names(tmp_path, f"{under}/*.cif") == ["s/a.cif"]
    assert names(tmp_path, f"{under}/**/*.cif") == ["s/a.cif", "s/x/b.cif", "s/x/y/c.cif"]
    assert names(tmp_path, f"{under}/**/y/*") == ["s/x/y/c.cif", "s/x/y/c.txt"]
    assert names(tmp_path, f"{under}/**") == names(tmp_path, under)
    assert names(tmp_path, f"{under}/[ab].cif") == ["s/a.cif"]
    assert names(tmp_path, f"{under}/.e*") == ["s/.e.cif"]
    assert names(tmp_path, f"{under}/x*") == ["s/x/b.cif", "s/x/y/c.cif"]


def test_files_that_no_format_claims_are_left_out_of_folders_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.cif", "s/README.md")
    found = expand_paths([str(tmp_path / "s")], claims, tmp_path)
    assert [file.source for file in found.files] == ["s/a.cif"]
    assert found.skipped == (str(tmp_path / "s" / "README.md"),)


def test_a_file_named_twice_is_read_once_where_it_comes_first(tmp_path: Path) -> None:
    touch(tmp_path, "a.cif", "b.cif")
    assert names(tmp_path, "b.cif", "*.cif") == ["b.cif", "a.cif"]


def test_links_to_folders_are_not_followed_into_loops(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.cif")
    (tmp_path / "s" / "loop").symlink_to(tmp_path / "s")
    for entry in ("s", "s/**/*.cif"):
        assert names(tmp_path, entry) == ["s/a.cif"]


def test_stores_are_leaves_and_campaigns_stand_for_their_store(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.cif", "s/old.zarr/zarr.json", "s/old.zarr/x.cif")
    touch(tmp_path, "s/run/campaign.toml", "s/run/inputs.zarr/zarr.json", "s/run/y.cif", "s/run/store.zarr/zarr.json")
    assert names(tmp_path, "s") == ["s/a.cif", "s/old.zarr"]
    assert names(tmp_path, "s/**/*.cif") == ["s/a.cif"]
    assert names(tmp_path, "s/run") == ["s/run/store.zarr"]


def test_a_campaign_without_a_store_is_refused_with_what_to_do(tmp_path: Path) -> None:
    touch(tmp_path, "run/campaign.toml", "run/inputs.zarr/zarr.json")
    with pytest.raises(SpecError, match=r"campaign without store.zarr.*campaign consolidate"):
        names(tmp_path, "run")


@pytest.mark.parametrize("entry", ["nothing.cif", "nowhere/*.cif", "empty", "empty/**/*.cif", "only text"])
def test_an_entry_that_matches_nothing_is_named(tmp_path: Path, entry: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "only text/readme.txt", "a.cif")
    with pytest.raises(SpecError, match=r"matches no structure file.*An entry is.*Correct the entry") as caught:
        names(tmp_path, "a.cif", entry)
    assert entry in str(caught.value)


def test_urls_pass_as_they_are(tmp_path: Path) -> None:
    (file,) = expand_paths(["s3://bucket/store.zarr"], claims, tmp_path).files
    assert file.path == file.source == "s3://bucket/store.zarr"


def test_sources_are_relative_to_the_base_where_they_lie_below_it(tmp_path: Path) -> None:
    touch(tmp_path, "base/one/a.cif", "elsewhere/b.cif")
    found = expand_paths([str(tmp_path / "base/one"), str(tmp_path / "elsewhere")], claims, tmp_path / "base").files
    assert [file.source for file in found] == ["one/a.cif", str(tmp_path / "elsewhere/b.cif")]


def test_split_pattern_takes_what_exists_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert split_pattern(str(tmp_path / "a[1]" / "*.cif")) == (tmp_path / "a[1]", ("*.cif",))


def test_printable_path_keeps_letters() -> None:
    assert printable_path("Körper/ñ") == "Körper/ñ"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed_is_a_problem_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.cif", "s/closed/b.cif")
    (tmp_path / "s/closed").chmod(0)
    try:
        found = expand_paths([str(tmp_path / "s")], claims, tmp_path).files
    finally:
        (tmp_path / "s/closed").chmod(0o700)
    assert [(file.source, file.problem) for file in found] == [("s/a.cif", None), ("s/closed", "Permission denied")]
