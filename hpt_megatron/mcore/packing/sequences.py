"""Where the tokens of a pack stand: padding, the zig-zag cut over context parallelism, what attends to what.

A pack holds several sequences one after the other. Under context parallelism of n each sequence is cut into 2n chunks
of the same length, and rank r holds the chunks r and 2n-1-r of every sequence: causal work is then the same on all.

    two sequences of 8 and 4 tokens, n = 2:   0011 2233 | 0 1 2 3      chunk numbers
    rank 0 holds chunks 0 and 3, rank 1 chunks 1 and 2

Invariants
    1. Every sequence is padded to a multiple of 2n (n > 1), the pack to a multiple of that and of n * tp. Padding of a
       sequence stands at its end, so no real token attends to it; what fills up the pack is a sequence of its own,
       because rotary tables are looked up by sequence, and attention does not compute it.
    2. `positions`, `local` and `segments` are the only places that know the cut.

Example:
    >>> shape = PackShape.of([5, 3], tp=1, cp=2)
    >>> shape.padded, shape.total, local(shape, rank=0, cp=2).tolist()
    ((8, 4), 12, [0, 1, 6, 7, 8, 11])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.layout.sizes import divisors


@dataclass(frozen=True)
class Place:
    """Where a rank stands in the groups that share a pack."""

    tp: int = 1
    cp: int = 1
    tp_rank: int = 0
    cp_rank: int = 0

    @property
    def ranks(self) -> int:
        """Ranks that share the images of a pack."""
        return self.tp * self.cp

    @property
    def rank(self) -> int:
        """This one among them: tensor-parallel ranks are neighbours, as in megatron-core's groups."""
        return self.cp_rank * self.tp + self.tp_rank


@dataclass(frozen=True)
class PackShape:
    """The lengths of a pack's sequences, before and after padding; the last is the filler where `tail` says so."""

    real: tuple[int, ...]
    padded: tuple[int, ...]
    tail: int

    @classmethod
    def of(cls, lengths: Sequence[int], tp: int, cp: int, at_least: int = 0) -> "PackShape":
        """The shape of a pack of sequences, as long as it must be, or longer where others need it."""
        each, whole = divisors(tp, cp)
        padded = [round_up(length, each) for length in lengths]
        total = max(round_up(sum(padded), whole), round_up(at_least, whole), whole)
        tail = total - sum(padded)
        return cls(tuple(lengths), (*padded, tail) if tail else tuple(padded), tail)

    @property
    def total(self) -> int:
        """All slots of the pack."""
        return sum(self.padded)

    @property
    def starts(self) -> list[int]:
        """Where each sequence begins."""
        found, at = [], 0
        for length in self.padded:
            found.append(at)
            at += length
        return found


def round_up(number: int, step: int) -> int:
    """The next multiple.

    >>> round_up(5, 4), round_up(8, 4)
    (8, 8)
    """
    return -(-number // step) * step


def positions(length: int, rank: int, ranks: int) -> Tensor:
    """Where the `length` tokens that a context-parallel rank holds of a sequence stand in it.

    >>> positions(4, 0, 2), positions(4, 1, 2)
    (tensor([0, 1, 6, 7]), tensor([2, 3, 4, 5]))
    """
    if ranks == 1:
        return torch.arange(length)
    if length % 2:
        raise UserError(
            f"{length} tokens on a context-parallel rank cannot be cut in two",
            where="sequence length",
            mend=f"pad sequences to a multiple of {2 * ranks}",
        )
    chunk = length // 2
    first, second = rank * chunk, (2 * ranks - 1 - rank) * chunk
    return torch.cat((torch.arange(first, first + chunk), torch.arange(second, second + chunk)))


def local(shape: PackShape, rank: int, cp: int) -> Tensor:
    """Which slots of the pack a context-parallel rank holds, in its order."""
    if cp == 1:
        return torch.arange(shape.total)
    pairs = zip(shape.starts, shape.padded, strict=True)
    return torch.cat([start + positions(length // cp, rank, cp) for start, length in pairs])


@dataclass(frozen=True)
class Segment:
    """Queries of one chunk on this rank, and the keys of the pack that the last of them sees."""

    query: int
    queries: int
    key: int
    keys: int


def segments(shape: PackShape, rank: int, cp: int) -> list[Segment]:
    """What attends to what, in the order of this rank's queries; the filler is left out."""
    found, at = [], 0
    real = len(shape.padded) - bool(shape.tail)
    for start, length in zip(shape.starts[:real], shape.padded[:real], strict=True):
        if cp == 1:
            found.append(Segment(start, length, start, length))
            continue
        chunk = length // (2 * cp)
        for number in (rank, 2 * cp - 1 - rank):
            if chunk:
                found.append(Segment(at, chunk, start, (number + 1) * chunk))
            at += chunk
    return found


@dataclass
class PackedSequences(PackedSeqParams):
    """What megatron-core passes to every layer: its own fields, and what our attention reads.

    `order` brings keys gathered rank by rank into the order of the pack; None at cp 1.
    """

    segments: Sequence[Segment] = ()
    order: Tensor | None = None
    filler: int = 0  # slots on this rank, at its end, that no segment covers

    @classmethod
    def of(cls, shape: PackShape, rank: int, cp: int, device: torch.device | str | int) -> "PackedSequences":
        """For one rank of the context-parallel group."""
        bounds = torch.tensor([*shape.starts, shape.total], dtype=torch.int32, device=device)
        longest = max(shape.padded)
        order = None
        if cp > 1:
            order = torch.cat([local(shape, each, cp) for each in range(cp)]).argsort().to(device)
        return cls(
            qkv_format="thd",
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            cu_seqlens_q_padded=bounds,
            cu_seqlens_kv_padded=bounds,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            segments=segments(shape, rank, cp),
            order=order,
            filler=shape.tail // cp,
        )
