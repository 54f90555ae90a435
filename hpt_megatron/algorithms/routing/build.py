"""From configuration to a strategy: every name of `unify_strategy` with what it is made from.

Another package adds a name with an entry point of the group `hpt_megatron.strategies`: a function from
`AlgorithmConfig` to a strategy.
"""

from collections.abc import Sequence

from hpt_megatron.algorithms.routing.adaptive import Adaptive
from hpt_megatron.algorithms.routing.anneal import Anneal
from hpt_megatron.algorithms.routing.decision import STRATEGIES, Mix, Outcome, Routing, Strategy, route
from hpt_megatron.algorithms.routing.demonstration import DEMONSTRATIONS
from hpt_megatron.algorithms.routing.plain import Plain
from hpt_megatron.algorithms.routing.soft import Soft, soft_table
from hpt_megatron.algorithms.routing.switch import ALL, Switch
from hpt_megatron.config.algorithm import AlgorithmConfig


def route_step(algorithm: AlgorithmConfig, strategy: Strategy, outcomes: Sequence[Outcome], step: int) -> Routing:
    """The decisions of a step, as the run treats prompts without a target."""
    return route(strategy, outcomes, step, algorithm.without_target)


def build_strategy(algorithm: AlgorithmConfig) -> Strategy:
    """The strategy that a run asks for."""
    return STRATEGIES.get(algorithm.unify_strategy)(algorithm)


def _imitation(algorithm: AlgorithmConfig) -> Mix:
    return DEMONSTRATIONS[algorithm.offline_loss_type]


@STRATEGIES.add("switch")
def _switch(algorithm: AlgorithmConfig) -> Strategy:
    return Switch(
        gate=algorithm.switch_gate,
        gate_off=algorithm.switch_gate_off,
        gate_rate=algorithm.switch_gate_rate,
        gate_off_rate=algorithm.switch_gate_off_rate,
        remove=algorithm.on_remove_num or ALL,
        imitation=_imitation(algorithm),
    )


@STRATEGIES.add("soft")
def _soft(algorithm: AlgorithmConfig) -> Strategy:
    soft = algorithm.soft
    table, shifted = soft_table(soft.table)
    return Soft(table, soft.count_includes_demo, shifted)


@STRATEGIES.add("no")
def _no(algorithm: AlgorithmConfig) -> Strategy:
    return Plain(algorithm.n_prefix, _imitation(algorithm))


@STRATEGIES.add("adaptive")
def _adaptive(algorithm: AlgorithmConfig) -> Strategy:
    adaptive = algorithm.adaptive
    return Adaptive(adaptive.low, adaptive.high, adaptive.prior, adaptive.rate, _imitation(algorithm))


@STRATEGIES.add("anneal")
def _anneal(algorithm: AlgorithmConfig) -> Strategy:
    anneal = algorithm.anneal
    return Anneal(anneal.start, anneal.end, anneal.steps, anneal.shape, _imitation(algorithm))
