import shutil

import numpy as np
import pytest

from streamvln_gym.agents import OracleAgent
from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError
from streamvln_gym.flats.dataset import SPLITS, FlatsDataset, split_seeds
from streamvln_gym.flats.files import DATASET_NAME, EPISODES_PER_SCENE, INSTRUCTIONS_PER_PATH, episode_file
from streamvln_gym.flats.memory import WINDOW_STEPS
from streamvln_gym.flats.task import MEMORY_KINDS
from streamvln_gym.geometry import path_length


def test_it_is_an_episode_dataset(flats):
    assert isinstance(flats, EpisodeDataset)
    assert flats.name == DATASET_NAME
    assert len(flats) == len(flats.episode_ids) == 3 * EPISODES_PER_SCENE


def test_ids_are_known_without_building(tmp_path):
    dataset = FlatsDataset("train", tmp_path)
    assert len(dataset) == SPLITS["train"].scenes * EPISODES_PER_SCENE
    assert dataset.scene_of(dataset.episode_ids[-1]) == "flats/flat_000199/flat_000199.glb"
    assert not list(tmp_path.iterdir())


def test_episodes_are_what_the_task_asks_for(flats):
    for episode_id in flats.episode_ids:
        episode = flats.episode(episode_id)
        assert episode.episode_id == episode_id
        assert episode.scene_id == flats.scene_of(episode_id)
        length = path_length(episode.reference_path)
        assert episode.geodesic_distance == pytest.approx(length, abs=1e-3)
        low, high = (7.0, 40.0) if episode.needs_memory else (5.0, 20.0)
        assert low <= length <= high
        assert len(episode.gt_actions) <= 200
        assert episode.gt_actions[-1] == 0
        assert len(episode.instruction.text) <= flats.instruction_max_length
        assert set(episode.instruction.text) <= flats.instruction_charset


def test_paths_have_three_different_instructions(flats):
    by_path = {}
    for episode_id in flats.episode_ids:
        episode = flats.episode(episode_id)
        by_path.setdefault(episode.trajectory_id, []).append(episode)
    for episodes in by_path.values():
        assert len({e.instruction.text for e in episodes}) == INSTRUCTIONS_PER_PATH
        assert len({e.reference_path for e in episodes}) == 1


def test_memory_episodes_state_why(flats):
    episodes = [flats.episode(episode_id) for episode_id in flats.episode_ids]
    tagged = [e for e in episodes if e.needs_memory]
    assert len(tagged) >= len(episodes) / 4
    for episode in tagged:
        assert episode.needs_memory in MEMORY_KINDS
        assert episode.info["decision_step"] - episode.info["cue_last_seen"] >= WINDOW_STEPS
        assert bool(episode.via) == (episode.needs_memory in ("return", "second_room"))


def test_standing_still_scores_nothing(flats):
    env = VLNEnv(dataset=flats, sensors=("instruction",))
    for episode_id in flats.episode_ids[::INSTRUCTIONS_PER_PATH]:
        env.reset(options={"episode_id": episode_id})
        info = env.step(0)[-1]
        assert info["success"] == info["spl"] == info["oracle_success"] == 0.0
    env.close()


def test_the_oracle_solves_every_episode(flats):
    env = VLNEnv(dataset=flats, sensors=("instruction",))
    agent = OracleAgent(env)
    spl = []
    for episode_id in flats.episode_ids:
        observation, info = env.reset(options={"episode_id": episode_id})
        agent.reset()
        actions = []
        while not actions or actions[-1] != 0:
            actions.append(agent.act(observation))
            observation, _, _, _, info = env.step(actions[-1])
        assert tuple(actions) == env.episode.gt_actions
        assert info["success"] == 1.0
        assert info["ndtw"] == pytest.approx(1.0, abs=1e-4)
        spl.append(info["spl"])
    assert np.mean(spl) >= 0.97
    env.close()


@pytest.mark.parametrize("split", ["test", "Train", ""])
def test_an_unknown_split_is_named_with_the_known_ones(split):
    with pytest.raises(EpisodeNotFoundError, match="train, val_seen, val_unseen"):
        FlatsDataset(split)


@pytest.mark.parametrize("scenes", [0, 41, -3])
def test_a_wrong_number_of_scenes(scenes):
    with pytest.raises(EpisodeNotFoundError, match="1 to 40 scenes"):
        FlatsDataset("val_unseen", scenes=scenes)


@pytest.mark.parametrize("scenes", [True, []])
def test_no_scenes(scenes):
    with pytest.raises(ValueError, match="at least one scene name"):
        FlatsDataset("val_unseen", scenes=scenes)


def test_an_unknown_scene_is_named(flats_root):
    with pytest.raises(EpisodeNotFoundError, match="flat_000001"):
        FlatsDataset("val_unseen", flats_root, scenes=["flat_000001"])


def test_an_unknown_episode_is_named(flats):
    with pytest.raises(EpisodeNotFoundError, match="'123'"):
        flats.episode("123")


def test_split_seeds():
    assert split_seeds("val_unseen")[0] == 20_000
    assert split_seeds("mine", scenes=3, first_seed=50_000) == [50_000, 50_001, 50_002]
    with pytest.raises(ValueError, match="at least one scene"):
        split_seeds("mine", first_seed=50_000)
    assert not set(split_seeds("train", 20_000)) & set(split_seeds("val_unseen"))


@pytest.mark.parametrize(
    ("split", "scenes", "first_seed", "message"),
    [
        ("train", 100, 19_990, r"'train' has the seeds 0 to 19999, not 19990 to 20089"),
        ("val_unseen", 3, 5, r"'val_unseen' has the seeds 20000 to 20039, not 5 to 7"),
        ("mine", 100, 19_990, r"are the flats of val_unseen.*a first seed from 20040 on"),
    ],
)
def test_no_split_runs_into_val_unseen(split, scenes, first_seed, message):
    with pytest.raises(ValueError, match=message):
        split_seeds(split, scenes, first_seed)
    assert split_seeds("train", 2, 19_998) == [19_998, 19_999]


def test_damaged_episodes_say_what_to_delete(flats_root, tmp_path):
    shutil.copytree(flats_root, tmp_path, dirs_exist_ok=True)
    dataset = FlatsDataset("val_unseen", tmp_path, scenes=1)
    path = episode_file(tmp_path, "val_unseen", dataset.seeds[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match=r"are damaged: delete this file, and they are built anew"):
        dataset.episode(dataset.episode_ids[0])
    path.unlink()
    assert dataset.episode(dataset.episode_ids[0]).episode_id == dataset.episode_ids[0]
    assert path.read_bytes() == whole
