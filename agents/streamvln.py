"""StreamVLN as a policy: one model call per chunk of actions over a fast window and a slow memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from streamvln_gym.agents.action_queue import ActionQueue
from streamvln_gym.agents.base import Observation
from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint
from streamvln_gym.agents.fast_window import FastWindow
from streamvln_gym.agents.observation import check_depth, read_instruction, read_rgb
from streamvln_gym.agents.patch_geometry import PatchGeometry
from streamvln_gym.agents.slow_memory import SlowMemory
from streamvln_gym.models.decoding import ActionGrammar, AnswerRules, LogitsProcessor
from streamvln_gym.models.dialogue import ConjunctionPicker, DialogueBuilder, check_instruction
from streamvln_gym.models.memory_strategies import make_strategy
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.models.streaming import StreamingSession
from streamvln_gym.models.voxel_pruning import VoxelPruning, token_centres

STOP = 0
# An unrestricted answer may be longer than a chunk, so a window's first call may come that much later.
ANSWER_SLACK = 4
# The published loop sets no limit of its own beyond this one.
PUBLISHED_MAX_NEW_TOKENS = 10_000


@dataclass(frozen=True)
class StreamVLNAgentConfig:
    """How the agent streams. None means: as the checkpoint's configuration says.

    Attributes:
        num_history: frames of slow memory at a window's start (0: no memory).
        window_steps: environment steps between two resets of the fast window.
        chunk_size: actions of one full answer.
        prompt_style: "trained" or "published", see `DialogueBuilder`.
        memory_prompt: "evaluation", "training" or "robot".
        conjunctions: cycled through, one per model call; None draws from the published seven with `seed`.
        seed: of the drawn conjunctions; every episode starts the same sequence.
        constrained: hold answers to the action grammar; None means in style "trained" only.
        repetition_penalty: None means as the checkpoint's generation configuration says.
        max_new_tokens: cut of an answer; None means chunk_size + 4 in style "trained" and 10,000 in "published".
        max_steps: episode length up to which the slow memory is exact, see `SlowMemory`.
        memory_strategy: "none", "pooled", "full", "temporal_pool" or "voxel", see `models.memory_strategies`.
        voxel_pruning: how much the strategy "voxel" prunes.
        intrinsics: (3, 3) camera matrix for the depth picture's size, which "voxel" reads in place of
            `obs["intrinsics"]` (a robot's camera).
    """

    num_history: int | None = None
    window_steps: int | None = None
    chunk_size: int | None = None
    prompt_style: str | None = None
    memory_prompt: str | None = None
    conjunctions: Sequence[str] | None = None
    seed: int = 0
    constrained: bool | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    max_steps: int = 500
    memory_strategy: str | None = None
    voxel_pruning: VoxelPruning | None = None
    intrinsics: ArrayLike | None = None

    def __post_init__(self) -> None:
        for name, least in {
            "num_history": 0,
            "window_steps": 1,
            "chunk_size": 1,
            "max_new_tokens": 1,
            "max_steps": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"StreamVLNAgentConfig.{name} must be at least {least}, got {value}")


@dataclass
class StreamStats:
    """Counters since the agent was made (they survive `reset`).

    Attributes:
        calls: model calls.
        windows: windows opened.
        current_frames: frames encoded as the current frame of a call: one each, never again.
        history_frames: frames encoded only when a window showed them, because no call had had them.
        generated_tokens: tokens decoded.
        parse_failures: answers without any action, taken as STOP.
    """

    calls: int = 0
    windows: int = 0
    current_frames: int = 0
    history_frames: int = 0
    generated_tokens: int = 0
    parse_failures: int = 0

    @property
    def tower_frames(self) -> int:
        """Frames that went through the vision tower."""
        return self.current_frames + self.history_frames


@dataclass(frozen=True)
class Call:
    """What the last model call saw and said; for inspection and tests.

    Attributes:
        step: environment step.
        prompt_ids: ids of the prefill, special positions unexpanded; they open with what was carried from the last
            answer.
        prefill_length: embeddings prefilled.
        answer_ids: generated ids.
        history_steps: steps of the frames shown as memory (empty within a window).
        kv_before: positions in the KV cache before the prefill.
        kv_after: positions after the answer; its last token is not among them.
    """

    step: int
    prompt_ids: list[int]
    prefill_length: int
    answer_ids: list[int]
    history_steps: list[int] = field(default_factory=list)
    kv_before: int = 0
    kv_after: int = 0


class StreamVLNAgent:
    """The streaming agent of StreamVLN (slow memory, fast window, action queue).

    The clock is the number of executed actions since `reset`. `act` counts one action a call. With `predict_chunk` the
    caller executes the chunk; where it executed another number of actions, it says so with `n_executed`.

    Args:
        model: the network, in eval mode on its device.
        processor: pictures, tokenizer and actions of that network.
        config: how to stream.
        logits_processor: transformers' logits processors; they see the current answer's ids and run after the
            repetition penalty and before the action grammar.
        **settings: fields of `StreamVLNAgentConfig`, in place of those of `config`.

    Attributes:
        trained: False while the weights are random.
        session: the dialogue with the network: KV cache, positions, carried ids.
        stats: counters, see `StreamStats`.
        last_call: the latest model call, None before the first.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        processor: StreamVLNProcessor,
        config: StreamVLNAgentConfig | None = None,
        *,
        logits_processor: Sequence[LogitsProcessor] = (),
        **settings: Any,
    ) -> None:
        self.model = model
        self.processor = processor
        self.config = replace(config or StreamVLNAgentConfig(), **settings)
        self.trained: bool = bool(model.config.trained)
        self.stats = StreamStats()
        self.last_call: Call | None = None
        chunk_size = self._setting("chunk_size")
        style = self._setting("prompt_style")
        self._dialogue = DialogueBuilder(processor.tokenizer, style, self._setting("memory_prompt"))
        self._conjunctions = ConjunctionPicker(self.config.conjunctions, self.config.seed)
        pruning = self.config.voxel_pruning or VoxelPruning(**model.config.voxel_pruning)
        self._strategy = make_strategy(self._setting("memory_strategy"), pruning)
        centres = token_centres(model.config)
        self._geometry = PatchGeometry(centres, pruning.max_depth, self.config.intrinsics)
        self._memory = SlowMemory(
            self._setting("num_history") if self._strategy.shows_memory else 0,
            self._setting("window_steps"),
            chunk_size + ANSWER_SLACK,
            self.config.max_steps,
            shrink=processor.resize,
        )
        self._window = FastWindow(self._setting("window_steps"))
        self._queue = ActionQueue()
        constrained = style == "trained" if self.config.constrained is None else self.config.constrained
        self._grammar = self._make_grammar(chunk_size) if constrained else None
        default_cut = chunk_size + ANSWER_SLACK if style == "trained" else PUBLISHED_MAX_NEW_TOKENS
        self._max_new_tokens = self.config.max_new_tokens or default_cut
        self._logits_processor = tuple(logits_processor)
        closing_id = processor.turn_end_id if style == "trained" else None
        self.session = StreamingSession(model, self._answer_rules(), closing_id)
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        config: StreamVLNAgentConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        seed: int = 0,
        logits_processor: Sequence[LogitsProcessor] = (),
        loading: LoadOptions | None = None,
        **settings: Any,
    ) -> StreamVLNAgent:
        """Loads a checkpoint: a folder in this package's format or in the published one, or a hub id.

        Args:
            name_or_path: folder, or the hub's "owner/name"; None means the package's own small network.
            config: how to stream.
            device: where the network runs.
            dtype: of the weights; None means as stored, but float32 on a CPU for what is stored in float16.
            seed: of the random weights, where `name_or_path` is None.
            logits_processor: see the class.
            loading: everything else about loading, see `LoadOptions`; its fields can be given by name as well.
            **settings: fields of `StreamVLNAgentConfig` or of `LoadOptions`, such as `conjunctions=` or
                `vision_config=`.

        Raises:
            CheckpointError: the checkpoint is missing, corrupt, or its parts do not fit together; what is wrong is
                listed.
        """
        names = {item.name for item in fields(LoadOptions)}
        chosen = {name: settings.pop(name) for name in list(settings) if name in names}
        options = replace(loading or LoadOptions(), **chosen)
        if name_or_path is None:
            processor = StreamVLNProcessor.tiny()
            model = StreamVLNForConditionalGeneration.from_seed(processor.config, seed)
            model.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers hides the signature
        else:
            model, processor = load_checkpoint(name_or_path, dtype, device, options)
        return cls(model.eval(), processor, config, logits_processor=logits_processor, **settings)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes weights, configuration and tokenizer into a folder that `from_pretrained` reads."""
        self.model.save_pretrained(str(path))
        self.processor.save_pretrained(path)

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def step(self) -> int:
        """Actions executed since `reset`, as far as the agent knows."""
        return self._step

    def reset(self) -> None:
        """Forgets the episode."""
        self._step = 0
        self._uncounted = 0
        self._instruction: str | None = None
        self._memory.reset()
        self._window.clear()
        self.session.restart()
        self._queue.clear()
        self._conjunctions.reset()

    def act(self, obs: Observation) -> int:
        """Chooses the next action; the model is called whenever no decided action is left.

        Args:
            obs: `rgb` uint8 (height, width, 3) and `instruction` str; see `Agent.act`.

        Returns:
            0 STOP, 1 FORWARD, 2 LEFT, 3 RIGHT.

        Raises:
            TypeError: an entry of `obs` has the wrong type.
            ValueError: an entry is missing or malformed, or the instruction changed without a `reset`.
        """
        rgb, points = self._read(obs)
        self._count_chunk(None)
        if self._queue:
            # A window may show this frame although no call has it (chunks that miss the sampling rule's steps).
            self._memory.add(self._step, picture=rgb.copy(), points=points)
        else:
            self._queue.push(self._call(rgb, points))
        self._step += 1
        return self._queue.pop()

    def predict_chunk(self, obs: Observation, n_executed: int | None = None) -> list[int]:
        """Calls the model now and returns its whole answer; actions pending from `act` are dropped.

        Args:
            obs: as in `act`.
            n_executed: actions executed since the previous `predict_chunk`, or since the previous `act` beyond the one
                that it returned and counted; None means the whole chunk that the previous `predict_chunk` returned
                (nothing, after `act`).

        Returns:
            At least one action: `chunk_size` moves, or fewer moves and STOP. Unconstrained answers can be longer.

        Raises:
            TypeError: an entry of `obs` has the wrong type.
            ValueError: as in `act`; or `n_executed` is negative, or 0 although the agent has already seen this step.
        """
        rgb, points = self._read(obs)
        self._count_chunk(n_executed)
        self._queue.clear()
        chunk = self._call(rgb, points)
        self._uncounted = len(chunk)
        return chunk

    @torch.inference_mode()
    def _call(self, rgb: NDArray[np.uint8], points: NDArray[np.float32] | None) -> list[int]:
        """One model call: prefill the carried ids and the new turn, decode, remember the frame."""
        step = self._step
        memory: Tensor | None = None
        history: list[int] = []
        if self._window.covers(step):
            text = self._dialogue.later_turn(self._conjunctions.next())
        else:
            memory, history = self._show_memory(step)
            self._window.open(step)
            self.session.restart()
            self.stats.windows += 1
            instruction = self._instruction or ""
            text = self._dialogue.first_turn(instruction, self._conjunctions.next(), memory is not None)
        frame, kept = self._encode([self.processor.resize(rgb)])
        self.stats.current_frames += 1
        kv_before = self.session.kv_length
        self.session.rules = self._answer_rules()
        try:
            self.session.append(self._dialogue.encode(text), frame, memory)
            answer = self.session.generate()
        except BaseException:  # out of memory, an interrupt: the dialogue is broken, so the next call opens a window
            self._window.clear()
            self.session.restart()
            raise
        if kv_before == 0:
            self._memory.window_opened(step)
        self._memory.add(step, tokens=kept[0], points=points)
        self.stats.calls += 1
        self.stats.generated_tokens += len(answer)
        self.last_call = Call(
            step,
            self.session.prompt_ids,
            self.session.prefill_length,
            answer,
            history,
            kv_before,
            self.session.kv_length,
        )
        actions = self.processor.parse_actions(answer)
        if not actions:
            self.stats.parse_failures += 1
        return actions or [STOP]

    def _show_memory(self, step: int) -> tuple[Tensor | None, list[int]]:
        """Tokens (memory_tokens, hidden) of the frames that open a window at `step`, and the frames' steps."""
        frames = self._memory.sample(step)
        if not frames:
            return None, []
        missing = list({id(frame): frame for frame in frames if frame.tokens is None}.values())
        if missing:
            pictures = [self.processor.resize(frame.picture) for frame in missing if frame.picture is not None]
            for frame, tokens in zip(missing, self._encode(pictures)[1], strict=True):
                frame.tokens, frame.picture = tokens, None
            self.stats.history_frames += len(missing)
        kept = torch.stack([frame.tokens for frame in frames if frame.tokens is not None])
        points = [frame.points for frame in frames if frame.points is not None]
        steps = [frame.step for frame in frames]
        return self._strategy.select(kept, steps, np.stack(points) if points else None), steps

    def _encode(self, pictures: list[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        """Pooled tokens (frames, tokens_per_frame, hidden), and what the memory keeps (frames, kept, hidden)."""
        pixels = torch.from_numpy(self.processor.pixel_values(pictures))
        patches = self.model.encode_patches(pixels.to(self.device, self.model.dtype))
        pooled = self.model.pool(patches)
        return pooled, self._strategy.frame_tokens(patches, pooled)

    def _read(self, obs: Observation) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """The picture, and where its patches lie if the memory strategy wants to know."""
        rgb, instruction = read_rgb(obs), read_instruction(obs)
        check_depth(obs)
        points = self._geometry.points(obs) if self._strategy.needs_geometry else None
        if self._instruction is None:  # last, so that a refused observation leaves no trace
            check_instruction(instruction)
            self._instruction = instruction
        elif instruction != self._instruction:
            raise ValueError(
                "obs['instruction'] changed within an episode: call agent.reset() at the start of every episode"
            )
        return rgb, points

    def _count_chunk(self, n_executed: int | None) -> None:
        if n_executed is not None and n_executed < 0:
            raise ValueError(f"n_executed must not be negative, got {n_executed}")
        step = self._step + (self._uncounted if n_executed is None else n_executed)
        seen = self._memory.steps
        if seen and step <= seen[-1]:
            raise ValueError(f"the agent has already seen step {step}: pass n_executed >= 1, or call act() per step")
        self._step = step
        self._uncounted = 0

    def _answer_rules(self) -> AnswerRules:
        """Read anew for each call, so that a changed generation configuration counts at once."""
        generation = self.model.generation_config
        ends = getattr(generation, "eos_token_id", None)
        end_ids = dict.fromkeys([self.processor.turn_end_id, *(ends if isinstance(ends, list) else [ends])])
        penalty = self.config.repetition_penalty
        if penalty is None:
            penalty = getattr(generation, "repetition_penalty", None) or 1.0
        end_ids.pop(None, None)
        return AnswerRules(tuple(end_ids), self._max_new_tokens, self._grammar, penalty, self._logits_processor)

    def _make_grammar(self, chunk_size: int) -> ActionGrammar:
        stop_id, *move_ids = self.processor.action_ids
        header = self._dialogue.encode(self._dialogue.answer_header)
        return ActionGrammar(stop_id, tuple(move_ids), self.processor.turn_end_id, chunk_size, tuple(header))

    def _setting(self, name: str) -> Any:
        value = getattr(self.config, name)
        return getattr(self.model.config, name) if value is None else value
