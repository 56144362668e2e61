"""Learning from the averaged answers of several networks, each of which also sees the mirror image.

Networks that went on from one another differ in episodes that are close calls, and so does one network between a
picture and its mirror image; their average is right more often than each. What it says in the states that the learning
policy comes into is a target for all four actions of every chunk, where success is one number for an episode.

Source: Hinton et al. 2015, "Distilling the knowledge in a neural network".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from streamvln_gym.errors import TrainingError
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.simulators.base import Action
from streamvln_gym.training.online.batches import BatchPlan, WindowRows
from streamvln_gym.training.online.config import TeachConfig
from streamvln_gym.training.online.forward import answer_states, frame_features
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.mirroring import mirror_pictures
from streamvln_gym.training.online.replay import FrameBuffer

_EXCHANGED = [Action.STOP, Action.FORWARD, Action.RIGHT, Action.LEFT]
_READ_ALIKE = ("num_history", "window_steps", "chunk_size", "action_strings", "memory_strategy", "tokens_per_frame")


class Teachers:
    """Fixed networks whose answers are averaged.

    Args:
        models: they read the same dialogue; copies of them answer.
        layout: of the dialogue.
        mirrored: they answer in the mirror as well.
        weight: of what they say, in the learner's loss.
    """

    def __init__(
        self,
        models: Sequence[StreamVLNForConditionalGeneration],
        layout: DialogueLayout,
        mirrored: bool,
        weight: float = 1.0,
    ) -> None:
        self.weight = weight
        self._layout = layout
        self._views = (False, True) if mirrored else (False,)
        self._exchanged = torch.tensor(_EXCHANGED, device=layout.action_ids.device)
        cuda = layout.action_ids.device.type == "cuda"
        dtype = torch.bfloat16 if cuda else torch.float32
        self._models = [copy.deepcopy(model).eval().requires_grad_(False).to(dtype=dtype) for model in models]  # type: ignore[call-arg]
        if cuda:
            for model in self._models:
                for layer in (*model.vision_tower.encoder.layers, *model.language_model.layers):
                    layer.compile(dynamic=True)

    @torch.no_grad()
    def log_probs(self, packed: Tensor, plan: BatchPlan, buffer: FrameBuffer) -> list[Tensor]:
        """The averaged answers to a batch.

        Args:
            packed: as `plan` packed it.
            plan: the batch's shapes.
            buffer: holds the frames.

        Returns:
            For each bucket (rows, turns, chunk, 4) float32, the normalised mean of the networks' log-probabilities of
            the actions, after the actions of the answer that were executed.
        """
        sums: list[Tensor] = []
        for reflected in self._views:
            shown, windows = plan.gather(packed, buffer, self._layout, reflected)
            rgb = mirror_pictures(buffer.rgb[shown.places], shown.mirrored)
            for model in self._models:
                tokens = model.pool(model.projector(frame_features(model, rgb, model.dtype)))
                answers = [self._answer(model, rows, tokens, reflected) for rows in windows]
                sums = [a + b for a, b in zip(sums, answers, strict=True)] if sums else answers
        count = len(self._views) * len(self._models)
        return [(total / count).log_softmax(-1) for total in sums]

    def _answer(
        self, model: StreamVLNForConditionalGeneration, rows: WindowRows, tokens: Tensor, reflected: bool
    ) -> Tensor:
        states = answer_states(model, self._layout, rows, tokens)[:, :, :-1]
        logits = (states @ model.lm_head.weight[self._layout.action_ids].T).float()
        if reflected:
            logits = logits[..., self._exchanged]
        return logits.log_softmax(-1)


def load_teachers(
    config: TeachConfig, network: StreamVLNForConditionalGeneration, layout: DialogueLayout
) -> Teachers | None:
    """The configured networks, None if there are none.

    Raises:
        CheckpointError: one cannot be loaded.
        TrainingError: one does not read what the learning network reads.
    """
    from streamvln_gym.agents.checkpoint import load_checkpoint

    models = []
    for name in config.teachers:
        model, _ = load_checkpoint(name, torch.float32)
        for setting in (*_READ_ALIKE, "vision_config.image_size", "text_config.vocab_size"):
            theirs, ours = _setting(model.config, setting), _setting(network.config, setting)
            if theirs != ours:
                raise TrainingError(
                    f"the teacher {name} has {setting} {theirs!r}, the network that learns {ours!r}: teachers must "
                    "read the same dialogue"
                )
        models.append(model.to(device=layout.action_ids.device))
    return Teachers(models, layout, config.mirrored, config.weight) if models else None


def divergence(learned: Sequence[Tensor], taught: Sequence[Tensor], counted: Sequence[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of the learner's actions from the teachers', the mean over all buckets.

    Args:
        learned: (..., 4) log-probabilities of the learner, for each bucket.
        taught: (..., 4) of the teachers.
        counted: (...) bool.
    """
    apart = [((t.exp() * (t - own)).sum(-1) * c).sum() for own, t, c in zip(learned, taught, counted, strict=True)]
    return torch.stack(apart).sum() / torch.stack([c.sum() for c in counted]).sum().clamp(min=1)


def _setting(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config
