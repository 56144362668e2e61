"""Learning from the averaged answers of several networks, each of which also sees the mirror image.

Networks that went on from one another differ in episodes that are close calls, and so does one network between a
picture and its mirror image; their average is right more often than each. What it says in the states that the learning
policy comes into is a target for all four actions of every chunk, where success is one number for an episode.

Sources: Hinton et al. 2015, "Distilling the knowledge in a neural network"; Tarvainen and Valpola 2017, "Mean teachers
are better role models" (the average of the learner's own weights).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from streamvln_gym.agents.checkpoint import load_checkpoint
from streamvln_gym.errors import TrainingError
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.simulators.base import Action
from streamvln_gym.training.online.batches import BatchPlan, WindowRows
from streamvln_gym.training.online.config import TeachConfig
from streamvln_gym.training.online.forward import FrameTokens, answer_states, compile_layers, to_pixels
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.mirroring import mirror_actions, mirror_pictures
from streamvln_gym.training.online.replay import FrameBuffer

_READ_ALIKE = (
    "image_size",
    "tokens_per_frame",
    "num_history",
    "memory_strategy",
    "memory_prompt",
    "window_steps",
    "chunk_size",
    "action_strings",
    "prompt_style",
)


class Teachers:
    """Networks whose answers are averaged; they read the same dialogue.

    Args:
        fixed: copies of these answer.
        moving: these answer as they are at the moment.
        layout: of the dialogue.
        config: how they answer.
        compiled: compile their layers with torch.compile.

    Attributes:
        mirrored: they answer in the mirror as well.
        weight: of what they say, in the learner's loss.
    """

    def __init__(
        self,
        fixed: Sequence[StreamVLNForConditionalGeneration],
        moving: Sequence[StreamVLNForConditionalGeneration],
        layout: DialogueLayout,
        config: TeachConfig,
        compiled: bool = False,
    ) -> None:
        self.mirrored, self.weight = config.mirrored, config.weight
        self._layout = layout
        device = layout.action_ids.device
        self._exchanged = mirror_actions(torch.arange(len(Action), device=device), torch.ones((), device=device).bool())
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        copies = [copy.deepcopy(model).eval().requires_grad_(False).to(device, dtype) for model in fixed]
        self._models = [*copies, *moving]
        for model in self._models if compiled else ():
            compile_layers(model)

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
        for reflected in (False, True) if self.mirrored else (False,):
            shown, windows = plan.gather(packed, buffer, self._layout, reflected)
            rgb = mirror_pictures(buffer.rgb[shown.places], shown.mirrored)
            for model in self._models:
                tokens = FrameTokens.of(model, self._layout, model.encode_patches(to_pixels(rgb, model.dtype)))
                answers = [self._answer(model, rows, tokens, reflected) for rows in windows]
                sums = [a + b for a, b in zip(sums, answers, strict=True)] if sums else answers
        count = len(self._models) * (2 if self.mirrored else 1)
        return [(total / count).log_softmax(-1) for total in sums]

    def _answer(
        self, model: StreamVLNForConditionalGeneration, rows: WindowRows, tokens: FrameTokens, reflected: bool
    ) -> Tensor:
        states = answer_states(model, self._layout, rows, tokens)[:, :, :-1]
        logits = (states @ model.lm_head.weight[self._layout.action_ids].T).float()
        if reflected:
            logits = logits[..., self._exchanged]
        return logits.log_softmax(-1)


def load_teachers(config: TeachConfig, learning: StreamVLNProcessor) -> list[StreamVLNForConditionalGeneration]:
    """The configured networks.

    Args:
        config: names them.
        learning: of the network that will learn from them.

    Raises:
        CheckpointError: one cannot be loaded.
        TrainingError: one does not read what the learning network reads.
    """
    models = []
    for name in config.teachers:
        model, processor = load_checkpoint(name, torch.float32)
        for setting in _READ_ALIKE:
            theirs, ours = getattr(model.config, setting), getattr(learning.config, setting)
            if theirs != ours:
                raise TrainingError(
                    f"the teacher {name} has {setting} {theirs!r}, the network that learns {ours!r}: teachers must "
                    "read the same dialogue"
                )
        if processor.tokenizer.get_vocab() != learning.tokenizer.get_vocab():
            raise TrainingError(f"the teacher {name} has another vocabulary than the network that learns")
        models.append(model)
    return models


def divergence(learned: Sequence[Tensor], taught: Sequence[Tensor], counted: Sequence[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of the learner's actions from the teachers', the mean over all buckets.

    Args:
        learned: (..., 4) log-probabilities of the learner, for each bucket.
        taught: (..., 4) of the teachers.
        counted: (...) bool.
    """
    apart = [((t.exp() * (t - own)).sum(-1) * c).sum() for own, t, c in zip(learned, taught, counted, strict=True)]
    return torch.stack(apart).sum() / torch.stack([c.sum() for c in counted]).sum().clamp(min=1)
