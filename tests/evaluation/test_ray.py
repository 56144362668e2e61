"""A Ray cluster of this machine, whose actors and nodes are killed."""

import os
import threading
import time

import psutil
import pytest

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation import evaluate
from tests.evaluation.conftest import lines_of

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'streamvln-gym[ray]'")


@pytest.fixture
def whole(many_episodes, config, tmp_path):
    """The results of a run that nothing happens to."""
    evaluate(config(data=many_episodes, split="many", agent="random", seed=3, out=tmp_path / "whole"))
    return lines_of(tmp_path / "whole")


def settings(many_episodes, tmp_path, **changes):
    return {"data": many_episodes, "split": "many", "agent": "random", "seed": 3, "engine": "ray", "workers": 2,
            "out": tmp_path / "ray", **changes}  # fmt: skip


def when_some_are_finished(out, count: int, act) -> threading.Thread:
    """Does something as soon as there are so many results."""

    def wait() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            results = sum(path.read_bytes().count(b"\n") for path in (out / "shards").glob("episodes-*"))
            if results >= count:
                act()
                return
            time.sleep(0.002)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _is_ours(process: psutil.Process) -> bool:
    """Whether a process is an actor of this very process's cluster."""
    named = "ray::_RemotePlayer" in " ".join(process.info["cmdline"] or [])
    return named and os.getpid() in [parent.pid for parent in process.parents()]


@pytest.fixture
def cluster():
    """A cluster with a head that plays nothing and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.mark.long
def test_a_killed_actor_is_replaced(whole, many_episodes, config, tmp_path):
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    killed = []

    def kill_one() -> None:
        actors = [process for process in psutil.process_iter(["cmdline"]) if _is_ours(process)]
        actors[0].kill()
        killed.append(actors[0].pid)

    try:
        thread = when_some_are_finished(tmp_path / "ray", 10, kill_one)
        evaluate(config(**settings(many_episodes, tmp_path)))
        thread.join()
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert lines_of(tmp_path / "ray") == whole
    assert list((tmp_path / "ray/shards").glob("episodes-s0-a2-*"))  # the third actor took over


@pytest.mark.long
def test_a_lost_node_is_made_up_for(cluster, whole, many_episodes, config, tmp_path):
    made, nodes = cluster
    thread = when_some_are_finished(tmp_path / "ray", 10, lambda: made.remove_node(nodes[0], allow_graceful=False))
    evaluate(config(**settings(many_episodes, tmp_path)))
    thread.join()
    assert lines_of(tmp_path / "ray") == whole


def test_a_cluster_without_gpus_is_refused_for_a_gpu(thin_checkpoint, many_episodes, config, tmp_path, monkeypatch):
    from streamvln_gym.evaluation.engines import ray_cluster

    run = type("Run", (), {"config": config(**settings(many_episodes, tmp_path)), "identity": {"device": "cuda"}})()
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(EvaluationError, match="the Ray cluster has no GPUs: add a machine that has"):
        ray_cluster.RayHands(run).size()
