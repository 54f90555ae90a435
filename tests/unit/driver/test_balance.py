"""From scored rollouts to the rows of a step: decisions, images, demonstrations, credit, weights, updates."""

from dataclasses import replace

import pytest
import torch

from hpt_megatron.config.load import load_run
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.data.record import Message, Record
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.balance import balance
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.driver.loop.update import micro_batch_of_row, num_updates, seqlen_metrics, updates
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import MASKS, Rows

PROMPTS, SAMPLES = 3, 2


def prompts(with_target=(0, 1, 2)):
    return [
        Prompt(Record(index=f"p{i}", prompt=(Message("user", "?"),)), (1,), (), (5, 9) if i in with_target else ())
        for i in range(PROMPTS)
    ]


def rollouts(scores):
    """Two rollouts of each prompt; every prompt shows an image of its own."""
    count = len(scores)
    rows = Rows.from_lists(
        {
            "ids": [[1, 4, 9]] * count,
            "response": [[0, 1, 1]] * count,
            "trained": [[0, 1, 1]] * count,
            "off": [[0, 0, 0]] * count,
            "turn": [[-1, 1, 1]] * count,
            "logp": [[0.0, -0.5, -0.25]] * count,
        },
        prompt=[i // SAMPLES for i in range(count)],
        sample=[i % SAMPLES for i in range(count)],
        valid=[True] * count,
        off=[False] * count,
        score=scores,
        reward_accuracy=scores,
        reward_score=scores,
    ).with_fields(cut=torch.zeros(count, dtype=torch.bool))
    grids = torch.tensor([[1, 2, 2]] * PROMPTS)
    images = Images(grids, torch.arange(4.0 * PROMPTS)[:, None], torch.zeros(PROMPTS))
    shown = torch.tensor([i // SAMPLES for i in range(count)])
    return Batch(rows, images, shown, torch.ones(count, dtype=torch.int64))


def demonstrations(places):
    count = len(places)
    ids = [[1, 5, 9]] * count
    mask = [[0, 1, 1]] * count
    tokens = {"ids": ids, "response": mask, "trained": mask, "off": mask}
    tokens |= {"turn": [[-1, 1, 1]] * count, "logp": [[0.0] * 3] * count}
    packed = {name: torch.tensor([x for row in rows for x in row]) for name, rows in tokens.items()}
    packed = {name: column.bool() if name in MASKS else column.long() for name, column in packed.items()}
    packed["logp"] = packed["logp"].float()
    numbers = {"prompt": torch.tensor(places).long(), "sample": torch.full((count,), -1)}
    flags = {"valid": torch.ones(count).bool(), "off": torch.ones(count).bool()}
    rows = Rows(torch.full((count,), 3), packed, {**numbers, **flags})
    grids = torch.tensor([[1, 2, 2]] * count).view(-1, 3)
    patches = torch.tensor([[100.0 + place] for place in places for _ in range(4)]).view(-1, 1)
    images = Images(grids, patches, torch.zeros(count))
    return Batch(rows, images, torch.arange(count), torch.ones(count, dtype=torch.int64))


@pytest.fixture
def algorithm():
    run = load_run(["data.train_batch_size=3", "trainer.ppo_mini_batch_size=3", "rollout.n_verify=2"])
    return Algorithm(run)


def decided(algorithm, scores, which=(0, 1, 2)):
    collected = Collected(rollouts(scores), {0: {"accuracy": 1.0, "score": 1.0, "worth": 1.0}})
    algorithm.refill.begin()
    return collected, algorithm.decide(collected, prompts(which), 1)


def test_a_prompt_without_success_imitates_and_the_others_explore(algorithm):
    collected, found = decided(algorithm, [0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert [decision.arm for decision in found.decisions] == ["imitate", "explore", "explore"]
    assert found.metrics["batch/solve_none"] == 1.0
    made = balance(collected, demonstrations([0]), found)
    rows = made.batch.rows
    assert rows.fields["prompt"].tolist() == [0, 1, 1, 2, 2]
    assert rows.fields["sample"].tolist() == [-1, 0, 1, 0, 1]
    assert made.counts["removed"] == 2
    shown = [float(made.batch.images.pick(made.batch.shown_by(row))[0, 0]) for row in range(rows.num_rows)]
    assert shown == [100.0, 4.0, 4.0, 8.0, 8.0], "images follow their rows"
    assert rows.fields["score"].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0], "the demonstration has what the reward says"


def test_a_prompt_whose_target_is_missing_keeps_its_rollouts(algorithm):
    collected, found = decided(algorithm, [0.0] * 6, which=(1, 2))
    assert [decision.arm for decision in found.decisions] == ["explore", "imitate", "imitate"]
    made = balance(collected, demonstrations([1, 2]), found)
    assert made.batch.rows.fields["prompt"].tolist() == [0, 0, 1, 2]


def test_credit_and_weights_fall_on_what_is_trained(algorithm):
    collected, found = decided(algorithm, [0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    made = balance(collected, demonstrations([0]), found)
    rows, told = algorithm.credited(made.batch.rows)
    assert rows.tokens["credit"].view(5, 3)[1:, 1].tolist() == pytest.approx([0.5, -0.5, 0.0, 0.0])
    assert told["critic/score/mean"] == pytest.approx(0.75)
    weighted = algorithm.weighted(rows, torch.zeros(5, dtype=torch.int64), 1, algorithm.components)
    assert weighted.tokens["weight_sft"].view(5, 3)[0].tolist() == pytest.approx([0.0, 0.5, 0.5])
    assert float(weighted.tokens["weight_rl"].sum()) == pytest.approx(1.0)
    assert "reward" not in weighted.tokens
    assert set(weighted.fields) == {"prompt", "sample"}


def test_an_update_holds_whole_prompts_and_every_row_is_in_one(algorithm):
    collected, found = decided(algorithm, [1.0, 0.0] * 3)
    batch = balance(collected, demonstrations([]), found).batch
    run = replace(algorithm.run, trainer=replace(algorithm.run.trainer, ppo_mini_batch_size=2))
    parts = list(updates(batch, run))
    assert num_updates(batch, run) == len(parts) == 2
    assert [part.rows.fields["prompt"].unique().tolist() for part in parts] == [[0, 1], [2]]
    by_rows = replace(run, trainer=replace(run.trainer, use_dynamic_bsz=False, ppo_micro_batch_size=1))
    assert sorted(micro_batch_of_row(batch, by_rows).tolist()) == list(range(6))


def test_ranks_are_more_even_as_packed_than_in_order():
    """Of two data-parallel ranks, with the longest rows first."""
    run = load_run(["layout=tp1", "trainer.n_gpus_per_node=2"])
    assert run.dp == 2
    lengths = torch.tensor([40, 30, 20, 10, 5, 5])
    batch = Batch.of_text(Rows(lengths, {"ids": torch.ones(110, dtype=torch.int64)}, {}))
    told = seqlen_metrics([batch, batch], run)
    assert (told["global_seqlen/min"], told["global_seqlen/max"], told["global_seqlen/minmax_diff"]) == (20, 90, 70)
    assert (told["global_seqlen/balanced_min"], told["global_seqlen/balanced_max"]) == (55, 55)
    assert told["global_seqlen/mean"] == 55
    assert seqlen_metrics([], run) == {}


def test_the_state_goes_through_json_and_decides_the_same(algorithm):
    import json

    run = load_run(["algorithm=adaptive", "data.train_batch_size=3", "trainer.ppo_mini_batch_size=3"])
    first, second = Algorithm(run), Algorithm(run)
    collected = Collected(rollouts([0.0, 1.0] * 3))
    first.refill.begin()
    first.decide(collected, prompts(), 1)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert second.state() != Algorithm(run).state()
