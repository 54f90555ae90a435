"""Validation: responses to prompts that are not trained on, sampled with settings of their own.

    val/mean_score/SOURCE   mean score of all responses to the prompts of a data source
    val/avg@k/SOURCE        mean success over k responses
    val/pass@k/SOURCE       share of prompts of which any of k responses is a success

Invariant: the engines have the weights of the step that is validated.
"""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from hpt_megatron.algorithms.outcome import success_rule, successes
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompts
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Asked
from hpt_megatron.driver.loop.rollouts import components_of
from hpt_megatron.observe.step import Step


class Validation:
    """See the module."""

    def __init__(self, run: RunConfig, loop: RlLoop, prompts: Prompts) -> None:
        self.run, self.loop, self.prompts = run, loop, prompts
        self.rule = success_rule(run.algorithm)

    def __call__(self, number: int, log: Step) -> Mapping[str, float]:
        """All prompts, once."""
        records = tuple(self.prompts[name].record for name in self.prompts.names)
        samples = self.run.rollout.n_val
        places = tuple(range(len(records)))
        asked = Asked(records=records, places=places, samples=samples, step=number, purpose="validate")
        rows = self.loop.collect(asked, log, "validate").batch.rows
        right = successes(components_of(rows.fields), self.rule) & rows.fields["valid"]
        by_prompt: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        columns = (rows.fields["prompt"].tolist(), rows.fields["score"].tolist(), right.tolist())
        for place, score, success in zip(*columns, strict=True):
            by_prompt[place].append((score, success))
        return figures([(records[place].data_source, said) for place, said in by_prompt.items()], samples)


def figures(prompts: list[tuple[str, list[tuple[float, bool]]]], k: int) -> dict[str, float]:
    """Numbers of every data source, from the scores and successes of each prompt.

    >>> figures([("count", [(1.0, True), (0.0, False)]), ("count", [(0.0, False), (0.0, False)])], 2)
    {'val/mean_score/count': 0.25, 'val/avg@2/count': 0.25, 'val/pass@2/count': 0.5}
    """
    sources: dict[str, list[list[tuple[float, bool]]]] = defaultdict(list)
    for source, said in prompts:
        sources[source or "all"].append(said)
    told = {}
    for source, groups in sorted(sources.items()):
        every = [pair for group in groups for pair in group]
        told[f"val/mean_score/{source}"] = fmean(score for score, _ in every)
        told[f"val/avg@{k}/{source}"] = fmean(success for _, success in every)
        told[f"val/pass@{k}/{source}"] = fmean(any(success for _, success in group) for group in groups)
    return told
