"""Several engines as one, when some of them die: at a request, between turns, asleep, held, and when they come back.

The engines here are scripted: they play processes that live and die. A real one is killed in
`tests/engines/test_publishing.py`.
"""

import contextlib
import threading
from concurrent.futures import CancelledError, Future

import pytest

from hpt_megatron.errors import HptError
from hpt_megatron.rollout.engine.replicas import Replicas
from hpt_megatron.rollout.engine.role import EngineDiedError, Prompt, Sampled, Sampling

PROMPT, ONE = Prompt((1,)), Sampling(max_tokens=4)


def died():
    return EngineDiedError("its processes are gone", where="engine")


class Process:
    """An engine that answers when it is told to, and is dead from `die` to `revived`."""

    def __init__(self, name):
        self.name, self.dead, self.waiting, self.calls = name, False, [], []

    def _alive(self, call):
        if self.dead:
            raise died()
        self.calls.append(call)

    @property
    def version(self):
        self._alive("version")
        return "5"

    def submit(self, prompt, sampling, key=""):
        self._alive(f"submit {key}")
        self.waiting.append(Future())
        return self.waiting[-1]

    @contextlib.contextmanager
    def held(self):
        self._alive("hold")
        yield
        self._alive("let go")

    def sleep(self):
        self._alive("sleep")

    def wake(self, what):
        self._alive(f"wake {what}")

    def abort(self):
        self._alive("abort")

    def healthy(self):
        return not self.dead

    def answer(self):
        for future in self.waiting:
            if not future.cancelled():
                future.set_result([Sampled((7,), (-0.1,), ("5",), self.name)])
        self.waiting = []

    def die(self):
        self.dead = True
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_exception(died())


class Ward:
    """Revives when it is allowed to, and says who was lost."""

    def __init__(self, fails=0):
        self.may, self.back, self.lost, self.fails = threading.Event(), threading.Event(), [], fails

    def revive(self, engine):
        assert self.may.wait(10)
        if self.fails:
            self.fails -= 1
            raise HptError("not yet")
        engine.dead = False
        self.back.set()


def made(count=2, **more):
    ward = Ward(more.pop("fails", 0))
    engines = [Process(f"e{i}") for i in range(count)]
    return Replicas(engines, ward.revive, ward.lost.append, **more), engines, ward


def settled(replicas, number):
    """Waits until a replica answers again."""
    for _ in range(1000):
        if number in replicas._living():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"replica {number} did not come back")


def test_what_a_dead_replica_was_asked_goes_to_another_and_its_keys_with_it():
    replicas, (one, two), ward = made()
    answer = replicas.submit(PROMPT, ONE, key="a")
    assert one.calls == ["submit a"]
    one.die()
    assert two.calls == ["submit a"], "at once, without waiting for the first"
    two.answer()
    assert answer.result(5)[0].finish == "e1"
    ward.may.set()
    settled(replicas, 0)
    assert ward.lost == [one]
    replicas.submit(PROMPT, ONE, key="a")
    assert two.calls == ["submit a"] * 2, "what is cached is there now"
    replicas.submit(PROMPT, ONE)
    assert one.calls == ["submit a", "submit "], "it takes part again"


@pytest.mark.parametrize(
    "call", [Replicas.sleep, Replicas.abort, lambda all_: all_.wake("weights"), lambda all_: all_.version]
)
def test_a_death_between_turns_is_noticed_by_any_call_and_ends_none(call):
    replicas, (one, two), ward = made()
    one.dead = True
    call(replicas)
    assert len(two.calls) == 1
    assert replicas.deaths == {0: 1}
    ward.may.set()
    settled(replicas, 0)


def test_one_that_comes_back_while_the_others_sleep_is_put_to_sleep():
    replicas, (one, _), ward = made()
    one.dead = True
    replicas.sleep()
    ward.may.set()
    settled(replicas, 0)
    assert one.calls == ["sleep"]
    two_of_them, (first, _), ward = made()
    first.dead = True
    two_of_them.sleep()
    two_of_them.wake("weights")
    ward.may.set()
    settled(two_of_them, 0)
    assert first.calls == ["sleep", "wake weights"]


def test_a_replica_that_dies_while_it_is_held_ends_no_turn():
    replicas, (one, two), ward = made()
    with replicas.held():
        answer = replicas.submit(PROMPT, ONE)
        one.die()
    assert two.calls == ["hold", "submit ", "let go"]
    two.answer()
    assert answer.result(5)[0].finish == "e1"
    ward.may.set()
    settled(replicas, 0)


def test_the_last_one_is_waited_for_or_not():
    replicas, (one,), ward = made(1)
    waiting = replicas.submit(PROMPT, ONE)
    one.die()
    later = replicas.submit(PROMPT, ONE)
    assert not waiting.done()
    ward.may.set()
    settled(replicas, 0)
    assert ward.back.wait(5)
    for _ in range(500):
        if len(one.waiting) == 2:
            break
        threading.Event().wait(0.01)
    one.answer()
    assert [each.result(5)[0].finish for each in (waiting, later)] == ["e0", "e0"]
    shared, (only,), _ = made(1, may_wait=False)
    waiting = shared.submit(PROMPT, ONE)
    only.die()
    with pytest.raises(EngineDiedError, match="no replica is left"):
        waiting.result(5)


def test_one_that_does_not_come_back_is_given_up_and_what_waits_for_it_fails():
    replicas, (one,), ward = made(1, fails=9, patience=3)
    waiting = replicas.submit(PROMPT, ONE)
    ward.may.set()
    one.die()
    with pytest.raises(EngineDiedError, match="no replica is left"):
        waiting.result(5)
    assert (replicas.deaths, ward.fails, ward.lost) == ({0: 3}, 7, [one])
    assert not replicas.healthy()


def test_a_cancelled_request_ends_at_its_engine_and_an_abort_answers_what_waits():
    replicas, (one,), ward = made(1)
    answer = replicas.submit(PROMPT, ONE)
    answer.cancel()
    assert one.waiting[0].cancelled()
    one.waiting.clear()
    waiting = replicas.submit(PROMPT, Sampling(n=2, max_tokens=4))
    one.die()
    replicas.abort()
    assert [(each.ids, each.finish) for each in waiting.result(5)] == [((), "abort")] * 2
    with pytest.raises(CancelledError):
        answer.result(5)
    ward.may.set()


def test_what_is_wrong_with_a_request_is_its_own_failure():
    replicas, (one, two), _ = made()

    def refuse(prompt, sampling, key=""):
        raise HptError("refuses a request")

    one.submit = refuse
    with pytest.raises(HptError, match="refuses a request"):
        replicas.submit(PROMPT, ONE).result(5)
    assert not replicas.deaths
    assert two.calls == []
