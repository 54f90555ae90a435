"""What watches the numbers of a run: each monitor says in one line what is wrong, or nothing.

    monitor     is met when                                                           keys, of trainer.monitors
    kl          KL to the reference > kl_times x algorithm.kl_ctrl.target_kl          kl, kl_times
    reward      the mean reward, or what reward models say of it, lies reward_fall    reward, reward_fall
                below the best it was
    length      responses are longer than length_times x those of the first steps     length, length_times
    entropy     that of rollouts is below entropy_share x that of their first steps   entropy, entropy_share
    demo_loss   held-out demonstrations cost demo_loss_gap more than trained ones     demo_loss, demo_loss_gap
    repetition  more than repetition_above of a response was there before in it       repetition, repetition_above
    habits      a habit (assertive wording, lists, long words) is above habits_times  habits, habits_times
                x that of the first steps, or of the least in HABITS where it was rarer
    judge       the second judge lies judge_fall below the best it said, while the    judge, judge_fall, second
                mean reward is above that of the first steps

Numbers are means over the last `window` steps, the first steps are as many. Another package adds a monitor through the
entry point group `hpt_megatron.monitors`; `trainer.monitors.others` says what those do.

Invariants
    1. A monitor is a function of the numbers so far (`curves.py`), so a resumed run's are made again from its files.
    2. It is told when it begins to be met, and again only after it was not.
    3. A number that a run does not report is no reason to warn.

The last three are for what `rewards/habits.py` counts and for a component of the reward that is not paid: a reward that
is pleased by a habit rises with it, and a judge that does not share the weakness falls.

Example: Monitors(run).look({"response_length/mean": 80.0}) -> Findings
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hpt_megatron.config.run import RunConfig
from hpt_megatron.observe.curves import Curves
from hpt_megatron.registry import Registry


@dataclass(frozen=True)
class Monitor:
    """The names that it watches, and what it says of them."""

    watches: tuple[str, ...]
    says: Callable[[Curves, RunConfig], str]
    also: Callable[[RunConfig], tuple[str, ...]] = lambda _: ()
    """Names that depend on the run."""


MONITORS: Registry[Monitor] = Registry("monitor", "hpt_megatron.monitors")
KL, KL_LOSS, REWARD, LENGTH = "kl/sequence", "actor/kl_loss", "reward/mean", "response_length/mean"
LEARNED = "reward/learned/mean"
ENTROPY, DEMO, HELD_OUT = "entropy/rl", "actor/sft_loss", "val/demo_loss"
REPETITION = "habits/repetition"
HABITS = {
    "habits/assertive": 0.01,
    "habits/assertive_when_wrong": 0.01,
    "habits/lists": 0.1,
    "habits/long_words": 0.05,
}
"""Each with the least that growth is counted from: twice nothing is nothing."""


def _kl(curves: Curves, run: RunConfig) -> str:
    """Of a response; where only the loss has a KL, its mean per token times the length."""
    found, per_token, length = curves[KL].last, curves[KL_LOSS].last, curves[LENGTH].last
    if found is None and per_token is not None and length is not None:
        found = per_token * length
    limit = run.trainer.monitors.kl_times * run.algorithm.kl_ctrl.target_kl
    return f"KL to the reference is {found:.3g}, above {limit:.3g}" if found is not None and found > limit else ""


def _reward(curves: Curves, run: RunConfig) -> str:
    """A price on a constraint lowers the whole by itself, so where reward models are asked theirs is what counts."""
    name, called = (REWARD, "the mean reward") if curves[LEARNED].last is None else (LEARNED, "the reward models' mean")
    last, best = curves[name].last, curves[name].best
    if last is None or best is None or best - last <= run.trainer.monitors.reward_fall:
        return ""
    return f"{called} fell from {best:.3f} to {last:.3f}"


def _length(curves: Curves, run: RunConfig) -> str:
    first, last = curves[LENGTH].first, curves[LENGTH].last
    if first is None or last is None or last <= run.trainer.monitors.length_times * first:
        return ""
    return f"responses have {last:.0f} tokens, at the start they had {first:.0f}"


def _entropy(curves: Curves, run: RunConfig) -> str:
    first, last = curves[ENTROPY].first, curves[ENTROPY].last
    if first is None or last is None or last >= run.trainer.monitors.entropy_share * first:
        return ""
    return f"the entropy of the policy is {last:.3g}, at the start it was {first:.3g}"


def _demo_loss(curves: Curves, run: RunConfig) -> str:
    held_out = curves[HELD_OUT].newest if curves[HELD_OUT].newest is not None else curves[f"{HELD_OUT}/"].newest
    trained = curves[DEMO].last
    if held_out is None or trained is None or held_out - trained <= run.trainer.monitors.demo_loss_gap:
        return ""
    return f"held-out demonstrations cost {held_out:.3f} a token, trained ones {trained:.3f}"


def _repetition(curves: Curves, run: RunConfig) -> str:
    last, most = curves[REPETITION].last, run.trainer.monitors.repetition_above
    return f"{last:.0%} of a response repeats itself, above {most:.0%}" if last is not None and last > most else ""


def _habits(curves: Curves, run: RunConfig) -> str:
    grown = []
    for name, least in HABITS.items():
        first, last = curves[name].first, curves[name].last
        if first is not None and last is not None and last > run.trainer.monitors.habits_times * max(first, least):
            grown.append(f"{name} is {last:.3g}, at the start it was {first:.3g}")
    return ", ".join(grown)


def _second(run: RunConfig) -> tuple[str, ...]:
    second = run.trainer.monitors.second
    if second is None:
        return ()
    return (f"reward/{second}/mean" if second.split("/")[0] == "learned" else f"reward/component/{second}",)


def _judge(curves: Curves, run: RunConfig) -> str:
    for name in _second(run):
        last, best = curves[name].last, curves[name].best
        reward, at_first = curves[REWARD].last, curves[REWARD].first
        if last is None or best is None or reward is None or at_first is None:
            return ""
        if best - last > run.trainer.monitors.judge_fall and reward > at_first:
            fell = f"{run.trainer.monitors.second} fell from {best:.3f} to {last:.3f}"
            return f"{fell}, while the reward rose from {at_first:.3f} to {reward:.3f}"
    return ""


MONITORS.add("kl")(Monitor((KL, KL_LOSS, LENGTH), _kl))
MONITORS.add("reward")(Monitor((REWARD, LEARNED), _reward))
MONITORS.add("length")(Monitor((LENGTH,), _length))
MONITORS.add("entropy")(Monitor((ENTROPY,), _entropy))
MONITORS.add("demo_loss")(Monitor((HELD_OUT, f"{HELD_OUT}/", DEMO), _demo_loss))
MONITORS.add("repetition")(Monitor((REPETITION,), _repetition))
MONITORS.add("habits")(Monitor(tuple(HABITS), _habits))
MONITORS.add("judge")(Monitor((REWARD,), _judge, _second))


def acts_of(run: RunConfig) -> dict[str, str]:
    """What each monitor does, those that are off left out."""
    monitors = run.trainer.monitors
    acts = {
        "kl": monitors.kl,
        "reward": monitors.reward,
        "length": monitors.length,
        "entropy": monitors.entropy,
        "demo_loss": monitors.demo_loss,
        "repetition": monitors.repetition,
        "habits": monitors.habits,
        "judge": monitors.judge,
    }
    every = {name: acts.get(name, monitors.others) for name in MONITORS.names()}
    return {name: act for name, act in every.items() if act != "off"}


@dataclass(frozen=True)
class Findings:
    """What is to be told, what ends the run (nothing where nothing does), and a number for each monitor."""

    told: list[str] = field(default_factory=list)
    stop: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


class Monitors:
    """All that a run has not switched off."""

    def __init__(self, run: RunConfig) -> None:
        self.run, self.acts = run, acts_of(run)
        self.monitors = {name: MONITORS.get(name) for name in self.acts}
        self.begin(())

    def begin(self, before: Iterable[Mapping[str, float | None]]) -> None:
        """The numbers of the steps before; nothing is told of them again."""
        watching = self.monitors.values()
        names = {name for monitor in watching for name in (*monitor.watches, *monitor.also(self.run))}
        self.curves = Curves(sorted(names), self.run.trainer.monitors.window)
        self._met: set[str] = set()
        for numbers in before:
            self.look(numbers)

    def look(self, numbers: Mapping[str, float | None]) -> Findings:
        """With the numbers of one more step, or of a validation."""
        self.curves.add(numbers)
        said = {name: monitor.says(self.curves, self.run) for name, monitor in self.monitors.items()}
        met = {name for name, what in said.items() if what}
        new, self._met = met - self._met, met
        told = [f"{name}: {said[name]}" for name in self.monitors if name in new]
        ends = [f"{name}: {said[name]}" for name in self.monitors if name in met and self.acts[name] == "stop"]
        return Findings(told, "; ".join(ends), {f"monitor/{name}": float(name in met) for name in self.monitors})
