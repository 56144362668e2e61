"""Acts in the workers' streams, with the policy and the expert, and fills the frame buffer."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.errors import TrainingError
from streamvln_gym.models.dialogue import CONJUNCTIONS, ConjunctionPicker
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.online.config import OnlineConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.mirrored_streams import mirror_text
from streamvln_gym.training.online.pictures import Pictures, PictureSource
from streamvln_gym.training.online.policy import Answers, StreamsPolicy
from streamvln_gym.training.online.reinforce import Experience, ValueHead
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.stream_arrays import EXPERT, POLICY, RESULTS
from streamvln_gym.training.online.workers import WorkerPool

MAX_TURNS = 128
INSTRUCTION_TOKENS = 256
_MOST_COPIES = 2  # of a free episode in a batch, on average
_LEAST_FRAMES = 30_000  # of a buffer
_FRAMES_PER_STREAM = 300  # the longest episodes have to fit in, and stay for a while
_MOVES, _MOVE_SHARES = np.array([1, 2, 3], dtype=np.int8), (0.5, 0.25, 0.25)


@dataclass(frozen=True)
class Shown:
    """What the policy is to answer.

    Attributes:
        rgb: (streams, size, size, 3) uint8, on the training device.
        conjunctions: (streams,) int64, index of `CONJUNCTIONS`.
    """

    rgb: Tensor
    conjunctions: NDArray[np.int64]


@dataclass(frozen=True)
class Drawable:
    """Episodes that can be learned from, rows of the buffer's table.

    Attributes:
        taught: (episodes,) int64, with the expert's labels.
        free: (episodes,) int64, of free streams, that ended not long ago.
    """

    taught: NDArray[np.int64]
    free: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.taught) + len(self.free)


class Collector:
    """The streams of one process, and what is remembered of them.

    Args:
        pool: of workers, whose streams have started training episodes.
        pictures: what their streams see.
        model: gives the acting copy its sizes, and its device.
        processor: tokenizer and configuration.
        layout: of the dialogue.
        config: of the training.
        rng: draws who drives.
        value: what free streams expect to earn; None if there are none.

    Attributes:
        buffer: frames and episodes.
        experience: what free streams did and earned; None if there are none.
        turns: chunks that every stream has executed.
        scenes: ids of those that training episodes have begun in.
        seconds: spent waiting for the workers, and acting.
    """

    def __init__(
        self,
        pool: WorkerPool,
        pictures: PictureSource,
        model: StreamVLNForConditionalGeneration,
        processor: StreamVLNProcessor,
        layout: DialogueLayout,
        config: OnlineConfig,
        rng: np.random.Generator,
        value: ValueHead | None = None,
    ) -> None:
        self.pool = pool
        self._pictures = pictures
        self.config = config
        self.device = model.lm_head.weight.device
        self._processor = processor
        self._rng = rng
        self._acting = copy.deepcopy(model).eval()
        self._acting.to(dtype=torch.bfloat16 if self.device.type == "cuda" else torch.float32)  # type: ignore[call-arg]
        self._policy = StreamsPolicy(self._acting, layout, pool.streams, MAX_TURNS, INSTRUCTION_TOKENS)
        frames = config.optimize.buffer_frames or max(_LEAST_FRAMES, _FRAMES_PER_STREAM * pool.streams)
        self.buffer = FrameBuffer(frames, pool.arrays, MAX_TURNS, INSTRUCTION_TOKENS, self.device)
        self._value = value
        self.experience = None if value is None else Experience(self.buffer, pool.free, config.reinforce, MAX_TURNS)
        sampled = (rng.random(pool.streams) < config.collect.sampled_streams) | pool.free
        self._sampled = torch.from_numpy(sampled).to(self.device)
        self._expert_shares = np.ones(pool.streams)  # of each stream's present episode
        self._shown = _agents_conjunctions(MAX_TURNS)
        self.turns = 0
        self.scenes: set[bytes] = set()
        self.seconds = {"waiting": 0.0, "acting": 0.0}

    def wait(self) -> None:
        """Waits until the workers have executed the last turn."""
        begun = time.monotonic()
        self._pictures.enter(self.pool.wait())
        self.seconds["waiting"] += time.monotonic() - begun

    def take(self) -> Shown:
        """Takes in what the last turn showed; call `wait` before."""
        begun = time.monotonic()
        arrays = self.pool.arrays
        if self.experience is not None:
            self.experience.finish_turn(arrays)
        self.buffer.finish_turn(arrays)
        pictures, starting = self._take_frames()
        self.scenes.update(arrays.scene[arrays.started].tolist())
        self._policy.begin(starting)
        conjunctions = self._rng.integers(len(CONJUNCTIONS), size=self.pool.streams)
        self.buffer.add(arrays, pictures, starting, self._mirrored(starting), conjunctions, self.pool.free)
        self.seconds["acting"] += time.monotonic() - begun
        return Shown(pictures.rgb, conjunctions)

    def decide(self, shown: Shown, model: StreamVLNForConditionalGeneration, progress: float) -> None:
        """Lets the workers begin the next turn.

        Args:
            shown: what `take` gave.
            model: who acts where the expert does not.
            progress: share of the training that is done.
        """
        begun = time.monotonic()
        arrays, collect = self.pool.arrays, self.config.collect
        self._load(model)
        answers = self._act(shown.rgb, shown.conjunctions, self._sampled)
        self._note(answers)
        actions = answers.actions.cpu().numpy().astype(np.int8)
        self._share_out(np.flatnonzero(arrays.started), progress)
        expert = self._rng.random(self.pool.streams) < self._expert_shares
        disturbed = (self._rng.random(self.pool.streams) < collect.random_chunks) & ~self.pool.free
        actions[disturbed] = self._random_chunks(int(disturbed.sum()), actions.shape[1])
        arrays.actions[:] = actions
        arrays.driver[:] = np.where(expert & ~disturbed, EXPERT, POLICY)
        self.pool.turn(collect.longest(progress))
        self.turns += 1
        self.seconds["acting"] += time.monotonic() - begun

    def evaluate(self, model: StreamVLNForConditionalGeneration, episode_ids: Sequence[str]) -> NDArray[np.float64]:
        """Plays episodes greedily, as the agent would by default; call `wait` before and `restart` after.

        Returns:
            (episodes, results), see `stream_arrays.RESULTS`.
        """
        self._load(model)
        arrays, results = self.pool.arrays, [np.empty((0, len(RESULTS)))]
        for begin in range(0, len(episode_ids), self.pool.streams):
            given = self.pool.evaluate(episode_ids[begin : begin + self.pool.streams], self.config.evaluate_steps)
            self._pictures.enter(self.pool.wait())
            while arrays.active.any():
                pictures, starting = self._take_frames()
                self._policy.begin(starting)
                turns = np.minimum(self._policy.turns, len(self._shown) - 1)
                arrays.actions[:] = self._act(pictures.rgb, self._shown[turns], None).actions.cpu().numpy()
                self.pool.turn()
                self._pictures.enter(self.pool.wait())
            results.append(arrays.results[given >= 0].astype(np.float64))
        return np.concatenate(results)

    def restart(self, progress: float) -> None:
        """Lets the streams start training episodes after an evaluation."""
        self.buffer.forget_running()
        self.pool.train(self.config.collect.longest(progress))

    def drawable(self) -> Drawable:
        """The episodes that can be learned from now."""
        rows = self.buffer.whole
        free = rows[:0] if self.experience is None else self.experience.fresh(rows)
        return Drawable(rows[~self.buffer.exact[rows]], free)

    def draw(self, rows: Drawable, count: int) -> NDArray[np.int64]:
        """Draws episodes to learn from, with replacement.

        Args:
            rows: which there are, at least one.
            count: how many.
        """
        if not len(rows.free) or not len(rows.taught):
            return self.buffer.draw(np.concatenate([rows.taught, rows.free]), self._rng, count)
        reinforce, frames = self.config.reinforce, self.config.optimize.frames_per_update
        # After an evaluation all streams begin together, and the few that have ended are those that stopped too early.
        fit = frames / self.buffer.turns_of(rows.free).mean()
        share = min(reinforce.free_frames, _MOST_COPIES * len(rows.free) / fit)
        drawn = self.buffer.draw(rows.taught, self._rng, count)
        mine = self._rng.random(count) < share
        drawn[mine] = self.buffer.draw(rows.free, self._rng, int(mine.sum()))
        return drawn

    @torch.no_grad()
    def _note(self, answers: Answers) -> None:
        if self.experience is not None and self._value is not None:
            pose = torch.from_numpy(self.pool.arrays.pose).to(self.device)
            self.experience.note(answers.log_probs, self._value(answers.states, pose))

    def _act(self, rgb: Tensor, conjunctions: NDArray[np.int64], sampled: Tensor | None) -> Answers:
        executed = torch.from_numpy(self.pool.arrays.executed).to(self.device).long()
        shown = torch.from_numpy(conjunctions).to(self.device)
        return self._policy.act(rgb, executed, shown, sampled)

    def _take_frames(self) -> tuple[Pictures, dict[int, list[int]]]:
        """The pictures, and the instructions of episodes that start."""
        arrays = self.pool.arrays
        rows = np.flatnonzero(arrays.started & arrays.active)
        return self._pictures.take(), {int(k): self._encode(arrays.text(int(k))) for k in rows}

    def _mirrored(self, starting: dict[int, list[int]]) -> dict[int, list[int]]:
        """The mirrored instructions of those streams that the learner or its teachers may see so."""
        teach = self.config.teach
        everyone = teach.wanted and teach.mirrored
        if self.config.optimize.mirrored <= 0.0 and not everyone:
            return {}
        shown = [stream for stream in starting if everyone or not self.pool.free[stream]]
        return {stream: self._encode(mirror_text(self.pool.arrays.text(stream))) for stream in shown}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > INSTRUCTION_TOKENS:
            raise TrainingError(
                f"an instruction has {len(ids)} tokens, online training takes {INSTRUCTION_TOKENS}: {text!r}"
            )
        return ids

    @torch.no_grad()
    def _load(self, source: StreamVLNForConditionalGeneration) -> None:
        torch._foreach_copy_(list(self._acting.parameters()), list(source.parameters()))

    def _share_out(self, streams: NDArray[np.int64], progress: float) -> None:
        """Draws how often the expert drives in the episodes that start."""
        collect = self.config.collect
        share = collect.expert_share(progress)
        spread = self._rng.uniform(-collect.expert_spread, collect.expert_spread, len(streams))
        self._expert_shares[streams] = share + spread if share < 1.0 else 1.0

    def _random_chunks(self, count: int, chunk: int) -> NDArray[np.int8]:
        """Half of them wander, half turn on the spot."""
        chunks = self._rng.choice(_MOVES, (count, chunk), p=_MOVE_SHARES)
        turning = self._rng.random(count) < 0.5
        chunks[turning] = self._rng.integers(2, 4, (int(turning.sum()), 1))
        return chunks


def _agents_conjunctions(turns: int) -> NDArray[np.int64]:
    """The conjunctions that the agent shows by default, as indices."""
    picker = ConjunctionPicker()
    return np.array([CONJUNCTIONS.index(picker.next()) for _ in range(turns)])
