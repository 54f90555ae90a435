"""What `hpt explain` shows of a loss over pairs: its formula, and weights that agree with it."""

import math

import pytest

from hpt_megatron.algorithms.explain import APART, explain_pairs
from hpt_megatron.cli import main
from hpt_megatron.config.load import load


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo", "kto", "rejection", "reward_model"])
def test_every_loss_over_pairs_is_explained(name, capsys):
    assert main.main(["explain", name]) == 0
    said = capsys.readouterr().out
    assert "a loss over pairs" in said
    assert len([line for line in said.splitlines() if line.split()[:1] and line.split()[0] in map(number, APART)]) == 7


def number(value):
    return f"{value:.4g}"


def test_the_table_of_dpo_is_its_formula():
    told = explain_pairs(load(["algorithm=dpo", "algorithm.preference.beta=0.5"]).run.algorithm)
    assert told.models == ["policy", "reference"]
    for gap in told.gaps:
        sigma = 1 / (1 + math.exp(0.5 * gap.apart))
        assert gap.loss == pytest.approx(math.log(1 + math.exp(-0.5 * gap.apart)))
        assert gap.chosen == pytest.approx(0.5 * sigma, rel=1e-6)
        assert gap.rejected == pytest.approx(-0.5 * sigma, rel=1e-6)
