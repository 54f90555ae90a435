"""Credit along the tokens of a step, beside a copy of the same bytes and a loop over positions.

    python benchmarks/credit.py                   8,192 rows of 1 to 8,192 tokens, one thread
    python benchmarks/credit.py --rows 1024       smaller, the same ratios
    python benchmarks/credit.py --observed 0.2    every fifth token an observation, which takes no time

The loop goes backwards over positions for all rows at once, as on padded tensors, but only over rows that are as long.
"""

import argparse

import torch
from clock import times

from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
from hpt_megatron.algorithms.credit.group import grpo  # fills the registry
from hpt_megatron.protocol.rows import Rows

NAMES = ("gae", "reinforce", "reinforce_plus_plus", grpo.__name__)


def make(count: int, longest: int, observed: float) -> Rows:
    """Rows in groups of eight, as a critic leaves them."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    tokens = int(lengths.sum())
    return Rows(
        lengths,
        {
            "trained": torch.rand(tokens, generator=generator) >= observed,
            "off": torch.zeros(tokens, dtype=torch.bool),
            "reward": torch.rand(tokens, generator=generator),
            "value": torch.rand(tokens, generator=generator),
        },
        {
            "prompt": torch.arange(count) // 8,
            "off": torch.zeros(count, dtype=torch.bool),
            "valid": torch.ones(count, dtype=torch.bool),
        },
    )


def by_position(rows: Rows, gamma: float, lam: float) -> torch.Tensor:
    """The advantage of gae, one position of every row after the other; every token counts as trained."""
    reward, value = rows.tokens["reward"], rows.tokens["value"]
    lengths, order = rows.lengths.sort(descending=True)
    end = (rows.starts + rows.lengths - 1)[order]
    alive = len(lengths) - torch.searchsorted(lengths.flip(0), torch.arange(int(lengths[0])), right=True)
    advantage = torch.empty_like(reward)
    carried = following = torch.zeros(len(lengths), dtype=torch.float64)
    for step, still in enumerate(alive.tolist()):
        at = end[:still] - step
        here = value[at].double()
        carried = reward[at] + gamma * following[:still] - here + gamma * lam * carried[:still]
        following = here
        advantage[at] = carried.float()
    return advantage


def main() -> None:
    """Prints the times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--observed", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = make(asked.rows, asked.tokens, asked.observed)
    settings = CreditSettings(gamma=0.999)
    size = sum(column.nbytes for column in rows.tokens.values())
    print(f"{rows.num_rows} rows, {rows.num_tokens} tokens, {size / 2**30:.2f} GiB")
    copy = min(times(lambda: [column.clone() for column in rows.tokens.values()], asked.repeats))
    print(f"copy of the same bytes            {copy:8.3f} s")
    for name in NAMES:
        took = min(times(lambda name=name: ESTIMATORS.get(name)(rows, settings), asked.repeats))
        print(f"{name:33} {took:8.3f} s  {took / copy:5.1f} x the copy")
    took = min(times(lambda: by_position(rows, settings.gamma, settings.lam), asked.repeats))
    print(f"gae position by position          {took:8.3f} s  {took / copy:5.1f} x the copy")
    if not asked.observed:
        apart = ESTIMATORS.get("gae")(rows, settings).advantage - by_position(rows, settings.gamma, settings.lam)
        print(f"largest difference between the two {apart.abs().max():.1e}")


if __name__ == "__main__":
    main()
