"""`hpt human-eval`: sheets that give nothing away, and what filled-in ones say of the reward."""

import csv
import json
import re
from collections import Counter

import pytest
from written_run import PROMPTS, records, said, write

from hpt_megatron.cli.main import main

ATTACK = ("=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "  =1")


def export(run, out, *options):
    return main(["human-eval", "export", str(run), str(out), *options])


def sheet(out):
    with (out / "ratings.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill(out, name, answer, delimiter=","):
    """A rater's copy: `answer(row)` gives what is filled in."""
    rows = [{**row, **answer(row)} for row in sheet(out)]
    path = out / f"{name}.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def bring_in(run, capsys, *given):
    assert main(["human-eval", "import", str(run), *map(str, given), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["sheets"].values()
    return told


def right(row, field="response"):
    return "none" not in row[field]


def test_a_sheet_says_nothing_of_steps_prompts_or_scores_and_the_key_says_all(run_folder, tmp_path, capsys):
    out = tmp_path / "sheet"
    assert export(run_folder, out, "--n", "20", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    rows = sheet(out)
    assert (len(rows), told["items"]) == (20, 20)
    assert list(rows[0]) == ["item", "prompt", "images", "response", "rating", "pass", "note"]
    key = json.loads((run_folder / "human_eval" / f"key_{told['sheet']}.json").read_text())
    assert [row["item"] for row in rows] == [item["item"] for item in key["items"]]
    responses = [item["responses"][0] for item in key["items"]]
    assert {one["step"] for one in responses} == {10, 20}
    for row, one in zip(rows, responses, strict=True):
        assert (one["score"], one["success"]) == (float(right(row)), right(row))
        assert row["response"].endswith(f"of sample {one['sample']}")
    everything = b"".join(path.read_bytes() for path in sorted(out.glob("*.*"))).decode()
    assert not re.search(r"val-\d|score|success|\bstep\b|reward", everything)
    assert len(list((out / "images").iterdir())) == 20
    assert [json.loads(line)["item"] for line in (out / "ratings.jsonl").read_text().splitlines()] == [
        row["item"] for row in rows
    ]


def test_the_same_seed_draws_the_same_in_the_same_order_and_another_does_not(run_folder, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert export(run_folder, tmp_path / name, "--n", "12", "--seed", seed) == 0
    texts = {name: [(row["images"], row["response"]) for row in sheet(tmp_path / name)] for name in "abc"}
    assert texts["a"] == texts["b"]
    assert texts["a"] != texts["c"]


def test_pairs_are_of_one_prompt_and_either_side_is_better_as_often(run_folder, tmp_path, capsys):
    for number in range(4):
        assert export(run_folder, tmp_path / str(number), "--pairs", "--steps", "10", "--seed", str(number)) == 0
    better = Counter()
    for number in range(4):
        for row in sheet(tmp_path / str(number)):
            better[right(row, "response_a"), right(row, "response_b")] += 1
            assert row["response_a"] != row["response_b"]
    assert better.total() == 4 * PROMPTS
    assert better[True, True] == 0  # one of four is right at that step
    assert better[True, False] > 2
    assert better[False, True] > 2
    out = tmp_path / "0"
    capsys.readouterr()
    path = fill(out, "me", lambda row: {"choice": "a" if right(row, "response_a") else "b"})
    told = bring_in(run_folder, capsys, path)
    figures = told["by_source"]["count"]
    different = sum(right(row, "response_a") != right(row, "response_b") for row in sheet(out))
    assert figures["same_score"] == PROMPTS - different
    assert figures["pairwise_accuracy"]["value"] == pytest.approx((different + (PROMPTS - different) / 2) / PROMPTS)
    assert figures["pairwise_accuracy"]["interval"][0] < figures["pairwise_accuracy"]["value"]


def test_ratings_that_follow_the_reward_agree_with_it_and_the_contrary_disagrees(run_folder, tmp_path, capsys):
    out = tmp_path / "sheet"
    assert export(run_folder, out, "--n", "40") == 0
    capsys.readouterr()
    good = fill(out, "good", lambda row: {"rating": 5 if right(row) else 1, "pass": "yes" if right(row) else "no"})
    told = bring_in(run_folder, capsys, good)["by_source"]["count"]
    assert (told["rated"], told["pass_kappa"]["items"]) == (40, 40)
    assert (told["spearman"]["value"], told["pearson"]["value"], told["pass_kappa"]["value"]) == (1.0, 1.0, 1.0)
    assert (told["pairwise_accuracy"]["value"], told["pairwise_accuracy_same_prompt"]["value"]) == (1.0, 1.0)
    bad = fill(out, "bad", lambda row: {"rating": 1 if right(row) else 5, "pass": "0" if right(row) else "1"}, ";")
    told = bring_in(run_folder, capsys, bad)["by_source"]["count"]
    assert (told["spearman"]["value"], told["pairwise_accuracy"]["value"]) == (-1.0, 0.0)
    assert told["pass_kappa"]["value"] < -0.9
    both = bring_in(run_folder, capsys, good, bad)
    assert both["by_source"]["count"]["rated"] == 40
    assert both["by_source"]["count"]["pearson"]["value"] is None  # their mean is the same everywhere
    assert both["by_source"]["count"]["pass_kappa"]["items"] == 0  # and of pass and fail there is no majority
    assert both["raters"]["rating_spearman"] == -1.0
    written = json.loads((run_folder / "human_eval.json").read_text())["sheets"]
    assert list(written.values()) == [both]


def test_every_so_many_steps_agreement_is_told_by_step(run_folder, tmp_path, capsys):
    """People who like what the reward likes early, and the contrary later, as where a reward is gamed."""
    out = tmp_path / "sheet"
    assert export(run_folder, out, "--n", "12", "--every", "10", "--json") == 0
    name = json.loads(capsys.readouterr().out)["sheet"]
    key = json.loads((run_folder / "human_eval" / f"key_{name}.json").read_text())
    steps = {item["item"]: item["responses"][0]["step"] for item in key["items"]}
    assert Counter(steps.values()) == {10: 12, 20: 12}
    assert list(steps.values()) != sorted(steps.values())  # nor does the order tell the step
    path = fill(out, "me", lambda row: {"rating": 5 if right(row) == (steps[row["item"]] == 10) else 1})
    told = bring_in(run_folder, capsys, path)
    assert {step: each["spearman"]["value"] for step, each in told["by_step"].items()} == {"10": 1.0, "20": -1.0}
    assert export(run_folder, tmp_path / "none", "--every", "7") == 2
    assert main(["human-eval", "import", str(run_folder), str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("24 of 24 items rated")
    assert any(line.split()[:2] == ["20", "12"] and "-1.000" in line for line in lines)


def test_a_rule_of_success_may_be_given_where_the_run_has_none(run_folder, tmp_path, capsys):
    (run_folder / "run.json").unlink()
    out = tmp_path / "sheet"
    data = ["--data", str(next((run_folder / "data").rglob("val.parquet")))]
    assert export(run_folder, out, "--n", "10", *data) == 0
    capsys.readouterr()
    path = fill(out, "me", lambda row: {"pass": "yes" if right(row) else "no"})
    assert bring_in(run_folder, capsys, path)["by_source"]["count"]["pass_kappa"]["items"] == 0
    told = bring_in(run_folder, capsys, path, "--pass-score", "0.5")["by_source"]["count"]
    assert (told["pass_kappa"]["items"], told["pass_kappa"]["value"]) == (10, 1.0)


def test_no_cell_is_a_formula_and_no_text_is_markup(run_folder, tmp_path):
    first = records(run_folder)[0].index
    each = [*ATTACK, "<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>"]
    write(run_folder, "train", 1, *((said(first, i, text), 1.0) for i, text in enumerate(each)))
    out = tmp_path / "sheet"
    assert export(run_folder, out, "--purpose", "train") == 0
    cells = [cell for row in sheet(out) for cell in row.values()]
    assert [cell for cell in cells if cell.lstrip()[:1] in tuple("=+-@") and cell] == []
    assert sum(cell.startswith("'") for cell in cells) == len(ATTACK)
    page = (out / "form.html").read_text()
    assert page.count("<script") == 2  # the data and ours, known to the page's policy by its digest
    assert "onerror=alert(1)&gt;" in page
    assert "http:" not in page
    assert "https:" not in page


def test_what_is_not_whole_or_not_scored_is_not_rated(run_folder, tmp_path):
    first = records(run_folder)[0].index
    write(
        run_folder,
        "train",
        1,
        (said(first, 0, "kept"), 1.0),
        (said(first, 1, "kept"), 1.0),
        (said(first, 2, "prefix", prefix=[4]), 1.0),
        (said(first, 3, "failed", finish="infra_error"), 0.0),
        (said(first, 4, ""), 0.0),
    )
    assert export(run_folder, tmp_path / "s", "--purpose", "train") == 0
    assert [row["response"] for row in sheet(tmp_path / "s")] == ["kept"]


def test_what_cannot_be_read_is_one_line(run_folder, tmp_path, capsys):
    out = tmp_path / "sheet"
    assert export(run_folder, out, "--n", "4") == 0
    assert export(run_folder, out) == 2
    assert "is there already" in capsys.readouterr().err
    first = sheet(out)[0]["item"]
    name = first.partition("-")[0]
    for text, line in (
        ("item,rating\n", "holds no rating"),
        (f"item,rating\n{first},\n", "nothing is filled in"),
        (f"item,rating\n{first},good\n", "the rating 'good' is no number"),
        (f"item,rating\n{first},nan\n", "is no number"),
        (f"item,pass\n{first},maybe\n", "pass is 'maybe'"),
        (f"item,choice\n{first},c\n", "the choice is 'c'"),
        (f"item,rating\n{first},1\n{first},2\n", "is there twice"),
        (f"item,rating\n{name}-999,1\n", "has no item"),
        ("item,rating\nzzzz-1,1\n", "has no key of the sheet 'zzzz'"),
        ("item,rating\n../../x-1,1\n", "has no key of the sheet"),
        ("a,b\n1,2\n", "has no item"),
        (b"item,rating\n\xff\xfe,1\n", "cannot be read"),
    ):
        path = tmp_path / "r.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert main(["human-eval", "import", str(run_folder), str(path)]) == 2, text
        told = capsys.readouterr().err
        assert line in told
        assert told.count("\n") == 1
    assert not (run_folder / "human_eval.json").exists()
