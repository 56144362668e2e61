"""Learning from success beside the expert's labels: what free streams earn, and proximal policy optimisation.

Expert labels say what somebody who knows the map would do. Where the agent does not know which way is right, imitating
them makes it waver; what it should do there is what succeeds most often. So some streams are free: the policy drives
alone, and its chunks are made more or less likely by what came of them.

Sources: Schulman et al. 2017, "Proximal policy optimization algorithms" (clipped ratio); Schulman et al. 2016,
"High-dimensional continuous control using generalized advantage estimation".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamvln_gym.training.online.config import ReinforceConfig
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.stream_arrays import RESULTS, StreamArrays
from streamvln_gym.training.privileged import POSE_TARGETS

PARTS = ("policy_loss", "value_loss", "entropy", "divergence", "clipped")
_WIDTH = 256


class ValueHead(nn.Module):
    """What is still to be earned, from the state that decides an answer; kept beside the network.

    Args:
        hidden: size of the state.
        informed: it is told where the agent stands, too (the policy is not), as in Pinto et al. 2018, "Asymmetric actor
            critic for image-based robot learning"; so it errs less, and the advantages are less noisy.
    """

    def __init__(self, hidden: int, informed: bool = False) -> None:
        super().__init__()
        self.informed = informed
        self.norm = nn.LayerNorm(hidden)
        width = hidden + (POSE_TARGETS if informed else 0)
        self.layers = nn.Sequential(nn.Linear(width, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 1))

    def forward(self, state: Tensor, pose: Tensor) -> Tensor:
        """(..., hidden) and (..., 5), `Privileged.pose`, to (...,)."""
        state = self.norm(state.float())
        return self.layers(torch.cat([state, pose.float()], -1) if self.informed else state)[..., 0]


def advantages_of(
    rewards: NDArray[np.float32], values: NDArray[np.float32], lengths: NDArray[np.int64], discount: float, trace: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Generalised advantage estimates of whole episodes, whose end is final.

    Args:
        rewards, values: (episodes, turns), what each chunk earned and what was expected before it.
        lengths: (episodes,) turns of each.
        discount: gamma.
        trace: lambda.

    Returns:
        Advantages and returns (advantage + value), (episodes, turns) each, 0 beyond an episode's end.
    """
    advantages = np.zeros_like(rewards)
    after, value_after = np.zeros(len(rewards), np.float32), np.zeros(len(rewards), np.float32)
    for turn in range(rewards.shape[1] - 1, -1, -1):
        inside = turn < lengths
        error = rewards[:, turn] + discount * value_after - values[:, turn]
        after = np.where(inside, error + discount * trace * after, 0.0).astype(np.float32)
        value_after = np.where(inside, values[:, turn], 0.0).astype(np.float32)
        advantages[:, turn] = after
    inside = np.arange(rewards.shape[1])[None] < lengths[:, None]
    return advantages, np.where(inside, advantages + values, 0.0).astype(np.float32)


class Experience:
    """What the free streams did and what came of it, one entry for each frame of a `FrameBuffer`.

    Args:
        buffer: whose frames and episodes these are.
        free: bool (streams,), which streams are free.
        config: what is earned.
        max_turns: frames of an episode at most.

    Attributes:
        log_probs: (frames, chunk) float32, of the executed actions when they were drawn.
        advantages, returns: (frames,) float32.
        counted: (frames,) bool, whether the frame is a finished free episode's.
    """

    def __init__(self, buffer: FrameBuffer, free: NDArray[np.bool_], config: ReinforceConfig, max_turns: int) -> None:
        self._buffer = buffer
        self._free = free
        self._config = config
        device, chunk = buffer.device, buffer.executed.shape[1]
        self.log_probs = torch.zeros((buffer.capacity, chunk), device=device)
        self.advantages = torch.zeros(buffer.capacity, device=device)
        self.returns = torch.zeros(buffer.capacity, device=device)
        self.counted = torch.zeros(buffer.capacity, dtype=torch.bool, device=device)
        self._rewards = np.zeros((len(free), max_turns), np.float32)
        self._values = np.zeros((len(free), max_turns), np.float32)
        self._ended = np.zeros(buffer.rows, np.int64)  # in which turn the row's episode ended
        self._turn = 0
        self._results: list[NDArray[np.float64]] = []

    def finish_turn(self, arrays: StreamArrays) -> None:
        """Takes in what the last chunks earned; call before the buffer's `finish_turn`."""
        self._turn += 1
        buffer, config = self._buffer, self._config
        alive = np.flatnonzero((buffer.place_of >= 0) & self._free)
        if not len(alive):
            return
        turns = buffer.turns_of(buffer.row_of[alive])
        over = arrays.finished[alive]
        success = over & (arrays.results[alive, RESULTS.index("success")] > 0.5)
        earned = config.progress_reward * arrays.progress[alive] + config.success_reward * success - config.chunk_cost
        self._rewards[alive, turns - 1] = earned
        ended = alive[over]
        if not len(ended):
            return
        rows = buffer.row_of[ended]
        self._ended[rows] = self._turn
        longest = int(turns[over].max())
        rewards, values = self._rewards[ended, :longest], self._values[ended, :longest]
        advantages, returns = advantages_of(rewards, values, turns[over], config.discount, config.trace)
        taken = np.arange(longest)[None] < turns[over][:, None]
        places = torch.from_numpy(buffer.frames_of(rows)).to(buffer.device)
        self.advantages[places] = torch.from_numpy(advantages[taken]).to(buffer.device)
        self.returns[places] = torch.from_numpy(returns[taken]).to(buffer.device)
        self.counted[places] = True
        gained = (rewards * taken).sum(1)
        self._results.append(np.stack([success[over].astype(float), gained, turns[over].astype(float)], 1))

    def note(self, log_probs: Tensor, values: Tensor) -> None:
        """Takes in what was decided in the frames that the buffer has just added.

        Args:
            log_probs: (streams, chunk), of the drawn actions.
            values: (streams,), what was expected.
        """
        buffer = self._buffer
        recorded = np.flatnonzero(buffer.place_of >= 0)
        places = torch.from_numpy(buffer.place_of[recorded]).to(buffer.device)
        chosen = torch.from_numpy(recorded).to(buffer.device)
        self.log_probs[places] = log_probs[chosen]
        self.counted[places] = False
        turns = buffer.turns_of(buffer.row_of[recorded])
        self._values[recorded, turns - 1] = values.cpu().numpy()[recorded]

    def fresh(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the buffer's episodes that are free ones and ended not long ago."""
        recent = self._turn - self._ended[rows] < self._config.recent_turns
        return rows[self._buffer.exact[rows] & recent]

    def statistics(self) -> dict[str, float]:
        """Means over the free episodes that ended since the last call."""
        if not self._results:
            return {}
        success, gained, turns = np.concatenate(self._results).mean(0).tolist()
        self._results.clear()
        return {"free_success": round(success, 4), "free_return": round(gained, 4), "free_turns": round(turns, 2)}


@dataclass
class ChunkDecisions:
    """Chunks of free episodes, as the network now judges them.

    Attributes:
        log_probs: (N,) of the executed chunks, now.
        entropies: (N,) of an action, on average over the chunk.
        values: (N,).
        places: (N,) ring positions of their frames.
        present: (N,) bool, False for padding.
        drawn: (N, chunk) bool, which actions were executed.
    """

    log_probs: Tensor
    entropies: Tensor
    values: Tensor
    places: Tensor
    present: Tensor
    drawn: Tensor


def proximal_loss(
    decisions: ChunkDecisions, experience: Experience, config: ReinforceConfig, policy_scale: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The weighted loss, and `PARTS` for the log.

    Args:
        decisions: of a batch.
        experience: what was known when they were made, and what came of them.
        config: weights.
        policy_scale: () factor of the policy's part.
    """
    places = decisions.places
    counted = (experience.counted[places] & decisions.present).float()
    count = counted.sum().clamp(min=1.0)

    def mean(x: Tensor) -> Tensor:
        return (x * counted).sum() / count

    before = (experience.log_probs[places] * decisions.drawn).sum(-1)
    advantages = experience.advantages[places]
    centred = (advantages - mean(advantages)) * counted
    centred = centred / (mean(centred**2).sqrt() + 1e-4)
    change = ((decisions.log_probs - before) * counted).clamp(-10.0, 10.0)
    ratio = change.exp()
    held = ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
    policy = -mean(torch.minimum(ratio * centred, held * centred))
    value = mean((decisions.values - experience.returns[places]) ** 2)
    entropy = mean(decisions.entropies)
    wanted = config.policy_weight * policy - config.entropy_weight * entropy
    loss = policy_scale * wanted + config.value_weight * value
    divergence = mean(ratio - 1.0 - change)  # Schulman's estimate of the KL divergence
    clipped = mean((ratio != held).float())
    return loss, [part.detach() for part in (policy, value, entropy, divergence, clipped)]
