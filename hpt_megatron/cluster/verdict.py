"""What happens after an attempt: done, given up, or started again by SLURM, and without which nodes.

    the run ended, was wrong (2) or was halted (3)      the job ends with that code
    it was asked to stop and saved (75)                 again
    a node was not healthy                              again, without that node
    anything else of a run                              again, if the profile wants that (`requeue_on_failure`)

An attempt bears fruit if it left a newer checkpoint than it found. After `cluster.fruitless` attempts in a row without,
nobody tries again: what keeps a run from getting on will keep it from getting on.

Example:
    >>> judge(Facts(code=75, unhealthy=(), fruitless=0, trains=True), most=3, on_failure=True)
    Verdict(again=True, code=75, kept_out=(), why='it was asked to stop')
"""

from collections.abc import Sequence
from dataclasses import dataclass

STOPPED = 75
"""As `driver/loop/run.py` has it: saved, and to be gone on with."""
FINAL = {0: "done", 2: "what was asked for cannot be done", 3: "a monitor ended it", 130: "interrupted"}


@dataclass(frozen=True)
class Facts:
    """What came of an attempt. `code` is None where its driver has none."""

    code: int | None
    unhealthy: Sequence[str]
    fruitless: int
    trains: bool


@dataclass(frozen=True)
class Verdict:
    """What the script of the job does."""

    again: bool
    code: int
    kept_out: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        """As the script reads it."""
        return f"{'again' if self.again else 'end'} {self.code} {','.join(self.kept_out)}".strip()


def judge(facts: Facts, most: int, on_failure: bool) -> Verdict:
    """See the module."""
    if facts.code in FINAL:
        return Verdict(False, facts.code, (), FINAL[facts.code])
    kept_out = tuple(facts.unhealthy)
    code = facts.code or 1
    if kept_out:
        again, why = True, f"not healthy: {', '.join(kept_out)}"
    elif code == STOPPED:
        again, why = True, "it was asked to stop"
    else:
        again, why = on_failure and facts.trains, "it died" if facts.code is None else f"it ended with {code}"
    if again and facts.fruitless >= most:
        return Verdict(False, 1, kept_out, f"{why}, and {facts.fruitless} attempts in a row made no checkpoint")
    return Verdict(again, code, kept_out, why)
