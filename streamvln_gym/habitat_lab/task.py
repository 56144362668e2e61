"""habitat-lab's VLN task with VLN-CE's settings, and this package's datasets as habitat-lab's.

The functions import habitat-lab; call `streamvln_gym.habitat_lab.register_embedded_simulator` first where habitat-sim
is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from streamvln_gym.episodes import Episode, EpisodeDataset
from streamvln_gym.errors import DatasetError
from streamvln_gym.habitat_lab import EMBEDDED
from streamvln_gym.metrics import SUCCESS_DISTANCE
from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES, CameraConfig

_BASE = "benchmark/nav/vln_r2r.yaml"


def vln_config(
    simulator: str = EMBEDDED,
    camera: CameraConfig | None = None,
    overrides: Sequence[str] = (),
    gpu_device_id: int | None = None,
) -> Any:
    """habitat-lab's `benchmark/nav/vln_r2r.yaml` as VLN-CE has it; its own has other cameras and succeeds at 0.2 m.

    Args:
        simulator: "Embedded-v0", or "Sim-v0" for habitat-sim.
        camera: of rgb and depth; habitat-lab's angles are whole degrees.
        overrides: further ones, in Hydra's form; they win over everything that is set here.
        gpu_device_id: None takes a CUDA device if there is one (for habitat-sim only).

    Raises:
        ValueError: habitat-lab cannot express the camera.
    """
    import habitat

    from streamvln_gym.simulators.habitat import checked_gpu, has_square_pixels

    camera = camera or CameraConfig()
    if not has_square_pixels(camera) or camera.supersampling != 1 or camera.hfov != math.floor(camera.hfov):
        raise ValueError(f"habitat-lab has square pixels, whole degrees of hfov and no supersampling, not {camera}")
    gpu = -1 if simulator == EMBEDDED else checked_gpu(gpu_device_id)
    settings = [
        f"habitat.simulator.type={simulator}",
        f"habitat.simulator.forward_step_size={FORWARD_METRES}",
        f"habitat.simulator.turn_angle={TURN_DEGREES:.0f}",
        f"habitat.simulator.habitat_sim_v0.gpu_device_id={gpu}",
        "habitat.simulator.habitat_sim_v0.allow_sliding=True",
        f"habitat.task.measurements.success.success_distance={SUCCESS_DISTANCE}",
        *_camera_settings(camera),
    ]
    return habitat.get_config(_BASE, [*settings, *overrides])  # of two settings of one key Hydra takes the last


def habitat_dataset(dataset: EpisodeDataset) -> Any:
    """The episodes of any dataset of this package as habitat-lab's `VLNDatasetV1`, for `habitat.Env(config, dataset)`.

    (habitat-lab's own reader knows R2R-CE's files only: it stops at RxR-CE's, or at an instruction's language.)
    Episodes with via positions are left out, because habitat-lab's measures do not know their rule, and divide by zero
    where the goal is the start.

    Raises:
        DatasetError: no episode is left.
    """
    from habitat.datasets.vln.r2r_vln_dataset import VLNDatasetV1

    episodes = [dataset.episode(number) for number in dataset.episode_ids]
    converted = VLNDatasetV1()
    converted.episodes = [_habitat_episode(dataset, episode) for episode in episodes if not episode.via]
    if not converted.episodes:
        raise DatasetError(f"{dataset.name}/{dataset.split} has only episodes with via positions: choose other scenes")
    return converted


def _camera_settings(camera: CameraConfig) -> list[str]:
    """What makes the configuration's two sensors this camera, in Hydra's form."""
    sensors = "habitat.simulator.agents.main_agent.sim_sensors"
    settings = []
    for sensor in ("rgb_sensor", "depth_sensor"):
        settings += [
            f"{sensors}.{sensor}.width={camera.width}",
            f"{sensors}.{sensor}.height={camera.height}",
            f"{sensors}.{sensor}.hfov={int(camera.hfov)}",
            f"{sensors}.{sensor}.position=[0.0,{camera.mount_height},0.0]",
        ]
    return [
        *settings,
        f"{sensors}.depth_sensor.min_depth={camera.min_depth}",
        f"{sensors}.depth_sensor.max_depth={camera.max_depth}",
        f"{sensors}.depth_sensor.normalize_depth=False",
    ]


def _habitat_episode(dataset: EpisodeDataset, episode: Episode) -> Any:
    from habitat.tasks.nav.nav import NavigationGoal
    from habitat.tasks.vln.vln import InstructionData, VLNEpisode

    tokens = episode.instruction.tokens
    info = dict(episode.info)
    if episode.geodesic_distance is not None:
        info["geodesic_distance"] = episode.geodesic_distance
    return VLNEpisode(
        episode_id=episode.episode_id,
        scene_id=str(dataset.scene_path(episode.scene_id)),
        start_position=list(episode.start_position),
        start_rotation=list(episode.start_rotation),
        info=info,
        goals=[NavigationGoal(position=list(goal.position), radius=goal.radius) for goal in episode.goals],
        reference_path=[list(point) for point in episode.reference_path],
        instruction=InstructionData(episode.instruction.text, None if tokens is None else list(tokens)),
        trajectory_id=episode.trajectory_id,
    )
