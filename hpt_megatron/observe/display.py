"""What a person sees while a run goes: on a terminal one live panel, elsewhere one line for each step.

    step 38/120  ######--------------  31 %  generate 2.3 s  left 2 min 10 s
    reward 0.412  sft 31 %  explore 11  imitate 5  loss 0.4759  1118 tokens/s

What a step notes and what a validation finds is printed above the panel and stays. A terminal that calls itself dumb
gets lines. Colours are left out under NO_COLOR (rich sees to that).

Invariants
    1. Without a terminal nothing is written twice and nothing is taken back: every line is whole.
    2. Text from elsewhere is shown as it is, on one line, and is never read as markup.

Example: display_for(sys.stdout, total=120)
"""

import os
import time
from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any, Protocol, TextIO

from hpt_megatron.config.problem import one_line

CELLS, RECENT, A_SECOND = 20, 10, 4
ARMS = "uni/prompts_"
NO_ARM = ("uni/prompts_flipped",)


class Display(Protocol):
    """Either of the two."""

    def begin(self, done: int) -> None:
        """The run stands behind this step."""

    def stage(self, number: int, name: str) -> None:
        """A stage of a step begins, or ends where there is no name."""

    def step(self, number: int, numbers: Mapping[str, float]) -> None:
        """A step is over."""

    def tell(self, line: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Nothing more comes."""


def display_for(shown: TextIO, total: int) -> Display:
    """A panel where a person looks, else lines."""
    if shown.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        return Panel(shown, total)
    return Lines(shown, total)


class Lines:
    """One line for each step."""

    def __init__(self, shown: TextIO, total: int) -> None:
        self.shown, self.total = shown, total

    def begin(self, done: int) -> None:
        """Says nothing."""

    def stage(self, number: int, name: str) -> None:
        """Says nothing."""

    def step(self, number: int, numbers: Mapping[str, float]) -> None:
        """Its line."""
        self.tell(line_of(number, self.total, numbers))

    def tell(self, line: str) -> None:
        """Written at once, so that a file can be followed."""
        self.shown.write(f"{one_line(line)}\n")
        self.shown.flush()

    def close(self) -> None:
        """Nothing is open."""


class Panel:
    """Two lines that stay at the bottom of the terminal."""

    def __init__(self, shown: TextIO, total: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self.progress = Progress(total)
        self.console = Console(file=shown, highlight=False, markup=False, emoji=False)
        self.live = Live(get_renderable=self._drawn, console=self.console, refresh_per_second=A_SECOND)

    def begin(self, done: int) -> None:
        """Puts it up."""
        self.progress.begin(done)
        if not self.live.is_started:
            self.live.start()

    def stage(self, number: int, name: str) -> None:
        """Shown within a quarter of a second."""
        self.progress.stage(number, name)

    def step(self, number: int, numbers: Mapping[str, float]) -> None:
        """Takes the place of the last one."""
        self.progress.step(number, numbers)

    def tell(self, line: str) -> None:
        """Above it."""
        from rich.text import Text

        self.console.print(Text(one_line(line)), soft_wrap=True)

    def close(self) -> None:
        """Leaves it as it stands."""
        self.live.stop()

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        ascii_only = not self.console.encoding.lower().startswith("utf")
        head, body = self.progress.lines(time.monotonic(), ascii_only)
        told = [Text(head, style="bold", no_wrap=True, overflow="ellipsis")]
        if body:
            told.append(Text(body, style="cyan", no_wrap=True, overflow="ellipsis"))
        return Group(*told)


class Progress:
    """What the panel says; knows nothing of terminals."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.number, self.now = total, 0, 0, ""
        self.numbers: Mapping[str, float] = {}
        self._ended = time.monotonic()
        self._began_stage = self._ended
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def begin(self, done: int) -> None:
        """Where it stands."""
        self.done = self.number = done
        self._ended = time.monotonic()

    def stage(self, number: int, name: str) -> None:
        """What happens now."""
        self.number, self.now, self._began_stage = number, name, time.monotonic()

    def step(self, number: int, numbers: Mapping[str, float]) -> None:
        """One more is over."""
        now = time.monotonic()
        self._seconds.append(now - self._ended)
        self.done, self.number, self.numbers, self._ended, self.now = number, number, numbers, now, ""

    def lines(self, now: float, ascii_only: bool = False) -> tuple[str, str]:
        """The two, as of a time of `time.monotonic`."""
        share = self.done / self.total if self.total else 1.0
        full = round(share * CELLS)
        done, left_over = "#-" if ascii_only else "\u2501\u2500"  # a heavy line and a light one
        bar = done * full + left_over * (CELLS - full)
        words = [f"step {self.number}/{self.total}", bar, f"{100 * share:.0f} %"]
        if self.now:
            words.append(f"{self.now} {max(0.0, now - self._began_stage):.1f} s")
        if self._seconds and self.done < self.total:
            spent = now - self._ended
            pace = max(fmean(self._seconds), spent)  # a step that takes longer than those before is no exception
            words.append(f"left {spelled(pace * (self.total - self.done) - spent)}")
        return "  ".join(words), "  ".join(figures(self.numbers))


def figures(numbers: Mapping[str, float]) -> list[str]:
    """What is worth a look of a step's numbers, in words.

    >>> figures({"reward/mean": 0.5, "uni/sft_data_ratio": 0.25, "uni/prompts_imitate": 4.0, "perf/tokens_per_s": 99.6})
    ['reward 0.500', 'sft 25 %', 'imitate 4', '100 tokens/s']
    """
    words = []
    if "reward/mean" in numbers:
        words.append(f"reward {numbers['reward/mean']:.3f}")
    if "uni/sft_data_ratio" in numbers:
        words.append(f"sft {100 * numbers['uni/sft_data_ratio']:.0f} %")
    arms = {name: count for name, count in numbers.items() if name.startswith(ARMS) and name not in NO_ARM}
    words += [f"{name.removeprefix(ARMS)} {count:.0f}" for name, count in sorted(arms.items()) if count]
    if "actor/loss" in numbers:
        words.append(f"loss {numbers['actor/loss']:.4f}")
    if numbers.get("perf/tokens_per_s"):
        words.append(f"{numbers['perf/tokens_per_s']:.0f} tokens/s")
    met = [name.removeprefix("monitor/") for name, on in numbers.items() if name.startswith("monitor/") and on]
    return words + ([f"warned of {', '.join(met)}"] if met else [])


def line_of(step: int, total: int, numbers: Mapping[str, float]) -> str:
    """A step in one line.

    >>> line_of(7, 100, {"timing_s/step": 1.25, "reward/mean": 0.5, "uni/sft_data_ratio": 0.25, "actor/loss": -0.1})
    'step 7/100  1.2 s  reward 0.500  sft 25 %  loss -0.1000'
    """
    return "  ".join([f"step {step}/{total}", f"{numbers.get('timing_s/step', 0.0):.1f} s", *figures(numbers)])


def spelled(seconds: float) -> str:
    """A duration in its two largest units.

    >>> spelled(9), spelled(130), spelled(7300), spelled(200000)
    ('9 s', '2 min 10 s', '2 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    for size, name, part, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {rest}"
    return f"{whole} s"
