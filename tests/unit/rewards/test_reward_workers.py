"""Workers that are killed, hang, eat memory, exit or talk: each is one flagged row, and the pool stays as it was.

The components that misbehave are modules on the path, as another package's would be.
"""

import doctest
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpt_megatron.errors import UserError
from hpt_megatron.rewards import math_equality, workers
from hpt_megatron.rewards import mathematics as mathematics_module
from hpt_megatron.rewards.component import ComponentError, Sample
from hpt_megatron.rewards.composition import Composition, Weighted
from hpt_megatron.rewards.mathematics import Mathematics
from hpt_megatron.rewards.scorer import Scorer, reward_metrics
from hpt_megatron.rewards.tool_use import ToolUse
from hpt_megatron.rewards.workers import InWorker, Limits, Workers

pytestmark = pytest.mark.slow

BAD = """
import os, signal, sys, time
from dataclasses import dataclass
from hpt_megatron.rewards.component import Result

@dataclass(frozen=True)
class Bad:
    def score(self, sample):
        what = sample.answer
        if what == "hang":
            while True: pass
        if what == "sleep": time.sleep(3600)
        if what == "memory": return Result(float(len(bytearray(1 << 40))))
        if what == "stack": os.kill(os.getpid(), signal.SIGSEGV)
        if what == "exit": os._exit(3)
        if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
        if what == "leave": sys.exit(0)
        if what == "raise": raise ZeroDivisionError("no")
        if what == "nan": return Result(float("nan"))
        if what == "none": return None
        if what == "unwritable": return Result(1.0, details={"x": object()})
        if what == "talk": print("score: 7\\n{}" * 1000, flush=True)
        if what == "environment": return Result(0.0, details=dict(os.environ))
        return Result(1.0, ("pid",), {"pid": float(os.getpid())})

@dataclass(frozen=True)
class NoStart:
    def self_test(self): raise ValueError("it cannot")
    def score(self, sample): return Result(1.0)
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "bad_reward.py").write_text(BAD)
    sys.path.append(str(folder))
    try:
        import bad_reward

        yield bad_reward
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def pool(bad):
    with Workers([bad.Bad()], size=2, limits=Limits(seconds=1.0)) as workers:
        workers.check()
        yield workers


def said(answer):
    return Sample(turns=(), answer=answer)


FAULTS = [
    *[("hang", "timeout"), ("sleep", "timeout"), ("memory", "memory"), ("exit", "worker_died")],
    ("stack", "worker_died"),
    *[("kill", "worker_died"), ("leave", "error"), ("raise", "error"), ("nan", "error"), ("none", "error")],
    ("unwritable", "error"),
]


def test_each_fault_is_one_flagged_row_and_the_rest_of_the_batch_is_unharmed(pool, bad):
    parts = (Weighted("bad", 1.0, InWorker(bad.Bad(), pool)),)
    with Scorer(Composition(parts=parts, on_error=-0.25)) as scorer:
        rows = scorer.score([said(fault) for one, _ in FAULTS for fault in (one, "fine")] + [said("talk")])
        metrics = reward_metrics(rows)
        assert len(pool.ids) == 2
        again = scorer.score([said("fine")] * 4)
    for (fault, flag), row in zip(FAULTS, rows[::2], strict=False):
        used_up = fault in ("hang", "sleep", "memory", "stack")  # by the answer itself, which is wrong then
        assert (row.total, row.valid, row.flags) == (0.0 if used_up else -0.25, used_up, (f"bad/{flag}",)), fault
    assert [row.total for row in rows[1::2]] == [1.0] * len(FAULTS)
    assert rows[-1].total == 1.0  # what it printed was no reply
    assert metrics["reward/errors"] == len(FAULTS) - 4
    assert metrics["reward/flag/bad/timeout"] == 2
    assert [row.total for row in again] == [1.0] * 4


def test_a_worker_killed_while_it_is_idle_is_replaced_and_no_row_is_lost(pool, bad):
    before = pool.ids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    found = {pool.score(bad.Bad(), said("fine")).details["pid"] for _ in range(4)}
    assert not found & set(before)
    assert len(pool.ids) == 2


def test_a_worker_killed_in_the_middle_of_a_row_loses_that_row_alone(pool, bad):
    failures = []

    def ask():
        try:
            pool.score(bad.Bad(), said("sleep"))
        except ComponentError as error:
            failures.append(error.flag)

    (victim,) = {int(pool.score(bad.Bad(), said("fine")).details["pid"])}
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    os.kill(victim, signal.SIGKILL)  # the worker that was free last is the next one asked
    thread.join(10)
    assert failures == ["worker_died"]
    assert pool.score(bad.Bad(), said("fine")).score == 1.0


def test_a_worker_has_no_variable_that_might_be_a_secret(pool, bad, monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "secret")
    os.kill(pool.ids[0], signal.SIGKILL)  # so that one starts with the variable set
    os.kill(pool.ids[1], signal.SIGKILL)
    assert "JUDGE_TOKEN" not in pool.score(bad.Bad(), said("environment")).details


def test_a_worker_is_replaced_by_a_fresh_one_after_its_jobs(bad):
    with Workers([bad.Bad()], size=1, limits=Limits(jobs=2)) as workers:
        pids = [workers.score(bad.Bad(), said("fine")).details["pid"] for _ in range(5)]
    assert len(set(pids)) == 3
    for pid in set(pids):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_what_does_not_start_is_refused_once_and_what_cannot_be_sent_at_all(bad):
    with pytest.raises(UserError, match="it cannot"):
        Workers([bad.NoStart()], size=1).check()

    class Inside:
        def score(self, sample):
            raise AssertionError

    with pytest.raises(UserError, match="cannot be sent"):
        Workers([Inside()], size=1)


def test_a_closed_pool_answers_with_a_failure(bad):
    workers = Workers([bad.Bad()], size=1)
    workers.close()
    with pytest.raises(ComponentError):
        workers.score(bad.Bad(), said("fine"))
    assert workers.ids == []


@pytest.mark.parametrize("module", [workers, mathematics_module, math_equality], ids=lambda module: module.__name__)
def test_the_examples_of_what_computes_hold(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_workers_end_with_a_parent_that_is_killed():
    program = (
        "import time\nfrom hpt_megatron.rewards.text import ExactMatch\n"
        "from hpt_megatron.rewards.workers import Workers\n"
        "pool = Workers([ExactMatch()], size=2)\npool.check()\nprint(*pool.ids, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() and "(python" in _state(pid) for pid in pids):
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"still there: {pids}")


def _state(pid):
    """What the kernel says of a process; nothing of one that has ended and only waits to be asked for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return "" if text.rpartition(")")[2].split()[0] == "Z" else text


@pytest.fixture(scope="module")
def mathematics():
    with Workers([Mathematics()], size=2, limits=Limits(seconds=5.0)) as workers:
        workers.check()
        yield workers


HEAVY = [
    "9^9^9",
    "9^{9^{9}}",
    "9**9**9",
    r"\frac{1}{10^{99999999}}",
    "9" * 5000,
    "((3!)!)!",
    "(" * 900 + "1",
    "1e999999",
]


def test_answers_too_heavy_to_look_at_are_wrong_at_once(mathematics):
    for answer in HEAVY:
        result = mathematics.score(Mathematics(), Sample(turns=(f"\\boxed{{{answer}}}",), golds=("12",)))
        assert (result.score, result.valid, len(result.flags)) == (0.0, True, 1), answer
    assert mathematics.replaced == 0


def test_tools_paid_by_mathematics_are_tested_and_scored_in_a_worker():
    """The worker loads `tool_use` alone, and has to know `math` by its name."""
    paid = ToolUse(right="math")
    turns = ("<search>half</search>", r"<answer>\boxed{0.5}</answer>")
    with Workers([paid], size=1) as workers:
        workers.check()
        assert workers.score(paid, Sample(turns=turns, golds=("1/2",))).score == 1.0
        assert workers.score(paid, Sample(turns=turns, golds=("1/3",))).score == 0.0


def test_mathematics_that_never_ends_is_killed_in_its_time():
    """What no look finds: an integral that sympy works on for ever."""
    endless = Sample(turns=(r"\boxed{\int_0^1 \sin(x^{9})^{9} dx}",), golds=(r"(x+1)^{2}+y",))
    with Workers([Mathematics()], size=1, limits=Limits(seconds=1.5)) as workers:
        workers.check()
        composition = Composition(parts=(Weighted("math", 1.0, InWorker(Mathematics(wrong=-0.5), workers)),))
        row = composition.score(endless)
        assert (row.total, row.valid, row.failed, row.flags) == (-0.5, True, False, ("math/timeout",))
        assert composition.score(Sample(turns=(r"\boxed{0.5}",), golds=("1/2",))).total == 1.0
        assert workers.replaced == 1


PIECES = [
    r"\boxed{",
    "}",
    r"\frac{1}{2}",
    "1",
    "0.5",
    "9^",
    "9" * 300,
    "!",
    "x",
    "=",
    r"\text{",
    "{",
    "\x00",
    "\ud800",
    "</think>",
]


def test_a_hundred_hostile_answers_are_right_wrong_or_flagged_and_the_pool_stays():
    draw = random.Random(13)
    answers = ["".join(draw.choices(PIECES, k=draw.randrange(1, 9))) for _ in range(100)]
    samples = [Sample(turns=(f"\\boxed{{{answer}}}",), golds=(draw.choice(answers), "1/2")) for answer in answers]
    with Workers([Mathematics()], size=2, limits=Limits(seconds=1.0)) as workers:
        parts = (Weighted("box", 1.0, InWorker(Mathematics(), workers)),)
        parts += (Weighted("text", 1.0, InWorker(Mathematics(extract="text"), workers)),)
        with Scorer(Composition(parts=parts)) as scorer:
            rows = scorer.score(samples)
        assert len(workers.ids) == 2
    assert {row.components["box"] for row in rows} == {0.0, 1.0}
    assert sum(row.valid for row in rows) > 75
    assert len({row.flags for row in rows}) > 3
