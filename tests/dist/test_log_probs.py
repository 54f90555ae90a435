"""Log-probabilities and entropy over a cut vocabulary, against torch's softmax of the whole logits in float64.

Real processes on gloo for one, two and four ranks. Not covered: nccl, and fused products on a GPU.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from processes import run
from torch.utils._python_dispatch import TorchDispatchMode

from hpt_megatron.errors import UserError
from hpt_megatron.mcore.initialize import Rendezvous, initialize
from hpt_megatron.mcore.model.log_probs import Sampling, full_logits, log_probs

pytestmark = pytest.mark.slow

ROWS, HIDDEN, FORBIDDEN = 48, 16, (0, 3, 11, 12, 40)


@dataclass(frozen=True)
class Case:
    """Drawn inputs and how to treat them.

    `upstream`: which of log-probabilities and entropy get a gradient. `size`: logits are of order one, spread up to
    10^4 on either side, or close to one another near 10^4.
    """

    tokens: int = 23
    vocab_size: int = 43
    temperature: float = 1.0
    forbidden: tuple[int, ...] = ()
    chunk: int = 7
    upstream: str = "both"
    size: str = "plain"
    bf16: bool = False
    frozen: str = ""
    sequence_parallel: bool = False
    forbidden_labels: bool = False

    def sampling(self, group: Any = None) -> Sampling:
        return Sampling(self.vocab_size, self.temperature, self.forbidden, self.chunk, group)

    def drawn(self) -> dict[str, torch.Tensor]:
        """hidden, the whole weight with garbage in its padding, labels that can be sampled, upstream gradients."""
        generator = torch.Generator().manual_seed(self.tokens)
        hidden = torch.randn(self.tokens, HIDDEN, generator=generator)
        weight = torch.randn(ROWS, HIDDEN, generator=generator)
        if self.size == "extreme":  # whole numbers, so that float32 holds every logit exactly
            hidden = torch.randint(-10, 11, hidden.shape, generator=generator).float()
            weight = torch.randint(-62, 63, weight.shape, generator=generator).float()
            hidden[0], weight[1], weight[2] = 10, 62.5, -62.5
        if self.size == "large":  # the same, with a sum that is 9990 and what three columns add
            hidden, weight = (x.sign() * (torch.arange(HIDDEN) < 4) for x in (hidden, weight))
            hidden[:, 0], weight[:, 0] = 3330, 3  # small in the weight: its gradients cancel out over the vocabulary
        weight[self.vocab_size :] *= 100
        allowed = torch.tensor([i for i in range(self.vocab_size) if i not in self.forbidden])
        labels = allowed[torch.randint(len(allowed), (self.tokens,), generator=generator)]
        if self.forbidden_labels:
            labels[:4] = torch.tensor([self.forbidden[0], self.vocab_size, ROWS - 1, -100])
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        gradients = torch.randn(2, self.tokens, generator=generator)
        return {
            "hidden": hidden.to(dtype),
            "weight": weight.to(dtype),
            "labels": labels,
            "of_logp": gradients[0] * (self.upstream != "entropy"),
            "of_entropy": gradients[1] * (self.upstream != "logp"),
        }


TEMPERATURES = {f"temperature-{t}": Case(temperature=t, forbidden=FORBIDDEN) for t in (0.5, 1.0, 2.0)}
CHUNKS = {f"chunk-{chunk}": Case(chunk=chunk, forbidden=FORBIDDEN) for chunk in (1, 5, 23, 64)}
CASES = {
    **TEMPERATURES,
    **CHUNKS,
    "plain": Case(),
    "ranks-of-padding-alone": Case(vocab_size=12, forbidden=(0, 3)),
    "a-rank-of-forbidden-alone": Case(forbidden=tuple(range(12, 24))),
    "only-logp": Case(upstream="logp", forbidden=FORBIDDEN),
    "only-entropy": Case(upstream="entropy", forbidden=FORBIDDEN, temperature=0.7),
    "frozen-weight": Case(frozen="weight"),
    "frozen-hidden": Case(frozen="hidden"),
    "extreme": Case(size="extreme"),
    "large": Case(size="large", forbidden=FORBIDDEN),
    "extreme-forbidden": Case(size="extreme", forbidden=FORBIDDEN, temperature=0.5),
    "sequence-parallel": Case(tokens=24, sequence_parallel=True, forbidden=FORBIDDEN),
}
BF16 = Case(bf16=True, forbidden=FORBIDDEN)
EMPTY = Case(tokens=0)
IMPOSSIBLE = Case(forbidden=FORBIDDEN, forbidden_labels=True)
LOGITS = Case(forbidden=FORBIDDEN, temperature=0.5)
RANKS = (1, 2, 4)


def one_case(case: Case, group: Any) -> dict[str, torch.Tensor | None]:
    """What a rank gets for its part of the weight: both results and both gradients."""
    drawn = case.drawn()
    rank, ranks = group.rank(), group.size()
    hidden = drawn["hidden"].chunk(ranks)[rank].clone() if case.sequence_parallel else drawn["hidden"]
    hidden.requires_grad_(case.frozen != "hidden")
    weight = drawn["weight"].chunk(ranks)[rank].clone().requires_grad_(case.frozen != "weight")
    seen = hidden
    if case.sequence_parallel:
        seen = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True, group=group)
    logp, entropy = log_probs(seen, weight, drawn["labels"], case.sampling(group), case.upstream != "logp")
    loss = torch.zeros(())
    if case.upstream != "entropy":
        loss = loss + (logp.masked_fill(logp.isinf(), 0) * drawn["of_logp"]).sum()
    if entropy is not None:
        loss = loss + (entropy * drawn["of_entropy"]).sum()
    loss.backward()
    return {
        "logp": logp.detach(),
        "entropy": None if entropy is None else entropy.detach(),
        "hidden": hidden.grad,
        "weight": weight.grad,
    }


def all_cases(where: Rendezvous, cases: dict[str, Case]) -> dict[str, Any]:
    """Every case in one process of a group, so that processes start once per size."""
    initialize(tp=where.world_size, where=where)
    group = parallel_state.get_tensor_model_parallel_group()
    answers: dict[str, Any] = {name: one_case(case, group) for name, case in cases.items()}
    drawn = LOGITS.drawn()
    mine = drawn["weight"].chunk(group.size())[group.rank()]
    answers["logits"] = {"whole": full_logits(drawn["hidden"], mine, LOGITS.sampling(group))}
    with Watch() as watch:
        one_case(Case(), group)
    answers["collectives"] = watch.collectives
    # numpy, because tensors travel through shared files, which this process may be too short-lived to keep
    return {name: {k: as_numpy(v) for k, v in a.items()} if isinstance(a, dict) else a for name, a in answers.items()}


def as_numpy(x: torch.Tensor | None) -> Any:
    return None if x is None else (x.double() if x.dtype == torch.bfloat16 else x).numpy()


@cache
def answers(ranks: int) -> list[dict[str, Any]]:
    """By rank; the processes run once for all tests of this file."""
    return run(ranks, all_cases, {**CASES, "bf16": BF16, "empty": EMPTY, "impossible": IMPOSSIBLE})


def whole(ranks: int, name: str, case: Case) -> dict[str, torch.Tensor | None]:
    """The ranks' answers put together: parts of the weight side by side, parts of the hidden states summed."""
    parts = [
        {k: None if v is None else torch.from_numpy(v).double() for k, v in rank[name].items()} for rank in answers(ranks)
    ]
    together: dict[str, torch.Tensor | None] = {"logp": parts[0]["logp"], "entropy": parts[0]["entropy"]}
    for part in parts:  # all ranks hold the same bits
        for key, value in together.items():
            assert (value is None and part[key] is None) or torch.equal(value, part[key])
    if parts[0]["hidden"] is None:
        together["hidden"] = None
    elif case.sequence_parallel:
        together["hidden"] = torch.cat([part["hidden"] for part in parts])
    else:
        together["hidden"] = torch.stack([part["hidden"] for part in parts]).sum(0)
    together["weight"] = None if parts[0]["weight"] is None else torch.cat([part["weight"] for part in parts])
    return together


def direct(case: Case) -> dict[str, torch.Tensor]:
    """The formula written out in float64, and autograd's gradients of it."""
    drawn = case.drawn()
    hidden, weight = (drawn[name].double().requires_grad_() for name in ("hidden", "weight"))
    logits = (hidden @ weight.t())[:, : case.vocab_size] / case.temperature
    logits[:, list(case.forbidden)] = float("-inf")
    log_p = logits.log_softmax(-1)
    can = torch.tensor([label in range(case.vocab_size) and label not in case.forbidden for label in drawn["labels"]])
    of_label = log_p.gather(1, drawn["labels"].where(can, 1).unsqueeze(1)).squeeze(1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p.isinf(), 0)).sum(-1)
    (torch.where(can, of_label, 0) * drawn["of_logp"] + entropy * drawn["of_entropy"]).sum().backward()
    logp = torch.where(can, of_label, float("-inf"))
    return {"logp": logp.detach(), "entropy": entropy.detach(), "hidden": hidden.grad, "weight": weight.grad}


def apart(mine: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is right."""
    return float((mine - other).norm() / other.norm().clamp(min=1e-300))


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_equal_the_formula_in_float64(ranks: int, name: str) -> None:
    """Largest error of a result relative to the largest result; gradients by norm."""
    case = CASES[name]
    mine, right = whole(ranks, name, case), direct(case)
    assert (mine["entropy"] is None) == (case.upstream == "logp")
    for key in ("logp", "entropy"):
        if mine[key] is not None:
            assert (mine[key] - right[key]).abs().max() <= 1e-6 * right[key].abs().max().clamp(min=1)
    for key in ("hidden", "weight"):
        assert (mine[key] is None) == (case.frozen == key)
        if mine[key] is not None:
            assert apart(mine[key], right[key]) <= 1e-5


@pytest.mark.parametrize("ranks", RANKS)
def test_what_cannot_be_sampled_gets_a_gradient_of_exactly_zero(ranks: int) -> None:
    """Padding and forbidden ids, while every other row gets one."""
    weight = whole(ranks, "temperature-0.5", CASES["temperature-0.5"])["weight"]
    assert weight is not None
    touched = weight.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [i for i in range(43) if i not in FORBIDDEN]


@pytest.mark.parametrize("ranks", RANKS)
def test_a_label_that_cannot_be_sampled_is_minus_infinity_and_disturbs_no_other(ranks: int) -> None:
    """One forbidden, two in the padding, one negative. Whatever comes in for them hands nothing back."""
    mine, right = whole(ranks, "impossible", IMPOSSIBLE), direct(IMPOSSIBLE)
    assert mine["logp"] is not None
    assert mine["logp"].isinf().nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert (mine["logp"][4:] - right["logp"][4:]).abs().max() <= 1e-5
    for key in ("entropy", "hidden", "weight"):
        assert apart(mine[key], right[key]) <= 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_any_gradient_for_a_label_that_cannot_be_sampled_is_dropped(bad: float) -> None:
    """As a ratio of infinities would make it."""
    drawn = IMPOSSIBLE.drawn()
    hidden, weight = (drawn[name].requires_grad_() for name in ("hidden", "weight"))
    logp, _ = log_probs(hidden, weight, drawn["labels"], IMPOSSIBLE.sampling())
    upstream = drawn["of_logp"].clone()
    expected = torch.autograd.grad(logp, (hidden, weight), upstream.index_fill(0, torch.arange(4), 0), True)
    got = torch.autograd.grad(logp, (hidden, weight), upstream.index_fill(0, torch.arange(4), bad))
    assert all(torch.equal(mine, other) for mine, other in zip(got, expected, strict=True))


def test_a_large_gradient_of_the_entropy_makes_no_nan_at_forbidden_ids() -> None:
    """There the stand-in for -inf meets it; a loss scale of 2^40 does that."""
    case = Case(forbidden=FORBIDDEN)
    drawn = case.drawn()
    hidden, weight = (drawn[name].requires_grad_() for name in ("hidden", "weight"))
    _, entropy = log_probs(hidden, weight, drawn["labels"], case.sampling())
    assert entropy is not None
    plain = torch.autograd.grad(entropy, weight, drawn["of_entropy"], True)[0]
    scaled = torch.autograd.grad(entropy, weight, drawn["of_entropy"] * 2.0**40)[0]
    assert torch.equal(scaled, plain * 2.0**40)


@pytest.mark.parametrize("ranks", RANKS)
def test_no_tokens_give_empty_results_and_zero_gradients(ranks: int) -> None:
    """No rank waits for another, since all have none."""
    mine = whole(ranks, "empty", EMPTY)
    assert {key: list(value.shape) for key, value in mine.items() if value is not None} == {
        "logp": [0],
        "entropy": [0],
        "hidden": [0, HIDDEN],
        "weight": [ROWS, HIDDEN],
    }
    assert mine["weight"] is not None
    assert not mine["weight"].any()


@pytest.mark.parametrize("ranks", RANKS)
def test_bf16_stays_within_its_own_rounding(ranks: int) -> None:
    """A logit is off by 2^-8 of its size, a log-probability by twice that; the gradients are rounded twice more."""
    mine, right = whole(ranks, "bf16", BF16), direct(BF16)
    drawn = BF16.drawn()
    of_logit = 2**-8 * float((drawn["hidden"].float() @ drawn["weight"].float().t())[:, :43].abs().max())
    assert mine["logp"] is not None
    assert 0 < (mine["logp"] - right["logp"]).abs().max() <= 2 * of_logit
    for key in ("hidden", "weight"):
        assert apart(mine[key], right[key]) <= 2 * of_logit + 2 * 2**-8


def test_bf16_gradients_are_summed_over_chunks_in_float32() -> None:
    """256 equal tokens, one by one: a bf16 sum of so many would stop growing or drift by percents."""
    drawn = BF16.drawn()
    hidden = drawn["hidden"][:1].repeat(256, 1)
    weight = drawn["weight"].requires_grad_()
    sums = []
    for tokens in (1, 256):
        how = replace(BF16, chunk=1).sampling()
        logp, _ = log_probs(hidden[:tokens], weight, drawn["labels"][:1].repeat(tokens), how)
        sums.append(torch.autograd.grad(logp.sum(), weight)[0].float())
    assert torch.equal(sums[1], sums[0] * 256)


@pytest.mark.parametrize("ranks", RANKS)
def test_whole_logits_are_those_that_were_sampled_from(ranks: int) -> None:
    """Forbidden ids at -inf, no padding, divided by the temperature; on every rank."""
    drawn = LOGITS.drawn()
    right = (drawn["hidden"].double() @ drawn["weight"].double().t())[:, :43] / 0.5
    right[:, list(FORBIDDEN)] = float("-inf")
    for rank in answers(ranks):
        mine = torch.from_numpy(rank["logits"]["whole"])
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", RANKS)
def test_a_call_is_one_collective_whatever_the_number_of_chunks(ranks: int) -> None:
    """Forward and backward together, four chunks."""
    for rank in answers(ranks):
        assert rank["collectives"] == (ranks > 1)


class Watch(TorchDispatchMode):
    """Counts collectives, and keeps the size of every float32 tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives, self.sizes = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.collectives += func.namespace == "c10d"
        made = out if isinstance(out, (tuple, list)) else (out,)
        self.sizes |= {x.numel() for x in made if isinstance(x, torch.Tensor) and x.dtype == torch.float32}
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_one_chunk_s_logits(dtype: torch.dtype) -> None:
    """In both passes, 64 chunks of 8 tokens; the largest is exactly one chunk."""
    tokens, chunk, rows, hidden_size = 512, 8, 1000, 4
    hidden = torch.randn(tokens, hidden_size, dtype=dtype, requires_grad=True)
    weight = torch.randn(rows, hidden_size, dtype=dtype, requires_grad=True)
    how = Sampling(rows - 8, forbidden=(1, 2), chunk=chunk)
    for passes in range(2):
        with Watch() as watch:
            logp, entropy = log_probs(hidden, weight, torch.arange(tokens), how)
            assert entropy is not None
            if passes:
                (logp.clamp(min=-99) + entropy).sum().backward()
        assert max(watch.sizes) == chunk * rows


@pytest.mark.parametrize("with_entropy", [True, False])
def test_gradients_are_those_of_finite_differences(with_entropy: bool) -> None:
    """In float64, with padding, forbidden ids, a temperature and several chunks."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    how = Sampling(7, temperature=0.7, forbidden=(2,), chunk=2)
    labels = torch.tensor([0, 1, 6, 3, 3])

    def results(hidden: torch.Tensor, weight: torch.Tensor) -> Any:
        logp, entropy = log_probs(hidden, weight, labels, how, with_entropy)
        return (logp, entropy) if with_entropy else logp

    assert torch.autograd.gradcheck(results, (hidden, weight))


def test_bad_input_is_refused_in_one_line() -> None:
    """What would give not-a-number or the wrong distribution without a word."""
    for broken, words in (
        ({"temperature": 0.0}, "temperature: 0.0 is no temperature; use 1 for greedy"),
        ({"temperature": float("nan")}, "nan is no temperature"),
        ({"chunk": 0}, "chunk: chunks of 0 tokens"),
        ({"forbidden": (4,)}, r"forbidden: ids \[4\] are not among 4 tokens"),
        ({"forbidden": (0, 1, 2, 3)}, "every token is forbidden"),
    ):
        with pytest.raises(UserError, match=words):
            Sampling(4, **broken)
    with pytest.raises(ValueError, match=r"1 x 3 rows of weight cannot hold 4 tokens"):
        log_probs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64), Sampling(4))
    with pytest.raises(ValueError, match=r"expected \[N, H\] and \[N\]"):
        log_probs(torch.zeros(2, 2), torch.zeros(4, 2), torch.zeros(1, dtype=torch.int64), Sampling(4))


def without_a_group(where: Any) -> None:
    """In a process that has not met any other."""
    assert not dist.is_initialized()
    logp, _ = log_probs(torch.ones(2, 2), torch.zeros(4, 2), torch.tensor([0, 1]), Sampling(4))
    torch.testing.assert_close(logp.exp(), torch.full((2,), 0.25))


def test_nothing_needs_a_process_group() -> None:
    """One process without one, as in a script."""
    run(1, without_a_group)
