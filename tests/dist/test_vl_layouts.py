"""The model in every layout is the model in one process, and that one is the model of transformers.

All 27 layouts of tp {1,2,4}, pp {1,2}, vpp {1,2}, cp {1,2}, dp {1,2} that eight processes can form, with packs of
different sizes and rows in different orders among them. Each layout gets fresh processes: the fork server makes them in
milliseconds, while processes that go through many layouts collect the threads of gloo groups. Not covered: layouts beyond
eight processes, and sizes of real models, which are `hpt parity`'s and a GPU's to show.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from small_vl import Layout, folder_of, outcome_of, reference, small_batch
from torch import Tensor

from hpt_megatron.parity.compare import apart, compare
from hpt_megatron.parity.reference import Outcome
from hpt_megatron.protocol.batch import Batch

pytestmark = pytest.mark.slow

CLOSE = 1e-5
LAYOUTS = [
    Layout(tp, pp, vpp, cp, dp, pack=(64, 96, 128)[number % 3], order=number)
    for number, (tp, pp, vpp, cp, dp) in enumerate(product((1, 2, 4), (1, 2), (1, 2), (1, 2), (1, 2)))
    if tp * pp * cp * dp <= 8 and (vpp == 1 or pp > 1)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's checkpoint."""
    return folder_of(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def batch(folder: Path) -> Batch:
    """Its rows."""
    return small_batch(LAYOUTS[0].run(folder))


@pytest.fixture(scope="module")
def theirs(folder: Path, batch: Batch) -> Outcome:
    """What transformers says."""
    return reference(LAYOUTS[0].run(folder), batch)


@pytest.fixture(scope="module")
def alone(folder: Path, batch: Batch) -> dict[str, Tensor]:
    """The weights after three steps in one process."""
    return outcome_of(LAYOUTS[0].run(folder), batch, steps=3)[1]


def test_there_are_27_layouts() -> None:
    """What the issue of eight processes comes to."""
    assert len(LAYOUTS) == 27
    assert len({(x.tp, x.pp, x.vpp, x.cp, x.dp) for x in LAYOUTS}) == 27


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_says_what_transformers_says_and_learns_alike(
    folder: Path, batch: Batch, theirs: Outcome, alone: dict[str, Tensor], layout: Layout
) -> None:
    """Logits, log-probs, every loss and the gradient of every tensor: norm-relative 1e-5 in float32.

    Then the weights after three optimizer steps: a hundredth of the learning rate apart at most.
    """
    config, rows = layout.run(folder), layout.rows(batch)
    ours, weights = outcome_of(config, rows, steps=3)
    found = [one for one in compare(ours, in_order(theirs, batch, rows)) if one.relative > CLOSE]
    assert not found, found
    assert weights.keys() == alone.keys()
    furthest = max((apart(weights[name], alone[name])[0], name) for name in alone)
    assert furthest[0] < config.trainer.lr / 100, furthest


def in_order(theirs: Outcome, batch: Batch, rows: Batch) -> Outcome:
    """The reference with its tokens in another order of rows; sums and gradients have none."""
    places = torch.split(torch.arange(batch.rows.num_tokens), batch.rows.lengths.tolist())
    index = torch.cat([places[int(prompt)] for prompt in rows.rows.fields["prompt"]])
    return replace(theirs, logits=theirs.logits[index], logp=theirs.logp[index], entropy=theirs.entropy[index])
