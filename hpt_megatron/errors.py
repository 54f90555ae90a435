"""What goes wrong, as one line: what, where, how to mend it.

Exit codes: 2 when the user can mend it (`UserError`), 1 when it is ours (`HptError`, and anything unforeseen).
The command line prints the line alone; `--debug` adds the traceback.

Example:
    >>> str(UserError("no such file", where="data.train_files[0]", mend="check the path or run `hpt data make count`"))
    'data.train_files[0]: no such file; check the path or run `hpt data make count`'
"""

from typing import Any


class HptError(Exception):
    """A failure that we foresaw and that the user cannot mend alone."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__((f"{where}: " if where else "") + what + (f"; {mend}" if mend else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels between processes as what it was made of."""
        return _again, (type(self), self.what, self.where, self.mend)


class UserError(HptError):
    """A mistake in what was asked: a wrong name, value, path or file."""

    exit_code = 2


def _again(kind: type[HptError], what: str, where: str, mend: str) -> HptError:
    return kind(what, where=where, mend=mend)
