"""`hpt eval` with a real engine: what it writes is a recount of the trajectories beside it, and what it refuses.

The engine is the one that this folder shares; that the verb starts and ends one of its own is tried on a checkpoint.
"""

import json
from collections import Counter
from math import comb

import pytest

from hpt_megatron.cli.eval import show
from hpt_megatron.cli.main import main
from hpt_megatron.config.load import load_run
from hpt_megatron.data.record import Message, Record
from hpt_megatron.recipes.evaluate import measured

pytestmark = pytest.mark.slow
SAMPLES = 4


@pytest.fixture(scope="module")
def records():
    """Any response that holds a digit of the answer would be right; a model that knows nothing rarely is."""
    ask = {"a": ("value k07 ?", "7", "lookup"), "b": ("count ?", "3", "count"), "c": ("count !", "1", "count")}
    return [
        Record(index=name, prompt=(Message("user", text),), golds=(gold,), data_source=source)
        for name, (text, gold, source) in ask.items()
    ]


def run_of(folder, *more):
    given = [f"model.path={folder}", f"rollout.n_val={SAMPLES}", "rollout.max_num_seqs=8", "rollout.max_model_len=1024"]
    return load_run([*given, "rollout.val_temperature=1.0", "data.max_prompt_length=256", *more])


def test_the_figures_are_a_recount_of_the_trajectories(shared_engine, folder, records, tmp_path, capsys):
    told = measured(run_of(folder), shared_engine, records, tmp_path, [1, 2])
    lines = [json.loads(line) for line in (tmp_path / "rollouts/validate_0.jsonl").read_text().splitlines()]
    assert Counter(line["uid"] for line in lines) == dict.fromkeys("abc", SAMPLES)
    right = Counter(line["uid"] for line in lines if line["components"]["accuracy"] >= 1.0)
    assert [each["right"] for each in told["by_prompt"]] == [right[name] for name in "abc"]
    assert list(told["figures"]) == ["count", "lookup", "all"]
    of_all = told["figures"]["all"]
    assert of_all[f"avg@{SAMPLES}"]["value"] == pytest.approx(sum(right.values()) / (3 * SAMPLES))
    pairs = [1 - comb(SAMPLES - right[name], 2) / comb(SAMPLES, 2) for name in "abc"]
    assert of_all["pass@2"]["value"] == pytest.approx(sum(pairs) / 3)
    totals = [line["total"] for line in lines]
    assert of_all["mean_score"]["value"] == pytest.approx(sum(totals) / len(totals))
    assert (told["prompts"], told["responses"], told["not_scored"]) == (3, 3 * SAMPLES, 0)
    assert json.loads((tmp_path / "eval.json").read_text()) == json.loads(json.dumps(told))
    show(told, tmp_path)
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["data", "source", "prompts", "mean_score", f"avg@{SAMPLES}", "pass@1", "pass@2"]
    assert [line.split()[:2] for line in table[2:5]] == [["count", "2"], ["lookup", "1"], ["all", "3"]]


def test_the_same_seed_asks_for_the_same_responses_and_another_for_others(shared_engine, folder, records, tmp_path):
    def said(name, *more):
        measured(run_of(folder, *more), shared_engine, records, tmp_path / name, [1])
        lines = (tmp_path / name / "rollouts/validate_0.jsonl").read_text().splitlines()
        turns = [(line["uid"], line["sample"], line["turns"][0]["text"]) for line in map(json.loads, lines)]
        return sorted(turns)

    assert said("one") == said("two")
    assert said("one") != said("three", "trainer.seed=7")


def test_what_cannot_be_measured_is_refused_in_one_line_before_an_engine_starts(folder, tmp_path, capsys):
    data = tmp_path / "empty.jsonl"
    data.write_text("")
    (tmp_path / "done").mkdir()
    (tmp_path / "done/eval.json").write_text("{}")
    run = [f"model.path={folder}", f"trainer.run_dir={tmp_path / 'run'}"]
    for arguments, says in (
        ([*run, "--k", "0"], "whole numbers from 1 are needed"),
        ([*run, "--k", "99"], "pass@99 needs 99 responses to a prompt"),
        ([*run, "rollout.n_val=4"], "rollout.val_temperature: 0 is greedy: the 4 responses to a prompt would be one"),
        ([*run, "--out", str(tmp_path / "done")], "holds an evaluation"),
        ([*run, "--checkpoint", str(tmp_path / "none")], "no such checkpoint"),
        ([*run, "data.make=null"], "data.val_files: no file is given"),
        ([*run, f"data.val_files=[{data}]"], "data.val_files: no row was found"),
    ):
        assert main(["eval", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert says in said, arguments
        assert said.count("\n") == 1, said
    assert not (tmp_path / "run/eval").exists()
