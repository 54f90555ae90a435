"""Many samples at once: order, groups, time limits, failures that touch no other row, and what is logged."""

import sys
import threading
import time
from dataclasses import dataclass, field

import pytest
from reward_seven import RETRIEVAL

from hpt_megatron.errors import HptError
from hpt_megatron.rewards.component import Result, Sample, on_turn_ends
from hpt_megatron.rewards.composition import Composition, Weighted
from hpt_megatron.rewards.scorer import Scorer, reward_metrics
from hpt_megatron.rewards.text import ExactMatch
from hpt_megatron.rewards.turns import Format

pytestmark = pytest.mark.fast


@dataclass
class Slow:
    """Waits as long as the answer says, or until it is let go; plays another package's component."""

    let_go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def score(self, sample):
        self.begun.set()
        if sample.answer == "hang":
            self.let_go.wait(30)
        elif sample.answer == "exit":
            sys.exit(1)
        else:
            time.sleep(float(sample.answer or 0))
        return Result(1.0)


def waiting(answer):
    return Sample(turns=(), answer=answer)


def test_results_come_in_the_order_of_the_samples_whatever_takes_long():
    draw = [0.03, 0.0, 0.02, 0.0, 0.01] * 4
    parts = (Weighted("slow", 1.0, Slow()), Weighted("same", 1.0, ExactMatch()))
    samples = [Sample(turns=(), answer=str(wait), golds=(str(wait if i % 2 else 9),)) for i, wait in enumerate(draw)]
    with Scorer(Composition(parts=parts), threads=4) as scorer:
        assert [row.components["same"] for row in scorer.score(samples)] == [float(i % 2) for i in range(20)]
        assert scorer.score([]) == []
    alone = [Composition(parts=parts).score(sample) for sample in samples]
    with Scorer(Composition(parts=parts), threads=3) as scorer:
        assert scorer.score(samples) == alone


def test_a_group_is_done_while_another_still_waits():
    slow = Slow()
    with Scorer(Composition(parts=(Weighted("slow", 1.0, slow),)), threads=2) as scorer:
        late = scorer.submit([waiting("hang"), waiting("0")])
        early = scorer.submit([waiting("0"), waiting("0")])
        assert [row.total for row in early.result(10)] == [1.0, 1.0]
        assert not late.done()
        slow.let_go.set()
        assert [row.total for row in late.result(10)] == [1.0, 1.0]


def test_a_row_that_is_not_done_in_time_is_flagged_and_its_thread_replaced():
    slow = Slow()
    composition = Composition(parts=(Weighted("slow", 1.0, slow),), on_error=-1.0)
    with Scorer(composition, threads=2, seconds=0.2) as scorer:
        rows = scorer.score([waiting("hang"), waiting("0"), waiting("hang"), waiting("0"), waiting("hang")])
        assert [row.total for row in rows] == [-1.0, 1.0, -1.0, 1.0, -1.0]
        assert rows[0].flags == ("slow/timeout",)
        assert (rows[0].valid, rows[0].failed, scorer.left_behind) == (False, True, 3)
        assert [row.total for row in scorer.score([waiting("0")] * 4)] == [1.0] * 4
        slow.let_go.set()


def test_an_exit_in_a_component_ends_no_thread():
    with Scorer(Composition(parts=(Weighted("slow", 1.0, Slow()),)), threads=1) as scorer:
        rows = scorer.score([waiting("exit"), waiting("no number"), waiting("0")])
    assert [row.valid for row in rows] == [False, False, True]
    assert rows[0].flags == ("slow/error",)


def test_a_closed_scorer_takes_nothing_more_and_answers_what_it_had():
    slow = Slow()
    scorer = Scorer(Composition(parts=(Weighted("slow", 1.0, slow),)), threads=1)
    group = scorer.submit([waiting("hang"), waiting("0")])
    assert slow.begun.wait(10)
    scorer.close()
    assert [row.flags for row in group.result(10)] == [("slow/closed",), ("slow/closed",)]  # though one never ends
    slow.let_go.set()
    with pytest.raises(HptError, match="closed"):
        scorer.submit([waiting("0")])


def test_what_is_logged_counts_failures_apart_from_rows_without_a_gold():
    good = Sample(turns=("<answer>4</answer>",), retrieved=("d/1",), reference=("d/1",))
    broken = Sample(turns=("4",), reference=("d/1",))
    nameless = Sample(turns=("<answer>4</answer>",))
    with Scorer(RETRIEVAL) as scorer:
        metrics = reward_metrics([*scorer.score([good, broken, nameless]), RETRIEVAL.lost(good, "timeout", "late")])
    assert metrics == {
        "reward/errors": 1.0,
        "reward/invalid": 2.0,
        "reward/mean": 0.5,
        "reward/component/format": 0.5,
        "reward/component/ndcg": 0.5,
        "reward/success": 0.5,
        "reward/flag/format/bad_tags": 1.0,
        "reward/flag/format/timeout": 1.0,
        "reward/flag/ndcg/no_reference": 1.0,
        "reward/flag/ndcg/timeout": 1.0,
        "reward/gate/format": 2.0,
    }
    assert "reward/mean" not in reward_metrics([RETRIEVAL.score(nameless)])
    assert scorer.metrics([]) == {"reward/errors": 0.0, "reward/invalid": 0.0, "reward/threads_left_behind": 0.0}


def test_scores_of_turns_are_weighted_and_stand_on_the_last_sampled_token_of_each_turn():
    turns = ("<search>fox</search>", "no tags", "<answer>4</answer>")
    parts = (Weighted("format", 0.5, Format(graded=True)), Weighted("same", 1.0, ExactMatch()))
    scored = Composition(parts=parts, modality={"image": 2.0}).score(Sample(turns=turns, modality="image"))
    assert scored.turns == (1.0, 0.0, 1.0)
    mask, turn = [0, 1, 1, 0, 1, 0, 1, 0], [-1, 1, 1, -2, 2, -3, 3, 3]
    assert on_turn_ends(scored.turns, mask, turn) == [0, 0, 1.0, 0, 0.0, 0, 1.0, 0]
    assert RETRIEVAL.score(Sample(turns=turns, reference=("a",))).turns == (0.0, 0.0, 0.0)  # behind the shut gate
    assert Composition(parts=parts[1:]).score(Sample(turns=turns)).turns == ()
