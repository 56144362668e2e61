"""The flats' own promises, over whole splits: the oracle, memory, words, ambiguity, random walks.

python benchmarks/flats.py --splits val_seen val_unseen
"""

from __future__ import annotations

import collections
import re
import time
from dataclasses import dataclass

import numpy as np
import tyro
from tqdm import tqdm

from streamvln_gym.agents import OracleAgent
from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import Episode
from streamvln_gym.flats import sampling
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.flats.files import INSTRUCTIONS_PER_PATH
from streamvln_gym.metrics import summarize
from streamvln_gym.simulators.base import Action


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        splits: of the embedded flats.
        random_actions: how many random actions over the first ten flats of the last split.
        rewritten_flats: how many flats' instructions are written again to count what the ambiguity check rejects.
    """

    splits: tuple[str, ...] = ("val_seen", "val_unseen")
    random_actions: int = 50_000
    rewritten_flats: int = 10


def oracle(dataset: FlatsDataset) -> None:
    """Success and SPL of the oracle over all episodes, without rendering."""
    env = VLNEnv(dataset=dataset, sensors=("instruction",))
    agent = OracleAgent(env)
    results, began = [], time.perf_counter()
    for episode_id in tqdm(dataset.episode_ids, desc=f"oracle on {dataset.split}", disable=None):
        observation, info = env.reset(options={"episode_id": episode_id})
        agent.reset()
        finished = False
        while not finished:
            observation, _, terminated, truncated, info = env.step(agent.act(observation))
            finished = terminated or truncated
        results.append(info)
    means = summarize(results)
    seconds = time.perf_counter() - began
    print(
        f"{dataset.split}: oracle SR {means['success']:.4f}, SPL {means['spl']:.4f} (min "
        f"{min(r['spl'] for r in results):.3f}), nDTW {means['ndtw']:.4f}, {means['episodes']:.0f} episodes, "
        f"{sum(r['steps'] for r in results) / seconds:.0f} steps/s with the expert"
    )


def texts(dataset: FlatsDataset) -> None:
    """Shares of memory episodes, lengths and words."""
    episodes: list[Episode] = [dataset.episode(episode_id) for episode_id in dataset.episode_ids]
    kinds = collections.Counter(episode.needs_memory or "plain" for episode in episodes)
    words = {word for e in episodes for word in re.findall(r"[a-z']+", e.instruction.text.lower())}
    shares = ", ".join(f"{kind} {count / len(episodes):.1%}" for kind, count in kinds.most_common())
    length = np.mean([len(e.instruction.text.split()) for e in episodes])
    actions = np.mean([len(e.gt_actions or ()) for e in episodes])
    plain = np.mean([len(e.gt_actions or ()) for e in episodes if not e.needs_memory])
    print(f"{dataset.split}: {len(episodes)} episodes in {len(dataset.seeds)} flats; {shares}")
    print(
        f"{dataset.split}: {len(words)} distinct words, {length:.0f} words an instruction, {INSTRUCTIONS_PER_PATH} "
        f"instructions a path, {actions:.0f} actions a path (plain ones: {plain:.0f})"
    )


def ambiguity(dataset: FlatsDataset, flats: int) -> None:
    """How often the re-walk check rejects what the composer proposes (what is rejected is never shipped)."""
    from streamvln_gym.flats import writer
    from streamvln_gym.flats.files import first_episode_id
    from streamvln_gym.scene_graph import SceneGraph
    from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

    counts: collections.Counter[str] = collections.Counter()
    check = writer.ambiguities

    def counted(*arguments):
        problems = check(*arguments)
        counts["rejected" if problems else "clear"] += 1
        return problems

    writer.ambiguities = counted
    simulator = EmbeddedSimulator()
    try:
        for scene_id, seed in list(zip(dataset.scene_ids, dataset.seeds, strict=True))[:flats]:
            path = dataset.scene_path(scene_id)
            simulator.load_scene(path)
            graph = SceneGraph.load(path.with_name(f"{path.stem}.scene_graph.json"))
            sampling.sample_episodes(simulator, graph, scene_id, first_episode_id(dataset.split, seed))
    finally:
        writer.ambiguities = check
    total = sum(counts.values())
    print(
        f"{dataset.split}: the re-walk check rejected {counts['rejected']} of {total} composed instructions "
        f"({counts['rejected'] / total:.2%}); shipped ambiguous: 0 by construction"
    )


def random_walks(dataset: FlatsDataset, count: int) -> None:
    """Random actions: never off the mesh, no NaN."""
    env = VLNEnv(dataset=dataset, sensors=("gps", "compass", "camera_pose", "instruction"), max_steps=10**9)
    rng = np.random.default_rng(0)
    off = wrong = 0
    for scene_id in dataset.scene_ids[:10]:
        env.reset(options={"scene_id": scene_id})
        mesh = env.simulator.navmesh
        for action in rng.choice([1, 1, 1, 2, 3], count // 10):
            observation, reward, _, _, info = env.step(int(action))
            state = env.simulator.state
            off += not mesh.is_navigable(state.position, 0.05) or mesh.island_of(state.position) != mesh.largest_island
            wrong += not np.isfinite([reward, info["distance_to_goal"], *observation["gps"], *state.position]).all()
        env.step(int(Action.STOP))
    print(f"{dataset.split}: {count} random actions over 10 flats: {off} off the mesh, {wrong} not finite")


def main(config: Config) -> None:
    for split in config.splits:
        dataset = FlatsDataset(split)
        dataset.build()
        texts(dataset)
        oracle(dataset)
    ambiguity(dataset, config.rewritten_flats)
    random_walks(dataset, config.random_actions)


if __name__ == "__main__":
    main(tyro.cli(Config))
