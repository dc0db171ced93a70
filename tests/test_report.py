"""The report: right numbers, one file, nothing in it that a file name could turn into markup, and a page whatever is missing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign.analysis import StoreView
from campaign.analysis.ranks import RankRuns, parse_run
from campaign.consolidate import run_consolidate
from campaign.errors import SpecError, StoreNotFoundError
from campaign.fields import encode_error
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.progress import CampaignState, Progress
from campaign.report import run_report
from campaign.report_contents import provenance, threads_of, tiles
from campaign.report_quality import quality_contents
from campaign.testing.synthetic import SyntheticSystems, synthetic_systems, write_synthetic_campaign
from campaign.timings import append_timing

HOSTILE = [
    "</script><script>alert(1)</script>.cif",
    "<img src=x onerror=alert(2)>.xyz",
    "<a href='javascript:alert(3)'>click</a>.cif",
    "\"><svg onload=alert(4)> & 'quotes' {{ 7*7 }} %{x} ${8*8}.cif",
    "dir/\u202egpj.exe \x1b[31mred\x07 <!-- .extxyz",
]


QUALITY = ("shortest-distance-ratio", "volume-ratio", "energy-per-atom", "n-fragments")


class Page(HTMLParser):
    """What a browser would make of a page: elements, texts, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self._quiet = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs) if tag == "script" else None
        self._quiet = tag == "style"
        if self._script is not None:
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag: str) -> None:
        self._script, self._quiet = None, False
        self.text += " " if tag in {"dt", "dd", "td", "th"} else ""

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._quiet:
            self.text += data

    def figures(self) -> dict[str, Any]:
        return {str(a["id"]): json.loads(text) for a, text in self.scripts if a.get("type") == "application/json"}


def report(paths: CampaignPaths) -> Page:
    path = run_report(paths)
    assert path == paths.root / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def array(value: Any) -> Any:
    """Numbers of a figure, which Plotly writes as base64 where they are many."""
    if isinstance(value, dict):
        import base64

        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    return np.array(value)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    paths = write_synthetic_campaign(tmp_path_factory.mktemp("report") / "a 'quoted' näme", synthetic_systems(300, seed=3), name="Cu–Au")
    for arrow, seconds in (("ingest", 2.0), ("relax", 50.0)):
        append_timing(paths, arrow, seconds)
    return paths


@pytest.fixture(scope="module")
def page(campaign: CampaignPaths) -> Page:
    return report(campaign)


def test_the_numbers_are_those_of_the_campaign(page: Page) -> None:
    systems = synthetic_systems(300, seed=3)
    text = " ".join(page.text.split())
    n_converged = int((systems.outcomes() == 0).sum())
    assert f"{n_converged} of 300" in text
    assert f"Rejected ({(systems.outcomes() == Outcome.INVALID).sum()})" in text
    assert f"Not converged ({np.isin(systems.outcomes(), [1, 2, 4]).sum()})" in text
    assert "Wall time 52.0 s" in text
    assert "complete" in text
    for outcome in Outcome:
        assert outcome.sentence in text
    assert "atoms 3 and 7 are 0.00 Å apart" in text
    assert 'preset = "matbench"' in text
    assert "9f2c9f2c" in text


def test_the_figures_hold_the_hull(page: Page) -> None:
    figures = page.figures()
    assert set(figures) == {f"data-{key}" for key in ("hull", "steps", "fmax", "smax", "throughput", "parts", *QUALITY)}
    points, line = figures["data-hull"]["data"]
    systems = synthetic_systems(300, seed=3)
    bulk = (systems.outcomes() == 0) & systems.columns["pbc"].all(axis=1)
    assert len(array(points["x"])) == bulk.sum()
    corners = dict(zip(array(line["x"]).tolist(), array(line["y"]).tolist(), strict=True))
    assert corners[0.0] == pytest.approx(0)
    assert corners[1.0] == pytest.approx(0)
    # The regular solution of the synthetic campaign: between -0.3 x (1-x) and 30 meV above it.
    for x, y in corners.items():
        assert -0.3 * x * (1 - x) - 1e-9 <= y <= -0.3 * x * (1 - x) + 0.03
    assert (array(points["y"]) >= np.interp(array(points["x"]), list(corners), list(corners.values())) - 1e-9).all()
    # The lines of the ranks' throughput add up to all structures over all times.
    assert len(figures["data-throughput"]["data"]) == 4
    steps = sum(array(bars["y"]).sum() for bars in figures["data-steps"]["data"])
    assert steps == (systems.outcomes() != Outcome.INVALID).sum()


def test_no_bar_of_converged_forces_lies_beyond_the_threshold(page: Page) -> None:
    (bars,) = page.figures()["data-fmax"]["data"]
    x, y, width = (array(bars[key]) for key in ("x", "y", "width"))
    assert y[x > 0.02].sum() == 0
    assert y.sum() == (synthetic_systems(300, seed=3).outcomes() == 0).sum()
    assert (width > 0).all()


def odd_systems() -> SyntheticSystems:
    """Four converged structures that are beyond a threshold, each in its own way, and one that is in two."""
    systems = synthetic_systems(120, odds=(1.0, 0, 0, 0, 0), seed=5)
    columns = systems.columns
    columns["n_fragments"][:] = 1
    columns["shortest_distance_ratio"][7] = 0.41
    columns["volume_ratio"][11] = 0.5
    columns["volume_ratio"][12] = 2.25
    columns["n_fragments"][30] = 4
    columns["n_fragments"][7] = 2
    # A column that is not known, as in a store of an older format, is no flag.
    columns["shortest_distance_ratio"][40] = np.nan
    columns["n_fragments"][41] = 0
    columns["source"][11] = HOSTILE[0]
    return systems


def test_what_looks_odd_is_flagged_with_the_command_that_shows_it(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "it's here", odd_systems())
    page = report(paths)
    text = " ".join(page.text.split())
    assert "shortest_distance_ratio below 0.7; volume_ratio below 0.7 or above 1.5;" in text
    assert "n_fragments above 1. Thresholds flag, they do not judge" in text
    assert "Flagged (4)" in text
    flags = {7: "atoms close: 0.410, fragments: 2", 11: "cell shrunk: 0.500", 12: "cell grown: 2.25", 30: "fragments: 4"}
    for system_id, flag in flags.items():
        assert f"{flag} campaign show {shlex.quote(str(paths.root))} {system_id} " in text
    for key in QUALITY:
        (bars,) = page.figures()[f"data-{key}"]["data"]
        assert array(bars["y"]).sum() == 120 - (key in ("shortest-distance-ratio", "n-fragments")), key
    converged = StoreView.open(paths).frame(["energy_per_atom"])["energy_per_atom"]
    first, third = converged.quantile([0.25, 0.75])
    assert not ((converged < first - 5 * (third - first)) | (converged > third + 5 * (third - first))).any()


def test_the_command_for_all_flags_finds_the_same(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", odd_systems())
    contents = quality_contents(StoreView.open(paths), paths)
    words = shlex.split(contents.flagged.command)
    found = StoreView.open(paths).select(words[words.index("--where") + 1]).frame([]).index.tolist()
    assert [row[0] for row in contents.flagged.rows] == [str(system_id) for system_id in found] == ["7", "11", "12", "30"]


def test_one_file_and_no_network(campaign: CampaignPaths, page: Page) -> None:
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert attributes.get("src") is None
        assert str(attributes.get("href", "#")).startswith("#")
    runnable = [text for attributes, text in page.scripts if attributes.get("type") is None]
    assert len(runnable) == 2
    # plotly.js can upload figures by a button; ours must not have it.
    assert "showSendToCloud: false" in runnable[1]
    assert 'plotlyServerURL: ""' in runnable[1]
    assert (campaign.root / "report.html").stat().st_size < 6e6


def test_every_script_that_may_run_is_allowed_by_its_hash(page: Page) -> None:
    from campaign.analysis.markup import content_hash

    policy = str(next(a["content"] for tag, a in page.elements if a.get("http-equiv")))
    allowed = re.findall(r"'sha256-[^']+'", policy)
    assert allowed == [content_hash(text) for attributes, text in page.scripts if attributes.get("type") is None]


def test_core_time_counts_threads_and_gpus_count_themselves() -> None:
    record = {"started_unix_s": 0, "ended_unix_s": 60, "device": "cuda:0", "outcomes": {"converged": 3}}
    on_gpu, on_cpu = parse_run(ShardName(1, 0, 0, 0), record), parse_run(ShardName(1, 0, 1, 0), {**record, "device": "cpu"}, threads=4)
    progress = Progress(6, {outcome.label: 0 for outcome in Outcome} | {"converged": 6}, 0.1, None, CampaignState.COMPLETE)
    values = {tile.label: tile.value for tile in tiles(progress, RankRuns((on_gpu, on_cpu)), {})}
    assert values["GPU time"] == "1 min"
    assert values["Core time"] == "5 min"
    assert threads_of({"hardware": {"threads": 8}}) == 8
    assert threads_of({"provenance": {"shared": {}, "shards": {"a": {"hardware": {"threads": 2}}}}}) == 2
    assert threads_of({"hardware": "unknown", "provenance": 3}) == 1


def hostile_systems() -> SyntheticSystems:
    systems = synthetic_systems(120, seed=5, sources=HOSTILE, odds=(0.7, 0.1, 0.05, 0.1, 0.05))
    reason = np.frombuffer(encode_error("<script>alert('reason')</script> \u202e & <b>"), np.uint8)
    systems.columns["error"][systems.outcomes() != 0] = reason
    return systems


def test_text_from_users_never_becomes_markup(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "<b>dir & 'x'", hostile_systems(), name="</title><script>alert('name')</script>")
    raw = run_report(paths).read_text(encoding="utf-8")
    page = Page(raw)
    assert len([1 for attributes, _ in page.scripts if attributes.get("type") is None]) == 2
    assert not [a for _, a in page.elements if any(str(key).startswith("on") for key in a)]
    assert not [tag for tag, _ in page.elements if tag in {"img", "svg", "b"}]
    # Escaped, not lost: a reader sees the name of the file.
    assert HOSTILE[0] in page.text
    assert HOSTILE[3] in page.text
    # Control and direction characters are written out.
    assert "\u202e" not in raw
    assert "\x1b" not in raw
    assert r"dir/\u202egpj.exe \x1b[31mred\x07 <!-- .extxyz" in page.text
    places = [row[2] for row in page.figures()["data-hull"]["data"][0]["customdata"]]
    assert "&lt;a href='javascript:alert(3)'&gt;click&lt;/a&gt;.cif frame 0" in {re.sub(r"frame \d+", "frame 0", place) for place in places}
    assert not [place for place in places if "<" in place]


Missing = Callable[[Path], CampaignPaths]


def _nothing_converged(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(40, odds=(0, 1, 0, 0, 0)))


def _all_rejected(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(40, odds=(0, 0, 0, 1, 0)), records=False)


def _clusters_only(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(40, clusters=1.0))


def _no_records(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(40), records=False)


def _broken_records(root: Path) -> CampaignPaths:
    paths = write_synthetic_campaign(root, synthetic_systems(40))
    paths.rank_record(ShardName(1, 0, 0, 0)).write_text("{", encoding="utf-8")
    paths.rank_record(ShardName(1, 0, 1, 0)).write_text("{}", encoding="utf-8")
    return paths


def _nothing_done(root: Path) -> CampaignPaths:
    paths = write_synthetic_campaign(root, synthetic_systems(40), consolidated=False, n_ranks=1, records=False)
    shutil.rmtree(paths.shards)
    return paths


def _one_element(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(60, elements=(29,)))


def _three_elements(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(200, elements=(28, 29, 79)))


def _no_element_alone(root: Path) -> CampaignPaths:
    systems = synthetic_systems(60)
    numbers = systems.columns["atomic_numbers"]
    ends = np.cumsum(systems.n_atoms)
    numbers[ends - 1], numbers[ends - 2] = 29, 79
    return write_synthetic_campaign(root, systems)


def _live(root: Path) -> CampaignPaths:
    return write_synthetic_campaign(root, synthetic_systems(60), consolidated=False)


@pytest.mark.parametrize(
    ("write", "says", "draws"),
    [
        (_nothing_converged, "No structure that is periodic in all three directions has converged", {"steps", "throughput", "parts"}),
        (_all_rejected, "Nothing has been relaxed.", set()),
        (_clusters_only, "so there are no formation energies to show", {"steps", "fmax", "throughput", "parts", *QUALITY}),
        (_no_records, "No rank has left a record of its run", {"hull", "steps", "fmax", "smax", *QUALITY}),
        (_broken_records, "1 rank records cannot be read", {"hull", "steps", "fmax", "smax", "throughput", "parts", *QUALITY}),
        (_nothing_done, "not consolidated yet", set()),
        (_one_element, "Energy against volume of Cu", {"energy-volume", "steps", "fmax", "smax", "throughput", "parts", *QUALITY}),
        (_three_elements, "Distance to the hull", {"above-hull", "steps", "fmax", "smax", "throughput", "parts", *QUALITY}),
        (_no_element_alone, "Au has no converged bulk structure of its own", {"steps", "fmax", "smax", "throughput", "parts", *QUALITY}),
        (_live, "shows what the ranks have committed so far", {"hull", "steps", "fmax", "smax", "throughput", "parts", *QUALITY}),
    ],
)
def test_there_is_a_report_whatever_is_missing(write: Missing, says: str, draws: set[str], tmp_path: Path) -> None:
    page = report(write(tmp_path / "run"))
    assert says in " ".join(page.text.split())
    assert {key.removeprefix("data-") for key in page.figures()} == draws
    # Each figure has its box and each box its figure.
    assert {a["data-figure"] for _, a in page.elements if "data-figure" in a} == draws


def test_long_listings_are_cut_and_say_how_to_see_all(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "it's here", synthetic_systems(900, odds=(0.5, 0.25, 0, 0.25, 0)))
    text = " ".join(report(paths).text.split())
    n_rejected = int((synthetic_systems(900, odds=(0.5, 0.25, 0, 0.25, 0)).outcomes() == Outcome.INVALID).sum())
    assert f"The first 200 of {n_rejected} are shown; {n_rejected - 200} more are not." in text
    command = re.search(r"campaign export '\S*/it'\"'\"'s here' --format parquet --where \"?'?.*?-o rows.parquet", text)
    assert command
    # A command that is copied must mean what it says.
    words = shlex.split(command.group())
    assert words[2] == str(paths.root)
    assert words[words.index("--where") + 1] == "outcome == 'invalid'"


def test_a_cloud_of_points_is_thinned_out_and_says_so(tmp_path: Path) -> None:
    systems = synthetic_systems(12_000, sizes=(8,), clusters=0.0)
    page = report(write_synthetic_campaign(tmp_path / "run", systems))
    points, line = page.figures()["data-hull"]["data"]
    assert len(array(points["x"])) == 4000
    assert "4,000 of 11," in page.text
    # The hull is that of all structures: its corners are among the points.
    drawn = set(zip(array(points["x"]).tolist(), array(points["y"]).tolist(), strict=True))
    assert set(zip(array(line["x"]).tolist(), array(line["y"]).tolist(), strict=True)) <= drawn
    assert (tmp_path / "run" / "report.html").stat().st_size < 7e6


def test_an_earlier_report_is_replaced_and_nothing_is_left_beside_it(campaign: CampaignPaths) -> None:
    before = sorted(path.name for path in campaign.root.iterdir())
    run_report(campaign)
    assert sorted(path.name for path in campaign.root.iterdir()) == before


def test_without_inputs_there_is_one_clear_line(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", synthetic_systems(4))
    shutil.rmtree(paths.inputs)
    with pytest.raises(StoreNotFoundError, match=r"has no inputs\.zarr, so there is nothing to report\. Run `campaign resume` first"):
        run_report(paths)
    paths.spec.write_text("[campaign", encoding="utf-8")
    paths.inputs.mkdir()
    with pytest.raises(SpecError, match=r"campaign\.toml"):
        run_report(paths)


def test_provenance_says_what_all_shards_share_and_what_differs(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", synthetic_systems(40), consolidated=False)
    run_consolidate(paths)
    text = " ".join(report(paths).text.split())
    assert "model_fingerprint 9f2c9f2c" in text
    assert "versions.torch 2.13.0" in text
    assert "hardware.cpu AMD EPYC 7763" in text
    assert "shards 4" in text


def test_provenance_lists_texts_that_differ_between_shards() -> None:
    shards = {str(at): {"host": f"node{at % 7}", "device_seconds": at / 3} for at in range(20)}
    combined = {"shared": {"model": {"name": "emt"}}, "shards": shards}
    rows = provenance({"num_samples": 3, "provenance": combined}, frozenset({"num_samples"}))
    assert rows == [("model.name", "emt"), ("host", "node0, node1, node2, node3, node4 and 2 more"), ("shards", "20")]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium: apt-get install chromium runs this test")
def test_a_browser_draws_it_without_a_complaint(tmp_path: Path) -> None:
    paths = write_synthetic_campaign(tmp_path / "run", hostile_systems(), name="</title><script>alert('name')</script>")
    page = report(paths)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    flags += [
        "--disable-component-update",
        "--virtual-time-budget=20000",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        ["chromium", *flags, "--dump-dom", paths.report.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    assert f'data-drawn="{len(page.figures())}"' in done.stdout
    assert done.stdout.count("main-svg") >= len(page.figures())
