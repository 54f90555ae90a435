"""The grammar that every verb with a run shares: options of ours, then Hydra's override strings, in any order.

Example: `hpt config show layout.tp=2 --json experiment=hpt-7b` and the same words in another order mean the same.
"""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from hpt_megatron.errors import UserError

OVERRIDES = "experiment=NAME, group=choice and key=value, in any order; nothing means experiment=tiny-hpt"


class Parser(argparse.ArgumentParser):
    """An argument parser whose verbs take override strings between and after their options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """A wrong option is the user's mistake like any other: one line, exit code 2."""
        raise UserError(message, where=self.prog, mend=f"see `{self.prog} --help`")

    def takes_run(self) -> None:
        """Adds override strings and the folder of configurations."""
        self.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
        self.takes_folder()

    def takes_folder(self) -> None:
        """Adds the folder of the user's own configurations."""
        self.add_argument(
            "--config-dir", type=Path, metavar="DIR", help="a folder with groups of your own (DIR/experiment/NAME.yaml)"
        )

    def read(self, arguments: list[str]) -> argparse.Namespace:
        """Parses options and overrides in any order."""
        return self.parse_intermixed_args(arguments)
