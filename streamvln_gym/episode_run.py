"""One episode as it is played, step by step: what `rollout` and `evaluate` share."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from streamvln_gym.episodes import Episode
from streamvln_gym.simulators.base import Action
from streamvln_gym.video import VideoWriter

if TYPE_CHECKING:
    from streamvln_gym.agents.view import AgentView
    from streamvln_gym.viewer import RunViewer


class EpisodeRun:
    """Plays one episode; a context manager, whose film appears when it ends without an error.

    Args:
        env: a `VLNEnv`, wrapped or not; it is reset.
        episode_id: of the environment's dataset.
        video: an MP4 to write; needs an environment with render_mode="rgb_array".
        label: written into the video's frames.
        viewer: shown every step as well.
        panel: whether the agent's view is drawn into the video.

    Attributes:
        actions: executed so far.
        info: the environment's, of the last step.
        finished: whether the episode is over.
        stopped: whether the last action was a STOP.
    """

    def __init__(
        self,
        env: gym.Env,
        episode_id: str,
        video: Path | None = None,
        label: str = "",
        viewer: RunViewer | None = None,
        panel: bool = True,
    ) -> None:
        self.env = env
        self.base: Any = env.unwrapped
        self._film = VideoWriter(video, label, panel)
        self._viewer = viewer
        self._shown = video is not None or viewer is not None
        self._observation, self.info = env.reset(options={"episode_id": episode_id})
        self._intrinsics = self.info["intrinsics"]
        self.actions: list[int] = []
        self.finished = False

    def __enter__(self) -> EpisodeRun:
        self._film.__enter__()
        if self._viewer is not None:
            self._viewer.begin(self.env)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._film.__exit__(kind, error, tb)

    @property
    def observation(self) -> dict[str, Any]:
        """What the agent is to see: the environment's observation, and the camera's `intrinsics`."""
        return {**self._observation, "intrinsics": self._intrinsics}

    @property
    def episode(self) -> Episode:
        """What is played."""
        return self.base.episode

    @property
    def stopped(self) -> bool:
        return bool(self.actions) and self.actions[-1] == Action.STOP

    def step(self, action: int, picture: bool = True, view: AgentView | None = None) -> None:
        """Executes an action.

        Film and viewer show what the agent saw together with what it made of it, and the end once more.

        Args:
            action: the agent's.
            picture: whether the agent looks at the next picture; otherwise it gets the last one, and nothing is
                rendered (unless the episode is filmed or viewed).
            view: of the agent that chose the action, None if it has none.
        """
        action = int(action)
        self._show(view)
        wanted = self._shown or (picture and action != Action.STOP)
        with nullcontext() if wanted else self.base.without_rendering():
            self._observation, _, terminated, truncated, self.info = self.env.step(action)
        self.actions.append(action)
        self.finished = terminated or truncated
        if self.finished:
            self._show(view)

    def _show(self, view: AgentView | None) -> None:
        self._film.shoot(self.env, view)
        if self._viewer is not None:
            self._viewer.log(self.env, self._observation, self.info, view)


def needs_picture(agent: Any) -> bool:
    """Whether an agent looks at the next picture; agents that do not say so look at every one."""
    return bool(getattr(agent, "needs_picture", True))
