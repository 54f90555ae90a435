"""`hpt win-rate`: evaluations as `hpt eval` writes them, of models that are scripts; by score and by a real server."""

import json

import pytest
from judging import judging, prefers
from written_run import PROMPTS, records, said, write, write_evaluation

from hpt_megatron.cli.main import main
from hpt_megatron.data.files import write_rows
from hpt_megatron.data.record import Message, Record
from hpt_megatron.data.rows import row_of
from hpt_megatron.data.tasks.place import task_folder
from hpt_megatron.feedback.agreement import wilson


def told(capsys, *given):
    assert main(["win-rate", *map(str, given), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def evaluations(run_folder, tmp_path, tiny, chat):
    """A is right at all prompts, B at every other one; both say it in two samples."""
    data = task_folder(run_folder, "count") / "val.parquet"
    golds = {record.index: record.golds[0] for record in records(run_folder, "val")}
    half = set(list(golds)[::2])
    one = write_evaluation(tiny, chat, data, tmp_path / "a", lambda uid, _: f"<answer>{golds[uid]}</answer>")
    other = write_evaluation(
        tiny, chat, data, tmp_path / "b", lambda uid, _: f"<answer>{golds[uid] if uid in half else 'none'}</answer>"
    )
    return one, other


def test_by_score_a_model_that_is_right_more_often_wins_and_the_sides_add_up(evaluations, tmp_path, capsys):
    one, other = evaluations
    there = told(capsys, one, other, "--out", tmp_path / "w.json")
    figures = there["figures"]["count"]
    assert (figures["wins"], figures["ties"], figures["losses"], figures["prompts"]) == (0.5, 0.5, 0.0, PROMPTS)
    assert figures["win_rate"] == 0.75
    assert figures["interval"] == pytest.approx(wilson(0.75, PROMPTS))
    assert json.loads((tmp_path / "w.json").read_text()) == there
    back = told(capsys, other, one)["figures"]["count"]
    assert (back["wins"], back["losses"], back["win_rate"]) == (0.0, 0.5, 0.25)
    assert main(["win-rate", str(one), str(other)]) == 0
    assert "count                      8    50.0%    50.0%     0.0%       0.750 [" in capsys.readouterr().out


def test_no_other_file_is_written_over(run_folder, evaluations, tmp_path, capsys):
    """An earlier result gives way."""
    one, other = evaluations
    record = run_folder / "run.json"
    before = record.read_bytes()
    assert main(["win-rate", str(one), str(other), "--out", str(record)]) == 2
    assert "is there and is no result of hpt win-rate; another --out" in capsys.readouterr().err
    assert record.read_bytes() == before
    for given in ((one, other), (other, one)):
        assert told(capsys, *given, "--out", tmp_path / "w.json")["figures"]
    assert json.loads((tmp_path / "w.json").read_text())["figures"]["count"]["win_rate"] == 0.25


def test_a_run_is_compared_with_its_own_earlier_validation(run_folder, capsys):
    """Three of four right against one of four: a win where the later one is right and the earlier is not."""
    there = told(capsys, run_folder, run_folder, "--step-b", "10")
    figures = there["figures"]["count"]
    assert (there["a"]["step"], there["b"]["step"]) == (20, 10)
    assert (figures["wins"], figures["losses"]) == (0.75 * 0.75, 0.25 * 0.25)
    assert figures["win_rate"] == pytest.approx(0.75)
    files = [run_folder / "rollouts" / f"validate_{step}.jsonl" for step in (20, 10)]
    assert told(capsys, *files)["figures"] == there["figures"]


def test_a_judge_is_asked_in_both_orders_and_a_contradiction_is_a_tie(evaluations, tmp_path, capsys):
    one, other = evaluations
    right = prefers(lambda text: "none" not in text)
    with judging(right) as judge:
        there = told(capsys, one, other, *judge.options, "--out", tmp_path / "w.json")
        asked = PROMPTS // 2 * 2  # where both say the same nobody is asked
        assert len(judge.talks) == asked
        assert all(len(talk.images) == 1 and "count" in talk.text for talk in judge.talks)
        assert {talk.answers["A"] == "none" for talk in judge.talks} == {True, False}
    figures = there["figures"]["count"]
    assert (figures["wins"], figures["ties"], figures["losses"]) == (0.5, 0.5, 0.0)
    assert there["by"] == "judge judge-1"
    assert [path.name for path in tmp_path.glob(".*")] == []
    with judging(lambda talk: "<judge>A</judge>") as judge:
        there = told(capsys, one, other, *judge.options)
    assert there["figures"]["count"]["ties"] == 1.0
    assert there["judge"]["split"] == PROMPTS // 2
    assert there["judge"]["position"] == {"first_place": PROMPTS // 2, "second_place": 0}
    with judging(right) as judge:
        assert told(capsys, one, other, *judge.options, "--n", "3")["figures"]["count"]["prompts"] == 3
        assert main(["win-rate", str(one), str(other), *judge.options, "--dry-run"]) == 0
        assert json.loads(capsys.readouterr().out)["body"]["model"] == "judge-1"


def test_several_sources_are_told_apart_and_together(run_folder, tmp_path, capsys):
    """Scores are written by the product's writer; prompts that one side alone has take no part."""
    rows = [Record(index=str(i), prompt=(Message("user", f"{i} ?"),), data_source="ab"[i % 2]) for i in range(5)]
    data = tmp_path / "own.jsonl"
    write_rows(data, map(row_of, rows))
    one, other = tmp_path / "one", tmp_path / "other"
    write(one, "validate", 0, *((said(str(i), 0, "x"), float(i % 2)) for i in range(5)))
    write(other, "validate", 0, *((said(str(i), 0, "y"), 0.5) for i in range(4)))
    there = told(capsys, one, other, "--data", data)
    shares = {source: (each["prompts"], each["win_rate"]) for source, each in there["figures"].items()}
    assert shares == {"a": (2, 0.0), "b": (2, 1.0), "all": (4, 0.5)}
    assert (there["only_in_a"], there["only_in_b"]) == (1, 0)
    without = told(capsys, one, other)
    assert without["figures"] == {"(no data source)": there["figures"]["all"]}


def test_what_cannot_be_compared_is_one_line(run_folder, evaluations, tmp_path, capsys):
    one, _ = evaluations
    empty = tmp_path / "c"
    write(empty, "validate", 0, (said("unheard of", 0, "x"), 1.0))
    other_data = tmp_path / "changed.jsonl"
    write_rows(
        other_data, [row_of(Record(index=r.index, prompt=(Message("user", "?"),))) for r in records(run_folder, "val")]
    )
    changed = tmp_path / "d"
    write(changed, "validate", 0, *((said(r.index, 0, "x"), 1.0) for r in records(run_folder, "val")))
    (changed / "eval.json").write_text(json.dumps({"files": [str(other_data)]}))
    for given, line in (
        ([one, empty], "have no prompt in common"),
        ([one, changed], "is not the same in both"),
        ([run_folder, run_folder, "--step-b", "11"], "has no responses of validate at step 11"),
        ([one, tmp_path / "nowhere"], "no such run"),
        ([one, one, "--dry-run"], "there is nobody to ask"),
        ([empty, empty, "--judge", "http://127.0.0.1:1/v1"], "does not say which data files"),
    ):
        assert main(["win-rate", *map(str, given)]) == 2
        said_of = capsys.readouterr().err
        assert line in said_of
        assert said_of.count("\n") == 1
