"""The page about a run: what it says, what it is made of, and what is refused."""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from streamvln_gym.cli import main
from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.report import ReportConfig, canvas, charts, write_report
from streamvln_gym.evaluation.report.measures import MEASURES
from streamvln_gym.evaluation.report.run_files import read_reported_run
from streamvln_gym.evaluation.report.scene_maps import SceneFolders, scene_map
from streamvln_gym.evaluation.run_folder import video_file
from streamvln_gym.evaluation.summary import summarize_run
from streamvln_gym.metrics import METRICS
from streamvln_gym.statistics import bootstrap_mean
from tests.conftest import TinyFlats
from tests.evaluation.made_runs import (
    FINGERPRINT,
    IDENTITY,
    house,
    made_records,
    made_timing,
    write_houses,
    write_lines,
    write_run,
)


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return made_records(40, 4)


@pytest.fixture
def run(tmp_path: Path, records: list[dict[str, Any]]) -> Path:
    write_houses(tmp_path / "scenes", 4)
    return write_run(tmp_path / "run", records)


def page_of(run: Path, **options: Any) -> str:
    """The page about a run."""
    return write_report(ReportConfig(run, scenes_dir=run.parent / "scenes", **options)).read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    """The numbers that the page's scripts draw."""
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_the_page_names_what_was_evaluated(run):
    page = page_of(run)
    head = page[page.index("<header") : page.index("</header>")]
    for value in ("made-up", "flats-v1", "val_unseen", "embedded", "0.1.0+abcdef", "c0ffeec0ffee", FINGERPRINT[:12]):
        assert value in head
    assert "not R2R" in head and "Half-finished" not in page
    for value in (IDENTITY["checkpoint_sha256"], IDENTITY["dataset_sha256"], FINGERPRINT, "max_steps", "camera.width"):
        assert value in page[page.index("Identity of the run") :]


def test_downloaded_data_is_not_called_flats(tmp_path, records):
    identity = {**IDENTITY, "dataset": "r2r", "source": "datasets/r2r"}
    head = page_of(write_run(tmp_path / "run", records, identity=identity)).split("<main>")[0]
    assert "Generated flats" not in head and "<strong>r2r / val_unseen</strong>" in head


def test_the_page_is_complete_in_itself(run):
    page = page_of(run)
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page)
    assert page_of(run) == page, "the same run gives the same bytes"


def test_figures_are_means_with_intervals_over_scenes(run, records):
    assert set(MEASURES) == set(METRICS)
    wanted = bootstrap_mean([r["success"] for r in records], [r["scene_id"] for r in records])
    shown = f"[{100 * wanted.low:.1f}, {100 * wanted.high:.1f}]"
    assert page_of(run).count(shown) >= 2  # the tile and the table


def test_an_unreachable_goal_is_counted_and_spoils_nothing(tmp_path, records):
    lost = {**records[0], "navigation_error": "inf", "success": 0.0, "failure": "no_stop"}
    page = page_of(write_run(tmp_path / "run", [lost, *records[1:]]))
    shown = page.split("<main>")[1].split("<script")[0]
    assert "1 unreachable left out" in shown and "∞" in shown and not re.search(r"\bnan\b", shown, re.IGNORECASE)


def test_the_page_says_what_paths_are_compared_with_and_of_how_many_episodes_a_mean_is(tmp_path, records):
    true = [{**record, "path_reference": "ground_truth"} for record in records]
    page = page_of(write_run(tmp_path / "true", true))
    assert "nDTW, SDTW and CLS of" not in page and "<small>of " not in page
    goals = ("success", "spl", "sdtw", "oracle_success", "navigation_error")
    bare = {k: v for k, v in true[0].items() if k not in goals} | {"path_reference": "reference_path", "goal": None}
    page = page_of(write_run(tmp_path / "mixed", [bare, *true[1:]]))
    assert "nDTW, SDTW and CLS of 40 episodes: 1 are against the reference path" in page
    assert "<small>of 39 episodes</small>" in page and ">9 of 10<" in page


def test_one_scene_has_intervals_over_episodes(tmp_path):
    assert "bootstrap that draws episodes" in page_of(write_run(tmp_path / "run", made_records(5, 1)))
    assert "<b>1</b> <span>in 1 scene</span>" in page_of(write_run(tmp_path / "one", made_records(1, 1)))


def test_failures_are_counted_and_linked(run, records):
    page = page_of(run)
    counts = Counter(record["failure"] for record in records)
    assert len(counts) == 6, "the made run has every kind, and successes"
    for kind, count in counts.items():
        if kind is not None:
            assert re.search(rf'href="#failure={kind}">[^<]+</a>\s*<b>{count}</b>', page)
            assert page.count(f'data-outcome="{kind}"') == count


def test_a_failure_without_a_path_has_no_kind(tmp_path, records):
    pathless = [{**record, "reference_path": [], "failure": None} for record in records]
    page = page_of(write_run(tmp_path / "run", pathless))
    assert page.count('data-outcome="failed"') == sum(not record["success"] for record in records)
    assert "Success by path length" not in page


def test_some_episodes_without_a_path_are_in_no_class_of_length(tmp_path, records):
    some = [{**record, "reference_path": [], "failure": None} for record in records[:10]]
    page = page_of(write_run(tmp_path / "run", [*some, *records[10:]]))
    assert "Success by path length" in page
    table = page.split("<summary>Described path</summary>")[1].split("</table>")[0]
    assert sum(map(int, re.findall(r'</th><td class="num">(\d+)</td>', table))) == 30


LANGUAGES = ("en-US", "en-IN", "hi-IN", "te-IN")
TOLD = ("Go & stop.", "Go on.", "दरवाज़े से निकलकर रुकें।", "తలుపు నుండి బయటకు వెళ్ళండి")


def spoken(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records as of RxR: with languages and instruction ids."""
    return [
        {**record, "instruction": TOLD[k % 4], "language": LANGUAGES[k % 4], "key": [*record["key"][:2], str(1000 + k)]}
        for k, record in enumerate(records)
    ]


def test_episodes_are_named_as_the_dataset_names_them(tmp_path, records):
    page = page_of(write_run(tmp_path / "run", spoken(records)))
    name = records[3]["episode_id"]
    assert f'id="row-{name}"' in page and f'<a href="#episode={name}">{name}</a>' in page
    assert f"{name}.1003" not in page and "instruction 1003</span>" in page


def test_languages_are_shown_where_there_are_several(tmp_path, records):
    page = page_of(write_run(tmp_path / "run", spoken(records)))
    table = page.split("<summary>Language</summary>")[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">([^<]+)</th><td class="num">(\d+)<', table) == [
        (language, "10") for language in sorted(LANGUAGES)
    ]
    for language, told in zip(LANGUAGES, TOLD, strict=True):
        shown = f'<p lang="{language}">{html.escape(told)}</p>'
        assert page.count(shown) == page.count(f'<span class="tag">{language}</span>') == 10
    page = page_of(write_run(tmp_path / "one", [{**record, "language": "hi-IN"} for record in records]))
    assert "<summary>Language</summary>" not in page and '<span class="tag">hi-IN' not in page
    assert page.count('<p lang="hi-IN">') == len(records)
    assert "lang=" not in page_of(write_run(tmp_path / "older", records)).split("<body>")[1].split("<script")[0]


def test_paths_and_calls_are_kept_to_the_centimetre(run, records):
    data = data_of(page_of(run))
    for record, shown in zip(records, data["episodes"], strict=True):
        way = np.cumsum(np.array(shown["path"]).reshape(-1, 2), axis=0) / 100.0
        assert np.abs(way - np.array(record["trajectory"])[:, [0, 2]]).max() <= 0.00501
        assert len(shown["actions"]) == len(record["actions"]) == len(way) - 1
        assert shown["actions"].count("S") == int(record["stopped"])
        assert [call[:1] + call[2:] for call in shown["calls"]] == [
            [step, length, tokens, int(opens)] for step, _, length, tokens, opens in made_timing(record)["calls"]
        ]
    scene = data["scenes"][records[0]["scene_id"]]
    assert len(scene["rooms"]) == 9 and scene["rooms"][1] == [420, 0, 820, 400, "hallway"]


def test_instructions_are_text_whatever_is_in_them(tmp_path, records):
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & “quotes”"
    page = page_of(write_run(tmp_path / "run", [{**records[0], "instruction": nasty, "scene_id": "</script>x.glb"}]))
    assert "alert(1)</script>" not in page and "<img" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_split_without_goals(tmp_path, records):
    judged = {"success", "spl", "oracle_success", "navigation_error", "ndtw", "sdtw", "cls"}
    hidden = {"failure": None, "goal": None, "reference_path": []}
    blind = [{k: v for k, v in {**record, **hidden}.items() if k not in judged} for record in records]
    page = page_of(write_run(tmp_path / "run", blind))
    assert "not judged" in page and "failures-title" not in page and "steps" in page


def test_an_agent_without_model_calls(tmp_path, records):
    page = page_of(write_run(tmp_path / "run", records, timings=False))
    assert "Time and context" not in page and "Where episodes ended" in page


def test_a_half_finished_run_says_so(tmp_path, records):
    folder = write_run(tmp_path / "run", records[:12], planned=40, merged=False)
    shard = folder / "shards" / "episodes-w0-0.jsonl"
    whole = shard.read_bytes()
    shard.write_bytes(whole + b'{"fingerprint": "01')  # a worker is writing
    page = page_of(folder)
    assert "Half-finished: 12 of 40 episodes" in page
    assert shard.read_bytes().endswith(b'"01'), "somebody else's file is left as it is"
    assert [record["episode_id"] for record in read_reported_run(folder).records] == [
        r["episode_id"] for r in records[:12]
    ]


def test_a_run_that_is_not_merged_says_so(tmp_path, records):
    assert "Not merged yet" in page_of(write_run(tmp_path / "run", records, merged=False))


def test_an_episode_in_two_shards_counts_once(tmp_path, records):
    folder = write_run(tmp_path / "run", records[:12], planned=40, merged=False)
    write_lines(folder / "shards" / "episodes-w2-0.jsonl", records[10:14])
    assert "Half-finished: 14 of 40 episodes" in page_of(folder)


def test_without_scenes_maps_have_no_background(run, records):
    page = write_report(ReportConfig(run, scenes_dir=run / "nowhere")).read_text()
    assert set(map(len, data_of(page)["scenes"].values())) == {0}
    assert "4 scenes are not on disk" in page and page.count('role="row" id="row-') == len(records)


def test_a_corrupt_scene_costs_its_background_only(run):
    broken = run.parent / "scenes/flats/house_2/house_2.scene_graph.json"
    broken.write_text("{")
    page = page_of(run)
    assert [len(scene) > 0 for scene in data_of(page)["scenes"].values()] == [True, True, False, True]
    assert page.count(f"cannot read the scene graph {broken}") == 1


def test_flats_are_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMVLN_GYM_CACHE", str(tmp_path))
    write_houses(tmp_path / "flats-v1" / "scene_datasets", 1)
    assert SceneFolders("flats-v1", None).graph("flats/house_0/house_0.glb") == house("house_0")
    assert SceneFolders("flats-v2", None).graph("flats/house_0/house_0.glb") is None, "another version's flats"
    assert SceneFolders("r2r", None).graph("flats/house_0/house_0.glb") is None


def test_a_scan_shows_its_walkable_floor(tiny_flats: TinyFlats):
    scene = tiny_flats.dataset.scene_path("flats/tiny_a/tiny_a.glb")
    (floor,) = scene_map(scene, None)["floors"]  # as if it had no scene graph
    lowest, highest, outline = floor
    assert lowest == highest == 20
    corners = np.array(re.findall(r"-?\d+", outline), dtype=float).reshape(-1, 2)
    assert outline.count("M") == 3, "two rooms in one piece, the table in the middle of it, and the closed room"
    # the rooms' inner faces, less the agent's radius
    assert np.allclose([corners.min(axis=0), corners.max(axis=0)], [[10, 10], [1030, 390]], atol=6)


def test_videos_are_linked_where_they_are(run, tmp_path, records):
    first, second = records[0]["episode_id"], records[1]["episode_id"]
    (run / "videos").mkdir()
    for name in (first, second):
        (run / "videos" / f"{name}.mp4").write_bytes(b"film")
    assert [e.get("video") for e in data_of(page_of(run))["episodes"][:3]] == [
        f"videos/{first}.mp4",
        f"videos/{second}.mp4",
        None,
    ]
    away = data_of(page_of(run, out=tmp_path / "my pages" / "a.html"))["episodes"][0]["video"]
    assert away == f"../run/videos/{first}.mp4"
    taken = data_of(page_of(run, out=tmp_path / "mail", videos=True))["episodes"][0]["video"]
    assert taken == f"videos/{first}.mp4" and (tmp_path / "mail" / taken).read_bytes() == b"film"
    assert data_of(page_of(run, videos=True))["episodes"][0]["video"] == f"videos/{first}.mp4"  # they are there already


def test_videos_of_ids_that_are_no_file_names_are_found(tmp_path, records):
    folder = write_run(tmp_path / "run", [{**records[0], "episode_id": "a/b 50%"}])
    file = video_file(folder, "a/b 50%")
    assert file == folder / "videos" / "a%2Fb 50%25.mp4"
    file.parent.mkdir()
    file.write_bytes(b"film")
    address = data_of(page_of(folder))["episodes"][0]["video"]
    assert folder / unquote(address) == file
    address = data_of(page_of(folder, out=tmp_path / "mail", videos=True))["episodes"][0]["video"]
    assert (tmp_path / "mail" / unquote(address)).read_bytes() == b"film"


def test_500_episodes_are_small(tmp_path):
    write_houses(tmp_path / "scenes", 20)
    page = page_of(write_run(tmp_path / "run", made_records(500, 20)))
    assert len(page.encode()) < 5_000_000  # the limit: 30 MB


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", None, r"holds no evaluation \(run\.json is missing\).*evaluate --out"),
        ("run.json", "{", r"run\.json cannot be read.*evaluate into another folder"),
        ("run.json", '{"agent": "oracle"}', r"run\.json cannot be read.*identity"),
        ("run.json", '{"identity": [], "fingerprint": "a", "episodes": 3}', r"does not say what was evaluated"),
        ("episodes.jsonl", '{"fingerprint"\n', r"line 1 of .*episodes\.jsonl is not a result of this run.*remove"),
        ("episodes.jsonl", b"\xff\xfe\n", r"line 1 of .*episodes\.jsonl is not a result of this run"),
        ("episodes.jsonl", "", r"has 0 results, but the run has 40 episodes"),
        ("timings.jsonl", '{"key": 3}\n', r"line 1 of .*timings\.jsonl is not a result.*remove that line"),
    ],
)
def test_a_run_that_cannot_be_read_is_refused_with_a_remedy(run, name, content, message):
    path = run / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError, match=message):
        write_report(ReportConfig(run))
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("success", "x"),
        ("spl", None),
        ("ndtw", True),
        ("navigation_error", [1.0]),
        ("scene_id", 3),
        ("episode_id", 3),
        ("instruction", None),
        ("needs_memory", 1),
        ("failure", {}),
        ("reference_path", [[0.0, 1.0]]),
        ("trajectory", "abc"),
        ("goal", 2),
        ("actions", [7]),
        ("headings", ["north"]),
        ("stopped", "yes"),
        ("key", ["a", "b", None]),
        ("calls", [[1, "fast"]]),
    ],
)
@pytest.mark.parametrize("merged", [True, False])
def test_a_value_of_another_type_is_named_with_file_and_line(tmp_path, records, name, value, merged):
    folder = write_run(tmp_path / "run", records[:4], merged=merged)
    kind = "timings" if name == "calls" else "episodes"
    path = folder / f"{kind}.jsonl" if merged else folder / "shards" / f"{kind}-w0-0.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1][name] = value
    write_lines(path, lines)
    with pytest.raises(EvaluationError, match=rf"line 2 of .*{path.name} is not a result .*'{name}' must be"):
        write_report(ReportConfig(folder))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[1]"], r"line 1 of .*episodes-w0-0\.jsonl is not a result .*remove that line"),
        (['{"key": ["a", "b"]}'], r"line 1 of .*episodes-w0-0\.jsonl is not a result"),
        (['{"key": ["a", "b", 0], "fingerprint": "else"}'], r"another evaluation \(fingerprint 'else'.*move that file"),
        ([f'{{"key": ["a", "b", 0], "fingerprint": "{FINGERPRINT}"}}'], r"has no scene_id, .*by another version"),
        ([], r"no finished episode yet"),
    ],
)
def test_a_shard_that_cannot_be_read_is_refused_with_a_remedy(tmp_path, lines, message):
    folder = write_run(tmp_path / "run", [], planned=3, merged=False)
    (folder / "shards" / "episodes-w0-0.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(EvaluationError, match=message):
        write_report(ReportConfig(folder))


def test_no_folder_and_no_place_for_the_page(run, tmp_path):
    with pytest.raises(EvaluationError, match=r"nowhere holds no evaluation.*name the folder"):
        write_report(ReportConfig(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationError, match=r"cannot write the report .*--out"):
        write_report(ReportConfig(run, out=tmp_path / "file" / "page.html"))


def test_command_line(run, tmp_path, capsys):
    main(["report", str(run), "--out", str(tmp_path / "page.html")])
    assert capsys.readouterr().out == f"report: {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit, match=r"streamvln-gym: .*nowhere holds no evaluation"):
        main(["report", str(tmp_path / "nowhere")])


def test_ticks_are_round_and_inside():
    assert canvas.nice_ticks(0.0, 100.0) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert canvas.nice_ticks(5.0, 20.0) == pytest.approx([5.0, 10.0, 15.0, 20.0])
    for low, high in ((0.0, 0.003), (0.0, 1.0), (3.0, 3.5), (0.0, 1e6)):
        ticks = canvas.nice_ticks(low, high)
        assert 2 <= len(ticks) <= 11 and min(ticks) >= low - 1e-9 and max(ticks) <= high * (1 + 1e-9)


def test_charts_show_every_episode(records):
    histogram = charts.error_histogram(records)
    assert histogram is not None
    assert sum(int(row[1]) for row in histogram.body) == sum(r["success"] for r in records)
    assert sum(int(row[1]) + int(row[2]) for row in histogram.body) == len(records)
    by_length = charts.success_by_length(summarize_run(records)["by_length"])
    assert by_length is not None and sum(int(row[1]) for row in by_length.body) == len(records)
    timings = [made_timing(record) for record in records]
    profile = charts.call_profile(timings)
    assert profile is not None and sum(int(row[1]) for row in profile.body) == sum(len(t["calls"]) for t in timings)
    first = [t["calls"][0][1] for t in timings]
    assert profile.body[0][3] == f"{np.median(first):.1f} ms"


def test_charts_of_little(records):
    far = [{**records[0], "navigation_error": 250.0, "success": 0.0}]
    chart = charts.error_histogram(far)
    assert chart is not None and chart.body[-1] == ("20 m and more", "0", "1")
    assert charts.error_histogram([{**records[0], "navigation_error": math.inf}]) is None
    assert charts.call_profile([]) is None and charts.success_by_length({}) is None
