"""Episode files: what is read, what is written, and what is refused with which words."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamvln_gym.episodes import Episode, EpisodeDataset, Goal, Instruction
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError
from streamvln_gym.sampler import EpisodeSampler
from streamvln_gym.vlnce import VLNCEDataset, write_dataset

RECORD: dict[str, Any] = {
    "episode_id": 7,
    "trajectory_id": 70,
    "scene_id": "mp3d/abc/abc.glb",
    "start_position": [1.0, 0.5, -2.0],
    "start_rotation": [0.0, 0.0, 0.0, 1.0],
    "info": {"geodesic_distance": 6.5},
    "goals": [{"position": [3, 0.5, 4], "radius": 3.0}],
    "instruction": {"instruction_text": "Walk out, turn left.", "instruction_tokens": [4, 5, 0]},
    "reference_path": [[1, 0.5, -2], [3, 0.5, 4]],
}


def write(path: Path, records: list[Any], ground_truth: Any = None) -> Path:
    """An episode file as VLN-CE has it."""
    document = {"episodes": records, "instruction_vocab": {"word_list": []}}
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    if ground_truth is not None:
        gt_path = path.with_name(path.name.replace(".json", "_gt.json"))
        gt_path.write_bytes(gzip.compress(json.dumps(ground_truth).encode()))
    return path


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RECORD.items() if key != name}


def test_reads_vlnce_files(tmp_path: Path) -> None:
    gt = {"7": {"locations": [[1, 0.5, -2], [1, 0.5, -2.25]], "actions": [1, 0], "forward_steps": 1}}
    path = write(tmp_path / "val.json.gz", [RECORD], gt)
    dataset = VLNCEDataset.load(path, tmp_path / "scenes")
    assert isinstance(dataset, EpisodeDataset)
    assert (dataset.name, dataset.split, len(dataset), dataset.episode_ids) == ("val", "val", 1, ("7",))
    assert dataset.scene_of("7") == "mp3d/abc/abc.glb"
    assert dataset.scene_path("mp3d/abc/abc.glb") == tmp_path / "scenes/mp3d/abc/abc.glb"
    assert dataset.instruction_max_length == len("Walk out, turn left.")
    assert dataset.instruction_charset == frozenset("Walk out, turn left.")
    assert dataset.episode("7") == Episode(
        episode_id="7",
        trajectory_id="70",
        scene_id="mp3d/abc/abc.glb",
        start_position=(1.0, 0.5, -2.0),
        start_rotation=(0.0, 0.0, 0.0, 1.0),
        instruction=Instruction("Walk out, turn left.", (4, 5, 0)),
        goals=(Goal((3.0, 0.5, 4.0), 3.0),),
        reference_path=((1.0, 0.5, -2.0), (3.0, 0.5, 4.0)),
        geodesic_distance=6.5,
        gt_locations=((1.0, 0.5, -2.0), (1.0, 0.5, -2.25)),
        gt_actions=(1, 0),
    )


def test_reads_the_test_split_without_ground_truth(tmp_path: Path) -> None:
    bare = {key: RECORD[key] for key in ("episode_id", "scene_id", "start_position", "start_rotation", "instruction")}
    episode = VLNCEDataset.load(write(tmp_path / "test.json.gz", [bare])).episode("7")
    assert episode.goals == () and episode.reference_path == ()
    assert episode.geodesic_distance is None and episode.gt_locations is None and episode.gt_actions is None
    assert episode.trajectory_id == "7" and episode.needs_memory == "" and episode.via == ()


def test_reads_rxr_instructions(tmp_path: Path) -> None:
    told = {"instruction_text": "ఎడమ", "language": "te-IN", "annotator_id": "3", "timed_instruction": [{"word": "ఎడమ"}]}
    path = write(tmp_path / "rxr.json.gz", [{**RECORD, "episode_id": "a1", "instruction": told}])
    dataset = VLNCEDataset.load(path)
    instruction = dataset.episode("a1").instruction
    assert (instruction.language, instruction.tokens) == ("te-IN", None)
    assert instruction.extra == {"annotator_id": "3", "timed_instruction": [{"word": "ఎడమ"}]}
    assert "ఎ" in dataset.instruction_charset


def test_memory_and_via_come_from_info(tmp_path: Path) -> None:
    info = {"geodesic_distance": 0.0, "needs_memory": "return", "via": [[5, 0, 5]]}
    episode = VLNCEDataset.load(write(tmp_path / "v.json.gz", [{**RECORD, "info": info}])).episode("7")
    assert episode.needs_memory == "return" and episode.via == ((5.0, 0.0, 5.0),)
    assert episode.info == {"needs_memory": "return", "via": [[5, 0, 5]]}
    assert hash(episode) == hash(replace(episode))


@pytest.mark.parametrize("via", [None, []])
def test_no_via_may_be_written_out(tmp_path: Path, via: Any) -> None:
    record = {**RECORD, "info": {"geodesic_distance": 0.0, "via": via}}
    assert VLNCEDataset.load(write(tmp_path / "v.json.gz", [record])).episode("7").via == ()


def test_writing_and_reading_gives_the_same_episodes(tmp_path: Path, tiny_flats) -> None:
    dataset = tiny_flats.dataset
    episodes = [dataset.episode(episode_id) for episode_id in dataset.episode_ids]
    write_dataset(tmp_path / "copy.json.gz", episodes)
    copy = VLNCEDataset.load(tmp_path / "copy.json.gz")
    assert [copy.episode(episode_id) for episode_id in copy.episode_ids] == episodes
    assert (copy.name, copy.split) == ("copy", "copy")


def test_written_files_are_deterministic_and_valid_vlnce(tmp_path: Path, tiny_flats) -> None:
    episodes = [tiny_flats.dataset.episode(episode_id) for episode_id in tiny_flats.dataset.episode_ids]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_dataset(tmp_path / name / "x.json.gz", episodes)
    for name in ("x.json.gz", "x_gt.json.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x.json.gz", "x_gt.json.gz"]
    document = json.loads(gzip.decompress((tmp_path / "a/x.json.gz").read_bytes()))
    words = document["instruction_vocab"]["word_list"]
    first = document["episodes"][0]
    assert first["episode_id"] == 10 and first["trajectory_id"] == 1
    tokens = first["instruction"]["instruction_tokens"]
    assert [words[token] for token in tokens][:3] == ["leave", "the", "living"]
    truth = json.loads(gzip.decompress((tmp_path / "a/x_gt.json.gz").read_bytes()))["10"]
    assert truth["forward_steps"] == truth["actions"].count(1) > 0
    assert truth["actions"][-1] == 0 and len(truth["locations"]) == len(truth["actions"])


def test_writing_refuses_what_reading_would_refuse(tmp_path: Path, tiny_flats) -> None:
    episode = tiny_flats.dataset.episode("10")
    with pytest.raises(DatasetError, match="two episodes have the field 'episode_id' '10'"):
        write_dataset(tmp_path / "x.json.gz", [episode, episode])
    with pytest.raises(DatasetError, match="no episodes"):
        write_dataset(tmp_path / "x.json.gz", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (without("scene_id"), ["episode 7", "'scene_id' is missing"]),
        (without("start_position"), ["episode 7", "'start_position' is missing"]),
        (without("episode_id"), ["episode number 0", "'episode_id' is missing"]),
        ({**RECORD, "start_position": [1, 2]}, ["episode 7", "'start_position' must hold 3 finite numbers"]),
        ({**RECORD, "start_position": [1, 2, None]}, ["'start_position'"]),
        ({**RECORD, "start_position": [10**400, 2, 3]}, ["episode 7", "'start_position' must hold 3 finite numbers"]),
        ({**RECORD, "reference_path": [[0, 0, 10**400]]}, ["'reference_path[0]'"]),
        ({**RECORD, "goals": [{"position": [0, 0, 0], "radius": 10**400}]}, ["'goals[0].radius' must be a number"]),
        ({**RECORD, "info": {"geodesic_distance": 10**400}}, ["'info.geodesic_distance' must be a number"]),
        ({**RECORD, "start_rotation": [0, 0, 0, 3]}, ["'start_rotation' must be a unit quaternion"]),
        ({**RECORD, "instruction": {}}, ["'instruction.instruction_text'"]),
        ({**RECORD, "goals": [{"radius": 3}]}, ["'goals[0].position'"]),
        ({**RECORD, "reference_path": [[0, 0, 0], [1, 1]]}, ["'reference_path[1]'"]),
        ({**RECORD, "info": {"via": [[1, 2]]}}, ["'info.via[0]'"]),
        ({**without("reference_path"), "info": {"via": [[1, 2, 3]]}}, ["'info.via'", "'reference_path'"]),
        ({**RECORD, "scene_id": ""}, ["'scene_id' must be a non-empty string"]),
        ("episode", ["episode number 0", "not an object but str"]),
    ],
)
def test_errors_name_file_episode_and_field(tmp_path: Path, record: Any, words: list[str]) -> None:
    path = write(tmp_path / "bad.json.gz", [record])
    with pytest.raises(DatasetError) as error:
        VLNCEDataset.load(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json.gz", [RECORD, {**RECORD, "episode_id": "7"}])
    with pytest.raises(DatasetError, match="two episodes have the field 'episode_id' '7'"):
        VLNCEDataset.load(path)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good.json.gz", [RECORD]).read_bytes()
    cases = {
        "cut.json.gz": (good[: len(good) // 2], "truncated"),
        "plain.json.gz": (b"{}", "is not compressed although"),
        "corrupt.json.gz": (good[:15] + b"\x00\xff\x13\x37" + good[19:], "corrupt.json.gz"),
        "text.json": (b"{not json", "not valid JSON"),
        "list.json": (b"[]", "no list 'episodes'"),
        "empty.json": (b'{"episodes": []}', "is empty"),
        "binary.json": (b"\xff\xfe\x00", "not valid JSON"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=words) as error:
            VLNCEDataset.load(tmp_path / name)
        assert name in str(error.value) and "Download" in str(error.value)
    with pytest.raises(DatasetError, match="there is no episode file"):
        VLNCEDataset.load(tmp_path / "missing.json.gz")


@pytest.mark.parametrize("truth", [[], {"7": {}}, {"7": {"locations": [[1, 2]]}}, {"7": {"locations": []}}])
def test_unusable_ground_truth_is_refused(tmp_path: Path, truth: Any) -> None:
    path = write(tmp_path / "x.json.gz", [RECORD], truth)
    with pytest.raises(DatasetError, match=r"x_gt\.json\.gz"):
        VLNCEDataset.load(path)


def test_ground_truth_may_be_unpacked_beside_packed_episodes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json.gz", [RECORD])
    (tmp_path / "x_gt.json").write_text(json.dumps({"7": {"locations": [[1, 0.5, -2]], "actions": [0]}}))
    assert VLNCEDataset.load(path).episode("7").gt_locations == ((1.0, 0.5, -2.0),)


def test_unknown_ids_say_what_there_is(tmp_path: Path) -> None:
    dataset = VLNCEDataset.load(write(tmp_path / "x.json.gz", [RECORD]))
    for ask in (dataset.episode, dataset.scene_of):
        with pytest.raises(EpisodeNotFoundError, match="no episode '8'; it has 1, such as '7'"):
            ask("8")


def test_scenes_can_be_chosen(tiny_flats) -> None:
    dataset = tiny_flats.dataset
    assert dataset.restricted_to(["tiny_b"]).episode_ids == ("40", "50", "51")
    assert dataset.restricted_to(["flats/tiny_a/tiny_a.glb"]).scene_ids == ["flats/tiny_a/tiny_a.glb"]
    assert dataset.restricted_to(1).episode_ids == ("10", "11", "20", "30")
    with pytest.raises(EpisodeNotFoundError, match="no scene 'tiny_c'; it has 2, such as 'tiny_a'"):
        dataset.restricted_to(["tiny_a", "tiny_c"])
    with pytest.raises(ValueError, match="1 to 2 scenes"):
        dataset.restricted_to(3)
    with pytest.raises(DatasetError, match="`scenes` is empty"):
        dataset.restricted_to([])


def test_sampler_keeps_file_order_until_it_is_seeded() -> None:
    import numpy as np

    ids = [str(number) for number in range(10)]
    sampler = EpisodeSampler(ids, lambda episode_id: "even" if int(episode_id) % 2 == 0 else "odd")
    assert [sampler.next() for _ in range(12)] == [*ids, "0", "1"]
    assert sampler.next_in_scene(lambda scene: scene == "odd") == "3"
    assert sampler.next() == "4"
    assert sampler.next_in_scene(lambda scene: scene == "none") is None
    sampler.shuffle(np.random.default_rng(5))
    first, second = [sampler.next() for _ in range(10)], [sampler.next() for _ in range(10)]
    assert sorted(first) == sorted(second) == ids and first != second != ids
    again = EpisodeSampler(ids, lambda episode_id: "")
    again.shuffle(np.random.default_rng(5))
    assert [again.next() for _ in range(20)] == first + second
