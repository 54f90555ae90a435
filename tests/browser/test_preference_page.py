"""The page of a reward model in a real browser: its pictures, its tables, and no section that would be empty."""

import json

import pytest
import torch

from hpt_megatron.algorithms.calibration import calibrated, histogram
from hpt_megatron.cli.main import main
from hpt_megatron.config.load import load_run
from hpt_megatron.driver.loop.validation import write_pairs
from hpt_megatron.observe.record import write_record

pytestmark = pytest.mark.slow
PAIRS, DOMAINS = 600, ("helpful", "safe", "a domain with a name as long as those of some data are, and longer")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a reward model, as its writers leave it, and its page."""
    folder = tmp_path_factory.mktemp("reward") / "run"
    folder.mkdir()
    write_record(load_run(["experiment=tiny-reward-model", f"trainer.run_dir={folder}"]), folder)
    lines = [{"step": n, "of": 20, "pairs/accuracy": n / 20, "actor/loss": 1 / n} for n in range(1, 21)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    both = torch.randn(2, PAIRS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen, rejected = both[0] + 1.0, both[1]
    places = torch.arange(PAIRS) % len(DOMAINS)
    each = {name: calibrated(chosen[places == at], rejected[places == at]) for at, name in enumerate(DOMAINS)}
    write_pairs(folder, 20, "bradley_terry", calibrated(chosen, rejected), each, histogram(chosen, rejected))
    assert main(["report", str(folder)]) == 0
    return folder / "report.html"


def key(page, name, code):
    for kind in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)
    if name == "Enter":
        page.call("Input.dispatchKeyEvent", type="char", text="\r", key=name, code=name, windowsVirtualKeyCode=code)


def test_the_pictures_answer_a_pointer_and_the_tables_a_keyboard(browser, written, tmp_path):
    page = browser.open(written)
    assert page.ask("[...document.querySelectorAll('.tabs a')].map(a => a.innerText).join()") == (
        "Overview,Curves,Preferences,Time,Configuration"
    )
    assert page.ask("document.querySelectorAll('section').length") == 5
    page.click("nav a", 2)
    page.wait("document.querySelector('#preferences').offsetHeight > 0")
    page.point("#preferences .plot", 0)
    shown = page.ask("document.querySelector('#tip').innerText")
    assert shown.startswith("score about ")
    assert "preferred" in shown
    assert "rejected" in shown
    page.point("#preferences .plot", 1)
    shown = page.ask("document.querySelector('#tip').innerText")
    assert shown.startswith("confidence 0.")
    assert "pairs" in shown
    page.ask("document.querySelector('.tabs a[aria-current]').focus()")
    for _ in range(30):
        key(page, "Tab", 9)
        if page.ask("document.activeElement.tagName") == "SUMMARY":
            break
    key(page, "Enter", 13)
    page.wait("document.querySelector('#preferences details').open")
    told = page.ask("document.querySelector('#preferences details').innerText")
    assert "mean confidence" in told
    assert "0.933 to 1.000" in told
    page.shot(tmp_path / "preferences.png", whole=True)
    assert (page.errors, page.requests) == ([], [written.as_uri()])


@pytest.mark.parametrize(("width", "dark"), [(390, True), (390, False), (1200, True)])
def test_it_fits_a_telephone_and_both_schemes(browser, written, tmp_path, width, dark):
    page = browser.open(written, width=width, dark=dark)
    page.ask("go('preferences')")
    assert page.ask("document.documentElement.scrollWidth") <= width
    colour = "getComputedStyle(document.querySelector('#preferences .disc')).fill"
    assert page.ask(colour) == ("rgb(106, 169, 233)" if dark else "rgb(47, 111, 179)")
    table = "document.querySelector('#preferences .wide')"
    if width < 500:
        assert page.ask(f"{table}.scrollWidth > {table}.clientWidth"), "the table moves, not the page"
        page.ask("document.querySelector('.tabs a[aria-current]').focus()")
        for _ in range(10):
            key(page, "Tab", 9)
            if page.ask(f"document.activeElement === {table}"):
                break
        key(page, "ArrowRight", 39)
        page.wait(f"{table}.scrollLeft > 0")
    page.shot(tmp_path / "page.png", whole=True)
    assert page.errors == []
