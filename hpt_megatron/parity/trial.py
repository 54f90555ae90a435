"""One comparison: a folder, a layout and a seed, to a list of differences.

Decision: any folder of the families goes, whatever its sizes, and the run is made for it: float32, no padding of the
vocabulary beyond what tp asks for, packs so short that there are several of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpt_megatron.config.checkpoint import model_of
from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.load import load
from hpt_megatron.config.problem import errors
from hpt_megatron.config.rules import check
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.layout.asked import read_layout
from hpt_megatron.layout.sizes import divisors
from hpt_megatron.mcore.agree import first_few
from hpt_megatron.mcore.packing.sequences import round_up
from hpt_megatron.parity.compare import Difference, compare
from hpt_megatron.parity.reference import reference_outcome
from hpt_megatron.parity.rows import components, random_batch
from hpt_megatron.parity.trained import trained_outcome
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.weights.hf_folder import HfFolder
from hpt_megatron.weights.table import Table

SIZES = ("tp", "pp", "vpp", "cp", "dp")
TOLERANCE = 1e-5
CHECKED = ("layout.", "model.")  # what else a run says has no part in the comparison


@dataclass(frozen=True)
class Trial:
    """What was compared, and how far apart it was."""

    parameters: int
    processes: int
    rows: int
    tokens: int
    images: int
    micro_batches: int
    differences: list[Difference]

    def beyond(self, tolerance: float) -> list[Difference]:
        """What is further apart than it may be."""
        return [one for one in self.differences if not one.relative <= tolerance]


def sizes_of(text: str) -> dict[str, int]:
    """Sizes from `tp=2,pp=2,cp=1`; what is not named is 1.

    >>> sizes_of("tp=2,cp=2")
    {'tp': 2, 'pp': 1, 'vpp': 1, 'cp': 2, 'dp': 1}
    """
    return dict.fromkeys(SIZES, 1) | (read_layout(text, SIZES) if text else {})


def run_of(folder: str, sizes: Mapping[str, int]) -> RunConfig:
    """The run that compares a folder under a layout, or all of what is wrong with it."""
    plain = load(["model=tiny", "layout=tp1", "trainer.dtype=fp32", "layout.vocab_multiple=1"]).run
    processes = sizes["tp"] * sizes["pp"] * sizes["cp"] * sizes["dp"]
    run = replace(
        plain,
        model=model_of(folder),
        layout=replace(plain.layout, **dict[str, Any](sizes)),
        trainer=replace(plain.trainer, n_gpus_per_node=processes, nnodes=1, use_dynamic_bsz=True),
    )
    wrong = [problem for problem in errors(check(run)) if problem.path.startswith(CHECKED)]
    if wrong:
        raise UserError("; ".join(map(str, wrong)), where="--layout")
    return run


def with_packs_for(run: RunConfig, batch: Batch) -> RunConfig:
    """The run with packs about a third of the rows long, so that there are several micro-batches."""
    each, whole = divisors(run.layout.tp, run.layout.cp)
    longest = int(batch.rows.lengths.max())
    tokens = round_up(max(round_up(longest, each), batch.rows.num_tokens // (3 * run.dp)), whole * run.layout.cp)
    return replace(run, trainer=replace(run.trainer, ppo_max_token_len_per_gpu=tokens // run.layout.cp))


def compare_folder(folder: str, sizes: Mapping[str, int], seed: int, rows: int, deadline_s: float) -> Trial:
    """Runs both sides and holds them against each other."""
    run = run_of(folder, sizes)
    with HfFolder(folder) as files:
        wrong = Table.of(run.model, 1, 1).contradictions(files.names())
    if wrong:
        raise UserError(first_few(wrong), where=folder, mend="is it the checkpoint of this model?")
    batch = random_batch(run.model, seed, rows)
    run = with_packs_for(run, batch)
    theirs = reference_outcome(folder, run.model, batch, components())
    ours, micro_batches = trained_outcome(run, batch, deadline_s=deadline_s)
    return Trial(
        parameters(run.model),
        run.devices,
        batch.rows.num_rows,
        batch.rows.num_tokens,
        len(batch.shown),
        micro_batches,
        compare(ours, theirs),
    )
