"""What the length of a response, or the place where it ends, does to its reward and credit.

DAPO's overlong penalty, added to the score before the credit (and after success was decided: a right answer stays
right), for a response of l tokens, L the longest one and B the buffer (0: a step behind L):

    0                         l <= L - B
    -(l - (L - B)) / B        L - B < l <= L
    -1                        l > L

A response is `truncated` when it fills L and its last token is no stop token. What `algorithm.truncated` may do:

    keep          nothing
    zero_credit   its credit becomes 0 (the released disable_truncation_advantage): it still moved its group's
                  statistics, and its tokens still count in denominators and carry entropy and KL
    mask          its tokens are not trained: no component sees them and no denominator counts them (DAPO's overlong
                  filtering). Done after the credit, so that here too its score moved the group's statistics

A released oddity, mended: there, a stop token anywhere saves a row, so in a conversation of several turns every row;
here only the last token counts. A demonstration that lost its end to the limit is truncated as any other row.

Invariants
    1. The penalty lies in [-factor, 0] and never grows with the length.
    2. Rows that are not truncated are left as they are, bit for bit.

Example:
    >>> overlong_penalty(torch.tensor([60, 80, 90, 100, 120]), Overlong(max_length=100, buffer=20)).tolist()
    [0.0, 0.0, -0.5, -1.0, -1.0]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from hpt_megatron.algorithms.credit.estimator import Credit
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.overlong import overlong
from hpt_megatron.protocol.rows import Rows

OnTruncated = Literal["keep", "zero_credit", "mask"]


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """Where the penalty begins and how strong it gets."""

    max_length: int
    buffer: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.buffer <= self.max_length or self.max_length < 1:
            what = f"a buffer of {self.buffer} tokens in a response of {self.max_length}"
            raise UserError(what, where="overlong.buffer", mend="0 (a step at the end) to the longest response")
        if self.factor < 0:
            raise UserError(f"{self.factor} would reward length", where="overlong.factor", mend="0 or more")


def overlong_penalty(lengths: Tensor, settings: Overlong) -> Tensor:
    """[R] what is added to the score of a response of so many tokens."""
    each = [overlong(length, settings.max_length, settings.buffer) for length in lengths.tolist()]
    return settings.factor * torch.tensor(each, dtype=torch.float32)


def response_lengths(rows: Rows) -> Tensor:
    """[R] tokens of each response, observations between turns included, as the limit counts them."""
    return rows.row_sum(rows.tokens["response"].to(torch.float64)).to(torch.int64)


def truncated(rows: Rows, max_length: int, stop_ids: Sequence[int]) -> Tensor:
    """[R] whether a response fills the limit without ending; reads the tokens `ids` and `response`."""
    last = rows.last(rows.tokens["response"])
    ends = torch.isin(rows.tokens["ids"][last.clamp(min=0)], torch.tensor(list(stop_ids), dtype=torch.int64))
    return (last >= 0) & ~ends & (response_lengths(rows) >= max_length)


def treat_truncated(rows: Rows, credit: Credit, cut: Tensor, how: OnTruncated) -> tuple[Rows, Credit]:
    """Rows and credit once the rows of `cut` [R] were treated; call it between credit and weights. Returns stay."""
    if how not in get_args(OnTruncated):
        known = ", ".join(get_args(OnTruncated))
        raise UserError(f"no such treatment: {how}", where="algorithm.truncated", mend=f"one of {known}")
    if how == "keep":
        return rows, credit
    of_token = rows.per_token(cut)
    if how == "mask":
        rows = rows.with_tokens(trained=rows.tokens["trained"] & ~of_token)
    return rows, replace(credit, advantage=torch.where(of_token, 0.0, credit.advantage))


def sft_prefix_credit(rows: Rows, credit: Credit, *, weight: float, samples: int, n_prefix: int) -> Credit:
    """The released use_sft_prefix_reward: trained tokens of a prefix get weight / samples as their advantage.

    With a prefix in every one of a prompt's rows, its prefixes then weigh `weight` together; with fewer they would
    not, so anything but n_prefix = -1 is refused, as it is there. It comes last, so the prefix of a truncated row
    keeps its weight.
    """
    if n_prefix != -1:
        what = f"use_sft_prefix_reward shares its weight among all rows of a prompt, and n_prefix is {n_prefix}"
        raise UserError(what, where="n_prefix", mend="-1, or use_sft_prefix_reward=false")
    prefix = rows.tokens["off"] & rows.tokens["trained"] & rows.per_token(rows.fields["valid"])
    return replace(credit, advantage=torch.where(prefix, weight / samples, credit.advantage))
