"""DAPO's soft penalty of a response close to the longest one; as a reward component, and on every score of a run.

Example:
    >>> [overlong(tokens, longest=100, buffer=20) for tokens in (60, 80, 90, 100, 120)]
    [0.0, 0.0, -0.5, -1.0, -1.0]
"""


def overlong(tokens: int, longest: int, buffer: int) -> float:
    """0 up to where the buffer begins, falling to -1 at the longest; a buffer of 0 is a step behind it."""
    over = tokens - (longest - buffer)
    return 0.0 if over <= 0 else -min(over / max(buffer, 1), 1.0)
