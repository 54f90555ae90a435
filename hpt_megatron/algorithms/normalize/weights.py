"""Three ways from streams to weights (`algorithm.normalize`). The loss is then the plain sum of weight times component.

`global` (default): each component over its own count in the whole optimizer step,

    token       w_t / #tokens of the component             long rows weigh more
    sequence    w_t / (tokens of the row * #rows)          rows weigh the same
    constant    w_t / (L * #rows)                          as Dr. GRPO: no length bias

so that nothing depends on micro-batches, packing, row order or the number of devices. RL on rollouts and RL on
demonstrations are one component here: a token counts the same in either, as in LUFFY.

`paper`: per prompt of B, alpha L_RL + beta L_SFT with L_RL a sum over the tokens of n rollouts divided by n, and L_SFT
the mean over the target's tokens: rl w_t / (n B), off and sft w_t / (tokens of the row * B); the rest as `global` by
token.

`official`: the released code. On each of W ranks, RL is a sum over L; imitation and entropy are means over the
micro-batch, and micro-batches are added up. So their strength grows with the number of micro-batches that hold a
demonstration; that is what it repeats. L is the padded response length.

    rl, off  w_t / (W L)      sft  w_t / (W #demonstration tokens of the micro-batch)      entropy: over all its tokens
"""

from typing import Literal

import torch
from torch import Tensor

from hpt_megatron.algorithms.normalize.streams import Coefficients, streams
from hpt_megatron.protocol.rows import Rows

Weights = dict[str, Tensor]
Agg = Literal["token", "sequence", "constant"]


def global_weights(rows: Rows, coefficients: Coefficients) -> Weights:
    """Each component over its own count."""
    raw = streams(rows, coefficients)
    both = (raw["rl"] != 0) | (raw["off"] != 0)
    return {
        name: over(
            rows, weight, both if name in ("rl", "off") else weight != 0, coefficients.loss_agg, coefficients.length
        )
        for name, weight in raw.items()
    }


def over(rows: Rows, weight: Tensor, counted: Tensor, agg: Agg, length: int) -> Tensor:
    """Weights over the count of tokens, of tokens and rows, or of a constant and rows, among the counted tokens."""
    used = counted.to(torch.float64)
    if agg == "token":
        return divided(weight, used.sum())
    per_row = rows.row_sum(used)
    num_rows = (per_row > 0).sum()
    return divided(weight, num_rows * (length if agg == "constant" else rows.per_token(per_row)))


def paper_weights(rows: Rows, coefficients: Coefficients) -> Weights:
    """The equations of the paper, averaged over the prompts of the step."""
    raw = streams(rows, coefficients)
    prompts, group = torch.unique(rows.fields["prompt"], return_inverse=True)
    per_row = {name: rows.row_sum((raw[name] != 0).to(torch.float64)) for name in ("rl", "off", "sft")}
    rollouts = torch.zeros(len(prompts), dtype=torch.float64).index_add(0, group, (per_row["rl"] > 0).to(torch.float64))
    total = len(torch.unique(rows.fields["prompt"][rows.row_sum(rows.tokens["trained"].float()) > 0]))  # fillers apart
    exact = {
        "rl": divided(raw["rl"], rows.per_token(rollouts[group]) * total),
        "off": divided(raw["off"], rows.per_token(per_row["off"]) * total),
        "sft": divided(raw["sft"], rows.per_token(per_row["sft"]) * total),
    }
    return {name: over(rows, weight, weight != 0, "token", 1) for name, weight in raw.items()} | exact


def official_weights(rows: Rows, coefficients: Coefficients, micro_batch: Tensor, ranks: int) -> Weights:
    """The released arithmetic, for a given assignment of rows to micro-batches (numbered through over all ranks)."""
    raw = streams(rows, coefficients)
    batches = int(micro_batch.max()) + 1 if len(micro_batch) else 0
    of_token = rows.per_token(micro_batch)

    def mean_in_micro_batch(weight: Tensor, counted: Tensor) -> Tensor:
        sizes = torch.zeros(batches, dtype=torch.float64).index_add(0, of_token, counted.to(torch.float64))
        return divided(weight, sizes[of_token] * ranks)

    demonstration = rows.tokens["trained"] & rows.tokens["off"]
    sums = {name: divided(raw[name], torch.tensor(float(ranks * coefficients.length))) for name in ("rl", "off")}
    means = {name: mean_in_micro_batch(raw[name], raw[name] != 0) for name in ("entropy", "kl", "value")}
    return sums | means | {"sft": mean_in_micro_batch(raw["sft"], demonstration)}


def divided(weight: Tensor, count: Tensor) -> Tensor:
    """weight / count in float64, and 0 where the weight is 0, so that an empty component stays an exact 0."""
    return torch.where(weight != 0, weight.to(torch.float64) / count.clamp(min=1), 0.0).to(torch.float32)
