"""`hpt feedback revise` against a real server on this host: draft, critique, revision, and a set to train on."""

import json

from judging import judging

from hpt_megatron.cli.main import main
from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import train_prompts
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.reading import read
from hpt_megatron.data.tasks.make import make


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def model(talk):
    """Each revision is one `!` shorter, so that what a round was shown can be told from what it made."""
    if talk.kind == "draft":
        return "draft!!!"
    if talk.kind == "criticise":
        return f"{talk.text.count('!')} too many"
    answer = talk.text.rpartition("\n[answer ")[0].rpartition("begins]\n")[2]
    return f"Here: <revision>{answer[:-1]}</revision>"


def test_an_answer_is_criticised_and_revised_and_the_last_revision_is_the_target(tmp_path, capsys):
    source = write(
        tmp_path / "in.jsonl", {"index": "a", "prompt": "1+1 ?", "target": "2!!!", "answer": "2"}, {"prompt": "who ?"}
    )
    out = tmp_path / "out.parquet"
    with judging(model) as judge:
        assert main(["feedback", "revise", str(source), str(out), *judge.options, "--rounds", "2", "--json"]) == 0
        kinds = [talk.kind for talk in judge.talks]
    assert (kinds.count("draft"), kinds.count("criticise"), kinds.count("revise")) == (1, 4, 4)
    one, two = read([out]).sound()
    assert (one.index, one.target_text, one.extra["before"], one.golds) == ("a", "2!", "2!!!", ("2",))
    assert one.extra["critique"] == "2 too many"  # of the second round, which was shown the first one's revision
    assert (two.target_text, two.extra["before"]) == ("draft!", "draft!!!")
    first, second = one.extra["principle"].split("+")
    assert first != second
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["counts"]["revised"], told["counts"]["unchanged"]) == (2, 2, 0)
    critiques = [talk for talk in judge.talks if talk.kind == "revise"]
    assert all("Critique:\n" in talk.text and "too many" in talk.text for talk in critiques)


def test_what_has_no_revision_or_marks_an_image_makes_no_row(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", *({"prompt": name, "target": "x!"} for name in ("plain", "image", "good")))

    def reply(talk):
        if talk.kind == "criticise":
            return "short"
        if "plain" in talk.text:
            return "no tags"
        return f"<revision>{'<image> here' if 'image' in talk.text else 'fine'}</revision>"

    out = tmp_path / "out.jsonl"
    with judging(reply) as judge:
        assert main(["feedback", "revise", str(source), str(out), *judge.options, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert {name: counts[name] for name in ("revised", "unclear", "image_mark", "failed")} == {
        "revised": 1,
        "unclear": 1,
        "image_mark": 1,
        "failed": 0,
    }
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["target"] == [{"role": "assistant", "content": "fine"}]


def test_the_set_is_what_supervised_training_reads_with_its_images(tmp_path, tiny, chat):
    make("count", tmp_path, count=8, val_count=1, seed=0)
    out = tmp_path / "out.parquet"

    def reply(talk):
        return "fine" if talk.kind == "criticise" else "<revision><answer>7</answer></revision>"

    with judging(reply) as judge:
        assert main(["feedback", "revise", str(tmp_path / "train.parquet"), str(out), *judge.options]) == 0
        assert all(len(talk.images) == 1 for talk in judge.talks)
    data = load_run([f"data.train_files=[{json.dumps(str(out))}]", "data.train_batch_size=4"]).data
    prompts = train_prompts(data, chat, PictureRules.of_folder(tiny))
    assert (len(prompts), prompts.report["without_target"]) == (8, 0)
    prompt = prompts[prompts.names[0]]
    assert chat.text(prompt.target_ids) == "<answer>7</answer>"
    assert len(prompt.sizes) == 1
    assert prompt.record.images == read([tmp_path / "train.parquet"]).sound()[0].images
