"""Web addresses in a run: well formed, and without credentials, because a run is recorded.

Example:
    >>> [problem.value for problem in address_problems("rollout.search_url", "http://me:secret@host/s", "http://HOST")]
    ['http://***@host/s']
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from hpt_megatron.config.problem import Problem


def address_problems(path: str, address: str, example: str) -> Iterator[Problem]:
    """What is wrong with an address."""
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Problem(path, address, "is not a web address", example)
    elif parts.username or parts.password:
        hidden = parts._replace(netloc=f"***@{parts.hostname}").geturl()
        yield Problem(path, hidden, "a run is recorded, so no credentials in it", "without them")
