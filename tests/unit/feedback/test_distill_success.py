"""`hpt distill-success`: what of a run's rollouts becomes a demonstration, which of several, and training on it."""

import json

import pytest
from written_run import records, said, write, write_evaluation

from hpt_megatron.cli.main import main
from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import train_prompts
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.reading import read
from hpt_megatron.data.tasks.place import task_folder


def distil(run, out, *options):
    return main(["distill-success", str(run), str(out), *options])


@pytest.fixture
def trained(run_folder):
    """Rollouts of two prompts in two steps: of each kind that is left out, and of those that are kept."""
    first, second = (record.index for record in records(run_folder)[:2])
    write(
        run_folder,
        "train",
        1,
        (said(first, 0, "long and right", tokens=9), 1.5),
        (said(first, 1, "wrong"), 0.0),
        (said(first, 2, "right", tokens=4), 1.0),
        (said(first, 3, "cut", finish="length"), 1.0),
        (said(second, 0, "of a prefix", prefix=[5, 6]), 1.0),
        (said(second, 1, "twice", turns=2), 1.0),
        (said(second, 2, "see <image>"), 1.0),
        (said(second, 3, "not scored", finish="infra_error"), 1.0),
    )
    write(run_folder, "train", 2, (said(first, 0, "right", tokens=4), 1.0), (said(second, 0, "yes"), 1.0))
    return run_folder


def test_successes_are_kept_and_everything_else_is_counted(trained, tmp_path, capsys):
    out = tmp_path / "won.parquet"
    assert distil(trained, out, "--json") == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert counts == {
        "responses": 10,
        "not_scored": 1,
        "failed": 1,
        "below_min_score": 0,
        "cut": 1,
        "with_prefix": 1,
        "several_turns": 1,
        "unusable": 1,
        "repeated": 1,
        "unknown_prompt": 0,
        "more_than_asked": 1,
        "prompts": 2,
        "rows": 2,
    }
    one, two = read([out]).sound()
    made = records(trained)
    assert (one.target_text, two.target_text) == ("long and right", "yes")
    assert [one.images, two.images] == [record.images for record in made[:2]]
    assert (one.index, one.golds) == (made[0].index, made[0].golds)
    assert one.extra["distilled"] == {"step": 1, "sample": 0, "score": 1.5, "tokens": 9}


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ([], ["long and right", "yes"]),
        (["--first", "shortest"], ["right", "yes"]),
        (["--per-prompt", "2"], ["long and right", "right", "yes"]),
        (["--min-score", "1.2"], ["long and right"]),
        (["--steps", "2:"], ["right", "yes"]),
        (["--steps", "1:1"], ["long and right"]),
    ],
)
def test_which_are_kept_and_in_which_order(trained, tmp_path, options, texts):
    out = tmp_path / "won.jsonl"
    assert distil(trained, out, *options) == 0
    found = read([out]).sound()
    assert [record.target_text for record in found] == texts
    assert len({record.index for record in found}) == len(texts)


def test_what_was_sampled_again_after_the_run_went_on_counts_once_and_as_the_later_one(trained, tmp_path):
    first = records(trained)[0].index
    write(trained, "train", 2, (said(first, 0, "later"), 2.0))
    with (trained / "rollouts" / "train_2.jsonl").open("a") as file:
        file.write('{"kind": "trajec')
    out = tmp_path / "won.jsonl"
    assert distil(trained, out, "--steps", "2") == 0
    assert [record.target_text for record in read([out]).sound()] == ["later", "yes"]


def test_supervised_training_takes_the_set_as_it_is(run_folder, tmp_path, tiny, chat):
    made = records(run_folder)
    each = [(said(record.index, 0, f"<answer>{record.golds[0]}</answer>"), 1.0) for record in made]
    write(run_folder, "train", 1, *each)
    out = tmp_path / "won.parquet"
    assert distil(run_folder, out) == 0
    data = load_run([f"data.train_files=[{json.dumps(str(out))}]", f"data.train_batch_size={len(made)}"]).data
    prompts = train_prompts(data, chat, PictureRules.of_folder(tiny))
    assert (len(prompts), prompts.report["without_target"], prompts.problems) == (len(made), 0, [])
    for record in made:
        prompt = prompts[record.index]
        assert chat.text(prompt.target_ids) == f"<answer>{record.golds[0]}</answer>"
        assert prompt.target_ids[-1] == chat.marks.im_end
        assert all(prompt.target_trained)
        assert len(prompt.sizes) == 1


def test_an_evaluation_needs_a_score_and_then_gives_its_answers(run_folder, tmp_path, tiny, chat, capsys):
    data = task_folder(run_folder, "count") / "val.parquet"
    golds = {record.index: record.golds[0] for record in records(run_folder, "val")}

    def script(uid, sample):
        return f"<answer>{golds[uid] if sample else 'none'}</answer>"

    folder, out = write_evaluation(tiny, chat, data, tmp_path / "eval", script), tmp_path / "won.parquet"
    assert distil(folder, out) == 2
    assert "give --min-score X" in capsys.readouterr().err
    assert distil(folder, out, "--min-score", "1") == 0
    assert [record.target_text for record in read([out]).sound()] == [
        f"<answer>{gold}</answer>" for gold in golds.values()
    ]


def test_what_cannot_be_distilled_is_one_line(run_folder, tmp_path, capsys):
    first = records(run_folder)[0].index
    write(run_folder, "train", 1, (said(first, 0, "wrong"), 0.0))
    out = tmp_path / "won.parquet"
    data = task_folder(run_folder, "count") / "train.parquet"
    for given, line in (
        ([run_folder, out], "no response is kept (responses 1, failed 1"),
        ([tmp_path / "nowhere", out], "no such run"),
        ([tmp_path, out], "holds no file of rollouts"),
        ([run_folder, out, "--steps", "9:3"], "ends before it begins"),
        ([run_folder, data, "--data", data], "would be overwritten"),
        ([run_folder, out, "--data", tmp_path / "gone.parquet"], "its data file is not here"),
    ):
        assert main(["distill-success", *map(str, given)]) == 2
        told = capsys.readouterr().err
        assert line in told
        assert told.count("\n") == 1
    write(run_folder, "train", 2, (said("of another file", 0, "right"), 1.0))
    assert distil(run_folder, out) == 2
    assert "is in the data files" in capsys.readouterr().err
    assert not out.exists()
