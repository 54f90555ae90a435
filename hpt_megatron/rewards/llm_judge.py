"""The component that asks a judge.

Decision: its settings say what a composition wants; where the judge is comes from the run (`build.py` puts the two
together), so a file of weights holds no address. A judge that cannot be asked is flagged; then `fallback` says whether
the answer is compared by ANLS, or the row is left out.

Example:
    >>> LlmJudge().score(Sample(turns=(), answer="fox", golds=("fox",))).flags
    ('no_judge', 'by_anls')
"""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.rewards.component import COMPONENTS, NO_ANSWER, NO_GOLD, ComponentError, Result, Sample
from hpt_megatron.rewards.judge import Judge
from hpt_megatron.rewards.text import Anls


@COMPONENTS.add("llm_judge")
@dataclass(frozen=True)
class LlmJudge:
    """1 where the judge says that the answer is right, 0 where it says that it is not."""

    fallback: Literal["anls", "exclude"] = "anls"

    def score(self, sample: Sample) -> Result:
        """With nobody to ask."""
        return self.asked(sample, None)

    def asked(self, sample: Sample, judge: Judge | None) -> Result:
        """Without a gold or an answer nobody is asked."""
        if not sample.golds:
            return Result(0.0, (NO_GOLD,), valid=False)
        if sample.answer is None or not sample.answer.strip():
            return Result(0.0, (NO_ANSWER,))
        try:
            if judge is None:
                raise ComponentError("no_judge", "no judge is configured")
            return Result(float(judge.right(sample, sample.answer)))
        except ComponentError as error:
            if self.fallback == "exclude":
                raise
            by_anls = Anls().score(sample)
            return Result(by_anls.score, (error.flag, "by_anls"), {"judge": str(error)[:300]})


@dataclass(frozen=True)
class WithJudge:
    """The component as it stands in a composition once there is somebody to ask."""

    component: LlmJudge
    judge: Judge

    def score(self, sample: Sample) -> Result:
        """What the judge says."""
        return self.component.asked(sample, self.judge)
