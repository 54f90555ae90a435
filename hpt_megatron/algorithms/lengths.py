"""How long prompts and responses of a step are, as users of the released code know it.

    response_length/mean, max, min, p50, p90    tokens of a response, observations between turns included
    response_length/clip_ratio                  share of responses that a limit cut off
    prompt_length/mean, max, min                tokens before it

Invariant: only sampled rollouts that no failure of ours ended count.

Example: length_metrics([collected.batch.rows])["response_length/mean"]
"""

from collections.abc import Sequence

import torch

from hpt_megatron.algorithms.outcome import counted_rollouts
from hpt_megatron.algorithms.shaping import response_lengths
from hpt_megatron.protocol.rows import Rows


def length_metrics(parts: Sequence[Rows]) -> dict[str, float]:
    """Of all rounds of a step together; nothing where nothing was sampled."""
    if not any(bool(counted_rollouts(rows).any()) for rows in parts):
        return {}
    counted = [counted_rollouts(rows) for rows in parts]
    of_row = [response_lengths(rows) for rows in parts]
    response = torch.cat([each[own] for each, own in zip(of_row, counted, strict=True)]).double()
    whole = torch.cat([rows.lengths[own] for rows, own in zip(parts, counted, strict=True)]).double()
    cut = torch.cat([rows.fields["cut"][own] for rows, own in zip(parts, counted, strict=True)])
    found = {"response_length/clip_ratio": float(cut.double().mean())}
    for name, share in (("p50", 0.5), ("p90", 0.9)):
        found[f"response_length/{name}"] = float(torch.quantile(response, share))
    for name, lengths in (("response_length", response), ("prompt_length", whole - response)):
        found |= {f"{name}/mean": float(lengths.mean()), f"{name}/max": float(lengths.max())}
        found[f"{name}/min"] = float(lengths.min())
    return found
