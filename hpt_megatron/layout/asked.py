"""The sizes of a layout as a command is given them: `--layout tp=2,pp=2`.

Example:
    >>> read_layout("tp=2,pp=4", ("tp", "pp", "vpp"))
    {'tp': 2, 'pp': 4}
"""

from collections.abc import Sequence

from hpt_megatron.errors import UserError

LARGEST = 4096


def read_layout(text: str, names: Sequence[str]) -> dict[str, int]:
    """Sizes by name; everything that is none is said at once."""
    found: dict[str, int] = {}
    wrong = []
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        right = size.isascii() and size.isdecimal() and 1 <= int(size[:9]) <= LARGEST
        if name not in names or name in found or not right:
            wrong.append(repr(part))
        else:
            found[name] = int(size)
    if wrong:
        mend = f"sizes from 1 for some of {', '.join(names)}, each once, as in tp=2,pp=2"
        raise UserError(f"{', '.join(wrong)} cannot be read", where="--layout", mend=mend)
    return found
