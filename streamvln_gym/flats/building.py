"""Builds flats and their episodes into a folder (its layout: `flats.files`)."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from streamvln_gym.cache import make_writable
from streamvln_gym.devices import cores
from streamvln_gym.errors import DatasetError, SceneError
from streamvln_gym.flats.files import (
    episode_file,
    first_episode_id,
    is_built,
    scene_folder,
    scene_id,
    scene_is_whole,
    scenes_root,
    split_file,
)
from streamvln_gym.flats.generator import Flat, generate_flat
from streamvln_gym.flats.glb import write_glb, write_stage_config
from streamvln_gym.flats.sampling import sample_episodes
from streamvln_gym.scene_graph import SceneGraph
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_builder import build_navigation_mesh, walkable_area
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.vlnce import VLNCEDataset, ground_truth_path, write_dataset

_FLAT_ATTEMPTS = 8
_STALE_SECONDS = 3600.0


def navigation_mesh_of(flat: Flat) -> NavigationMesh:
    """The navigation mesh of a flat, at y = 0.2 as habitat's own would lie."""
    return build_navigation_mesh(walkable_area(flat.floors, flat.doorways, flat.obstacles))


def build_scene(root: Path, split: str, seed: int) -> None:
    """Builds one flat and its episodes, as far as they are missing.

    A flat that does not offer enough episodes is drawn anew (deterministically), never shipped.

    Raises:
        SceneError: no flat of this seed passes the checks.
        DatasetError: the folder cannot be written.
    """
    if is_built(root, split, seed):
        return
    folder = scene_folder(root, seed)
    if folder.exists():  # this first: another process may publish it at any moment, whole
        if scene_is_whole(root, seed):
            _write_episodes(root, split, seed, folder)
            return
        shutil.rmtree(folder, ignore_errors=True)  # somebody has lost a file of it
    make_writable(folder.parent)
    problem: SceneError | None = None
    next_attempt = 0
    for _ in range(_FLAT_ATTEMPTS):
        flat = generate_flat(seed, next_attempt)
        next_attempt = flat.attempt + 1
        with tempfile.TemporaryDirectory(prefix=f".building-{folder.name}-", dir=folder.parent) as scratch:
            staged = Path(scratch) / folder.name
            _write_scene(flat, staged)
            try:
                # A flat serves every split, so that its episodes must not depend on which was built first.
                for checked in dict.fromkeys((_home_split(split), split)):
                    _write_episodes(Path(scratch), checked, seed, staged)
            except SceneError as error:
                problem = error
                continue
            _publish(staged, folder)
            made, target = episode_file(Path(scratch), split, seed), episode_file(root, split, seed)
            make_writable(target.parent)
            # The episode file last: where it is, the scene is built.
            os.replace(ground_truth_path(made), ground_truth_path(target))
            os.replace(made, target)
            return
    raise SceneError(f"no flat of scene seed {seed} passes the checks: {problem}. Leave this seed out.")


def build_scenes(root: Path, split: str, seeds: Sequence[int], workers: int | None = None) -> None:
    """Builds several flats and their episodes in parallel, with a progress bar; what is built already is kept.

    Args:
        root: see the module's text.
        split: whose episodes to draw.
        seeds: scene seeds.
        workers: processes; default: one for each CPU core this process may use.

    Raises:
        DatasetError: the folder cannot be written, or a worker was killed (what is built by then is kept).
    """
    missing = [seed for seed in seeds if not is_built(root, split, seed)]
    if not missing:
        return
    make_writable(scenes_root(root) / "flats")
    _remove_stale(scenes_root(root) / "flats")
    workers = min(workers or cores(), len(missing))
    with tqdm(total=len(missing), desc=f"building {split} flats", unit="flat") as bar:
        if workers == 1:
            for seed in missing:
                build_scene(root, split, seed)
                bar.update()
            return
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            tasks = {pool.submit(build_scene, root, split, seed): seed for seed in missing}
            try:
                for task in as_completed(tasks):
                    task.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise DatasetError(
                    f"a worker process that built flats in {root} was killed (out of memory?). The finished flats are "
                    "kept: run the same command again to go on, or use fewer workers."
                ) from error
            finally:
                for task in tasks:
                    task.cancel()


def merge_split(root: Path, split: str, seeds: Sequence[int]) -> Path:
    """Writes the episode file of a whole split from those of its scenes; returns its path."""
    episodes = []
    for seed in seeds:
        part = VLNCEDataset.load(episode_file(root, split, seed), scenes_root(root), "flats", split)
        episodes += [part.episode(episode_id) for episode_id in part.episode_ids]
    path = split_file(root, split)
    write_dataset(path, episodes)
    return path


# ------------------------------------------------------------------------------------------------------------ helpers


def _home_split(split: str) -> str:
    """The split whose episodes a flat must offer to be accepted at all."""
    return "train" if split == "val_seen" else split


def _write_scene(flat: Flat, folder: Path) -> None:
    folder.mkdir(parents=True)
    stem = folder / folder.name
    write_glb(flat, stem.with_suffix(".glb"))
    write_stage_config(stem.with_suffix(".glb"))
    navigation_mesh_of(flat).save(folder / f"{folder.name}.navmesh.npz")
    np.save(folder / f"{folder.name}.instances.npy", flat.mesh.object_ids.astype(np.int32))
    (folder / f"{folder.name}.scene_graph.json").write_text(flat.graph.to_json(), encoding="utf-8")


def _write_episodes(root: Path, split: str, seed: int, folder: Path) -> None:
    """Draws the episodes of the flat in `folder` and writes them below `root`."""
    simulator = EmbeddedSimulator()
    simulator.load_scene(folder / f"{folder.name}.glb")
    graph = SceneGraph.load(folder / f"{folder.name}.scene_graph.json")
    episodes = sample_episodes(simulator, graph, scene_id(seed), first_episode_id(split, seed))
    path = episode_file(root, split, seed)
    make_writable(path.parent)
    write_dataset(path, episodes)


def _publish(staged: Path, folder: Path) -> None:
    """Moves a finished scene folder into place; another process may have been faster with the same bytes."""
    try:
        os.rename(staged, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove_stale(folder: Path) -> None:
    """Removes what a killed build has left behind."""
    for leftover in folder.glob(".building-*"):
        try:
            age = time.time() - leftover.stat().st_mtime
        except FileNotFoundError:  # another process has just finished it
            continue
        if age > _STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
