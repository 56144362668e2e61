"""Evaluations of the tiny flats, and a network that is quick."""

from dataclasses import replace
from pathlib import Path

import pytest

from streamvln_gym.evaluation import EvaluationConfig
from streamvln_gym.vlnce import write_dataset


@pytest.fixture
def config(tiny_flats, tmp_path):
    """Makes configurations over the seven episodes of the tiny flats: `config(agent="random", workers=2)`."""

    def make(**changes) -> EvaluationConfig:
        settings = {"data": tiny_flats.episodes_path, "split": "tiny", "agent": "oracle", "workers": 1}
        settings["report"] = False
        return EvaluationConfig(**{"out": tmp_path / "run", **settings, **changes})

    return make


@pytest.fixture(scope="session")
def many_episodes(tiny_flats) -> Path:
    """An episode file with 140 episodes in two scenes."""
    path = tiny_flats.root / "datasets" / "many" / "many.json.gz"
    if not path.exists():
        dataset = tiny_flats.dataset
        episodes = [dataset.episode(episode_id) for episode_id in dataset.episode_ids]
        write_dataset(path, [replace(e, episode_id=f"{e.episode_id}{k:02d}") for k in range(20) for e in episodes])
    return path


@pytest.fixture(scope="session")
def thin_checkpoint(tmp_path_factory) -> str:
    """A folder with a network of two thin layers whose answers depend on what it sees."""
    from streamvln_gym.agents import StreamVLNAgent
    from tests.thin_network import thin_parts

    folder = tmp_path_factory.mktemp("thin")
    StreamVLNAgent(*thin_parts(0.1)).save_pretrained(folder)
    return str(folder)


def lines_of(folder: Path) -> list[str]:
    """The merged results, line by line."""
    return (folder / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
