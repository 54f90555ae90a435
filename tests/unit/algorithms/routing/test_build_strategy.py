"""From configuration to strategies: every name builds what it says, and another package can add one."""

import pytest

from hpt_megatron.algorithms.routing.build import build_strategy, route_step
from hpt_megatron.algorithms.routing.decision import STRATEGIES, Outcome
from hpt_megatron.algorithms.routing.soft import PUBLISHED
from hpt_megatron.config.algorithm import STRATEGIES as NAMES
from hpt_megatron.config.files import groups
from hpt_megatron.config.load import load_run
from hpt_megatron.config.rules.algorithm import SOFT_TABLES

PLUGIN = """
from hpt_megatron.algorithms.routing.decision import EXPLORE, IMITATE, Decision, Stateless

class Coin(Stateless):
    def __init__(self, algorithm):
        self.gate = algorithm.switch_gate
    def decide(self, outcome):
        even = outcome.k % 2 == self.gate
        return Decision(EXPLORE) if even else Decision(IMITATE, drop=outcome.n, demo=True, arm="imitate")
"""
USE = """
from hpt_megatron.algorithms.routing.build import build_strategy
from hpt_megatron.algorithms.routing.decision import Outcome, route
from hpt_megatron.config.load import load, load_run
run = load_run(["algorithm.unify_strategy=coin"])
arms = [route(build_strategy(run.algorithm), [Outcome(8, k)], 0).decisions[0].arm for k in range(3)]
print(arms, load(["algorithm.unify_strategy=cion"]).problems[0].right)
"""


def test_the_names_of_the_configuration_are_those_that_are_built():
    assert STRATEGIES.names() == list(NAMES)
    assert tuple(PUBLISHED) == SOFT_TABLES


@pytest.mark.parametrize(
    ("choice", "arms"),
    [
        ("hpt", ["imitate", "explore", "explore"]),
        ("soft", ["imitate", "blend", "explore"]),
        ("grpo", ["explore", "explore", "explore"]),
        ("dapo", ["explore", "explore", "explore"]),
        ("official", ["imitate", "explore", "explore"]),
        ("luffy", ["blend", "blend", "blend"]),
        ("srft", ["blend", "blend", "blend"]),
        ("adaptive", ["imitate", "explore", "explore"]),
        ("anneal", ["imitate", "imitate", "imitate"]),
        ("rloo", ["explore", "explore", "explore"]),
        ("remax", ["explore", "explore", "explore"]),
        ("reinforce_plus_plus", ["explore", "explore", "explore"]),
        ("ppo", ["explore", "explore", "explore"]),
    ],
)
def test_every_algorithm_file_decides_as_its_first_line_says(choice, arms):
    algorithm = load_run([f"algorithm={choice}"]).algorithm
    outcomes = [Outcome(8, k, prompt=str(k)) for k in (0, 4, 8)]
    routing = route_step(algorithm, build_strategy(algorithm), outcomes, 0)
    assert [decision.arm for decision in routing.decisions] == arms


def test_no_algorithm_file_is_left_out_above():
    assert set(groups()["algorithm"]) == {
        "hpt",
        "soft",
        "grpo",
        "luffy",
        "srft",
        "adaptive",
        "anneal",
        "dapo",
        "official",
        "rloo",
        "remax",
        "reinforce_plus_plus",
        "ppo",
        *("dpo", "ipo", "simpo", "orpo", "kto", "rejection", "reward_model"),  # pairs: no strategy decides there
    }


def test_another_package_adds_a_strategy_through_an_entry_point(with_plugin):
    said = with_plugin("coin_strategy", PLUGIN, "[hpt_megatron.strategies]\ncoin = coin_strategy:Coin\n", USE)
    assert said.strip() == "['explore', 'imitate', 'explore'] one of switch, soft, no, adaptive, anneal, coin"
