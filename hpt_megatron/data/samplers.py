"""In which order prompts are taken; every sampler resumes to the exact next prompt.

    shuffled     every prompt once an epoch, in an order of its own for each epoch
    staged       the same, from easy to hard in stages; shuffled within a stage
    by_success   only the easiest stage at first; the next one opens when enough of this one is solved
    hard         weighted by how often a prompt failed (1 - mean success); those never tried count as failed

Decision: an order is a function of the seed, the epoch and what is in the state; it is computed again on resume, never
saved. So the state is small, plain JSON, and the same in any process.

Invariants
    1. `take(n)` gives n different prompts. What is left of an epoch and is fewer than n is left out, as everywhere
       with fixed batches; another order leaves out others.
    2. Restoring a state, also one saved at the very end of an epoch, continues with what would have come next.
    3. Prompts that are removed go at the next epoch; of `hard`, which has none, at once. A removal that would leave
       fewer than a batch waits until it does not: an epoch without a batch would end the run.
    4. A state of other prompts, or of another sampler, is refused.

Example:
    >>> order = Shuffled(["a", "b", "c", "d"], seed=0)
    >>> first, state = order.take(2), order.state()
    >>> rest = order.take(2); order.restore(state); order.take(2) == rest
    True
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from hpt_megatron.errors import UserError

FLOOR = 0.05  # the weight of a prompt that is always solved: it is still looked at now and then
MEMORY = 0.5  # of the moving average of a prompt's success
PATIENCE = 3  # epochs in one stage, then the next one opens whatever was solved


class Sampler(Protocol):
    """What the loop asks."""

    def take(self, count: int) -> list[str]:
        """The names of the next prompts."""
        ...

    def observe(self, success: Mapping[str, float]) -> None:
        """The share of successful rollouts of prompts that were taken."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Prompts that are not to come again."""
        ...

    def counts(self) -> dict[str, float]:
        """What there is to log."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues where the state was taken."""
        ...


def fingerprint(names: Sequence[str]) -> str:
    """Of names in their order."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Shuffled:
    """Every prompt once an epoch."""

    kind = "shuffled"  # as `data.sampler` has it

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self.names, self.seed = list(names), seed
        if len(set(self.names)) != len(self.names):
            raise UserError("two prompts have one name", where="data.train_files", mend="give each row its own index")
        self.epoch, self.taken = 0, 0
        self.removed: set[str] = set()
        self.gone: set[str] = set()  # removed before this epoch started
        self._order = self.order()

    def order(self) -> list[str]:
        """The order of this epoch."""
        order = [name for name in self.names if name not in self.gone]
        self.chance("order").shuffle(order)
        return order

    def chance(self, use: str) -> random.Random:
        """Random numbers that depend on the seed, the epoch and what they are for alone."""
        return random.Random(f"{self.seed}/{self.epoch}/{use}")

    def take(self, count: int) -> list[str]:
        """The next prompts of this epoch, or the first ones of the next."""
        if self.taken + count > len(self._order):
            self.start_epoch(count)
            if count > len(self._order):
                what = f"{len(self._order)} prompts are left, a batch takes {count}"
                raise UserError(what, where="data.train_batch_size", mend=f"at most {len(self._order)}")
        found = self._order[self.taken : self.taken + count]
        self.taken += count
        return found

    def start_epoch(self, count: int) -> None:
        """The next epoch, of which batches of `count` are taken; what was removed in this one is gone."""
        before, self.gone = self.gone, set(self.removed)
        self.epoch, self.taken = self.epoch + 1, 0
        self._order = self.order()
        if len(self._order) < count:
            self.gone = before
            self._order = self.order()

    def observe(self, success: Mapping[str, float]) -> None:
        """Takes no notice."""

    def remove(self, names: Iterable[str]) -> None:
        """From the next epoch on."""
        self.removed |= set(names) & set(self.names)

    def counts(self) -> dict[str, float]:
        """The epoch, and how far it is."""
        share = self.taken / len(self._order) if self._order else 1.0
        return {"data/epoch": self.epoch + share, "data/removed": len(self.removed)}

    def state(self) -> dict[str, Any]:
        """Plain JSON."""
        told = {"kind": self.kind, "names": fingerprint(self.names), "seed": self.seed}
        told |= {"epoch": self.epoch, "taken": self.taken}
        return {**told, "removed": sorted(self.removed), "gone": sorted(self.gone)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back a state of the same prompts and sampler."""
        self.check(state)
        self.seed, self.epoch, self.taken = state["seed"], state["epoch"], state["taken"]
        self.removed, self.gone = set(state["removed"]), set(state["gone"])
        self._order = self.order()

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses a state that is not its own, before anything of it is taken."""
        if state.get("kind") != self.kind:
            what = f"the saved run took prompts by {state.get('kind')!r}, this one by {self.kind!r}"
            raise UserError(what, where="data.sampler", mend="resume with the sampler of the run, or start a new one")
        if state["names"] != fingerprint(self.names):
            mend = "resume with the files of the run, or start a new one"
            raise UserError("the prompts are not those of the saved run", where="data.train_files", mend=mend)


def stages_of(names: Sequence[str], difficulty: Mapping[str, float], count: int) -> dict[str, int]:
    """The stage of every prompt, 0 the easiest; stages are of equal size. Without a difficulty: the last one."""
    known = sorted((name for name in names if name in difficulty), key=lambda name: (difficulty[name], name))
    stages = {name: number * count // len(known) for number, name in enumerate(known)}
    return {name: stages.get(name, count - 1) for name in names}


class Staged(Shuffled):
    """From easy to hard in every epoch."""

    kind = "staged"

    def __init__(self, names: Sequence[str], seed: int, difficulty: Mapping[str, float], stages: int) -> None:
        self.stage = stages_of(names, difficulty, stages)
        super().__init__(names, seed)

    def order(self) -> list[str]:
        """Shuffled, then sorted by stage: a stable sort keeps the chance within each."""
        return sorted(super().order(), key=lambda name: self.stage[name])

    def counts(self) -> dict[str, float]:
        """Also the stage of the prompt taken last."""
        now = self.stage[self._order[max(self.taken, 1) - 1]] if self._order else 0
        return {**super().counts(), "data/stage": now}


class BySuccess(Staged):
    """One stage after another, as they are solved; an epoch is one round through the stages that are open."""

    kind = "by_success"

    def __init__(
        self, names: Sequence[str], seed: int, difficulty: Mapping[str, float], stages: int, promote_at: float
    ) -> None:
        self.open, self.rounds, self.promote_at = 0, 0, promote_at
        self.solved: dict[str, float] = {}
        super().__init__(names, seed, difficulty, stages)

    def order(self) -> list[str]:
        """Those of the open stages, all of one shuffle."""
        return [name for name in Shuffled.order(self) if self.stage[name] <= self.open]

    def start_epoch(self, count: int) -> None:
        """Opens the next stage if the hardest open one is solved, was tried for long, or does not make a batch."""
        seen = [rate for name, rate in self.solved.items() if self.stage[name] == self.open]
        self.rounds += 1
        ready = bool(seen) and sum(seen) / len(seen) >= self.promote_at
        last = max(self.stage.values(), default=0)
        if (ready or self.rounds >= PATIENCE) and self.open < last:
            self.open, self.rounds = self.open + 1, 0
        left = [self.stage[name] for name in self.names if name not in self.removed]
        while self.open < last and sum(stage <= self.open for stage in left) < count:
            self.open, self.rounds = self.open + 1, 0
        super().start_epoch(count)

    def observe(self, success: Mapping[str, float]) -> None:
        """Remembers the latest."""
        self.solved |= {name: rate for name, rate in success.items() if name in self.stage}

    def counts(self) -> dict[str, float]:
        """Also the hardest stage that is open."""
        return {**Shuffled.counts(self), "data/stage": self.open}

    def state(self) -> dict[str, Any]:
        """With the stages that are open and what was solved."""
        return {
            **super().state(),
            "open": self.open,
            "rounds": self.rounds,
            "solved": dict(sorted(self.solved.items())),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The open stages first: the order follows from them."""
        self.check(state)
        self.open, self.rounds, self.solved = state["open"], state["rounds"], dict(state["solved"])
        super().restore(state)


class Hard(Shuffled):
    """Draws a batch at a time, those that fail more often; `epoch` counts draws."""

    kind = "hard"

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self.solved: dict[str, float] = {}
        self.drawn, self.hardness = 0, 0.0
        super().__init__(names, seed)

    def order(self) -> list[str]:
        """The order of this draw: a weighted one without repetition (Efraimidis and Spirakis)."""
        chance = self.chance("order")
        keys = {name: chance.random() ** (1.0 / self.weight(name)) for name in self.names}
        return sorted((name for name in self.names if name not in self.gone), key=lambda name: (-keys[name], name))

    def weight(self, name: str) -> float:
        """From FLOOR for one that is always solved to 1."""
        return max(FLOOR, 1.0 - self.solved.get(name, 0.0))

    def take(self, count: int) -> list[str]:
        """A new draw."""
        self.start_epoch(count)
        found = super().take(count)
        self.drawn += count
        self.hardness = sum(map(self.weight, found)) / count
        return found

    def observe(self, success: Mapping[str, float]) -> None:
        """A moving average of each prompt's success."""
        for name, rate in success.items():
            if name in self.solved:
                self.solved[name] = MEMORY * self.solved[name] + (1 - MEMORY) * rate
            else:
                self.solved[name] = rate

    def counts(self) -> dict[str, float]:
        """Also how hard the last draw was, beside all prompts."""
        every = [self.weight(name) for name in self.names if name not in self.removed]
        told = {"data/epoch": self.drawn / max(1, len(every)), "data/removed": float(len(self.removed))}
        told["data/hardness_drawn"] = self.hardness  # as it was when it was drawn
        return {**told, "data/hardness_all": sum(every) / len(every) if every else 0.0}

    def state(self) -> dict[str, Any]:
        """With what was solved."""
        drawn = {"drawn": self.drawn, "hardness": self.hardness}
        return {**super().state(), **drawn, "solved": dict(sorted(self.solved.items()))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What was solved first: the order follows from it."""
        self.check(state)
        self.solved, self.drawn, self.hardness = dict(state["solved"]), state["drawn"], state["hardness"]
        super().restore(state)
