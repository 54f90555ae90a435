"""`hpt report`: run folders, read as they stand, into a page, tables and figures. Not covered: how a page looks."""

import json
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from recorded_run import searching, tear, trajectory, write_rollouts

from hpt_megatron.cli.main import main
from hpt_megatron.report.folder import names_of, read
from hpt_megatron.report.paper import CURVES, draw
from hpt_megatron.rollout.trajectory_file import append

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


class Outside(HTMLParser):
    """Everything in a page that could be fetched or run."""

    def __init__(self):
        super().__init__()
        self.scripts, self.found, self.policy = [], [], ""

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "script":
            self.scripts.append(named)
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        self.found += [(tag, name) for name in named if name.startswith("on") or name == "src"]
        if tag in ("link", "iframe", "object", "embed", "base") or not named.get("href", "#").startswith("#"):
            self.found.append((tag, ""))


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture
def copied(runs, tmp_path):
    """A run that may be written into."""
    return Path(shutil.copytree(runs[0], tmp_path / "run"))


def test_a_run_becomes_one_page_that_asks_nobody_for_anything(copied, capsys):
    assert main(["report", str(copied)]) == 0
    said = capsys.readouterr().out
    assert "run  step 24 of 60, written" in said
    assert re.search(r"reward 0\.\d{3} in the first 10 steps with rollouts, 0\.\d{3} in the last: it rose by", said)
    page = copied / "report.html"
    outside = Outside()
    outside.feed(page.read_text(encoding="utf-8"))
    assert outside.found == []
    assert [script.get("type") for script in outside.scripts] == ["application/json", None]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]+'", outside.policy
    )


def test_the_page_holds_what_the_files_say(copied):
    main(["report", str(copied)])
    data = data_of(copied / "report.html")
    steps = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    (reward,) = [lines[0] for *_, lines in data["charts"] if [line[0] for line in lines] == ["reward/mean"]][:1]
    assert reward[3] == [line["step"] for line in steps if "reward/mean" in line]
    assert reward[4] == pytest.approx([line["reward/mean"] for line in steps if "reward/mean" in line], rel=1e-4)
    visits = [json.loads(line) for line in (copied / "decisions.jsonl").read_text().splitlines()]
    held = {(uid, *visit) for uid, _, (own,) in data["prompts"] for visit in own}
    arms = data["arms"]
    told = {(v["uid"], v["step"], v["successes"], v["n"], arms.index(v["decision"])) for v in visits}
    assert held == told
    one = next(one for one in data["rollouts"] if one["step"] == 24)
    (line,) = [
        told
        for told in map(json.loads, (copied / "rollouts" / "train_24.jsonl").read_text().splitlines())
        if (told["uid"], told["sample"]) == (one["uid"], one["sample"])
    ]
    assert one["turns"][0]["text"] == line["turns"][0]["text"]
    assert (one["total"], one["ok"]) == (line["total"], line["total"] == 1.0)
    assert one["spans"] == [["prompt", 7], ["turn", line["tokens"]["sampled"]]]
    asked = data["asked"][data["where"][f"0/train/{one['uid']}"]]
    assert asked["prompt"] == [["user", "[image]count ?"]]
    assert asked["images"][0].startswith("data:image/png;base64,")
    assert asked["target"][0][0] == "assistant"


def test_a_run_in_progress_is_read_as_far_as_it_is_whole(copied, capsys):
    for name in ("metrics.jsonl", "decisions.jsonl", "rollouts/train_24.jsonl"):
        tear(copied / name)
    run = read(copied)
    assert (run.last, run.total, run.ended, run.torn) == (24, 60, False, 2)
    assert main(["report", str(copied)]) == 0
    assert "in progress, or stopped" in capsys.readouterr().out
    text = (copied / "report.html").read_text(encoding="utf-8")
    assert "2 lines that are torn or no lines of ours were left out" in text
    assert max(one["step"] for one in data_of(copied / "report.html")["rollouts"]) == 24


def test_no_text_of_a_model_or_of_a_name_leaves_its_place(copied, tmp_path, capsys):
    path = copied / "rollouts" / "train_24.jsonl"
    append(path, [trajectory("<b>uid", 99, HOSTILE, 24)], {("<b>uid", 99): {HOSTILE: 9.0, "total": 9.0}}, 24)
    with (copied / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 24, "of": 60, "<b>\ud800": 1.0, "reward/mean": 0.5}) + "\n")
    odd = copied.rename(tmp_path / "a<b>&\x1b[2J")
    assert main(["report", str(odd), "--md"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    text = (odd / "report.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "taken" in text
    assert text.count("</script>") == 2
    assert "a<b>" not in text
    assert "<b><b>" not in text
    told = [one for one in data_of(odd / "report.html")["rollouts"] if one["sample"] == 99]
    assert told[0]["turns"][0]["text"] == HOSTILE
    assert "<b>" not in (odd / "report.md").read_text(encoding="utf-8")


def test_several_runs_lie_over_one_another_and_their_differences_are_told(runs, tmp_path, capsys):
    out = tmp_path / "sub" / "both.html"
    assert main(["report", *map(str, runs), "--out", str(out), "--md"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"plain +24 / 60 +0\.\d+ +0\.\d+ +\+0\.\d+", said)
    data = data_of(out)
    assert data["runs"] == ["plain", "gated"]
    (reward, *_) = [lines for *_, lines in data["charts"] if {line[0] for line in lines} == {"plain", "gated"}]
    assert [line[2] for line in reward] == [0, 1]
    assert {one["run"] for one in data["rollouts"]} == {0, 1}
    text, table = out.read_text(encoding="utf-8"), out.with_suffix(".md").read_text(encoding="utf-8")
    for told in (text, table):
        assert "algorithm.switch_gate" in told
        assert "trainer.run_dir" not in told.partition("all ")[0]
    assert "| algorithm.switch_gate | 0 | 2 |" in table
    assert "| 11 to 20 | " in table
    assert "| 20 | 0.5 |" in table, "validations"
    assert len(data["asked"]) < len(data["where"]), "the same prompt of two runs is there once"


def test_figures_are_drawn_the_same_every_time(runs, tmp_path):
    assert main(["report", str(runs[0]), "--out", str(tmp_path / "a.html"), "--png"]) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "a-figures").iterdir()}
    assert {"reward.png", "sft_share.png", "loss.png", "decisions.png"} <= {*first}
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    for path in draw([read(runs[0])], tmp_path / "b", {"reward": CURVES["reward"]}):
        assert path.read_bytes() == first[path.name]


def test_a_long_run_stays_small_and_says_what_is_left_out(copied):
    for step in range(25, 61):
        write_rollouts(copied, step, f"train-{step % 24}", [True] * 10, random.Random(0))
    assert main(["report", str(copied)]) == 0
    text = (copied / "report.html").read_text(encoding="utf-8")
    rollouts = data_of(copied / "report.html")["rollouts"]
    assert len(rollouts) <= 240
    assert f"{len(rollouts)} of {20 * 6 * 8 + 36 * 10:,} rollouts are here" in text
    assert len(text) < 600_000
    assert {one["step"] for one in rollouts} >= {5, 60}


def test_a_search_agents_turns_and_what_it_saw_are_kept_and_a_run_without_its_data_is_shown_without_prompts(copied):
    scores = {("train-1", 50): {"ndcg": 0.5, "total": 7.0}}
    append(copied / "rollouts" / "train_24.jsonl", [searching("train-1", 50, "k07", 24)], scores, 24)
    shutil.rmtree(copied / "data")
    assert main(["report", str(copied)]) == 0
    data = data_of(copied / "report.html")
    (told,) = [one for one in data["rollouts"] if one["sample"] == 50]
    assert [turn["action"] for turn in told["turns"]] == ["search", "answer"]
    assert told["turns"][0]["pages"] == ["deck/k07"]
    assert told["spans"] == [["prompt", 3], ["turn", 6], ["observation", 6], ["turn", 4]]
    assert told["images"] == [["deck/k07", [0, 0, 28, 56]]]
    assert (told["total"], told["components"], told["ok"]) == (7.0, {"ndcg": 0.5}, None)
    assert data["asked"] == []
    assert "is not there, so prompts and demonstrations are not shown" in (copied / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no such run"),
        (lambda folder: folder.mkdir(), "is no run: it holds neither run.json nor metrics.jsonl"),
        (lambda folder: folder.write_text("x"), "is a file, not the folder of a run"),
        (lambda folder: (folder.mkdir(), (folder / "run.json").write_text("{}")), "no step is written yet"),
        (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").write_text('{"st')), "no step is written yet"),
        (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").mkdir()), "neither run.json nor"),
    ],
)
def test_what_is_no_run_is_refused_in_a_line(tmp_path, capsys, make, said):
    make(tmp_path / "it")
    assert main(["report", str(tmp_path / "it")]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert said in told.err
    assert str(tmp_path / "it") in told.err
    assert told.out == ""


def test_a_page_that_cannot_be_written_and_a_run_given_twice_are_refused(copied, capsys):
    assert main(["report", str(copied), "--out", str(copied / "run.json" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["report", str(copied), f"{copied}/../run"]) == 2
    assert "a run is given twice" in capsys.readouterr().err
    (copied / "run.json").write_text("{")
    assert main(["report", str(copied)]) == 2
    assert "its record cannot be read" in capsys.readouterr().err
    assert not (copied / "report.html").exists()


def test_files_of_another_kind_are_counted_and_not_shown(copied):
    """What a stranger, or a later release, wrote into them."""
    lines = ["7", "[]", '{"step": "x"}', '{"step": 1e400}', '{"step": true}', "\x00", '{"step": 3, "uid": 1}']
    for name in ("metrics.jsonl", "decisions.jsonl", "validation.jsonl"):
        (copied / name).write_text("".join(f"{line}\n" for line in lines) + (copied / name).read_text())
    before = read(copied)
    assert before.torn == 6 + 7 + 6
    assert before.last == 24
    odd = [
        '{"uid": 1, "sample": [], "total": {}}',
        '{"uid": "odd", "sample": 1, "total": NaN, "turns": [{"num_tokens": NaN}, 3], "images": [{"region": [NaN]}]}',
        '{"uid": "odd", "sample": 2, "total": 1, "spans": [["x"]], "components": 7}',
    ]
    (copied / "rollouts" / "train_24.jsonl").write_text("\n".join([*lines, *odd]))
    config = json.loads((copied / "run.json").read_text())
    config["algorithm"]["success"], config["model"], config["data"]["train_files"] = 7, {"family": 3}, {"a": 1}
    (copied / "run.json").write_text(json.dumps(config))
    assert main(["report", str(copied)]) == 0
    told = data_of(copied / "report.html")["rollouts"]
    assert [(one["sample"], one["turns"][0]["tokens"]) for one in told if one["uid"] == "odd"] == [(1, 0)]
    assert "1 lines hold something that is no rollout of ours" in (copied / "report.html").read_text("utf-8")


def test_runs_are_named_by_the_end_of_their_path_that_tells_them_apart(tmp_path):
    assert names_of([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]


def test_colours_stay_away_where_they_are_not_wanted(runs, tmp_path):
    """Not covered: that there are some on a terminal; rich decides it."""
    command = [sys.executable, "-m", "hpt_megatron", "report", str(runs[0]), "--out", str(tmp_path / "a.html")]
    environment = {"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm-256color", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", done.stdout)
    assert "it rose by" in done.stdout
