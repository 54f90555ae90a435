"""How many decoder layers each pipeline stage holds, also when they do not divide evenly.

Stages are counted in the order in which a token meets them: stage v * pp + p is virtual stage v of pipeline rank p.
What is left over goes one layer each to the middle stages, then to the last, which has the output head, and to the
first at the very last, which has the embedding and the vision tower. Among the middle ones the later come first: in
1F1B they hold the activations of fewer micro-batches.

Invariants
    1. The layers of all stages add up; two stages differ by at most one, and so do two pipeline ranks.
    2. Every stage has a layer.

Example:
    >>> layers_per_stage(28, 4, 2)
    [[3, 4], [3, 4], [3, 4], [4, 3]]
    >>> [first_layer(28, 4, 2, rank=rank, virtual=1) for rank in range(4)]
    [13, 17, 21, 25]
    >>> pipeline_layout(3, 2, 1)
    [['embedding', 'decoder'], ['decoder', 'decoder', 'loss']]
"""

from hpt_megatron.errors import UserError


def layers_per_stage(layers: int, pp: int, vpp: int) -> list[list[int]]:
    """[pipeline rank][virtual stage] -> decoder layers."""
    counts = _in_order(layers, pp, vpp)
    return [[counts[virtual * pp + rank] for virtual in range(vpp)] for rank in range(pp)]


def first_layer(layers: int, pp: int, vpp: int, *, rank: int, virtual: int = 0) -> int:
    """The global index, from 0, of the first decoder layer of a stage."""
    if not (0 <= rank < pp and 0 <= virtual < vpp):
        raise UserError(f"there is no virtual stage {virtual} of pipeline rank {rank} in pp {pp} x vpp {vpp}")
    return sum(_in_order(layers, pp, vpp)[: virtual * pp + rank])


def pipeline_layout(layers: int, pp: int, vpp: int) -> list[list[str]]:
    """Stage by stage in the order of a token, in megatron-core's words, for its `pipeline_model_parallel_layout`."""
    stages = [["decoder"] * count for count in _in_order(layers, pp, vpp)]
    stages[0].insert(0, "embedding")
    stages[-1].append("loss")
    return stages


def _in_order(layers: int, pp: int, vpp: int) -> list[int]:
    """Layers by global stage."""
    stages = pp * vpp
    if pp < 1 or vpp < 1:
        raise UserError(f"pp {pp} x vpp {vpp} is no pipeline", where="layout.pp", mend="1 or more of each")
    if layers < stages:
        raise UserError(
            f"{layers} layers leave a stage of pp {pp} x vpp {vpp} = {stages} without one",
            where="layout.pp",
            mend=f"pp x vpp of at most {layers}",
        )
    each, left = divmod(layers, stages)
    counts = [each] * stages
    # In a row backwards, so that the virtual stages of one pipeline rank do not collect them.
    for stage in [*range(stages - 2, 0, -1), stages - 1, 0][:left]:
        counts[stage] += 1
    return counts
