"""StreamVLN as a policy: one model call per chunk of actions over a fast window and a slow memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.agents.answer_settings import AnswerSettings, action_grammar
from streamvln_gym.agents.base import Observation
from streamvln_gym.agents.batch import Observations, StreamBatch, read_mask
from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint, read_dtype
from streamvln_gym.agents.fast_window import FastWindow
from streamvln_gym.agents.model_calls import Dialogues, ModelCaller, OneDialogue
from streamvln_gym.agents.observation import read_sight
from streamvln_gym.agents.patch_geometry import PatchGeometry
from streamvln_gym.agents.sb3 import encode_instruction, read_batch
from streamvln_gym.agents.slow_memory import SlowMemory
from streamvln_gym.agents.stream import Call, Moment, Stream, StreamStats
from streamvln_gym.agents.stream_pool import StreamPool
from streamvln_gym.agents.view import WatchedAgent
from streamvln_gym.arguments import is_finite, is_whole
from streamvln_gym.devices import choose_device, device_of
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.batched_streaming import BatchedStreamingSession
from streamvln_gym.models.decoding import LogitsProcessor
from streamvln_gym.models.dialogue import ConjunctionPicker, DialogueBuilder
from streamvln_gym.models.fast_streaming import FastSession, why_not_fast
from streamvln_gym.models.frame_encoder import DeviceFrameEncoder, FrameEncoder
from streamvln_gym.models.memory_strategies import make_strategy
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.packed_language import all_plain, is_adapted
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.models.saving import changed
from streamvln_gym.models.shipped import SHIPPED_NAME
from streamvln_gym.models.streaming import StreamingSession
from streamvln_gym.models.voxel_pruning import VoxelPruning, token_centres

# An unrestricted answer may be longer than a chunk, so a window's first call may come that much later.
ANSWER_SLACK = 4
# Tokens of words, generously: of a turn, and of the first turn besides.
TURN_TEXT, OPENING_TEXT = 32, 320
# The published loop sets no limit of its own beyond this one.
PUBLISHED_MAX_NEW_TOKENS = 10_000
# Settings that a checkpoint's configuration has, too.
_CONFIGURED = ("num_history", "window_steps", "chunk_size", "prompt_style", "memory_prompt", "memory_strategy")


@dataclass(frozen=True)
class StreamVLNAgentConfig:
    """How the agent streams. None means, unless said otherwise: as the checkpoint's configuration says.

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
        fast: answer with `FastSession` and send pictures to the device as they are. None: on a GPU, with weights that
            are neither quantised nor have adapters, where `why_not_fast` finds nothing against it; True raises what it
            finds.
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
    fast: bool | None = None

    def __post_init__(self) -> None:
        for name, least in {
            "num_history": 0,
            "window_steps": 1,
            "chunk_size": 1,
            "max_new_tokens": 1,
            "max_steps": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and not is_whole(value, least):
                raise ValueError(f"StreamVLNAgentConfig.{name} must be a whole number, at least {least}, got {value!r}")
        penalty = self.repetition_penalty
        if penalty is not None and not (is_finite(penalty) and penalty > 0.0):
            raise ValueError(f"StreamVLNAgentConfig.repetition_penalty must be a positive number, got {penalty!r}")


class StreamVLNAgent:
    """The streaming agent of StreamVLN (slow memory, fast window, action queue).

    The clock is the number of executed actions since `reset`. `act` counts one action a call. With `predict_chunk` the
    caller executes the chunk; where it executed another number of actions, it says so with `n_executed`.

    `act_batch` and `predict_chunk_batch` do the same for many environments at once. Their streams are apart from the
    single one of `act`, but for `stats`.

    Args:
        model: the network, in eval mode on its device.
        processor: pictures, tokenizer and actions of that network.
        config: how to stream.
        logits_processor: transformers' logits processors; they see the current answer's ids and run after the
            repetition penalty and before the action grammar. In a batch they see many answers at once, as rows.
        **settings: fields of `StreamVLNAgentConfig`, in place of those of `config`.

    Attributes:
        trained: False while the weights are random.
        session: the dialogue with the network: KV cache, positions, carried ids.
        stats: counters, see `StreamStats`.
        stream: the state of the single episode.
        batch: the streams of `act_batch`, None before its first call.
        fast: whether answers come from `FastSession`.
        fast_session: in place of `session`, where they do.
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
        self._chunk_size = self._setting("chunk_size")
        style = self._setting("prompt_style")
        dialogue = DialogueBuilder(processor.tokenizer, style, self._setting("memory_prompt"))
        pruning = self.config.voxel_pruning or VoxelPruning(**model.config.voxel_pruning)
        self._strategy = make_strategy(self._setting("memory_strategy"), pruning)
        geometry = PatchGeometry(token_centres(model.config), pruning.max_depth, self.config.intrinsics)
        self._geometry = geometry if self._strategy.needs_geometry else None
        constrained = style == "trained" if self.config.constrained is None else self.config.constrained
        header = dialogue.encode(dialogue.answer_header)
        default_cut = self._chunk_size + ANSWER_SLACK if style == "trained" else PUBLISHED_MAX_NEW_TOKENS
        self._answers = AnswerSettings(
            model,
            processor.turn_end_id,
            self.config.max_new_tokens or default_cut,
            action_grammar(processor, self._chunk_size, header) if constrained else None,
            self.config.repetition_penalty,
            logits_processor,
        )
        self._warn_of_length()
        self._closing_id = processor.turn_end_id if style == "trained" else None
        self.fast = self._choose_fast()
        frames = DeviceFrameEncoder(model, processor) if self.fast else FrameEncoder(model, processor)
        self._caller = ModelCaller(model, processor, dialogue, self._strategy, self._answers.rules, self.stats, frames)
        self.session = StreamingSession(model, self._answers.rules(), self._closing_id)
        self.fast_session = FastSession(model, 1, self._longest_window()) if self.fast else None
        self.stream = self._new_stream()
        self.batch: StreamBatch | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        config: StreamVLNAgentConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        logits_processor: Sequence[LogitsProcessor] = (),
        loading: LoadOptions | None = None,
        **settings: Any,
    ) -> StreamVLNAgent:
        """Loads a checkpoint: a folder in this package's format or in the published one, or a hub id.

        Args:
            name_or_path: folder, or the hub's "owner/name"; None means "streamvln-tiny", the small trained network that
                ships in the package.
            config: how to stream.
            device: where the network runs; "auto" takes a GPU if there is one.
            dtype: of the weights, or its name; None or "auto" means as stored, but float32 for "streamvln-tiny", and on
                a CPU, whose arithmetic in half precision is slow, for what is stored in float16, or in bfloat16 and
                takes less than 2 GB.
            logits_processor: see the class.
            loading: everything else about loading, see `LoadOptions`; its fields can be given by name as well.
            **settings: fields of `StreamVLNAgentConfig` or of `LoadOptions`, such as `conjunctions=` or
                `vision_config=`.

        Raises:
            CheckpointError: the checkpoint is missing, corrupt, or its parts do not fit together; what is wrong is
                listed.
            ValueError: there is no such dtype, device or memory.
        """
        names = {item.name for item in fields(LoadOptions)}
        chosen = {name: settings.pop(name) for name in list(settings) if name in names}
        options = replace(loading or LoadOptions(), **chosen)
        name_or_path = SHIPPED_NAME if name_or_path is None else name_or_path
        device = choose_device(device) if isinstance(device, str) else device
        model, processor = load_checkpoint(name_or_path, read_dtype(dtype), device, options)
        return cls(model.eval(), processor, config, logits_processor=logits_processor, **settings)

    @classmethod
    def untrained(
        cls,
        weights_seed: int = 0,
        config: StreamVLNAgentConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> StreamVLNAgent:
        """The network of "streamvln-tiny" with random weights: for tests, timings and training from nothing.

        Args:
            weights_seed: the same seed gives the same weights (with the same releases of torch and transformers).
            config: how to stream.
            device: where the network runs.
            dtype: of the weights; default: float32.
            **settings: fields of `StreamVLNAgentConfig`.
        """
        processor = StreamVLNProcessor.tiny()
        model = StreamVLNForConditionalGeneration.from_seed(processor.config, weights_seed)
        model.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers hides the signature
        return cls(model, processor, config, **settings)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes weights, configuration and tokenizer into a folder that `from_pretrained` reads.

        The configuration has this agent's own memory, window, chunks and prompts; conjunctions, limits and a camera
        are to be given again.

        Raises:
            CheckpointError: the network has adapters, which would not be found again.
        """
        if any(map(is_adapted, self.model.modules())):
            raise CheckpointError(
                "the network has adapters, which an agent's folder cannot hold: put them into the weights first "
                "(peft's merge_and_unload), or save them alone with peft's save_pretrained"
            )
        own = {name: self._setting(name) for name in _CONFIGURED}
        pruning = self.config.voxel_pruning
        penalty = self.config.repetition_penalty
        with (
            changed(self.model.config, **own, **({"voxel_pruning": asdict(pruning)} if pruning else {})),
            changed(self.model.generation_config, **({"repetition_penalty": penalty} if penalty else {})),
        ):
            self.model.save_pretrained(str(path))
        self.processor.save_pretrained(path)

    def watch(self) -> WatchedAgent:
        """This agent as one that can be looked at after every `act`, for videos and viewers."""
        return WatchedAgent(self)

    @property
    def device(self) -> torch.device:
        return device_of(self.model.lm_head)

    @property
    def chunk_size(self) -> int:
        """Actions of one full answer."""
        return self._chunk_size

    @property
    def step(self) -> int:
        """Actions executed since `reset`, as far as the agent knows."""
        return self.stream.step

    @property
    def last_call(self) -> Call | None:
        """The latest model call of the single episode, None before the first; streams of a batch have their own."""
        return self.stream.last_call

    @property
    def needs_geometry(self) -> bool:
        """Whether observations must have `depth`, `camera_pose` and `intrinsics` (the memory strategy "voxel")."""
        return self._strategy.needs_geometry

    @property
    def needs_picture(self) -> bool:
        """Whether the next `act` looks at the picture that it is shown; otherwise any earlier one will do.

        Between two model calls decided actions are handed out, so a caller need not render what is seen there.
        """
        return self.stream.needs_picture

    def reset(self) -> None:
        """Forgets the episode, and the whole batch."""
        self.stream.reset()
        self._dialogue().restart([0])
        self.batch = None

    def act(self, obs: Observation) -> int:
        """Chooses the next action; the model is called whenever no decided action is left.

        Where the next call opens a window with memory, the step before it, which only hands out an action, already
        prefills what that window begins with.

        Args:
            obs: `rgb` uint8 (height, width, 3) and `instruction` str; see `Agent.act`.

        Returns:
            0 STOP, 1 FORWARD, 2 LEFT, 3 RIGHT.

        Raises:
            TypeError: an entry of `obs` has the wrong type.
            ValueError: an entry is missing or malformed, or the instruction changed without a `reset`.
        """
        moment = self._look(obs)
        if not self.fast:
            self._caller.prepare(moment, self.session)
        return self._caller.act([moment], self._dialogue())[0]

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
        return self._caller.predict([self._look(obs, n_executed)], self._dialogue())[0]

    def act_batch(
        self, observations: Observations, episode_starts: ArrayLike, active: ArrayLike | None = None
    ) -> list[int]:
        """`act` for N environments: the streams whose decided actions are used up call the model together.

        Each stream has a clock, window, memory, queue and conjunctions of its own, and does what an agent of its own
        would do.

        Args:
            observations: N observations as of `act`; or a vector environment's dict of arrays (N, ...), whose
                `instruction` is a sequence of N str. They may be overwritten after the call.
            episode_starts: (N,) bool, streams whose episode begins with this observation; they are reset first. N can
                change only where all of them are.
            active: (N,) bool, streams that take part; None means all. What the others see is not read, and their
                clocks stand still.

        Returns:
            N actions as of `act`. A stream that takes no part gets 0, STOP, which an environment that is over ignores.

        Raises:
            TypeError: an argument, or an entry of an observation, has the wrong type.
            ValueError: as in `act`, and where sizes do not fit. The message names the stream. No stream has changed.
        """
        starts = read_mask("episode_starts", episode_starts)
        return self._batch(starts).act(observations, starts, active)

    def predict_chunk_batch(
        self,
        observations: Observations,
        episode_starts: ArrayLike,
        n_executed: Sequence[int | None] | NDArray[np.integer] | None = None,
        active: ArrayLike | None = None,
    ) -> list[list[int]]:
        """`predict_chunk` for N environments: all active streams call the model together.

        Args:
            observations: as in `act_batch`.
            episode_starts: as in `act_batch`.
            n_executed: per stream as in `predict_chunk`, such as `info["n_executed"]` of chunked environments; not
                read where an episode starts. None means the whole last chunk everywhere.
            active: as in `act_batch`.

        Returns:
            N chunks as of `predict_chunk`, empty for streams that take no part.

        Raises:
            TypeError: as in `act_batch`.
            ValueError: as in `act_batch`; or `n_executed` does not fit.
        """
        starts = read_mask("episode_starts", episode_starts)
        return self._batch(starts).predict(observations, starts, n_executed, active)

    def open_pool(self, capacity: int) -> StreamPool:
        """Places for streams that join and leave at any time, as a server has them; apart from all other streams.

        Args:
            capacity: streams at once; the KV cache has a row for each.
        """
        streams = [self._new_stream() for _ in range(capacity)]
        return StreamPool(streams, self._dialogues(capacity), self._caller, self._geometry)

    def tokenize(self, instruction: str) -> list[int]:
        """An instruction's ids, for `SB3Observation(env, agent.tokenize)`; `predict` reads them.

        Raises:
            ValueError: the tokenizer cannot give the very text back.
        """
        return encode_instruction(self.processor.tokenizer, instruction)

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], Any]:
        """`act_batch` as stable-baselines3 calls a policy, e.g. its `evaluate_policy(agent, vec_env)`.

        The environments take single actions and show text, or ids, which `SB3Observation(env, agent.tokenize)` makes.

        Args:
            observation: `rgb` uint8 (streams, height, width, 3) and `instruction`, a sequence or an array of str, one
                for each; or int (streams, length) ids of this agent's tokenizer, filled up with -1. One observation
                without the first axis is a batch of one.
            state: what the last call returned; None begins all episodes anew.
            episode_start: (streams,) bool, streams whose episode begins; None: none but with `state` None.
            deterministic: the best token at each place; otherwise tokens are drawn from their probabilities, with
                torch's own random state.

        Returns:
            (streams,) actions, a scalar array for one observation; and the state for the next call.

        Raises:
            TypeError: `state` comes from elsewhere, or an entry has the wrong type: depth that is no longer in metres,
                where the memory strategy needs it.
            ValueError: another tokenizer made the ids, or as in `act_batch`.
        """
        observations, single = read_batch(observation, self.processor.tokenizer, self.needs_geometry)
        count = len(observations["rgb"])
        if state is not None and not isinstance(state, StreamBatch):
            raise TypeError(f"state must be what the last predict() returned, or None, got {type(state).__name__}")
        starts = (
            np.zeros(count, np.bool_) if episode_start is None else read_mask("episode_start", episode_start, count)
        )
        if state is None:
            self.batch, starts = None, np.ones(count, np.bool_)
        else:
            self.batch = state
        self._answers.drawn = not deterministic
        try:
            actions = np.array(self.act_batch(observations, starts))
        finally:
            self._answers.drawn = False
        return (actions[0] if single else actions), self.batch

    def _dialogue(self) -> Dialogues:
        """The single stream's."""
        return self.fast_session or OneDialogue(self.session)

    def _dialogues(self, count: int) -> Dialogues:
        """New ones, of many streams."""
        if self.fast:
            return FastSession(self.model, count, self._longest_window())
        return BatchedStreamingSession(self.model, count, self._closing_id)

    def _longest_window(self) -> int:
        """Positions that a dialogue takes at most, unless its instruction is very long."""
        config = self.model.config
        frames, tokens = self._setting("num_history"), config.tokens_per_frame
        memory = self._strategy.most_tokens(frames, config.patches_per_side**2, tokens)
        turns = -(-self._setting("window_steps") // self._chunk_size)
        return memory + turns * (tokens + TURN_TEXT) + OPENING_TEXT

    def _warn_of_length(self) -> None:
        longest, trained = self._longest_window(), self.model.config.text_config.max_position_embeddings
        if longest > trained:
            warnings.warn(
                f"a window of this agent takes up to {longest} positions, but the network knows {trained}: beyond them "
                "its answers mean nothing. Lower num_history or window_steps, or choose another memory_strategy",
                stacklevel=3,
            )

    def _choose_fast(self) -> bool:
        """Whether answers come from `FastSession`.

        Raises:
            ValueError: it was asked for and cannot be.
        """
        asked = self.config.fast
        may_be = self.device.type == "cuda" and all_plain(self.model)
        if asked is False or (asked is None and not may_be):
            return False
        reason = why_not_fast(self.model, self._answers.rules())
        if reason is not None and asked:
            raise ValueError(f"fast=True cannot be had: {reason}")
        return reason is None

    def _look(self, obs: Observation, n_executed: int | None = None) -> Moment:
        sight = read_sight(obs, self._geometry)
        return Moment(self.stream, sight, self.stream.expect(sight, n_executed))

    def _batch(self, episode_starts: NDArray[np.bool_]) -> StreamBatch:
        """The streams of the batch; new ones where their number is new."""
        count = len(episode_starts)
        if self.batch is None or (len(self.batch) != count and episode_starts.all()):
            streams = [self._new_stream() for _ in range(count)]
            self.batch = StreamBatch(streams, self._dialogues(count), self._caller, self._geometry)
        elif len(self.batch) != count:
            raise ValueError(
                f"the batch has {len(self.batch)} streams, but episode_starts has {count}: their number can change "
                "only where all episodes start, or after agent.reset()"
            )
        return self.batch

    def _new_stream(self) -> Stream:
        window_steps = self._setting("window_steps")
        memory = SlowMemory(
            self._setting("num_history") if self._strategy.shows_memory else 0,
            window_steps,
            self._chunk_size + ANSWER_SLACK,
            self.config.max_steps,
            shrink=self.processor.resize,
        )
        return Stream(memory, FastWindow(window_steps), ConjunctionPicker(self.config.conjunctions, self.config.seed))

    def _setting(self, name: str) -> Any:
        value = getattr(self.config, name)
        return getattr(self.model.config, name) if value is None else value
