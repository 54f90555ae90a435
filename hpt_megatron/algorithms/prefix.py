"""Which rows of a prompt begin with how much of its demonstration.

The first `n_prefix` of a prompt's n rows get a prefix, the others are plain rollouts:

    n_prefix  0   none: pure RL                    1   LUFFY, SRFT: one demonstration row and n - 1 rollouts
             -1   every row                        with min_ratio = max_ratio = 1.0, whole demonstrations

    prefix tokens = int(T * ratio), T the tokens of the target with its end-of-sequence token

    strategy         ratio of a row, at a step that counts from 0
    none             no prefix; n_prefix must be 0
    random           uniform in [min_ratio, max_ratio]
    linear           max_ratio * (1 - min(step / steps, 1)); the same for all rows, so only with `share`
    linear_max       uniform in [0, max_ratio * (10 - w) / 10], w the step's window of ten
    reverse_linear   uniform in [0, max_ratio * (w + 1) / 10]
    fixed            i-th of n_prefix evenly spaced from min_ratio to max_ratio; max_ratio where there is one alone

A window ends with its last step (w = ceil(10 * step / steps) - 1, at least 0), and the last one never ends.

Where we leave the released code: a single fixed prefix is defined (there, a division by zero); the last fixed ratio
is max_ratio exactly; `share` keeps the strategy (there, all but linear become random) and n_prefix = 0 (there, every
row gets one); a row that needs no continuation is flagged instead of sent to the engine; a setting without effect is
refused.

Invariants
    1. A plan is a pure function of settings, step, prompt and the target's length: the order of prompts, other
       prompts and a resume do not matter.
    2. 0 <= prefix tokens <= min(T, limit). A row is `complete` when nothing is left to sample: it holds all of the
       target, or all that the limit lets in. A demonstration without its end is `cut`.
    3. A prompt without a target gets no prefix, and is counted.

Example:
    >>> luffy = PrefixSettings(strategy="random", n_prefix=1, min_ratio=1.0, max_ratio=1.0)
    >>> plan = make_plan(luffy, step=0, prompt="p7", samples=3, target_tokens=12, limit=64)
    >>> [(row.sample, row.prefix_tokens, row.complete) for row in plan.rows]
    [(0, 12, True), (1, 0, False), (2, 0, False)]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

from hpt_megatron.errors import UserError

Strategy = Literal["none", "random", "linear", "linear_max", "reverse_linear", "fixed"]
SCHEDULED = ("linear", "linear_max", "reverse_linear")
WINDOWS = 10


@dataclass(frozen=True, kw_only=True)
class PrefixSettings:
    """The prefix options of a run; `steps` is how long a scheduled strategy takes."""

    strategy: Strategy = "none"
    n_prefix: int = 0
    min_ratio: float = 0.0
    max_ratio: float = 1.0
    steps: int = 300
    share: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            known = ", ".join(get_args(Strategy))
            raise UserError(f"no such strategy: {self.strategy}", where="prefix_strategy", mend=f"one of {known}")
        if self.n_prefix < -1:
            raise UserError(f"{self.n_prefix} rows", where="n_prefix", mend="-1 (every row), 0 (none) or more")
        if not 0 <= self.min_ratio <= self.max_ratio <= 1:
            what = f"{self.min_ratio} to {self.max_ratio} is no range of ratios"
            raise UserError(what, where="min_prefix_ratio", mend="0 <= min <= max <= 1")
        if self.steps < 1:
            raise UserError(f"{self.steps} steps", where="prefix_steps", mend="1 or more")
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        where = "prefix_share_across_samples"
        if self.strategy == "none" and self.n_prefix != 0:
            raise UserError("strategy none gives no row a prefix", where="n_prefix", mend="0, or another strategy")
        if self.strategy in SCHEDULED and self.min_ratio != 0:
            what = f"{self.strategy} begins its range at 0, so {self.min_ratio} would act on nothing"
            raise UserError(what, where="min_prefix_ratio", mend="0.0")
        if self.strategy == "linear" and not self.share:
            raise UserError("linear gives all rows of a prompt one ratio", where=where, mend="true")
        if self.strategy == "fixed" and self.share:
            raise UserError("fixed gives the rows of a prompt different ratios", where=where, mend="false")

    def prefixed(self, samples: int) -> int:
        """How many of a prompt's rows get a prefix."""
        if self.n_prefix > samples:
            what = f"{self.n_prefix} of {samples} rows cannot have a prefix"
            raise UserError(what, where="n_prefix", mend=f"at most {samples}")
        return samples if self.n_prefix == -1 else self.n_prefix


@dataclass(frozen=True)
class PrefixRow:
    """One row to be: how many of the target's tokens it begins with, and whether that is all of it."""

    sample: int
    prefix_tokens: int
    complete: bool  # no engine call: there is nothing left to sample


@dataclass(frozen=True)
class PrefixPlan:
    """All rows of one prompt, by sample."""

    rows: tuple[PrefixRow, ...]
    without_target: bool  # a prefix was asked for, and there is no target
    cut: int  # complete rows whose demonstration lost its end to the limit


def uniform(settings: PrefixSettings, step: int, prompt: str | int, sample: int) -> float:
    """A number in [0, 1) made from the arguments alone, the same in every process."""
    # The prompt comes last: it is free text and may hold the separator.
    name = f"prefix/{settings.seed}/{step}/{sample}/{prompt}".encode()
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 11) / 2**53


def bounds(settings: PrefixSettings, step: int) -> tuple[float, float]:
    """The range that ratios are drawn from at a step; its ends are equal for `linear`."""
    if settings.strategy == "linear":
        ratio = settings.max_ratio * (1 - min(step / settings.steps, 1.0))
        return ratio, ratio
    window = min(max(-(-WINDOWS * step // settings.steps) - 1, 0), WINDOWS - 1)
    # The share comes first: 10 * x / 10 is above x for one x in sixteen, x * 1.0 for none.
    if settings.strategy == "linear_max":
        return 0.0, settings.max_ratio * ((WINDOWS - window) / WINDOWS)
    if settings.strategy == "reverse_linear":
        return 0.0, settings.max_ratio * ((window + 1) / WINDOWS)
    return settings.min_ratio, settings.max_ratio


def ratio_of(settings: PrefixSettings, step: int, prompt: str | int, sample: int, count: int) -> float:
    """The ratio of one of the `count` rows of a prompt that have a prefix."""
    low, high = bounds(settings, step)
    if settings.strategy == "fixed":
        share = sample / (count - 1) if count > 1 else 1.0
    else:
        share = uniform(settings, step, prompt, 0 if settings.share else sample)
    # This form gives the ends exactly: low at 0 and high at 1.
    return min(low * (1 - share) + high * share, high)


def make_plan(
    settings: PrefixSettings, *, step: int, prompt: str | int, samples: int, target_tokens: int, limit: int
) -> PrefixPlan:
    """The rows of one prompt.

    `target_tokens` counts the end-of-sequence token, and is 0 where there is no target; `limit` is the longest
    response.
    """
    if limit < 1:
        raise ValueError(f"a response of at most {limit} tokens holds nothing")
    count = settings.prefixed(samples)
    rows, cut = [], 0
    for sample in range(samples):
        tokens = 0
        if sample < count and target_tokens > 0:
            tokens = min(int(target_tokens * ratio_of(settings, step, prompt, sample, count)), limit)
        complete = tokens > 0 and tokens == min(target_tokens, limit)
        cut += complete and tokens < target_tokens
        rows.append(PrefixRow(sample, tokens, complete))
    return PrefixPlan(tuple(rows), without_target=count > 0 and target_tokens == 0, cut=cut)


def plan_counts(plans: Iterable[PrefixPlan]) -> dict[str, int]:
    """What a batch of plans came to, for the log."""
    plans = list(plans)
    rows = [row for plan in plans for row in plan.rows]
    return {
        "prefix/rows": sum(row.prefix_tokens > 0 for row in rows),
        "prefix/tokens": sum(row.prefix_tokens for row in rows),
        "prefix/complete": sum(row.complete for row in rows),
        "prefix/cut": sum(plan.cut for plan in plans),
        "prefix/without_target": sum(plan.without_target for plan in plans),
    }
