"""Pooled features in place of pictures, so that a frozen vision tower sees each frame once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from streamvln_gym.agents.streamvln import StreamVLNAgent
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.rl.embedding import vision_parameters
from streamvln_gym.rl.layout import NO_FRAME, ContextLayout, read_layout

# Frames of one vision-tower pass: bounds the space for activations.
TOWER_FRAMES = 64


class PooledFeatures(VecEnvWrapper):
    """Replaces the frames of `SlowFastObservation` by the network's pooled features, float32.

    Each frame is encoded once, when it is new, those of all environments together. It is right only as long as vision
    tower and projector do not learn; a policy that learns them refuses this observation.

    Args:
        venv: of environments in `SlowFastObservation`.
        network: whose vision tower and projector encode, in eval mode on its device.
        processor: its pictures.

    Attributes:
        layout: the observation's sizes.
        encoded: frames that went through the tower.

    Raises:
        ValueError: the observations are not `SlowFastObservation`'s for this network.
    """

    def __init__(self, venv: VecEnv, network: StreamVLNForConditionalGeneration, processor: StreamVLNProcessor) -> None:
        config = processor.config
        side = config.image_size
        pooled = (config.tokens_per_frame, config.text_config.hidden_size)
        chunk_size = int(np.prod(venv.action_space.shape or ()))
        pictures = read_layout(venv.observation_space, chunk_size, (side, side, 3), pooled)
        if pictures.features:
            raise ValueError("the observation holds pooled features already: wrap it in PooledFeatures once")
        self._pictures = pictures
        self.layout: ContextLayout = replace(pictures, frame_shape=pooled, features=True)
        super().__init__(venv, observation_space=self.layout.observation_space)
        self.network = network
        self._processor = processor
        self._known: list[dict[int, NDArray[np.float32]]] = [{} for _ in range(venv.num_envs)]
        self.encoded = 0

    @classmethod
    def from_pretrained(
        cls,
        venv: VecEnv,
        checkpoint: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ) -> PooledFeatures:
        """With the vision tower and projector of a checkpoint, as of `StreamVLNAgent.from_pretrained`.

        The layers of its language model, which no feature needs, are let go.
        """
        agent = StreamVLNAgent.from_pretrained(checkpoint, device=device, dtype=dtype)
        agent.model.language_model.layers = torch.nn.ModuleList()
        return cls(venv, agent.model, agent.processor)

    def check_same(self, network: StreamVLNForConditionalGeneration) -> None:
        """Makes sure that a policy's network sees as this wrapper's does.

        Raises:
            ValueError: vision tower or projector have other weights.
        """
        pairs = zip(vision_parameters(self.network), vision_parameters(network), strict=True)
        if not all(torch.equal(ours.to(theirs.dtype).cpu(), theirs.cpu()) for ours, theirs in pairs):
            raise ValueError(
                "the features in the observation come from another vision tower or projector than the policy's: make "
                "PooledFeatures from the policy's own checkpoint"
            )

    def reset(self) -> dict[str, NDArray]:  # type: ignore[override]
        """Starts all episodes."""
        self._known = [{} for _ in self._known]
        observations: Any = self.venv.reset()
        return self._convert(observations, self._known)

    def step_wait(self) -> Any:
        """Waits for the environments; converts what they saw, terminal observations too."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            if "terminal_observation" in infos[index]:
                last = {key: value[None] for key, value in infos[index]["terminal_observation"].items()}
                converted = self._convert(last, [self._known[index]])
                infos[index]["terminal_observation"] = {key: value[0] for key, value in converted.items()}
            self._known[index] = {}
        return self._convert(observations, self._known), rewards, dones, infos  # type: ignore[arg-type]

    def _convert(
        self, observations: dict[str, NDArray], known: list[dict[int, NDArray[np.float32]]]
    ) -> dict[str, NDArray]:
        """Observations (rows, size) with features; `known` holds each row's features by their steps."""
        layout, pictures = self.layout, self._pictures
        rows = len(known)
        missing: dict[tuple[int, int], NDArray[np.uint8]] = {}
        places: list[tuple[str, int, int, int]] = []
        for name, count in (("history", layout.num_history), ("window", layout.turns)):
            if not count:
                continue
            frames = observations[name].reshape(rows, count, *pictures.frame_shape)
            for row, place in np.argwhere(observations[f"{name}_steps"] != NO_FRAME).tolist():
                step = int(observations[f"{name}_steps"][row, place])
                places.append((name, row, place, step))
                if step not in known[row]:
                    missing[row, step] = frames[row, place]
        self._encode(missing, known)
        converted = {key: value for key, value in observations.items() if key not in ("history", "window")}
        shown: list[set[int]] = [set() for _ in known]
        for name, count in (("history", layout.num_history), ("window", layout.turns)):
            if count:
                converted[f"{name}_features"] = np.zeros((rows, count, *layout.frame_shape), np.float32)
        for name, row, place, step in places:
            converted[f"{name}_features"][row, place] = known[row][step]
            shown[row].add(step)
        for features, steps in zip(known, shown, strict=True):
            for step in features.keys() - steps:  # bounded: what a later window shows again is encoded again
                del features[step]
        return {
            key: value.reshape(rows, -1) if key.endswith("_features") else value for key, value in converted.items()
        }

    @torch.inference_mode()
    def _encode(
        self, missing: dict[tuple[int, int], NDArray[np.uint8]], known: list[dict[int, NDArray[np.float32]]]
    ) -> None:
        wanted = list(missing.items())
        for begin in range(0, len(wanted), TOWER_FRAMES):
            part = wanted[begin : begin + TOWER_FRAMES]
            pixels = torch.from_numpy(self._processor.pixel_values([picture for _, picture in part]))
            weight = self.network.lm_head.weight
            pooled = self.network.encode_images(pixels.to(weight.device, self.network.dtype)).float().cpu().numpy()
            for ((row, step), _), features in zip(part, pooled, strict=True):
                known[row][step] = features
            self.encoded += len(part)
