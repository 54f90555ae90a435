"""Records from files: all rows, and all that is wrong with them at once.

Invariants
    1. The order is that of the files and of their rows.
    2. Every `index` is there once: what repeats one gets `#2`, `#3` after it, in order, so two rows never share a group
       of rollouts, and a resumed run gives the same names.
    3. A row that cannot be used is a problem with its place; the others are read.

Example:
    >>> read(["train.parquet"]).problems  # doctest: +SKIP
    []
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hpt_megatron.data.files import Row, attempts
from hpt_megatron.data.record import Record
from hpt_megatron.data.rows import record_of
from hpt_megatron.errors import UserError


@dataclass(frozen=True)
class Problem:
    """Something wrong with a row or a file."""

    where: str
    what: str
    kind: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Reading:
    """What was read; `places` has the place of each record."""

    records: list[Record]
    places: list[str]
    problems: list[Problem]
    rows: int = 0  # with those that could not be read
    parsed: int = 0  # without them
    filled: Counter[str] = field(default_factory=Counter)  # rows that have a value, by column

    def sound(self, key: str = "data.train_files") -> list[Record]:
        """The records, if every row could be used; else one line that says how many could not and shows the first."""
        errors = [problem for problem in self.problems if problem.kind == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            mend = "`hpt data inspect FILE` lists all"
            raise UserError(f"{errors[0].what}{more}", where=errors[0].where, mend=mend)
        if not self.records:
            raise UserError("no row was found", where=key)
        return self.records


def read(files: Iterable[str | Path], image_root: str | None = None) -> Reading:
    """Every record of some files."""
    found: list[Record] = []
    places: list[str] = []
    problems: list[Problem] = []
    rows, parsed, filled = 0, 0, Counter[str]()
    for file in files:
        try:
            for where, row in attempts(file):
                rows += 1
                if not isinstance(row, UserError):
                    parsed += 1
                    filled.update({name: int(value is not None and value != "") for name, value in row.items()})
                made = _made(row, where, image_root or Path(file).parent)
                if isinstance(made, Problem):
                    problems.append(made)
                else:
                    found.append(made)
                    places.append(where)
        except UserError as error:  # of the file itself
            problems.append(problem_of(error, str(file)))
    told, twice = distinct(found)
    problems += [Problem(places[i], f"index {found[i].index!r} is there already", "warning") for i in twice]
    return Reading(told, places, problems, rows, parsed, filled)


def _made(row: Row | UserError, where: str, root: str | Path) -> Record | Problem:
    try:
        return problem_of(row, where) if isinstance(row, UserError) else record_of(row, where, root)
    except UserError as error:
        return problem_of(error, where)


def problem_of(error: UserError, where: str) -> Problem:
    """An error as a problem; `where` stands in for a place that it does not name."""
    return Problem(error.where or where, error.what + (f"; {error.mend}" if error.mend else ""))


def distinct(records: Sequence[Record]) -> tuple[list[Record], list[int]]:
    """The records with every index once, and the numbers of those that got another."""
    seen: Counter[str] = Counter()
    taken = {record.index for record in records}
    told, twice = [], []
    for number, record in enumerate(records):
        seen[record.index] += 1
        if seen[record.index] > 1:
            name = f"{record.index}#{seen[record.index]}"
            while name in taken:
                seen[record.index] += 1
                name = f"{record.index}#{seen[record.index]}"
            taken.add(name)
            twice.append(number)
            record = replace(record, index=name)
        told.append(record)
    return told, twice
