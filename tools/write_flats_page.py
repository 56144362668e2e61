"""Writes the samples of `docs/flats.md`: twenty paths of val_unseen with their maps and instructions.

python tools/write_flats_page.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamvln_gym.episodes import Episode
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.visualization import TopDownMap

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- samples: written by tools/write_flats_page.py -->", "<!-- end of samples -->"
KINDS = ("return", "same_as", "counting", "second_room")
SAMPLES_PER_KIND, PLAIN_SAMPLES = 2, 12
MAP_SIZE = (420, 420)


def choose(dataset: FlatsDataset) -> list[list[Episode]]:
    """Some paths of every kind, from different scenes, each with all its instructions."""
    paths: dict[str, list[Episode]] = {}
    for episode_id in dataset.episode_ids:
        episode = dataset.episode(episode_id)
        paths.setdefault(episode.trajectory_id, []).append(episode)
    rng = np.random.default_rng(0)
    chosen = []
    for kind, count in (("", PLAIN_SAMPLES), *((kind, SAMPLES_PER_KIND) for kind in KINDS)):
        group = [path for path in paths.values() if path[0].needs_memory == kind]
        chosen += [group[k] for k in rng.choice(len(group), count, replace=False)]
    return chosen


def draw(simulator: EmbeddedSimulator, episode: Episode, path: Path) -> None:
    """Saves the map of an episode."""
    points = np.array(episode.reference_path)
    top_down = TopDownMap(simulator, MAP_SIZE, points)
    start = AgentState.from_rotation(episode.start_position, episode.start_rotation)
    picture = top_down.draw([], start, points, [goal.position for goal in episode.goals], episode.via)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(64).save(path, optimize=True)


def main() -> None:
    dataset = FlatsDataset("val_unseen")
    dataset.build()
    simulator = EmbeddedSimulator()
    parts = []
    for number, episodes in enumerate(choose(dataset), start=1):
        episode = episodes[0]
        simulator.load_scene(dataset.scene_path(episode.scene_id))
        image = f"images/flats/{number:02d}.png"
        draw(simulator, episode, DOCS / image)
        kind = f"needs memory: **{episode.needs_memory}**" if episode.needs_memory else "plain"
        parts.append(
            f"### {number}. {Path(episode.scene_id).stem}, path {episode.trajectory_id} ({kind}, "
            f"{episode.geodesic_distance:.1f} m, {len(episode.gt_actions or ())} actions)\n\n"
            f"![map]({image})\n\n" + "\n".join(f"* *{e.info['style']}*: {e.instruction.text}" for e in episodes)
        )
    page = DOCS / "flats.md"
    text = page.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")
    print(f"wrote {len(parts)} samples into {page}")


if __name__ == "__main__":
    main()
