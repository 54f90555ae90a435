"""Controllers of the KL penalty: measured KL in, coefficient out.

    fixed      beta stays kl_coef
    adaptive   Ziegler et al. 2019: error = clip(KL / target - 1, -0.2, 0.2); beta *= 1 + error * n / horizon
    ppo_rule   PPO 2017: beta *= 2 where KL > 1.5 * target, beta /= 2 where KL < target / 1.5, else unchanged

KL is what `observe` is given, `n` the number of rows it was measured over. The usual target of 6 is a KL per row
(summed over its tokens, as Ziegler et al. measure it), and `horizon` counts rows, not optimizer steps.

Invariants
    1. The coefficient lies in [low, high] after every call, and changes at the end of an update period only.
    2. One call of `observe` is one step. A period's observations count by their rows: two calls with (KL, n) act as
       one with the mean over both.
    3. A KL that is not finite is left out and counted; a period without any other leaves the coefficient alone.
    4. What `state_dict` answers goes through JSON, and a controller that loads it continues bit for bit.

Example:
    >>> control = make_controller("ppo_rule", KlSettings(kl_coef=0.2, target_kl=6.0, low=0.01, high=0.5))
    >>> control.observe(10.0, 256)
    >>> control.coefficient
    0.4
    >>> control.observe(10.0, 256)
    >>> control.coefficient
    0.5
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hpt_megatron.errors import UserError
from hpt_megatron.registry import Registry

ERROR_BOUND = 0.2  # Ziegler et al. 2019
TOLERANCE = 1.5  # PPO 2017
WHERE = "algorithm.kl_ctrl"


@dataclass(frozen=True, kw_only=True)
class KlSettings:
    """What the controllers read; `fixed` reads `kl_coef` and the bounds, `ppo_rule` all but `horizon`."""

    kl_coef: float
    target_kl: float = 6.0
    horizon: int = 10_000
    low: float = 0.0
    high: float = 1.0
    update_period: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise UserError(f"bounds {self.low} to {self.high} are no range", where=WHERE, mend="0 <= low <= high")
        if not self.low <= self.kl_coef <= self.high:
            what = f"{self.kl_coef} lies outside its bounds {self.low} to {self.high}"
            raise UserError(what, where=f"{WHERE}.kl_coef", mend="move it, or widen the bounds")
        if self.update_period < 1:
            raise UserError(f"{self.update_period} steps", where=f"{WHERE}.update_period", mend="1 or more")


class Controller(ABC):
    """Collects observations over a period, then lets its rule move the coefficient once."""

    name: ClassVar[str]

    def __init__(self, settings: KlSettings) -> None:
        self.settings = settings
        self.coefficient = settings.kl_coef
        self.ignored = 0  # observations that were not finite
        self._steps, self._mean, self._count = 0, 0.0, 0

    @abstractmethod
    def moved(self, kl: float, count: int) -> float:
        """The coefficient after a period with this mean KL over so many rows, before it is bounded."""

    def observe(self, kl: float, count: int) -> None:
        """One step: the mean KL over `count` rows (0 where there was nothing to measure)."""
        if count < 0:
            raise ValueError(f"a KL cannot be measured over {count} rows")
        if not math.isfinite(kl):
            self.ignored += 1
        elif count:
            # A mix of the two, not a sum to be divided, so that no KL however large overflows.
            self._count += count
            share = count / self._count
            self._mean = self._mean * (1 - share) + kl * share
        self._steps += 1
        # More than the period only where it was made shorter on resume.
        if self._steps >= self.settings.update_period:
            if self._count:
                self.coefficient = self._bounded(self.moved(self._mean, self._count))
            self._steps, self._mean, self._count = 0, 0.0, 0

    def _bounded(self, coefficient: float) -> float:
        return min(max(coefficient, self.settings.low), self.settings.high)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, in JSON's types."""
        return {
            "type": self.name,
            "coefficient": self.coefficient,
            "ignored": self.ignored,
            "steps": self._steps,
            "mean": self._mean,
            "count": self._count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where a controller of the same type stopped; settings may have changed, their bounds then hold."""
        if state.get("type") != self.name:
            what = f"the checkpoint's controller is {state.get('type')}, the run's is {self.name}"
            raise UserError(what, where=f"{WHERE}.type", mend="resume with the same type")
        self.coefficient = self._bounded(float(state["coefficient"]))
        self.ignored = int(state["ignored"])
        self._steps, self._mean, self._count = int(state["steps"]), float(state["mean"]), int(state["count"])


CONTROLLERS: Registry[type[Controller]] = Registry("KL controller", "hpt_megatron.kl_controllers")


def make_controller(name: str, settings: KlSettings) -> Controller:
    """The controller that a configuration names: fixed, adaptive, ppo_rule, or another package's."""
    return CONTROLLERS.get(name)(settings)


def _need_target(settings: KlSettings, name: str) -> None:
    if not 0 < settings.target_kl < math.inf:
        what = f"{name} steers towards {settings.target_kl}, which no policy keeps"
        raise UserError(what, where=f"{WHERE}.target_kl", mend="a number above 0, 6.0 for example")


@CONTROLLERS.add("fixed")
class Fixed(Controller):
    """beta = kl_coef, whatever is measured; on resume, the run's own value."""

    name = "fixed"

    def moved(self, kl: float, count: int) -> float:
        """kl_coef."""
        return self.settings.kl_coef

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As any controller; but a `kl_coef` that was changed for the resumed run holds."""
        super().load_state_dict(state)
        self.coefficient = self.settings.kl_coef


@CONTROLLERS.add("adaptive")
class Proportional(Controller):
    """beta *= 1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon, n rows since the last update."""

    name = "adaptive"

    def __init__(self, settings: KlSettings) -> None:
        super().__init__(settings)
        _need_target(settings, self.name)
        if settings.horizon < 1:
            raise UserError(f"{settings.horizon} is no horizon", where=f"{WHERE}.horizon", mend="1 or more rows")

    def moved(self, kl: float, count: int) -> float:
        """The proportional rule; more than 5 horizons of rows at once would make it negative, where `low` holds."""
        error = min(max(kl / self.settings.target_kl - 1, -ERROR_BOUND), ERROR_BOUND)
        return self.coefficient * (1 + error * count / self.settings.horizon)


@CONTROLLERS.add("ppo_rule")
class DoubleHalve(Controller):
    """beta doubles above 1.5 * target, halves below target / 1.5, and rests between, both ends included."""

    name = "ppo_rule"

    def __init__(self, settings: KlSettings) -> None:
        super().__init__(settings)
        _need_target(settings, self.name)

    def moved(self, kl: float, count: int) -> float:
        """The rule of the PPO paper; how many rows were measured does not matter."""
        if kl > TOLERANCE * self.settings.target_kl:
            return 2 * self.coefficient
        if kl < self.settings.target_kl / TOLERANCE:
            return self.coefficient / 2
        return self.coefficient
