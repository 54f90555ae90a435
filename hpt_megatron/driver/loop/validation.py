"""Validation: responses to prompts that are not trained on, sampled with settings of their own.

    val/mean_score          mean score of all responses
    val/mean_score/SOURCE   mean score of all responses to the prompts of a data source
    val/avg@k/SOURCE        mean success over k responses
    val/pass@k/SOURCE       share of prompts of which any of k responses is a success
    val/demo_loss           mean loss of a token of demonstrations that are not trained on (`data.hold_out`)

Invariant: the engines have the weights of the step that is validated.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from hpt_megatron.algorithms.outcome import success_rule, successes
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Asked, Roles
from hpt_megatron.driver.loop.rollouts import components_of
from hpt_megatron.driver.loop.supervised import SupervisedLoop
from hpt_megatron.observe.step import Step


class Validation:
    """See the module; `prompts` are answered where somebody generates, the demonstrations of `held` are read."""

    def __init__(
        self, run: RunConfig, loop: SupervisedLoop, prompts: Sequence[Prompt], held: Sequence[Prompt] = ()
    ) -> None:
        self.run, self.loop, self.prompts, self.held = run, loop, prompts, held
        self.rule = success_rule(run.algorithm)

    def __call__(self, number: int, log: Step) -> Mapping[str, float]:
        """All prompts, once."""
        told: dict[str, float] = {}
        if self.held:
            with log.stage("validate"):
                told["val/demo_loss"] = demo_loss(self.loop.roles, self.held)
        if self.prompts and isinstance(self.loop, RlLoop):
            told |= self._answered(self.loop, number, log)
        return told

    def _answered(self, loop: RlLoop, number: int, log: Step) -> Mapping[str, float]:
        records = tuple(prompt.record for prompt in self.prompts)
        samples = self.run.rollout.n_val
        places = tuple(range(len(records)))
        asked = Asked(records=records, places=places, samples=samples, step=number, purpose="validate")
        rows = loop.collect(asked, log, "validate").batch.rows
        right = successes(components_of(rows.fields), self.rule) & rows.fields["valid"]
        by_prompt: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        columns = (rows.fields["prompt"].tolist(), rows.fields["score"].tolist(), right.tolist())
        for place, score, success in zip(*columns, strict=True):
            by_prompt[place].append((score, success))
        return figures([(records[place].data_source, said) for place, said in by_prompt.items()], samples)


def demo_loss(roles: Roles, prompts: Sequence[Prompt]) -> float:
    """Mean over the trained tokens of demonstrations; not a number where none can be shown."""
    shown = roles.teacher.show([prompt.record for prompt in prompts], range(len(prompts)))
    trained = shown.rows.tokens["trained"]
    return -float(roles.policy.log_probs(shown)[trained].mean()) if bool(trained.any()) else float("nan")


def figures(prompts: list[tuple[str, list[tuple[float, bool]]]], k: int) -> dict[str, float]:
    """Numbers of every data source, from the scores and successes of each prompt.

    >>> figures([("count", [(1.0, True), (0.0, False)]), ("count", [(0.0, False), (0.0, False)])], 2)
    {'val/mean_score': 0.25, 'val/mean_score/count': 0.25, 'val/avg@2/count': 0.25, 'val/pass@2/count': 0.5}
    """
    sources: dict[str, list[list[tuple[float, bool]]]] = defaultdict(list)
    for source, said in prompts:
        sources[source or "all"].append(said)
    told = {"val/mean_score": fmean(score for _, said in prompts for score, _ in said)} if prompts else {}
    for source, groups in sorted(sources.items()):
        every = [pair for group in groups for pair in group]
        told[f"val/mean_score/{source}"] = fmean(score for score, _ in every)
        told[f"val/avg@{k}/{source}"] = fmean(success for _, success in every)
        told[f"val/pass@{k}/{source}"] = fmean(any(success for _, success in group) for group in groups)
    return told
