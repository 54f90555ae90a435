"""What a report says of pairs: files of the run's own writer, read, drawn, and left out where they are broken."""

import doctest
import importlib
import json
import re
from pathlib import Path

import pytest
import torch

from hpt_megatron.algorithms.calibration import calibrated, histogram
from hpt_megatron.config.load import load_run
from hpt_megatron.driver.loop.validation import PREFERENCES, write_pairs
from hpt_megatron.observe.record import write_record
from hpt_megatron.protocol.bin import Bin
from hpt_megatron.report.about import about
from hpt_megatron.report.figures import Figures
from hpt_megatron.report.folder import Recorded, read
from hpt_megatron.report.groups import grouped
from hpt_megatron.report.headline import headline, told
from hpt_megatron.report.markdown import markdown
from hpt_megatron.report.overview import Summary, cards, headline_rows, heads_of
from hpt_megatron.report.page import page
from hpt_megatron.report.pair_chart import reliability
from hpt_megatron.report.preference_section import preferred
from hpt_megatron.report.preferences import FOLDER, preferences_of

pytestmark = pytest.mark.fast


def scores(pairs, apart, seed=0):
    """Of both sides, normal, so that about sigma(margin) of the pairs are right."""
    chance = torch.Generator().manual_seed(seed)
    both = torch.randn(2, pairs, generator=chance, dtype=torch.float64)
    return both[0] + apart, both[1]


def judge(folder, step, apart=1.0, domains=("count", "read"), pairs=200, loss="bradley_terry"):
    """As a validation does."""
    chosen, rejected = scores(pairs, apart, step)
    places = torch.arange(pairs) % len(domains)
    each = {name: calibrated(chosen[places == at], rejected[places == at]) for at, name in enumerate(domains)}
    write_pairs(folder, step, loss, calibrated(chosen, rejected), each, histogram(chosen, rejected))
    return calibrated(chosen, rejected), each


def pair_run(folder, *overrides, steps=30, experiment="tiny-reward-model"):
    """The folder of a run over pairs, without preferences."""
    folder.mkdir(exist_ok=True)
    write_record(load_run([f"experiment={experiment}", f"trainer.run_dir={folder}", *overrides]), folder)
    lines = [
        {"step": n, "of": steps, "pairs/accuracy": min(1.0, 0.5 + n / 40), "pairs/loss": 1 / n, "actor/loss": 1 / n}
        | {"timing_s/compare": 0.1, "timing_s/update": 0.2, "timing_s/step": 0.4, "idle_s/rollout": 0.3}
        for n in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tested = [{"step": n, "val/pairs/accuracy": n / 40, "val/pairs/accuracy/count": 0.5} for n in (10, 20, 30)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tested))
    return folder


@pytest.mark.parametrize("name", ["preferences", "pair_chart", "preference_section", "about"])
def test_the_examples_hold(name):
    assert doctest.testmod(importlib.import_module(f"hpt_megatron.report.{name}")).failed == 0


def test_what_a_validation_wrote_is_read_as_it_was(tmp_path):
    judge(tmp_path, 9, apart=0.0)
    found, each = judge(tmp_path, 10, apart=1.5)
    assert FOLDER == PREFERENCES
    told_of = preferences_of(tmp_path)
    newest = told_of.newest
    assert (told_of.files, told_of.odd, newest.step, newest.pairs, newest.loss) == (2, 0, 10, 200, "bradley_terry")
    assert newest.numbers == pytest.approx(found.numbers)
    assert newest.bins == [Bin(**vars(one)) for one in found.bins]
    assert {name: (one["pairs"], one["ece"]) for name, one in newest.domains.items()} == {
        name: (100, pytest.approx(one.ece)) for name, one in each.items()
    }
    assert sum(newest.scores.chosen) == sum(newest.scores.rejected) == 200


def whole(step=10):
    edges, counts = [0.0, 1.0, 2.0], [1.0, 1.0]
    one = {"pairs": 2, "accuracy": 0.5}
    bins = [{"low": 0.5, "high": 0.6, "pairs": 2, "confidence": 0.55, "right": 0.5}]
    told_of = {"step": step, "loss": "dpo", "all": {**one, "bins": bins}, "domains": {"a": one}}
    return told_of | {"histogram": {"edges": edges, "chosen": counts, "rejected": counts}}


def changed(keys, value):
    told_of = whole()
    inner = told_of
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(told_of)


BROKEN = {
    "torn": json.dumps(whole())[:200],
    "empty": "",
    "no object": "[7]",
    "deep": "[" * 100_000,
    "no text": "\x00\x01",
    "another step": json.dumps(whole(11)),
    "huge": " " * ((1 << 22) + 1),
    "no pairs": changed(["all", "pairs"], None),
    "a share above 1": changed(["all", "bins", 0, "right"], 1.5),
    "a bin without width": changed(["all", "bins", 0, "high"], 0.5),
    "a text for a number": changed(["all", "bins", 0, "confidence"], "0.5"),
    "not a number": changed(["all", "bins", 0, "confidence"], float("nan")),
    "bins that are none": changed(["all", "bins"], {"a": 1}),
    "edges that fall": changed(["histogram", "edges"], [2.0, 1.0, 0.0]),
    "edges without end": changed(["histogram", "edges"], [0.0, 1.0, float("inf")]),
    "edges beyond all scores": changed(["histogram", "edges"], [-1.7e308, 0.0, 1.7e308]),
    "counts beyond all pairs": changed(["histogram", "chosen"], [1.7e308, 0.0]),
    "edges too close to draw": changed(["histogram", "edges"], [0.0, 5e-324, 1e-323]),
    "half an answer": changed(["histogram", "chosen"], [0.5, 1.0]),
    "too few edges": changed(["histogram", "edges"], [0.0, 1.0]),
    "a negative count": changed(["histogram", "chosen"], [-1.0, 1.0]),
    "no column": changed(["histogram"], {"edges": [0.0], "chosen": [], "rejected": []}),
    "domains that are none": changed(["domains"], [1, 2]),
    "a domain that is none": changed(["domains", "a"], 3),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_counted_and_the_one_before_it_is_shown(tmp_path, text):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "step_10.json").write_text(text)
    alone = preferences_of(tmp_path)
    assert (alone.newest, alone.files, alone.odd) == (None, 1, 1)
    assert preferred(alone, Figures()) == '<p class="note">1 file that is torn or none of ours: left out.</p>'
    judge(tmp_path, 5)
    for foreign in ("step_x.json", "step_11.json.new", "notes.txt", "step_012.json"):
        (folder / foreign).write_text("{")
    (folder / "step_20.json").mkdir()
    found = preferences_of(tmp_path)
    assert (found.newest.step, found.files, found.odd) == (5, 3, 2)
    assert "2 newer files that are torn or none of ours: left out" in preferred(found, Figures())


def test_a_number_that_is_not_finite_is_a_dash_and_the_rest_is_shown(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "step_10.json").write_text(changed(["all", "margin"], float("nan")))
    shown = preferred(preferences_of(tmp_path), Figures())
    assert re.search(r'<td>all</td><td class="n">2</td><td class="n">0.500</td><td class="n">-</td>', shown)


def test_the_section_names_what_it_draws_and_has_every_number_as_text(tmp_path):
    found, each = judge(tmp_path, 30, apart=0.8)
    figures = Figures()
    shown = preferred(preferences_of(tmp_path), figures)
    assert "Validation of step 30: 200 pairs" in shown
    for name in ("accuracy", "ece", "brier", "auc"):
        assert f'<div class="value">{found.numbers[name]:.3f}</div>' in shown
    assert f"ECE {found.ece:.3f}, Brier score {found.brier:.3f}" in shown
    assert f"separation {found.separation:.3g}, AUC {found.auc:.3f}" in shown
    assert f'<td>read</td><td class="n">100</td><td class="n">{each["read"].accuracy:.3f}</td>' in shown
    of_scores, of_bins = figures.numbers
    assert [line[0] for line in of_scores[4]] == ["preferred", "rejected"]
    assert [sum(line[4]) for line in of_scores[4]] == [200, 200]
    assert (of_scores[5], of_bins[5]) == ("score about", "confidence")
    assert [line[0] for line in of_bins[4]] == ["right", "pairs"]
    assert of_bins[4][0][3] == pytest.approx([one.confidence for one in found.bins], rel=1e-4)
    assert of_bins[4][1][4] == [one.pairs for one in found.bins]
    assert all(f"{one.low:.3f} to {one.high:.3f}" in shown for one in found.bins), "also without a pointer"


def test_discs_are_as_large_as_their_bins_and_a_sure_model_lies_on_the_diagonal():
    bins = [Bin(8 / 15, 9 / 15, 25, 0.57, 0.57), Bin(14 / 15, 1.0, 100, 0.97, 0.97), Bin(0.8, 13 / 15, 1, 0.82, 0.0)]
    drawn = reliability(bins, "r").svg
    discs = [tuple(map(float, found)) for found in re.findall(r'disc" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawn)]
    assert [size for *_, size in discs] == [5.0, 10.0, 3.0], "areas as pairs, none too small"
    (x1, y1, x2, y2) = map(
        float, re.search(r'x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" class="diagonal"', drawn).groups()
    )
    for x, y, _ in discs[:2]:
        assert y == pytest.approx(y1 + (y2 - y1) * (x - x1) / (x2 - x1), abs=0.05)
    assert discs[2][1] == pytest.approx(176), "never right: at the bottom"
    gaps = re.findall(r'y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)" class="gap"', drawn)
    assert [abs(float(a) - float(b)) < 0.05 for a, b in gaps] == [True, True, False]


def test_many_domains_are_bounded_and_none_of_their_names_is_more_than_text(tmp_path):
    names = ["<img src=x onerror=alert(1)>", *(f"domain {number:03}" for number in range(99))]
    judge(tmp_path, 1, domains=names, pairs=1000)
    shown = preferred(preferences_of(tmp_path), Figures())
    assert shown.count("<tr>") >= 62
    assert "40 domains with fewer pairs left out" in shown
    assert "<img" not in shown
    folder = pair_run(tmp_path / "run")
    judge(folder, 30, domains=["a|b\n<b>", "c"])
    text = markdown([Summary.of(read(folder), 0.0)])
    assert "| a\\|b &lt;b> | 100 |" in text
    assert "| steps | accuracy on pairs | loss | s a step |" in text, "no column without a number"


@pytest.mark.parametrize(
    ("loss", "said"),
    [("bradley_terry", "what the head says"), ("dpo", "times beta."), ("simpo", "with care"), ("<b>", "with care")],
)
def test_what_a_score_is_depends_on_the_loss(tmp_path, loss, said):
    judge(tmp_path, 1, loss=loss)
    shown = preferred(preferences_of(tmp_path), Figures())
    assert said in shown
    assert ("with care" in shown) is (said == "with care")
    assert "<b>;" not in shown


def tabs(text):
    return re.findall(r'<a href="#(\w+)">', text)


def test_a_reward_model_has_the_sections_that_it_has_something_for(tmp_path):
    folder = pair_run(tmp_path / "run")
    assert tabs(page([read(folder)], 0.0)) == ["overview", "curves", "time", "configuration"]
    judge(folder, 30)
    text = page([read(folder)], 0.0)
    assert tabs(text) == ["overview", "curves", "preferences", "time", "configuration"]
    for wrong in ("imitation alone", "Too few steps", "No decision", "a success is", "rollouts", "GRPO", "credit"):
        assert wrong not in text.partition('<section id="configuration">')[0].partition("<nav")[2], wrong
    assert "reward model (Bradley-Terry), pairs of the data" in text
    assert "<b>Idle seconds</b>" not in text, "it has no engines that could wait"


def test_the_headline_of_pairs_is_their_accuracy_and_of_imitation_its_loss(tmp_path):
    run = read(pair_run(tmp_path / "run"))
    line = headline(run.steps)
    assert (line.reward, line.gain, line.rose, line.width) == (None, None, None, 10)
    assert (line.accuracy.first, line.accuracy.last) == pytest.approx((0.6375, 1.0))
    assert told(line)[0].startswith(
        "accuracy on pairs 0.637 in the first 10 steps with pairs, 1.000 in the last: it rose"
    )
    assert told(line)[1].endswith("it fell by 0.253")
    assert line.good == (True, True)
    shown = cards(Summary.of(run, 0.0))
    assert "validation, accuracy on pairs" in shown
    assert "first and last 10 steps with pairs" in shown
    imitated = headline([{"step": n, "actor/loss": 1.0 + n, "uni/sft_data_ratio": 1.0} for n in range(1, 5)])
    assert told(imitated) == [
        "loss 2.500 in the first 2 steps of imitation, 4.500 in the last: it rose by 2.000, standard error 0.707"
    ]
    assert imitated.good == (False,)


def test_a_run_with_rewards_and_pairs_is_held_to_its_reward():
    line = headline([{"reward/mean": n / 4, "pairs/accuracy": 0.5, "actor/loss": 1.0} for n in range(4)])
    assert [one.split(" in ")[0] for one in told(line)] == ["reward 0.125", "accuracy on pairs 0.500"]
    assert line.good == (True, False)


def test_runs_of_several_kinds_have_a_table_with_what_each_is_held_to(tmp_path):
    folder = pair_run(tmp_path / "pairs")
    judge(folder, 30)
    other = tmp_path / "other"
    other.mkdir()
    lines = [{"step": n, "of": 4, "reward/mean": 0.5, "uni/sft_data_ratio": 0.25} for n in range(1, 5)]
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    both = [Summary.of(read(each), 0.0) for each in (folder, other)]
    heads, rows = heads_of(both), headline_rows(both)
    assert [len(row) for row in rows] == [len(heads)] * 2 == [13, 13]
    assert rows[0][2:9] == ["-"] * 7
    assert rows[0][9:] == ["0.637", "1.000", "+0.363", "0.024"]
    assert rows[1][2:9] == ["0.500", "0.500", "0.000", "0.000", "25 %", "25 %", "-"]
    assert heads_of(both[:1])[2:] == ("accuracy on pairs, first", "last", "gain", "error")
    text = page([one.run for one in both], 0.0)
    assert text.count('<div class="run0"><h3>pairs</h3>') >= 1
    section = text.partition('<section id="preferences">')[2].partition("</section>")[0]
    assert "other" not in section, "a run without pairs has no part in it"


def test_what_a_reward_is_made_of_is_told_and_nothing_of_rewards_where_none_is_asked():
    algorithm = {"preference": {"loss": None}, "success": [{"component": "accuracy", "op": ">=", "value": 1.0}]}
    learned = {"runs": ["/a/first", "/b/second"], "weight": 2.0, "rules_weight": 0.0}
    constraint = {"how": "gate", "component": "learned/safe", "at_least": 0.5}
    reward = {"preset": "exact", "learned": learned, "constraint": constraint}
    config = {"algorithm": algorithm, "reward": reward, "trainer": {"sft_warmup_steps": 0}}
    steps = [{"step": 1.0}]
    rest = {"visits": [], "torn": 0, "written_s": 0.0, "files": {}}
    run = Recorded("a", Path("a"), config, steps, validations=[], **rest)
    assert dict(about(run))["reward"] == (
        "exact, with reward models first, second (weight 2.0, the rules 0.0); gate: learned/safe at least 0.5; "
        "a success is accuracy >= 1.0"
    )
    config = {**config, "trainer": {"sft_warmup_steps": None}}
    imitated = Recorded("a", Path("a"), config, steps, validations=[], **rest)
    assert dict(about(imitated)) == {"algorithm": "imitation of demonstrations", "folder": "a"}
    tested = Recorded("a", Path("a"), config, steps, validations=[{"step": 1.0, "val/mean_score": 0.5}], **rest)
    assert "reward" in dict(about(tested)), "what its validations are scored by"
    odd = Recorded(
        "a", Path("a"), {"reward": {"learned": 7}, "algorithm": [], "trainer": 3}, steps, validations=[], **rest
    )
    assert dict(about(odd)) == {"folder": "a"}


def test_numbers_of_pairs_of_reward_models_and_of_constraints_have_their_charts():
    names = ["pairs/loss", "pairs/accuracy", "pairs/chosen", "pairs/rejected", "loss/score", "actor/loss"]
    found = {group.title: own for group, own in grouped(names)}
    assert found["Preferred and rejected"] == ["pairs/chosen", "pairs/rejected"]
    assert found["Sums over pairs"] == ["loss/score"]
    assert "Loss of each component" not in found
    names = ["reward/learned/mean", "reward/learned/safe/mean", "reward/disagreement", "constraint/price", "loss/rl"]
    found = {group.title: own for group, own in grouped([*names, "val/base_loss", "val/forgetting", "val/pairs/ece"])}
    assert found["Reward models"] == ["reward/learned/mean"]
    assert found["Reward models by head"] == ["reward/learned/safe/mean"]
    assert found["Loss of each component"] == ["loss/rl"]
    assert {"Reward models disagree", "Price of the constraint", "Held-out base", "Forgetting"} <= {*found}
    assert not any("/" in title for title in found), "none is drawn behind the others, under its own name"


def test_dpo_and_a_run_with_a_reward_model_say_so_in_words(tmp_path):
    dpo = read(pair_run(tmp_path / "dpo", experiment="tiny-dpo"))
    assert dict(Summary.of(dpo, 0.0).run.config["algorithm"]["preference"])["loss"] == "dpo"
    text = page([dpo], 0.0)
    assert "DPO, pairs of the data" in text
    online = read(pair_run(tmp_path / "online", experiment="tiny-online-dpo"))
    assert "DPO, pairs of the run&#x27;s own rollouts" in page([online], 0.0)
    assert "4 a prompt, up to" in page([online], 0.0)
