"""`hpt data`: what it prints, writes and answers. Not covered: lengths in a real checkpoint's tokens."""

import html.parser
import io
import json
import re

import pytest
from PIL import Image

from hpt_megatron.cli.main import main
from hpt_megatron.data.files import write_rows
from hpt_megatron.data.reading import read
from hpt_megatron.data.record import IMAGE
from hpt_megatron.embedded.folder import write_tiny


def png(colour="red"):
    held = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def file(tmp_path):
    """One of everything that can be wrong."""
    bad = "<script>alert(1)</script> \u202e <img src=http://x/y.png onerror=alert(2)>"
    rows = [
        {
            "index": "a",
            "prompt": "<image>count ?",
            "images": [{"bytes": png()}],
            "target": "4",
            "answer": "4",
            "level": 1,
        },
        {"index": "a", "prompt": "1+1 ?", "answer": "2"},
        {"index": "c", "prompt": "1+1 ?", "answer": "3"},
        {
            "index": "d",
            "prompt": IMAGE,
            "images": [{"bytes": png()[:60]}],
            "target": IMAGE,
            "target_images": [{"bytes": b"no"}],
        },
        {"index": "e", "prompt": "<image>", "images": ["../../secret.png"]},
        {"index": "f", "prompt": "<image><image>"},
        {"index": "g", "prompt": bad, "target": bad, "answer": bad},
        {"index": "h", "prompt": "count " * 60},
    ]
    write_rows(tmp_path / "a.jsonl", rows)
    with (tmp_path / "a.jsonl").open("a") as lines:
        lines.write("{broken\n")
    return tmp_path / "a.jsonl"


def test_inspect_tells_all_problems_at_once(file, capsys):
    assert main(["data", "inspect", str(file), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["rows"] == 9
    assert (told["counts"]["usable"], told["counts"]["broken_images"], told["errors"]) == (5, 2, 4)
    assert (told["counts"]["without_target"], told["counts"]["repeated_prompts"]) == (3, 1)
    assert told["missing"]["answer"] == 4
    assert told["numbers"] == ["level"]
    assert told["unit"] == "characters"
    lines = {problem["where"].rpartition(":")[2]: (problem["kind"], problem["what"]) for problem in told["problems"]}
    assert "index 'a' is there already" in lines["2"][1]
    assert lines["3"] == ("warning", "asks the same as a.jsonl:2, and has another gold")
    assert lines["4"][1].startswith("image 2: an image of 2 bytes: is not an image")
    assert "leads out of" in lines["5"][1]
    assert "marks 2 images" in lines["6"][1]
    assert "is not JSON" in lines["9"][1]


def test_inspect_in_text_shows_counts_and_problems_on_single_lines(file, capsys):
    assert main(["data", "inspect", str(file)]) == 2
    told = capsys.readouterr().out
    assert re.search(r"^rows +9$", told, re.MULTILINE)
    assert re.search(r"^prompt characters +min ", told, re.MULTILINE)
    assert len([line for line in told.splitlines() if line.startswith("error: ")]) == 5  # two of them of one row


HOSTILE = "\x1b[2J\u202e\r\ud800"


def test_no_text_of_a_file_moves_the_cursor_or_hides_a_line(tmp_path, capsys):
    named = {"data_source": HOSTILE, "ability": HOSTILE, "modality": HOSTILE, f"level{HOSTILE}": 1, "index": HOSTILE}
    write_rows(tmp_path / "a.jsonl", [{"prompt": "a", **named}] * 2 + [{"prompt": 3}])
    assert main(["data", "inspect", str(tmp_path / "a.jsonl")]) == 2
    lines = [{"kind": "trajectory", "finish": HOSTILE, "seconds": {"total_s": 1}, "turns": []}]
    lines[0]["turns"] = [{"generate_s": 1, "outcome": "shown", "action": HOSTILE, "tool_s": 1}]
    write_rows(tmp_path / "log.jsonl", lines)
    assert main(["log", "stats", str(tmp_path / "log.jsonl")]) == 0
    told = capsys.readouterr().out
    assert told.count("[2J") == 8
    assert all(line.isprintable() for line in told.split("\n"))


def test_a_sound_file_answers_zero_and_a_missing_one_two(tmp_path, capsys):
    write_rows(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "b", "target": "b"}])
    assert main(["data", "inspect", str(tmp_path / "a.jsonl")]) == 0
    assert main(["data", "inspect", str(tmp_path / "no.parquet")]) == 2
    assert "error: " in capsys.readouterr().out


def test_lengths_in_tokens_name_what_is_too_long(file, tmp_path, capsys):
    model = str(write_tiny(tmp_path / "tiny"))
    given = [
        "data",
        "inspect",
        str(file),
        "--model",
        model,
        "--max-prompt-length",
        "60",
        "--max-prefix-len",
        "20",
        "--json",
    ]
    assert main(given) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["unit"] == "tokens"
    assert (told["counts"]["prompts_too_long"], told["counts"]["targets_too_long"]) == (2, 1)
    assert "its prompt has" in " ".join(problem["what"] for problem in told["problems"])
    assert main(["data", "inspect", str(file), "--max-prompt-length", "9"]) == 2
    assert "need a tokenizer" in capsys.readouterr().err


def test_the_rules_of_a_run_make_the_prompts_that_are_measured(tmp_path, capsys):
    model = str(write_tiny(tmp_path / "tiny"))
    write_rows(
        tmp_path / "a.jsonl", [{"prompt": [{"role": "system", "content": "s" * 50}, {"role": "user", "content": "a"}]}]
    )

    def longest(*words):
        assert main(["data", "inspect", str(tmp_path / "a.jsonl"), "--model", model, "--json", *words]) == 0
        told = json.loads(capsys.readouterr().out)
        return told["lengths"]["prompt"]["max"], told["counts"]["prompts_too_long"]

    plain = longest()[0]
    assert longest("data.suffix_prompt=' 1 2 3'")[0] > plain > longest("data.drop_system=true")[0]
    assert longest("experiment=hpt-7b", "data.max_prompt_length=40", "layout.tp=7") == (plain, 1)
    assert longest("data.max_prompt_length=40", "--max-prompt-length", "1000") == (plain, 0)
    given = ["data", "inspect", str(tmp_path / "a.jsonl"), "data.max_prompt_length=0"]
    assert main([*given, "--model", model]) == 2
    assert "data.max_prompt_length = 0" in capsys.readouterr().err
    assert main(given) == 2
    assert "give --model" in capsys.readouterr().err


def test_a_page_never_overwrites_the_file_that_it_shows_and_words_out_of_place_are_told(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    write_rows(file, [{"prompt": "a"}])
    before = file.read_bytes()
    assert main(["data", "inspect", str(file), "--html", str(tmp_path / "." / "a.jsonl")]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert main(["data", "inspect", str(file), "--html", str(file / "page.html")]) == 2
    for words in (
        ["inspect", str(file), "--no"],
        ["make", "color", str(tmp_path), "more"],
        ["corpus", "a", "b", "--dpi"],
    ):
        assert main(["data", *words]) == 2
    assert main(["data", "corpus", str(tmp_path), str(tmp_path / "c"), "--dpi", "9" * 400]) == 2
    assert capsys.readouterr().err.count("\n") == 5


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


def test_the_page_stands_alone_and_escapes_what_rows_say(file, tmp_path, capsys):
    out = tmp_path / "sub/page.html"
    assert main(["data", "inspect", str(file), "--html", str(out), "--pictures", "20"]) == 2
    text = out.read_text()
    page = Page()
    page.feed(text)
    assert page.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "table", "tr", "th", "td"),
        *("p", "ul", "li", "div", "span", "img"),
    }
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "href"]
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 1
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "default-src 'none'" in text
    assert "&lt;script&gt;" in text
    assert "cannot be decoded" in text


def test_make_writes_a_task_that_inspect_finds_sound(tmp_path, capsys):
    assert main(["data", "make", "lookup", str(tmp_path / "l"), "--rows", "64", "--val-rows", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == {"train.parquet": 64, "val.parquet": 8, "corpus/pages.jsonl": 64}
    assert main(["data", "inspect", str(tmp_path / "l/train.parquet")]) == 0
    assert main(["data", "make", "nothing", str(tmp_path / "n")]) == 2
    assert main(["data", "make", "color", str(tmp_path / "n"), "--rows", "0"]) == 2


def test_import_and_corpus_write_what_they_say(tmp_path, capsys):
    write_rows(tmp_path / "g.jsonl", [{"question": "q", "answer": "so\n#### 6"}])
    assert main(["data", "import", "gsm8k", str(tmp_path / "g.jsonl"), str(tmp_path / "out.parquet")]) == 0
    assert read([tmp_path / "out.parquet"]).records[0].golds == ("6",)
    assert main(["data", "import", "list"]) == 0
    assert "TIGER-Lab/ViRL39K" in capsys.readouterr().out
    assert main(["data", "import", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gsm8k"]["columns"] == ["question", "answer"]
    assert main(["data", "import", "gsm8k"]) == 2
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png())
    (tmp_path / "in/b.png").write_bytes(b"no")
    assert main(["data", "corpus", str(tmp_path / "in"), str(tmp_path / "corpus")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^pages +1$", told, re.MULTILINE)
    assert "skipped: b.png: is not an image" in told
