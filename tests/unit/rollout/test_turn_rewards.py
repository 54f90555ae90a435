"""Process rewards: what components say of single turns is earned where each turn ends, and credit follows it.

A script plays the model in a search of two turns; agent, rewards, rows, balance and credit are the real ones.
"""

import json

import pytest
import torch
from lookup_world import Scripted, lookup

from hpt_megatron.algorithms.kl_reward import reward_of_tokens
from hpt_megatron.config.load import load
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.data.record import Message
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.balance import balance
from hpt_megatron.driver.loop.roles import Asked
from hpt_megatron.driver.loop.rollouts import Rollouts
from hpt_megatron.driver.loop.teacher import Teacher

SEARCH, LOOSE, ANSWER = "<search>k07</search>", "let me see <search>k07</search>", "<answer>7</answer>"
FIRST, SECOND = 0, 1  # samples: the first turn of the second one is not well formed
PARTS = [
    {"name": "exact_match", "as": "accuracy", "weight": 1.0},
    {"name": "format", "weight": 0.5, "settings": {"strict": True}},
]


def script(uid, sample, turn, seed):
    return ANSWER if turn > 1 else LOOSE if sample == SECOND else SEARCH


@pytest.fixture(params=[0.0, 0.4], ids=["without", "with"])
def run(request, tmp_path, corpus):
    file = tmp_path / "reward.json"
    file.write_text(json.dumps({"components": PARTS}), encoding="utf-8")
    given = ["rollout=vrag", "rollout.search_protocol=inproc", f"rollout.search_corpus_root={corpus}"]
    given += [f"reward.file={file}", f"reward.turn_coef={request.param}", "rollout.agent_prompt=none"]
    given += ["data.image_max_pixels=3136", "data.max_response_length=200", "algorithm.adv_estimator=reinforce"]
    loaded = load(given)
    assert not [problem for problem in loaded.problems if problem.severity == "error"], loaded.problems
    return loaded.run


def test_each_turn_is_paid_on_its_last_token_and_credit_before_it_counts_it(run, chat, tiny):
    coef = run.reward.turn_coef
    target = (Message("assistant", ANSWER),)
    records = (lookup("k07", golds=("7",), target=target), lookup("k06", golds=("1",), target=target))
    rollouts = Rollouts(run, Scripted(chat, script), str(tiny))
    rollouts.agent.kit.engine.healthy = lambda: True
    try:
        collected = rollouts.collect(Asked(records=records, places=(0, 1), samples=2, step=1))
    finally:
        rollouts.close()
    rows, paid = collected.batch.rows, {}
    assert ("turn_reward" in rows.tokens) == bool(coef)
    earned = reward_of_tokens(rows)
    for row, ((first, last), score) in enumerate(zip(ends(rows), rows.fields["score"].tolist(), strict=True)):
        sample = int(rows.fields["sample"][row])
        well = [coef * 0.5 * (sample == FIRST), coef * 0.5]
        assert [float(earned[first]), float(earned[last])] == pytest.approx([well[0], well[1] + score])
        paid[int(rows.fields["prompt"][row]), sample] = (well, score)
    assert len(paid) == 4
    assert float(earned.sum()) == pytest.approx(sum(sum(well) + score for well, score in paid.values()))
    if coef:
        assert collected.metrics["reward/turns"] == pytest.approx(coef * 0.5 * (2 + 1 + 2 + 1) / 4)

    algorithm = Algorithm(run)
    prompts = [Prompt(record, (1,), (), target_ids=(1,)) for record in records]
    decided = algorithm.decide(collected, prompts, 1)
    shown = Teacher(run, str(tiny)).show(records, [0, 1])
    whole = balance(collected, shown, decided).batch.rows
    credited, told = algorithm.credited(whole.with_tokens(rollout_logp=whole.tokens["logp"]))
    seen = 0
    for row, (first, last) in enumerate(ends(credited)):
        if bool(credited.fields["off"][row]):
            continue
        well, score = paid[int(credited.fields["prompt"][row]), int(credited.fields["sample"][row])]
        returns = credited.tokens["returns"]
        assert float(returns[last]) == pytest.approx(well[1] + score)
        assert float(returns[first]) == pytest.approx(sum(well) + score), "what is earned later counts as well"
        seen += 1
    assert seen > 0
    assert told["critic/rewards/mean"] >= told["critic/score/mean"]


def ends(rows):
    """The last sampled token of the first turn and of the last, of every row."""
    place, turn = torch.arange(rows.num_tokens), rows.tokens["turn"]
    owner = rows.per_token(torch.arange(rows.num_rows))
    found = []
    for row in range(rows.num_rows):
        own = (owner == row) & rows.tokens["trained"]
        numbers = turn[own].unique().tolist()
        found.append(tuple(int(place[own & (turn == number)][-1]) for number in (numbers[0], numbers[-1])))
    return found
