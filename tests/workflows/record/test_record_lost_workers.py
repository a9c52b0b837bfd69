"""Lost workers of a cluster, with a cluster that is played: one that comes back works on, one that does not burns no tasks."""

from types import SimpleNamespace

import pytest

from janoscope.parallel import tasks as fanout


class RayError(Exception):
    pass


class Actor:
    """Dies at the tasks in `deadly`; then every call fails until a ping, which brings it back `lives` times."""

    def __init__(self, deadly, lives):
        self.deadly, self.lives, self.dead = deadly, lives, False
        self.run = SimpleNamespace(remote=self._run)
        self.ping = SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self._ping))

    def _run(self, task):
        self.dead = self.dead or task in self.deadly
        return Reference(RayError("The actor died") if self.dead else (task * 10, None))

    def _ping(self):
        self.dead, self.lives = self.lives == 0, max(0, self.lives - 1)
        return Reference(RayError("The actor is gone") if self.dead else None)


class Reference:
    def __init__(self, value):
        self.value = value


def get(reference):
    if isinstance(reference.value, RayError):
        raise reference.value
    return reference.value


def play(monkeypatch, actors, tasks, ours=True):
    killed = []
    ray = SimpleNamespace(get=get, kill=killed.append, exceptions=SimpleNamespace(RayError=RayError))
    ray.wait = lambda references, num_returns, timeout: (references[:num_returns], references[num_returns:])
    shut = []
    ray.shutdown = lambda: shut.append(len(killed))
    monkeypatch.setattr(fanout, "_connect", lambda address: (ray, ours))
    monkeypatch.setattr(fanout, "_actors", lambda ray, make, count: actors)
    outcomes = list(fanout.fan_out(tasks, lambda: None, ray="played"))
    assert killed == actors
    assert shut == ([len(actors)] if ours else []), "a connection that was made here ends after the workers, another's stays"
    assert sorted(outcome.task for outcome in outcomes) == list(tasks), "every task has one outcome"
    return {outcome.task: outcome for outcome in outcomes}


def test_a_worker_that_comes_back_works_on(monkeypatch):
    outcomes = play(monkeypatch, [Actor({1}, lives=1)], range(5))
    assert [task for task, outcome in outcomes.items() if outcome.error] == [1]
    assert outcomes[4].result == 40


def test_a_connection_that_the_caller_made_is_kept(monkeypatch):
    assert len(play(monkeypatch, [Actor(set(), lives=0)], range(2), ours=False)) == 2


def test_a_dead_worker_costs_one_task_while_another_lives(monkeypatch):
    outcomes = play(monkeypatch, [Actor({1, 2, 3}, lives=0), Actor(set(), lives=0)], range(20))
    lost = [task for task, outcome in outcomes.items() if outcome.error]
    assert len(lost) <= 1
    assert all("its worker was lost" in outcomes[task].error for task in lost)


@pytest.mark.parametrize("lives", [0, 1])
def test_tasks_fail_when_no_worker_is_left(monkeypatch, lives):
    outcomes = play(monkeypatch, [Actor({1, 3}, lives=lives)], range(6))
    assert [task for task in outcomes if outcomes[task].error is None] == ([0] if lives == 0 else [0, 2])
    assert outcomes[5].error == "no worker is left"
