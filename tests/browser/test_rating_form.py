"""The page that `hpt human-eval export` writes, in a real browser: filled in, read back by `import`, nothing fetched.

Not covered: other browsers; the download itself, which is the text that is looked at here.
"""

import json

import pytest

from hpt_megatron.cli.main import main

pytestmark = pytest.mark.slow
RESULT = "document.getElementById('result').value"


@pytest.fixture
def sheet(runs, tmp_path):
    out = tmp_path / "sheet"
    given = ["--n", "5", "--purpose", "train"]
    assert main(["human-eval", "export", str(runs[0]), str(out), *given]) == 0
    return out


def test_what_is_chosen_on_the_page_is_a_file_that_is_imported(browser, runs, sheet, tmp_path, capsys):
    page = browser.open(sheet / "form.html")
    assert page.ask(RESULT) == ""
    page.click("input[value='4']", 0)
    page.click("input[value='no']", 0)
    page.click("input[value='1']", 2)
    page.wait("document.getElementById('done').textContent === '2'")
    lines = [json.loads(line) for line in page.ask(RESULT).splitlines()]
    items = [json.loads(line)["item"] for line in (sheet / "ratings.jsonl").read_text().splitlines()]
    assert lines == [{"item": items[0], "rating": "4", "pass": "no"}, {"item": items[2], "rating": "1"}]
    assert page.ask(
        "decodeURIComponent(document.getElementById('save').href).split(',').slice(1).join(',')"
    ) == page.ask(RESULT)
    assert page.ask("[...document.images].every(image => image.naturalWidth > 0) && document.images.length") == 5
    assert page.errors == []
    assert page.requests == [(sheet / "form.html").as_uri()]
    path = tmp_path / "mine.jsonl"
    path.write_text(page.ask(RESULT))
    capsys.readouterr()
    assert main(["human-eval", "import", str(runs[0]), str(path), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["sheets"].values()
    assert (told["items"], told["not_rated"]) == (5, 3)
    page.shot(tmp_path / "form.png", whole=True)
