"""Configurations: in what runs differ, and every key of each."""

from collections.abc import Sequence

from hpt_megatron.report.differences import differences, everything
from hpt_megatron.report.figures import folded
from hpt_megatron.report.folder import Recorded
from hpt_megatron.web.page import table


def configuration(runs: Sequence[Recorded]) -> str:
    """Differences between runs, and all keys of each."""
    parts = []
    if len(runs) > 1:
        found = differences([run.config for run in runs])
        heads = ["key", *(run.name for run in runs)]
        parts.append(table([[key, *values] for key, values in found], heads) if found else "<p>No key differs.</p>")
    for run in runs:
        keys = everything(run.config)
        inside = table([list(pair) for pair in keys], ["key", "value"])
        title = f"{run.name}: " if len(runs) > 1 else ""
        parts.append(folded(f"{title}all {len(keys)} keys", inside) if keys else '<p class="note">No run.json.</p>')
    return "".join(parts)
