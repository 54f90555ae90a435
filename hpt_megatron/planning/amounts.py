"""Bytes in words, for tables and pictures.

Example:
    >>> in_words(0), in_words(3 * 2**20), in_words(5 * 2**29)
    ('0', '3.00 MiB', '2.50 GiB')
"""

MIB, GIB = 2**20, 2**30


def in_words(number: int) -> str:
    """From a tenth of a GiB on in GiB."""
    if not number:
        return "0"
    return f"{number / GIB:,.2f} GiB" if number >= GIB // 10 else f"{number / MIB:,.2f} MiB"
