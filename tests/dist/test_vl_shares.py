"""What each component has of a step is the same number in every layout, and on every process of one.

Real processes, the small model, rows with and without images. By value: `tests/unit/mcore/step/test_shares.py`.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
from processes import run
from small_vl import Layout, folder_of, plain, small_batch, started

from hpt_megatron.config.run import RunConfig
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.parity.rows import components
from hpt_megatron.protocol.batch import Batch

pytestmark = pytest.mark.slow
LOOKED_AT = ("token_share/", "grad_share/", "entropy/", "actor/entropy_loss", "correction/abs_gap")


def step(where: Rendezvous, config: RunConfig, batch: Batch) -> Mapping[str, float]:
    """What one process is told of a step."""
    worker = started(where, config)
    report = worker.update(worker.split(batch), components(), plain(worker))
    return {name: value for name, value in report.metrics.items() if name.startswith(LOOKED_AT)}


def test_shares_do_not_depend_on_the_layout(tmp_path: Path) -> None:
    """Micro-batches, pipeline and context parallelism; sums go over data-parallel ranks as over those of a context."""
    folder = folder_of(tmp_path)
    batch = small_batch(Layout().run(folder))
    batch = batch.with_rows(batch.rows.with_tokens(rollout_logp=batch.rows.tokens["old_logp"] - 0.25))
    told = []
    for layout in (Layout(), Layout(pp=2, cp=2, pack=64, order=3)):
        said = run(layout.processes, step, layout.run(folder), layout.rows(batch))
        assert all(each == said[0] for each in said), "every process is told the same"
        told.append(said[0])
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    shares = [value for name, value in told[0].items() if name.startswith("grad_share/")]
    assert len(shares) > 2
    assert sum(shares) == pytest.approx(1.0)
    assert told[0]["correction/abs_gap_text"] == pytest.approx(0.25, rel=1e-4)
    assert told[0]["correction/abs_gap_images"] == pytest.approx(0.25, rel=1e-4)
