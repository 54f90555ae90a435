"""Paths that a search server says are not to be trusted: only images below the root of the corpus are read.

Invariants
    1. What is accepted lies below the root after every link is followed.
    2. Nothing but a relative path, or an absolute one below the root, with the suffix of an image; no `..`, no address.

Example:
    >>> below(Path("/corpus"), "deck/../../etc/passwd.png")
    Traceback (most recent call last):
    hpt_megatron.rollout.search.trust.UntrustedError: deck/../../etc/passwd.png
"""

from pathlib import Path

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
LONGEST = 1024


class UntrustedError(Exception):
    """A path that is not followed."""


def below(root: Path, path: str) -> Path:
    """The path relative to the root."""
    refused = UntrustedError(path[:100])
    if not 0 < len(path) <= LONGEST or not path.isprintable() or "://" in path or "\\" in path:
        raise refused
    asked = Path(path)
    if ".." in asked.parts or asked.suffix.lower() not in SUFFIXES:
        raise refused
    whole = root.resolve()
    try:
        found = (whole / asked).resolve()  # an absolute path replaces the root here, and is held against it below
    except (OSError, RuntimeError) as error:
        raise refused from error
    if not found.is_relative_to(whole):
        raise refused
    return (whole / asked).relative_to(whole) if (whole / asked).is_relative_to(whole) else found.relative_to(whole)
