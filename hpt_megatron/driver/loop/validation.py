"""Validation: responses to prompts that are not trained on, sampled with settings of their own.

    val/mean_score          mean over the prompts of the mean score of their responses
    val/mean_score/SOURCE   mean score of all responses to the prompts of a data source
    val/avg@k/SOURCE        mean success over k responses
    val/pass@k/SOURCE       share of prompts of which any of k responses is a success
    val/base_loss           mean loss of a token of `data.base_files`, of which nothing is trained
    val/forgetting          by how much it lies above what it was before the first step
    val/demo_loss           mean loss of a token of demonstrations that are not trained on (`data.hold_out`)
    val/pairs/accuracy      of pairs that are not trained on; /margin, /brier, /ece, /auc, /separation: `calibration.py`
    val/pairs/accuracy/DOMAIN

Invariants
    1. The engines have the weights of the step that is validated.
    2. Figures are those of `observe/pass_rates.py`, without intervals: a response that was not scored counts in none.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from hpt_megatron.algorithms.calibration import Calibration, as_json, calibrated, histogram
from hpt_megatron.algorithms.outcome import success_rule, successes
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.pairs import pairs_of
from hpt_megatron.driver.loop.preference import PreferenceLoop
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Asked, Collected, Roles
from hpt_megatron.driver.loop.rollouts import components_of
from hpt_megatron.driver.loop.supervised import SupervisedLoop
from hpt_megatron.observe.pass_rates import ALL, UNNAMED, Group, values_of
from hpt_megatron.observe.step import Step

PREFERENCES = "preferences"
BASE_LOSS = "base_loss.json"


class Validation:
    """See the module; `prompts` are answered where somebody generates, the demonstrations of `held` are read."""

    def __init__(
        self,
        run: RunConfig,
        loop: SupervisedLoop,
        prompts: Sequence[Prompt],
        held: Sequence[Prompt] = (),
        pairs: Sequence[Prompt] = (),
        base: Sequence[Prompt] = (),
    ) -> None:
        self.run, self.loop, self.prompts, self.held, self.pairs, self.base = run, loop, prompts, held, pairs, base
        self.before = Path(run.trainer.run_dir) / BASE_LOSS

    def begin(self) -> None:
        """Before the first step: what the model that the run starts from makes of the base."""
        if self.base:
            loss = demo_loss(self.loop.roles, self.base)
            self.before.write_text(json.dumps({"base_loss": loss}) + "\n", encoding="utf-8")

    def __call__(self, number: int, log: Step) -> Mapping[str, float]:
        """All prompts, once."""
        told: dict[str, float] = {}
        if self.base:
            with log.stage("validate"):
                told["val/base_loss"] = demo_loss(self.loop.roles, self.base)
            if self.before.is_file():
                began = float(json.loads(self.before.read_text(encoding="utf-8"))["base_loss"])
                told["val/forgetting"] = told["val/base_loss"] - began
        if self.held:
            with log.stage("validate"):
                told["val/demo_loss"] = demo_loss(self.loop.roles, self.held)
        if self.pairs and isinstance(self.loop, PreferenceLoop):
            with log.stage("validate"):
                told |= judged_pairs(self.loop, self.pairs, Path(self.run.trainer.run_dir), number)
        if self.prompts and isinstance(self.loop, RlLoop):
            told |= self._answered(self.loop, number, log)
        return told

    def _answered(self, loop: RlLoop, number: int, log: Step) -> Mapping[str, float]:
        records = tuple(prompt.record for prompt in self.prompts)
        samples = self.run.rollout.n_val
        places = tuple(range(len(records)))
        asked = Asked(records=records, places=places, samples=samples, step=number, purpose="validate")
        groups, _ = grouped(self.run, records, loop.collect(asked, log, "validate"))
        return numbers_of(groups, samples)


def judged_pairs(loop: PreferenceLoop, prompts: Sequence[Prompt], folder: Path, step: int) -> dict[str, float]:
    """How the model tells preferred answers from others; all of it also stands in RUN/preferences/step_N.json."""
    paired = loop.shown_pairs(prompts)
    pairs = pairs_of(paired.batch, paired=True)
    if not len(pairs.chosen):
        return {}
    worth = loop.worth(paired.batch)
    chosen, other = worth[pairs.chosen], worth[pairs.rejected]
    found = calibrated(chosen, other)
    places = paired.batch.rows.fields["prompt"][pairs.chosen].tolist()
    domains: dict[str, list[int]] = defaultdict(list)
    for at, place in enumerate(places):
        domains[paired.domains[place]].append(at)
    each = {name: calibrated(chosen[index], other[index]) for name, index in sorted(domains.items())}
    write_pairs(folder, step, loop.preference.loss or "", found, each, histogram(chosen, other))
    told = {f"val/pairs/{name}": value for name, value in found.numbers.items()}
    return told | {f"val/pairs/accuracy/{name}": one.accuracy for name, one in each.items()}


def write_pairs(
    folder: Path,
    step: int,
    loss: str,
    found: Calibration,
    domains: Mapping[str, Calibration],
    counts: Mapping[str, Sequence[float]],
) -> None:
    """What a report draws: the distribution of scores, and how sure the model is against how right."""
    told = {"step": step, "loss": loss, "all": as_json(found), "histogram": counts}
    told["domains"] = {name: {**one.numbers, "pairs": one.pairs} for name, one in domains.items()}
    path = folder / PREFERENCES / f"step_{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def demo_loss(roles: Roles, prompts: Sequence[Prompt]) -> float:
    """Mean over the trained tokens of demonstrations; not a number where none can be shown."""
    shown = roles.teacher.show([prompt.record for prompt in prompts], range(len(prompts)))
    trained = shown.rows.tokens["trained"]
    return -float(roles.policy.log_probs(shown)[trained].mean()) if bool(trained.any()) else float("nan")


def grouped(run: RunConfig, records: Sequence[Record], collected: Collected) -> tuple[list[Group], dict[str, int]]:
    """The responses that were scored, by prompt, and how many there are and are not."""
    rows = collected.batch.rows
    right = successes(components_of(rows.fields), success_rule(run.algorithm))
    columns = (rows.fields[name].tolist() for name in ("prompt", "score", "valid"))
    said: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for place, score, valid, success in zip(*columns, right.tolist(), strict=True):
        if valid:
            said[place].append((score, success))
    groups = [
        Group(record.data_source, tuple(score for score, _ in said[place]), tuple(right for _, right in said[place]))
        for place, record in enumerate(records)
    ]
    responses = sum(len(group.scores) for group in groups)
    counts = {"prompts": len(records), "responses": responses}
    return groups, counts | {"not_scored": len(records) * run.rollout.n_val - responses}


def numbers_of(groups: Sequence[Group], k: int) -> dict[str, float]:
    """What a log says of them; those that have no data source are `all`.

    >>> numbers_of([Group("count", (1.0, 0.0), (True, False)), Group("count", (0.0, 0.0), (False, False))], 2)
    {'val/mean_score': 0.25, 'val/mean_score/count': 0.25, 'val/avg@2/count': 0.25, 'val/pass@2/count': 0.5}
    """
    scored = [group for group in groups if group.scores]
    told = {"val/mean_score": fmean(fmean(group.scores) for group in scored)} if scored else {}
    for source, each in values_of(scored, [k]).items():
        if source != ALL:
            called = "all" if source == UNNAMED else source
            told |= {f"val/{name}/{called}": fmean(values) for name, values in each.items()}
    return told
