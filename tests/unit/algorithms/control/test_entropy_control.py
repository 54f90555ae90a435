"""The coefficient of the entropy bonus: raised under its target, bounded, resumed, and in the weights of a step."""

import doctest
import json
import math

import pytest
import torch

from hpt_megatron.algorithms import entropy_control
from hpt_megatron.algorithms.entropy_control import EntropyControl
from hpt_megatron.config.load import load_run
from hpt_megatron.driver.loop.algorithm import ENTROPY, Algorithm
from hpt_megatron.protocol.rows import Rows

GIVEN = ["experiment=tiny-grpo", "algorithm.entropy_coeff=0.002", "algorithm.entropy_ctrl.step=0.003"]


def test_the_example_of_the_module_holds():
    result = doctest.testmod(entropy_control)
    assert (result.failed, result.attempted) == (0, 2)


def test_it_stays_within_its_bounds_and_is_moved_by_numbers_alone():
    control = EntropyControl(low=0.002, high=0.007, step=0.003, target=0.5)
    moved = []
    for entropy in (0.4, 0.4, 0.4, math.nan, 0.5, 0.6, 0.6):
        control.observe(entropy)
        moved.append(round(control.coefficient, 6))
    assert moved == [0.005, 0.007, 0.007, 0.007, 0.004, 0.002, 0.002]
    fixed = EntropyControl(low=0.002, high=0.007, step=0.003, target=None)
    fixed.observe(0.0)
    assert fixed.coefficient == 0.002


def rows():
    tokens = {"trained": [[True, True], [True]], "off": [[False, False], [False]], "credit": [[1.0, 1.0], [1.0]]}
    mixes = {"mix_on": [1.0, 1.0], "mix_off": [0.0, 0.0], "mix_sft": [0.0, 0.0]}
    return Rows.from_lists({**tokens, "ids": [[1, 2], [3]]}, prompt=[0, 1], sample=[0, 0], valid=[True, True], **mixes)


def weight_of(algorithm):
    made = algorithm.weighted(rows(), torch.zeros(2, dtype=torch.int64), 1, algorithm.components)
    return float(made.tokens["weight_entropy"].sum())


def test_a_step_is_trained_with_what_the_step_before_made_of_it_and_a_resumed_run_goes_on():
    algorithm = Algorithm(load_run([*GIVEN, "algorithm.entropy_ctrl.target=0.5"]))
    assert weight_of(algorithm) == pytest.approx(0.002)
    assert algorithm.updated({ENTROPY: 0.1}) == {"entropy/coeff": 0.002}
    assert weight_of(algorithm) == pytest.approx(0.005)
    assert algorithm.updated({"entropy/sft": 0.1}) == {}, "a warm-up has no rollouts"
    other = Algorithm(load_run([*GIVEN, "algorithm.entropy_ctrl.target=0.5"]))
    other.restore(json.loads(json.dumps(algorithm.state())))
    assert weight_of(other) == pytest.approx(0.005)
    old = {name: each for name, each in algorithm.state().items() if name != "entropy"}
    other.restore(old)
    assert weight_of(other) == pytest.approx(0.002), "a checkpoint from before there was one"


def test_without_a_target_the_configuration_has_the_word_also_in_a_resumed_run():
    algorithm = Algorithm(load_run([*GIVEN, "algorithm.entropy_ctrl.target=0.5"]))
    algorithm.updated({ENTROPY: 0.1})
    fixed = Algorithm(load_run(GIVEN))
    fixed.restore(algorithm.state())
    assert fixed.updated({ENTROPY: 0.1}) == {}
    assert weight_of(fixed) == pytest.approx(0.002)
