"""Lost workers, with workers that are played by the test."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from streamvln_gym.errors import EvaluationError, SceneError
from streamvln_gym.evaluation.engines.conductor import Done, Failed, Finished, Lost, Ready, Unplayable, conduct
from streamvln_gym.evaluation.work import Group


@dataclass
class FakeRun:
    """What `conduct` needs of an evaluation; `disk` is what results would be read back from."""

    groups: list[Group]
    attempts: int = 3
    disk: dict = field(default_factory=dict)
    counted: list = field(default_factory=list)
    said: list = field(default_factory=list)

    @property
    def config(self):
        return SimpleNamespace(attempts=self.attempts)

    def count(self, episode_id, success):
        self.counted.append(episode_id)

    def results_of(self, group):
        return {e: self.disk[e] for e in group.episode_ids if e in self.disk}

    def missing_of(self, groups):
        return [e for group in groups for e in group.episode_ids if e not in self.disk]

    def say(self, text):
        self.said.append(text)


@dataclass
class FakeHands:
    """Workers that do what `behave(worker, group)` yields, one event at a time."""

    behave: object
    workers: int = 2
    started: int = 0
    queue: list = field(default_factory=list)
    given: list = field(default_factory=list)
    stopped: bool = False

    def size(self):
        return self.workers

    def start(self):
        self.started += 1
        self.queue.append((f"w{self.started}", Ready()))
        return f"w{self.started}"

    def give(self, worker, group):
        self.given.append((worker, group))
        self.queue += [(worker, event) for event in self.behave(worker, group)]

    def events(self):
        return [self.queue.pop(0)]

    def stop(self):
        self.stopped = True


def groups(count: int) -> list[Group]:
    return [Group(k, f"scene{k % 2}", (f"{k}",)) for k in range(count)]


def test_every_group_is_played_once():
    run = FakeRun(groups(7))
    hands = FakeHands(lambda worker, group: [Finished(group.episode_ids[0], 1.0), Done()])
    conduct(run, hands)
    assert sorted(run.counted) == sorted(str(k) for k in range(7))
    assert hands.started == 2 and hands.stopped


def test_what_a_lost_worker_was_playing_goes_to_another_one():
    run, lost = FakeRun(groups(4)), []

    def behave(worker, group):
        if group.number == 2 and not lost:
            lost.append(worker)
            return [Lost("killed by signal 9, Killed")]
        return [Finished(group.episode_ids[0], 1.0), Done()]

    hands = FakeHands(behave)
    conduct(run, hands)
    assert sorted(run.counted) == ["0", "1", "2", "3"]
    assert hands.started == 3
    assert len([group for _, group in hands.given if group.number == 2]) == 2
    assert "signal 9" in run.said[0]


def test_a_result_that_reached_the_disk_is_not_played_again():
    run = FakeRun(groups(2))

    def behave(worker, group):
        if group.number == 0:
            run.disk["0"] = 1.0
            return [Lost("killed after it wrote")]
        return [Finished(group.episode_ids[0], 1.0), Done()]

    hands = FakeHands(behave)
    conduct(run, hands)
    assert sorted(run.counted) == ["0", "1"]
    assert len([group for _, group in hands.given if group.number == 0]) == 1


def test_half_a_group_is_played_again_for_the_other_half():
    run = FakeRun([Group(0, "scene", ("a", "b"))])

    def behave(worker, group):
        if "a" not in group.known:
            run.disk["a"] = 0.0
            return [Lost("killed between the two")]
        return [Finished("b", 1.0), Done()]

    hands = FakeHands(behave)
    conduct(run, hands)
    assert run.counted == ["a", "b"]
    assert hands.given[1][1].known == frozenset({"a"}) and hands.given[1][1].episode_ids == ("a", "b")


def test_an_episode_that_kills_its_workers_is_named_after_all_others_are_played():
    run = FakeRun(groups(5), attempts=3)

    def behave(worker, group):
        if group.number == 1:
            return [Lost("killed by signal 11, Segmentation fault")]
        return [Finished(group.episode_ids[0], 1.0), Done()]

    hands = FakeHands(behave)
    with pytest.raises(EvaluationError, match=r"play episode 1 are lost, 3 times each .*Segmentation.*episode-ids 1 "):
        conduct(run, hands)
    assert sorted(run.counted) == ["0", "2", "3", "4"]
    assert len([group for _, group in hands.given if group.number == 1]) == 3
    assert hands.stopped


def test_workers_that_are_lost_at_once_end_the_run():
    class Stillborn(FakeHands):
        def start(self):
            self.started += 1
            self.queue.append((f"w{self.started}", Lost("killed by signal 9, Killed")))
            return f"w{self.started}"

    hands = Stillborn(None)
    with pytest.raises(EvaluationError, match=r"4 workers were lost before they could play anything.*fewer workers"):
        conduct(FakeRun(groups(3)), hands)
    assert hands.stopped


def test_what_cannot_be_played_does_not_hold_up_the_others():
    run = FakeRun(groups(3))
    first = run.groups[0]

    def behave(worker, group):
        if group.number == first.number:
            return [Unplayable("the scene is broken")]
        run.disk |= dict.fromkeys(group.episode_ids, 1.0)
        return [*(Finished(e, 1.0) for e in group.episode_ids), Done()]

    hands = FakeHands(behave, workers=1)
    with pytest.raises(EvaluationError, match=rf"{first.episode_ids[0]}.* could not be played: the scene is broken"):
        conduct(run, hands)
    assert len(hands.given) == 3 and hands.started == 1, "the same worker goes on"
    assert set(run.counted) == {e for group in run.groups[1:] for e in group.episode_ids}


def test_an_error_of_a_worker_ends_the_run():
    hands = FakeHands(lambda worker, group: [Failed(SceneError("the scene is broken"))])
    with pytest.raises(SceneError, match=r"the scene is broken"):
        conduct(FakeRun(groups(3)), hands)
    assert hands.stopped
