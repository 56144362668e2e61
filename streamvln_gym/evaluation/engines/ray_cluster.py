"""Workers as actors of a Ray cluster: they come and go with its machines; the driver writes what they play."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamvln_gym.digests import checkpoint_digest, episodes_digest
from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.evaluation.engines.conductor import Done, Event, Failed, Finished, Lost, Ready, Unplayable, conduct
from streamvln_gym.evaluation.identity import sources_digest
from streamvln_gym.evaluation.shards import ShardWriter
from streamvln_gym.evaluation.work import UNPLAYABLE, Group

if TYPE_CHECKING:
    from streamvln_gym.evaluation.evaluator import Evaluation
    from streamvln_gym.evaluation.player import Played

_LOOK_AGAIN = 2.0  # seconds after which the cluster's size is looked at again


def play(run: Evaluation) -> None:
    """Plays an evaluation's groups on a Ray cluster: the one that this process is connected to, else the configured
    one, else one of this machine alone.

    Raises:
        EvaluationError: Ray is not installed or cannot be reached, a machine has other data, weights or code; or see
            `conduct`.
    """
    if not run.groups:
        return
    try:
        import ray
    except ImportError as error:
        raise EvaluationError(
            "engine 'ray' needs Ray: pip install 'streamvln-gym[ray]', or use engine 'local'"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=run.config.ray_address, log_to_driver=False)
        except ConnectionError as error:
            raise EvaluationError(
                f"no Ray cluster can be reached at {run.config.ray_address or 'the address that Ray found'}: {error}. "
                "Start one with `ray start --head`, or leave out --ray-address"
            ) from error
    try:
        conduct(run, RayHands(run))
    finally:
        if ours:
            ray.shutdown()


class RayHands:
    """Actors of the cluster, see `Hands`; one for each of its GPUs or CPUs, unless a number is configured.

    Args:
        run: the evaluation.
    """

    def __init__(self, run: Evaluation) -> None:
        import ray

        self._ray: Any = ray
        self._run = run
        self._config = _absolute(run.config)
        self._device = run.identity["device"]
        self._needs: dict[str, Any] = {"num_gpus": 1} if self._device == "cuda" else {"num_cpus": 1}
        self._code = sources_digest()
        self._writers: dict[str, ShardWriter] = {}
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, str] = {}
        self._groups: dict[str, Group] = {}
        self._started = 0

    def size(self) -> int:
        kind = "GPU" if "num_gpus" in self._needs else "CPU"
        there = int(self._ray.cluster_resources().get(kind, 0))
        if there < 1 and not self._started:
            raise EvaluationError(
                f"the Ray cluster has no {kind}s: add a machine that has, or choose another --device (now "
                f"{self._config.device!r})"
            )
        return min(self._run.config.workers or there, there)

    def start(self) -> str:
        name = f"{self._run.session}-a{self._started}"
        self._started += 1
        kind = self._ray.remote(max_restarts=0, **self._needs)(_RemotePlayer)
        actor = kind.remote(self._config, self._run.fingerprint, name, self._device)
        self._actors[name] = actor
        self._calls[actor.describe.remote()] = name
        return name

    def give(self, worker: str, group: Group) -> None:
        self._groups[worker] = group
        self._calls[self._actors[worker].play.remote(group)] = worker

    def events(self) -> Iterator[tuple[str, Event]]:
        if not self._calls:  # the last machine is gone: another one may come
            time.sleep(_LOOK_AGAIN)
            return
        ready, _ = self._ray.wait(list(self._calls), timeout=_LOOK_AGAIN)
        for call in ready:
            name = self._calls.pop(call)
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                if name in self._groups and isinstance(error.cause, UNPLAYABLE):
                    yield name, Unplayable(str(error.cause))
                    continue
                yield name, Failed(error.cause if isinstance(error.cause, Exception) else error)
            except self._ray.exceptions.RayError as error:  # the actor or its machine is gone
                del self._actors[name]
                yield name, Lost(str(error).strip().splitlines()[0])
            else:
                yield from self._take_in(name, answer)

    def stop(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        for writer in self._writers.values():
            writer.close()

    def _take_in(self, name: str, answer: Any) -> Iterator[tuple[str, Event]]:
        """What an actor says: which code and weights it has, or what it has played."""
        if name not in self._groups:
            self._check(answer)
            yield name, Ready()
            return
        if name not in self._writers:
            self._writers[name] = ShardWriter(self._run.folder.shards, name)
        dataset = self._run.dataset
        for played, digest in answer:
            if digest != episodes_digest([dataset.episode(played.episode_id)]):
                raise EvaluationError(
                    f"the machine of the actor {name} has another episode {played.episode_id!r} than this one: give "
                    "all machines the same data"
                )
            if not played.known:
                self._writers[name].append(played.record, played.timing)
                yield name, Finished(played.episode_id, played.success)
        yield name, Done()

    def _check(self, described: dict[str, Any]) -> None:
        expected = {"code": self._code, "checkpoint": self._run.identity["checkpoint_sha256"]}
        for what, digest in expected.items():
            if described[what] != digest:
                raise EvaluationError(
                    f"the machine {described['machine']} has another {what} than this one: install the same version "
                    "and the same checkpoint everywhere"
                )


class _RemotePlayer:
    """The actor."""

    def __init__(self, config: EvaluationConfig, fingerprint: str, name: str, device: str | None) -> None:
        from streamvln_gym.evaluation.player import Player

        self._player = Player(config, fingerprint, name, device)
        self._checkpoint = None
        if config.agent == "streamvln":
            from streamvln_gym.models.shipped import SHIPPED_NAME

            self._checkpoint = checkpoint_digest(config.checkpoint or SHIPPED_NAME)

    def describe(self) -> dict[str, Any]:
        """Where it is, and what it has."""
        import platform

        return {"machine": platform.node(), "code": sources_digest(), "checkpoint": self._checkpoint}

    def play(self, group: Group) -> list[tuple[Played, str]]:
        """The group's episodes, each with the digest of what was played."""
        dataset = self._player.dataset
        return [(played, episodes_digest([dataset.episode(played.episode_id)])) for played in self._player.play(group)]


def _absolute(config: EvaluationConfig) -> EvaluationConfig:
    """Paths as an actor finds them, whose working folder is another one."""
    data = Path(config.data).absolute() if config.data is not None and Path(config.data).exists() else config.data
    checkpoint = config.checkpoint
    if checkpoint is not None and Path(checkpoint).is_dir():
        checkpoint = str(Path(checkpoint).absolute())
    return replace(
        config, data=data, checkpoint=checkpoint, data_dir=config.data_dir.absolute(), out=config.out.absolute()
    )
