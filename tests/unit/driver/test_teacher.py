"""Demonstrations as rows: made once, and never another one's.

Not covered: what a row holds, which is `tests/unit/rollout`'s.
"""

import torch

from hpt_megatron.config.load import load_run
from hpt_megatron.data.record import Message, Record
from hpt_megatron.driver.loop.teacher import Teacher
from hpt_megatron.rollout.agent.prompting import Prompting


def record(answer, index="7"):
    return Record(index=index, prompt=(Message("user", "sum ?"),), target=(Message("assistant", answer),))


def shown(teacher, *records):
    rows = teacher.show(records, list(range(len(records)))).rows
    owner = rows.per_token(torch.arange(rows.num_rows))
    own = [rows.tokens["ids"][rows.tokens["trained"] & (owner == row)] for row in range(rows.num_rows)]
    return [teacher.prompting.chat.text(each.tolist()) for each in own]


def test_a_warm_up_and_the_data_may_share_an_index(tiny):
    """Files of a warm-up are another set: their rows may be numbered like those of the data."""
    teacher = Teacher(load_run([]), str(tiny))
    assert shown(teacher, record("<answer>3</answer>")) == ["<answer>3</answer>"]
    assert shown(teacher, record("<answer>4</answer>")) == ["<answer>4</answer>"]
    assert shown(teacher, record("<answer>3</answer>")) == ["<answer>3</answer>"]


def test_a_row_is_made_once(tiny, monkeypatch):
    teacher, made = Teacher(load_run([]), str(tiny)), []
    prepared = Prompting.made
    monkeypatch.setattr(Prompting, "made", lambda self, one: made.append(one.index) or prepared(self, one))
    first = teacher.show([record("3"), record("4", "8")], [0, 1])
    again = teacher.show([record("4", "8"), record("3")], [5, 6])
    assert made == ["7", "8"]
    assert again.rows.fields["prompt"].tolist() == [5, 6]
    assert torch.equal(first.rows.tokens["ids"].sort().values, again.rows.tokens["ids"].sort().values)
