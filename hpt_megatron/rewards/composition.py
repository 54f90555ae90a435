"""The reward of a sample: a weighted sum of components, behind gates.

    score = gate_score                          where a gate's condition is not met
            clip(sum of weight * component)     otherwise, times the weight of the row's modality

A component whose code raises, or answers no finite number, gets the score `on_error` and the flag `error`, and its row
is not valid: it then counts neither as a rollout nor as a success. The row still has every component's entry.

Invariants
    1. `score` raises for no sample, whatever a component does.
    2. A condition on a component that failed, or that is not valid, is not met.
    3. Success is a comparison with thresholds, on components or on what conditions call `score`: the final score before
       the weight of the modality, here and under `algorithm.success`. What a row shows moves no threshold.

Example:
    >>> from hpt_megatron.rewards.retrieval import Ndcg
    >>> from hpt_megatron.rewards.turns import Format
    >>> parts = (Weighted("format", 0.1, Format()), Weighted("ndcg", 0.9, Ndcg()))
    >>> retrieval = Composition(parts=parts, gates=(Condition("format"),), success=(Condition(TOTAL, ">", 0.1),))
    >>> found = Sample(turns=("<answer>4</answer>",), retrieved=("d/2", "d/1"), reference=("d/1",))
    >>> scored = retrieval.score(found)
    >>> round(scored.total, 4), scored.success, scored.valid
    (0.6678, True, True)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpt_megatron.protocol.conditions import Condition
from hpt_megatron.rewards.component import Component, ComponentError, Result, Sample

TOTAL = "score"
ERROR = "error"
LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Weighted:
    """A component with its share of the sum, under the name that conditions and metrics use."""

    name: str
    weight: float
    component: Component


@dataclass(frozen=True)
class Scored:
    """What came out: the final score, what each component said, and whether the row counts."""

    total: float
    unweighted: float  # before the weight of the modality
    results: Mapping[str, Result]
    success: bool | None  # None where the composition says nothing of success
    valid: bool
    gated: tuple[str, ...] = ()  # the gates that were shut
    turns: tuple[float, ...] = ()  # the weighted sum of what components say of each turn; 0 behind a shut gate

    @property
    def components(self) -> dict[str, float]:
        """Every score by name, with what success compares as `score`, for `algorithm.success` and metrics."""
        return {**{name: result.score for name, result in self.results.items()}, TOTAL: self.unweighted}

    @property
    def failed(self) -> bool:
        """Whether a component could not answer; a row whose data are wrong is not valid either, but has not failed."""
        return any(result.failed for result in self.results.values())

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags, each with its component in front."""
        return tuple(f"{name}/{flag}" for name, result in self.results.items() for flag in result.flags)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Weights, gates and what a success is."""

    parts: tuple[Weighted, ...]
    gates: tuple[Condition, ...] = ()
    gate_score: float = 0.0
    clip: tuple[float, float] | None = None
    success: tuple[Condition, ...] = ()
    on_error: float = 0.0
    modality: Mapping[str, float] = field(default_factory=dict)  # 1 for a modality that is not named

    @property
    def names(self) -> tuple[str, ...]:
        """What `Scored.components` has entries for."""
        return (*(part.name for part in self.parts), TOTAL)

    def score(self, sample: Sample) -> Scored:
        """Every component is asked, also behind a shut gate: its number is a metric."""
        return self.summed(sample, {part.name: _asked(part.component, sample, self.on_error) for part in self.parts})

    def lost(self, sample: Sample, flag: str, what: str) -> Scored:
        """A row that no component could be asked about."""
        return self.summed(sample, {part.name: _failure(self.on_error, flag, what) for part in self.parts})

    def summed(self, sample: Sample, results: Mapping[str, Result]) -> Scored:
        """Gates, sum, clip, modality and success over what each component said."""
        gated = tuple(gate.component for gate in self.gates if not _met(gate, results))
        total = self.gate_score if gated else sum(part.weight * results[part.name].score for part in self.parts)
        if self.clip is not None and not gated:
            total = min(max(total, self.clip[0]), self.clip[1])
        valid = all(result.valid for result in results.values())
        compared = {**results, TOTAL: Result(total, valid=valid)}
        success = all(_met(condition, compared) for condition in self.success) if self.success else None
        share = self.modality.get(sample.modality, 1.0)
        turns = tuple(share * score for score in _turns(self.parts, results, bool(gated)))
        return Scored(float(total * share), float(total), results, success, valid, gated, turns)


def _met(condition: Condition, results: Mapping[str, Result]) -> bool:
    result = results[condition.component]
    return result.valid and bool(condition.met_by(result.score))


def _turns(parts: Sequence[Weighted], results: Mapping[str, Result], gated: bool) -> list[float]:
    said = [(0.0 if gated else part.weight, results[part.name].turns) for part in parts if results[part.name].turns]
    longest = max((len(turns) for _, turns in said), default=0)
    return [sum(weight * turns[i] for weight, turns in said if i < len(turns)) for i in range(longest)]


def _asked(component: Component, sample: Sample, on_error: float) -> Result:
    try:
        result = component.score(sample)
        if result.turns and len(result.turns) != len(sample.turns):
            return _failure(on_error, ERROR, f"scores {len(result.turns)} turns of {len(sample.turns)}")
        if all(map(math.isfinite, (result.score, *result.turns))):
            return result
        return _failure(on_error, ERROR, f"score {result.score}, of its turns {result.turns}")
    except ComponentError as error:
        return _failure(on_error, error.flag, str(error))
    except (Exception, SystemExit) as error:  # whatever a component does, the rollouts of a step are not lost
        return _failure(on_error, ERROR, f"{type(error).__name__}: {error}")


def _failure(on_error: float, flag: str, what: str) -> Result:
    return Result(on_error, (flag,), {ERROR: what[:LONGEST_MESSAGE]}, valid=False, failed=True)
