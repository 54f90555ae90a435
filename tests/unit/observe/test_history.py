"""A file for each prompt, and the generation logs: names that lead nowhere else, no step twice, the source's form."""

import doctest
import json
import string

import pytest

from hpt_megatron.observe import generations, history
from hpt_megatron.observe.generations import Generations, write_generations
from hpt_megatron.observe.history import History, file_name

pytestmark = pytest.mark.fast
ODD = ["", ".", "..", "../up", "a/b", "a\\b", "/etc/passwd", "a\0b", "a\nb", "%", "%2E", "a b", "\udc80", "x" * 999]
ODD = sorted({*ODD, "x" * 998 + "y", *string.punctuation, "\u00e9", "A", "a"})


def record(step, uid, n, k, decision):
    return {"step": step, "uid": uid, "n": n, "successes": k, "decision": decision, "mean_reward": k / n if n else None}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_example_of_the_name_holds():
    assert doctest.testmod(history).failed == 0
    assert doctest.testmod(generations).failed == 0


def test_no_name_leaves_the_folder_and_no_two_share_a_file(tmp_path):
    made = History(tmp_path)
    made.add([record(1, uid, 2, 1, "explore") for uid in ODD])
    files = sorted(path.name for path in (tmp_path / "history").iterdir())
    assert sorted({file_name(uid) for uid in ODD}) == files
    assert len(files) == len(ODD)
    assert all(not name.startswith(".") and name.isascii() and len(name) <= 210 for name in files)
    assert [path.name for path in tmp_path.iterdir()] == ["history"]


def test_a_line_says_what_became_of_the_prompt(tmp_path):
    made = History(tmp_path)
    made.add([record(1, "a", 0, 0, "imitate")])
    made.add([record(4, "a", 4, 4, "explore")])
    assert lines(tmp_path / "history" / "a.jsonl") == [
        {
            "step": 1,
            "n": 0,
            "k": 0,
            "decision": "imitate",
            "mean_reward": None,
            "solve_none": False,
            "solve_all": False,
        },
        {"step": 4, "n": 4, "k": 4, "decision": "explore", "mean_reward": 1.0, "solve_none": False, "solve_all": True},
    ]


def test_a_flip_is_another_decision_than_the_last_one_also_over_a_resume(tmp_path):
    """A warm-up, where nothing is sampled, is no decision to turn from."""
    steps = [
        [record(1, "a", 0, 0, "imitate"), record(1, "b", 0, 0, "imitate")],
        [record(2, "a", 4, 1, "explore"), record(2, "b", 4, 0, "imitate")],
        [record(3, "a", 4, 0, "imitate"), record(3, "b", 4, 0, "imitate")],
        [record(4, "a", 4, 2, "explore"), record(4, "b", 4, 3, "explore")],
    ]
    made = History(tmp_path / "straight")
    assert [made.add(each) for each in steps] == [0, 0, 1, 2]
    for done in range(4):
        folder = tmp_path / f"from_{done}"
        first = History(folder)
        for each in steps:
            first.add(each)
        again = History(folder)
        again.begin(done, [each for step in steps for each in step])
        assert [again.add(each) for each in steps[done:]] == [0, 0, 1, 2][done:]
        for uid in "ab":
            assert [line["step"] for line in lines(folder / "history" / f"{uid}.jsonl")] == [1, 2, 3, 4]
            assert lines(folder / "history" / f"{uid}.jsonl") == lines(tmp_path / f"straight/history/{uid}.jsonl")


def test_a_line_torn_by_the_end_of_its_writer_is_left_out_when_the_run_goes_on(tmp_path):
    made = History(tmp_path)
    made.add([record(1, "a", 4, 1, "explore")])
    with (tmp_path / "history" / "a.jsonl").open("a") as file:
        file.write('{"step": 2, "n')
    again = History(tmp_path)
    again.begin(1, [record(1, "a", 4, 1, "explore"), record(2, "a", 4, 1, "explore")])
    again.add([record(2, "a", 4, 2, "explore")])
    assert [line["k"] for line in lines(tmp_path / "history" / "a.jsonl")] == [1, 2]


def validated(run, texts):
    (run / "rollouts").mkdir(parents=True)
    said = [
        {"kind": "trajectory", "uid": uid, "sample": sample, "total": 1.0, "turns": [{"text": text} for text in turns]}
        for uid, sample, turns in texts
    ]
    (run / "rollouts" / "validate_20.jsonl").write_text("".join(json.dumps(each) + "\n" for each in said) + '{"kin')


def test_a_generation_log_has_the_form_and_the_name_of_the_source(tmp_path):
    validated(tmp_path, [("b", 0, ["B" * 300]), ("a", 1, ["no"]), ("a", 0, ["one", "<b>two</b>"]), ("c", 0, ["C"])])
    path = write_generations(tmp_path, 20, Generations(2), {"a": "How many?", "b": "Why?"})
    assert path == tmp_path / "generation_logs" / "generation_log_step_20.json"
    told = json.loads(path.read_text())
    assert [list(entry) for entry in told] == [
        ["eval_step", "sample_index", "prompt", "generated", "full_response", "uid", "score"]
    ] * 2
    assert [(entry["eval_step"], entry["sample_index"], entry["prompt"]) for entry in told] == [
        (20, 0, "How many?"),
        (20, 1, "Why?"),
    ]
    assert told[0]["full_response"] == told[0]["generated"] == "one\n<b>two</b>"
    assert told[1]["full_response"] == "B" * 300
    assert told[1]["generated"] == "B" * 200 + "..."


def test_no_generation_log_is_written_where_none_is_asked_for_and_another_folder_is_taken(tmp_path):
    validated(tmp_path, [("a", 0, ["x"])])
    assert write_generations(tmp_path, 20, Generations(0), {}) is None
    assert write_generations(tmp_path, 40, Generations(5), {}) is None
    assert not (tmp_path / "generation_logs").exists()
    assert write_generations(tmp_path, 20, Generations(5, tmp_path / "mine"), {}).parent == tmp_path / "mine"
