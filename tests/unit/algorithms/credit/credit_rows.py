"""Small batches for the tests of credit: rows as plain values, drawn by hypothesis or written down, and as `Rows`."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from hpt_megatron.protocol.rows import Rows


@dataclass(frozen=True)
class Row:
    """One row as plain Python values."""

    prompt: int
    trained: tuple[bool, ...]
    reward: tuple[float, ...]
    value: tuple[float, ...]
    off: bool = False
    valid: bool = True
    greedy: bool = False

    @property
    def score(self) -> float:
        """What it earned where it is trained."""
        return sum(earned for earned, here in zip(self.reward, self.trained, strict=True) if here)

    def counted(self, include_demo: bool) -> bool:
        """Whether it moves statistics."""
        return self.valid and any(self.trained) and (include_demo or not self.off)


def pack(batch: list[Row]) -> Rows:
    """As the estimators see it."""

    def column(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([item for row in batch for item in getattr(row, name)], dtype=dtype)

    def field(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(row, name) for row in batch], dtype=dtype)

    off = torch.tensor([row.off for row in batch for _ in row.trained], dtype=torch.bool)
    return Rows(
        torch.tensor([len(row.trained) for row in batch], dtype=torch.int64),
        {
            "trained": column("trained", torch.bool),
            "reward": column("reward", torch.float32),
            "value": column("value", torch.float32),
            "off": off,
        },
        {
            "prompt": field("prompt", torch.int64),
            "off": field("off", torch.bool),
            "valid": field("valid", torch.bool),
            "greedy": field("greedy", torch.bool),
        },
    )


def group(scores: list[float], *, demos: int = 0, prompt: int = 0, tokens: int = 2) -> list[Row]:
    """A prompt's rows, the demonstrations first; the score stands on the last token, the first row is greedy."""
    zeros = (0.0,) * (tokens - 1)
    rows = [
        Row(prompt, (True,) * tokens, (*zeros, score), (0.0,) * tokens, off=i < demos) for i, score in enumerate(scores)
    ]
    return with_greedy(rows)


def with_greedy(rows: list[Row]) -> list[Row]:
    """The first rollout of every prompt that has a score is its greedy one."""
    seen: set[int] = set()
    answer = []
    for row in rows:
        first = not row.off and any(row.trained) and row.prompt not in seen
        seen |= {row.prompt} if first else set()
        answer.append(replace(row, greedy=first))
    return answer


def by_row(rows: Rows, of_token: Tensor) -> list[float | None]:
    """The one number on the trained tokens of each row; None where there is none. Fails when a row has several."""
    answer: list[float | None] = []
    for i in range(rows.num_rows):
        here = of_token[(rows.row_of_token == i) & rows.tokens["trained"]]
        assert len(set(here.tolist())) <= 1, here
        answer.append(float(here[0]) if len(here) else None)
    return answer


USUAL = st.sampled_from([0.0, 1.0, -0.5, -1.0, 0.1])
EXTREME = st.one_of(USUAL, st.floats(-1e6, 1e6, width=32), st.sampled_from([1e30, -1e30, 1e-30]))


@st.composite
def batches(draw: st.DrawFn, score: st.SearchStrategy[float] = USUAL, size: int = 10) -> list[Row]:
    """Some rows of up to four prompts: demonstrations, failures, observations and rows without tokens among them."""
    rows = []
    for _ in range(draw(st.integers(0, size))):
        trained = tuple(draw(st.lists(st.booleans() | st.just(True), max_size=4)))
        reward = [draw(st.sampled_from([0.0, 0.0, 0.25])) for _ in trained]
        if any(trained):
            reward[max(i for i, here in enumerate(trained) if here)] += draw(score)
        value = tuple(draw(st.sampled_from([0.0, 0.5, -2.0])) for _ in trained)
        rows.append(
            Row(
                draw(st.integers(0, 3)),
                trained,
                tuple(reward),
                value,
                off=draw(st.integers(0, 3)) == 0,
                valid=draw(st.integers(0, 4)) > 0,
            )
        )
    return with_greedy(rows)
