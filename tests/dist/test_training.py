"""A two-layer GPT trains in every layout as it does in one process, with the distributed optimizer.

Real processes on gloo. Every layout recomputes all layers and overlaps gradient reduction and parameter gathering with
computation; the one process it is compared with does neither. Not covered here: packed sequences, images, and layouts
beyond four processes.
"""

from functools import cache

import pytest
import torch
from megatron.core import parallel_state, tensor_parallel
from processes import free_port, run
from tiny_gpt import Case, Trainer, train

from hpt_megatron.errors import UserError
from hpt_megatron.mcore.initialize import Rendezvous, finalize, initialize
from hpt_megatron.mcore.model.layer_spec import decoder_spec

pytestmark = pytest.mark.slow

LAYOUTS = {
    "tp2": (2, {"tp": 2}),
    "pp2": (2, {"pp": 2}),
    "cp2": (2, {"cp": 2}),
    "dp2": (2, {}),
    "tp2-pp2": (4, {"tp": 2, "pp": 2}),
    "cp2-dp2": (4, {"cp": 2}),
    "pp2-vpp2": (2, {"pp": 2, "vpp": 2, "layers": 4}),
}


@cache
def alone(case: Case) -> list[tuple[float, float]]:
    """The losses and gradient norms of one process."""
    return run(1, train, case.alone())[0]


def distance(these: list[tuple[float, float]], those: list[tuple[float, float]], which: int) -> float:
    """The largest relative difference over all steps, of losses (0) or gradient norms (1)."""
    return max(abs(a[which] - b[which]) / abs(b[which]) for a, b in zip(these, those, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_like_one_process_in_fp32(layout: str) -> None:
    """The same numbers but for the order of sums: 1e-6 for losses. Norms get 1e-5, since Adam's quotient enlarges
    rounding where gradients are nearly zero, and they are seen after up to five such steps."""
    processes, sizes = LAYOUTS[layout]
    case = Case(recompute=True, overlap=True, **sizes)
    ranks = run(processes, train, case)
    assert all(rank == ranks[0] for rank in ranks)
    assert distance(ranks[0], alone(case), 0) < 1e-6
    assert distance(ranks[0], alone(case), 1) < 1e-5
    assert ranks[0][4][0] < ranks[0][0][0] - 1, "the loss of the repeated batch should fall by far more than rounding"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_like_one_process_in_bf16(layout: str) -> None:
    """Bounds come from bf16 itself, whose numbers carry 8 bits (each rounding is off by 2^-9 at most).

    Losses: one process in bf16 lies some distance from itself in fp32; a layout rounds elsewhere, so it may lie as far
    on the other side, which is twice that distance. Norms: sums of many roundings of either sign; no further from the
    one process than two opposite roundings of one number, 2^-8.
    """
    processes, sizes = LAYOUTS[layout]
    case = Case(recompute=True, overlap=True, bf16=True, **sizes)
    rounding = distance(alone(case), alone(Case(**{"layers": case.layers})), 0)
    ranks = run(processes, train, case)
    assert 1e-5 < rounding < 2e-3, "bf16 that does not round, or rounds away, would make the next bound worthless"
    assert distance(ranks[0], alone(case), 0) < 2 * rounding
    assert distance(ranks[0], alone(case), 1) < 2**-8


@pytest.mark.parametrize("tp", [1, 2])
def test_recomputation_draws_the_same_dropout_again(tp: int) -> None:
    """Bit for bit: recomputed layers restore the random states of their first pass."""
    plain, recomputed = (run(tp, train, Case(tp=tp, dropout=0.2, recompute=again)) for again in (False, True))
    assert recomputed == plain
    assert distance(plain[0], alone(Case()), 0) > 1e-3, "dropout should change the losses"


def draws(where: Rendezvous) -> tuple[list[float], list[float]]:
    """Numbers drawn as megatron-core draws outside and inside its tensor-parallel regions."""
    initialize(tp=2, where=where, seed=5)
    outside = torch.rand(4).tolist()
    with tensor_parallel.get_cuda_rng_tracker().fork():
        inside = torch.rand(4, device="cpu").tolist()
    return outside, inside


def test_tensor_parallel_ranks_draw_differently_inside_their_regions_and_alike_outside() -> None:
    """What dropout needs: one mask on what is replicated, different masks on what is cut."""
    (outside_0, inside_0), (outside_1, inside_1) = run(2, draws)
    assert outside_0 == outside_1
    assert inside_0 != inside_1
    assert inside_0 != outside_0


def several_layouts(where: Rendezvous, ports: list[int]) -> list[list[tuple[float, float]]]:
    """One set of processes, three layouts one after the other."""
    seen = []
    for port, case in zip(ports, (Case(tp=2), Case(pp=2), Case()), strict=True):
        initialize(case.tp, case.pp, case.cp, where=Rendezvous(where.rank, where.world_size, port=port))
        seen.append(Trainer(case).train(0, 2))
        finalize()
    assert not parallel_state.model_parallel_is_initialized()
    return seen


def test_one_set_of_processes_goes_through_several_layouts() -> None:
    """After `finalize`, the next layout trains as it does in fresh processes."""
    for rank in run(2, several_layouts, [free_port() for _ in range(3)]):
        for seen in rank:
            assert distance(seen, alone(Case())[:2], 0) < 1e-6


def refused(where: Rendezvous) -> list[str]:
    """The one-line errors of two layouts that cannot be."""
    lines = []
    for sizes in ({"tp": 2}, {"pp": 3}):
        try:
            initialize(where=where, **sizes)
        except UserError as error:
            lines.append(str(error))
    return lines


def test_a_layout_that_the_processes_do_not_fill_is_refused_in_one_line() -> None:
    """Before any group is formed."""
    lines = run(1, refused)[0]
    assert [line.splitlines()[0] for line in lines] == lines
    assert "1 processes cannot be divided by tp * pp * cp = 2 * 1 * 1" in lines[0]
    assert "start a multiple of 3 processes" in lines[1]


def test_an_interleaved_pipeline_of_two_that_would_mix_up_messages_is_refused() -> None:
    """Megatron-core trains on, with wrong numbers, when messages between two interleaved ranks are batched."""
    config = type("Config", (), {"virtual_pipeline_model_parallel_size": 2, "pipeline_model_parallel_size": 2})()
    config.overlap_p2p_comm, config.batch_p2p_comm = False, True
    with pytest.raises(UserError, match="set overlap_p2p_comm=True"):
        decoder_spec(config)
