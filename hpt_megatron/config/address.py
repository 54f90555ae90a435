"""Web addresses in a run: well formed, and without credentials, because a run is recorded.

Example:
    >>> [problem.value for problem in address_problems("rollout.search_url", "http://me:secret@host/s", "http://HOST")]
    ['http://***@host/s']
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from hpt_megatron.config.problem import Problem


def address_problems(path: str, address: str, example: str) -> Iterator[Problem]:
    """What is wrong with an address; no problem repeats what stands before an @."""
    shown = address
    if "@" in address:
        scheme = address.partition("://")[0]
        shown = (f"{scheme}://" if scheme in ("http", "https") else "") + f"***@{address.rpartition('@')[2]}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:  # brackets that do not close, or a port that is none
        yield Problem(path, shown, "is not a web address", example)
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not _is_plain(address):
        yield Problem(path, shown, "is not a web address", example)
    elif "@" in parts.netloc:
        yield Problem(path, shown, "a run is recorded, so no credentials in it", "without them")


def _is_plain(address: str) -> bool:
    """Without spaces and control characters, which `urlsplit` drops or keeps in silence."""
    return address.isprintable() and " " not in address
