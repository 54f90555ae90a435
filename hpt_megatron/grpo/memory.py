"""What to do about a run that ended for lack of memory.

Example:
    >>> short_of_memory(HptError("a role ran out of memory", where="ray")), short_of_memory(HptError("no such file"))
    (True, False)
"""

from hpt_megatron.errors import HptError

WORDS = ("out of memory", "outofmemory", "can't allocate memory", "no available memory for the cache")
ADVICE = (
    "--batch-size 1 and as much more of gradient_accumulation_steps, which keeps the responses of a step; "
    "then a smaller max_seq_length, --set trainer.recompute=full, or more devices; `hpt plan` says what fits"
)


def short_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that memory ran out."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        words = f"{type(at).__name__}: {at}".lower()
        if isinstance(at, MemoryError) or any(word in words for word in WORDS):
            return True
        at = at.__cause__ or at.__context__
    return False


def advised(error: Exception) -> HptError:
    """The same failure with what to do about it, in one line."""
    what, where = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", ""
    if isinstance(error, HptError):
        what, where = error.what, error.where
    if "out of memory" not in what.lower():
        what = f"out of memory: {what}"
    return HptError(what, where=where, mend=ADVICE)
