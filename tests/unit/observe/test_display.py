"""What a person sees: the words of the panel, lines without a terminal, the panel of a real terminal, and colours."""

import doctest
import io
import os
import pty
import sys
import threading

import pytest

from hpt_megatron.observe import display
from hpt_megatron.observe.display import Lines, Panel, Progress, display_for

pytestmark = pytest.mark.fast
NUMBERS = {
    "reward/mean": 0.412,
    "uni/sft_data_ratio": 0.31,
    "uni/prompts_explore": 11.0,
    "uni/prompts_imitate": 5.0,
    "uni/prompts_skipped": 0.0,
    "uni/prompts_flipped": 3.0,
    "actor/loss": 0.4759,
    "perf/tokens_per_s": 1118.2,
    "monitor/kl": 0.0,
    "monitor/length": 1.0,
}


def test_the_examples_of_the_module_hold():
    assert doctest.testmod(display).failed == 0


def test_the_panel_says_where_the_run_is_what_happens_and_how_it_goes():
    progress = Progress(120)
    progress.begin(36)
    progress._ended = 100.0
    progress._seconds.extend([2.0, 4.0])
    progress.step(37, NUMBERS)
    progress._seconds.pop()
    progress._ended = 1000.0
    progress.stage(38, "generate")
    progress._began_stage = 1000.5
    head, body = progress.lines(1001.0, ascii_only=True)
    assert head == "step 38/120  ######--------------  31 %  generate 0.5 s  left 4 min 8 s"
    later, _ = progress.lines(1100.0, ascii_only=True)
    assert later.endswith("left 2 h 16 min"), "82 steps more that take 100 s, as this one has so far"
    assert body == "reward 0.412  sft 31 %  explore 11  imitate 5  loss 0.4759  1118 tokens/s  warned of length"


def test_before_the_first_step_nothing_is_made_up():
    progress = Progress(4)
    progress.begin(0)
    assert progress.lines(progress._ended, ascii_only=True) == ("step 0/4  --------------------  0 %", "")
    for number in range(1, 5):
        progress.step(number, {})
    assert progress.lines(progress._ended, ascii_only=True)[0] == "step 4/4  ####################  100 %"


def test_without_a_terminal_a_step_is_exactly_one_line_and_stages_are_none():
    shown = io.StringIO()
    lines = display_for(shown, 9)
    assert isinstance(lines, Lines)
    lines.begin(0)
    for stage in ("prepare", "", "generate", ""):
        lines.stage(1, stage)
    lines.step(1, NUMBERS)
    lines.tell("said\x1b[2J\nby a model")
    lines.close()
    assert shown.getvalue().splitlines() == [
        "step 1/9  0.0 s  reward 0.412  sft 31 %  explore 11  imitate 5  loss 0.4759  1118 tokens/s  warned of length",
        '"said\\u001b[2J\\nby a model"',
    ]


def on_a_terminal(monkeypatch, term="xterm-256color", **more):
    """What a real pseudo-terminal gets of two steps and a line between them."""
    for name, value in {"TERM": term, "COLUMNS": "100", **more}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    ours, theirs = pty.openpty()
    found = bytearray()

    def read():
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                return
            if not piece:
                return
            found.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    before = sys.stdout
    with open(theirs, "w", encoding="utf-8") as terminal:
        panel = display_for(terminal, 2)
        panel.begin(0)
        for number in (1, 2):
            panel.stage(number, "generate")
            panel.step(number, NUMBERS)
            if isinstance(panel, Panel):
                panel.live.refresh()  # as its clock does four times a second
            panel.tell("[red]  a note of step[/red] \x1b[31m")
        panel.close()
        kind = type(panel)
    reader.join(10)
    os.close(ours)
    assert sys.stdout is before, "a run that ended gives the output back"
    return kind, found.decode()


def test_a_terminal_gets_one_panel_that_is_drawn_again_and_lines_that_stay(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    kind, text = on_a_terminal(monkeypatch)
    assert kind is Panel
    assert "\x1b[1A" in text, "drawn over what was there"
    assert "step 2/2" in text.split("\x1b[1A")[-1]
    assert text.count('"[red]  a note of step[/red] \\u001b[31m"') >= 2, "no markup, no escape of somebody else's"
    assert "\x1b[36m" in text
    assert "\x1b[?25h" in text, "the cursor comes back"


def test_no_colour_is_left_where_none_is_wanted(monkeypatch):
    _, text = on_a_terminal(monkeypatch, NO_COLOR="1")
    assert "step 2/2" in text
    assert "\x1b[36m" not in text
    assert "\x1b[31m" not in text


def test_a_terminal_that_calls_itself_dumb_gets_lines(monkeypatch):
    kind, text = on_a_terminal(monkeypatch, term="dumb")
    assert kind is Lines
    assert text.count("step 1/2") == 1
    assert "\x1b" not in text
