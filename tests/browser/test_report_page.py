"""A report in a real browser: opened, clicked, read; nothing fetched, no error, nothing of a text run.

Pictures of it are left in the folder of the test. Not covered: other browsers.
"""

import json
import shutil
from pathlib import Path

import pytest
from recorded_run import trajectory
from test_report_command import HOSTILE, data_of

from hpt_megatron.cli.main import main
from hpt_megatron.rollout.trajectory_file import append

pytestmark = pytest.mark.slow
SHOWN = "[...document.querySelectorAll('section')].filter(s => s.offsetHeight).map(s => s.id).join()"
TABS = ("overview", "curves", "decisions", "prompts", "rollouts", "time", "configuration")
TEXT = "document.querySelector({}).innerText"


def text(page, selector):
    return page.ask(TEXT.format(json.dumps(selector)))


@pytest.fixture(scope="module")
def single(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "report.html"
    assert main(["report", str(runs[0]), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def both(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("both") / "report.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    return out


def quiet(page, path):
    assert page.errors == []
    assert page.requests == [path.as_uri()]


def test_a_reader_finds_from_the_headline_to_a_rollout(browser, single, tmp_path):
    page, data = browser.open(single), data_of(single)
    assert page.ask(SHOWN) == "overview"
    assert "mean reward" in text(page, ".cards")
    page.click("nav a", 1)
    page.wait(f"{SHOWN} === 'curves'")
    page.point("#curves .plot")
    assert text(page, "#tip").startswith("step ")
    page.click("nav a", 2)
    page.wait(f"{SHOWN} === 'decisions'")
    page.click("svg.map")
    page.wait(f"{SHOWN} === 'prompts'")
    first = text(page, "#prompt h3")
    assert first in {row[0] for row in data["prompts"]}

    wanted = next(row for row in data["prompts"] if any(one["uid"] == row[0] for one in data["rollouts"]))
    page.ask(f"document.querySelector('#prompts input').value = {json.dumps(wanted[0])}; drawPrompts()")
    page.click(f"[data-uid='{wanted[0]}']")
    assert text(page, "#prompt h3") == wanted[0]
    assert page.ask("document.querySelectorAll('#prompt tr').length") == 1 + len(wanted[2][0])
    page.shot(tmp_path / "prompt.png")

    own = [one for one in reversed(data["rollouts"]) if wanted[0] in one["uid"]]
    page.click("#prompt .more")
    page.wait(f"{SHOWN} === 'rollouts'")
    assert page.ask("document.querySelectorAll('.list button').length") == len(own)
    page.click(".list button", 0)  # the newest
    shown = text(page, "#rollout")
    assert own[0]["turns"][0]["text"] in shown
    assert f"step {own[0]['step']}, {own[0]['uid']}, sample {own[0]['sample']}" in shown
    assert page.ask("document.querySelector('#rollout img').naturalWidth") == 56
    assert page.ask("document.querySelectorAll('.ribbon i').length") == len(own[0]["spans"])
    assert page.shot(tmp_path / "rollout.png").stat().st_size > 20_000
    quiet(page, single)


def test_what_a_model_wrote_stays_text(browser, runs, tmp_path):
    folder = Path(shutil.copytree(runs[0], tmp_path / "run"))
    scores = {("<i>odd</i>", 99): {HOSTILE: 9.0, "total": 9.0}}
    append(folder / "rollouts" / "train_24.jsonl", [trajectory("<i>odd</i>", 99, HOSTILE, 24)], scores, 24)
    assert main(["report", str(folder)]) == 0
    page = browser.open(folder / "report.html")
    page.click("nav a", 4)
    page.wait(f"{SHOWN} === 'rollouts'")
    page.ask("rolloutSearch.value = 'odd'; drawRollouts()")
    page.click(".list button")
    assert HOSTILE in text(page, "#rollout .said")
    assert HOSTILE in text(page, "#rollout table")
    assert "<i>odd</i>" in text(page, "#rollout h3")
    assert page.ask("document.title") == "run: report"
    assert (
        page.ask("document.querySelectorAll('#rollout img[src=x], #rollout script, #rollout i:not([class])').length")
        == 0
    )
    page.shot(tmp_path / "hostile.png")
    quiet(page, folder / "report.html")


def test_a_script_that_gets_into_the_page_all_the_same_does_not_run(browser, single, tmp_path):
    """The second lock; this is what it looks like when the first one fails."""
    broken = tmp_path / "broken.html"
    broken.write_text(single.read_text(encoding="utf-8").replace("</body>", f"<p>{HOSTILE}</body>"), encoding="utf-8")
    page = browser.open(broken)
    assert page.ask("document.title") == "plain: report"
    assert any("Content Security Policy" in error for error in page.errors)


def test_a_run_is_hidden_in_all_curves_by_a_click(browser, both, tmp_path):
    page = browser.open(both)
    drawn = "[...document.querySelectorAll('#overview .run1')].filter(e => e.getBoundingClientRect().width).length"
    assert page.ask(drawn) >= 3
    page.click(".chip", 1)
    assert page.ask(drawn) == 0
    page.shot(tmp_path / "one-hidden.png")
    page.click(".chip", 1)
    assert page.ask(drawn) >= 3
    page.click("nav a", 6)
    page.wait(f"{SHOWN} === 'configuration'")
    assert "algorithm.switch_gate" in text(page, "#configuration")
    quiet(page, both)


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1200, False)])
def test_every_section_fits_a_telephone_and_both_schemes(browser, both, tmp_path, width, dark):
    page = browser.open(both, width=width, dark=dark)
    for number, name in enumerate(TABS):
        page.click("nav a", number)
        page.wait(f"{SHOWN} === '{name}'")
        assert page.ask("document.documentElement.scrollWidth") <= width, name
    page.shot(tmp_path / "page.png", whole=True)
    page.ask("showPrompt(DATA.prompts[0][0])")
    assert page.ask("document.documentElement.scrollWidth") <= width, "a prompt"
    light = page.ask("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert light is not dark
    quiet(page, both)


def test_the_page_of_an_inspection_opens_as_well(browser, runs, tmp_path):
    """The same frame around other things; `hpt plan` has it too."""
    out = tmp_path / "rows.html"
    assert main(["data", "inspect", str(runs[0] / "data" / "count" / "train.parquet"), "--html", str(out)]) == 0
    page = browser.open(out, width=390, dark=True)
    assert page.ask("document.querySelector('img').naturalWidth") == 56
    assert page.ask("document.documentElement.scrollWidth") == 390
    assert page.ask("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 23, 27)"
    quiet(page, out)


def test_without_a_script_everything_but_what_is_looked_up_can_be_read(browser, single):
    page = browser.open(single)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.call("Page.reload")
    page.wait("document.readyState === 'complete' && !document.body.classList.contains('scripted')")
    assert page.ask(SHOWN) == ",".join(TABS)
