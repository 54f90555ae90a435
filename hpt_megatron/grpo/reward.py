"""The reward of a GRPO run, as a composition in the run's folder.

    single    one component, `total`, that adds up accuracy, length and quality by itself: one curve
    multi     the three as components: a curve for each, and their sum

The shares are a preset's or those of a file (`--reward-config`, in either spelling of `rewards/composition_file.py`).

Decision: where no row brings an answer to compare with and no keywords are given, accuracy can score nothing and would
take every row with it; so it is left out, and a note says so. Keywords as accuracy are easily learned by heart: they
are taken where a file gives them, and are no default.

Example:
    >>> chosen = choose(GRPOConfig(reward_config_name="quality"), with_answers=5, rows=5)
    >>> chosen.values["components"][0]["settings"]["quality_weight"], chosen.told
    (0.7, 'single: 0.15 accuracy + 0.15 length + 0.7 quality; the weights sum to 1')
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.presets import PRESETS
from hpt_megatron.errors import UserError
from hpt_megatron.grpo.config import GRPOConfig
from hpt_megatron.rewards.composition_file import FLAT_KEYS, SECTIONS, load_composition, read_composition

TOTAL = "total"
FILE = "reward.json"
SLOPE = "length_weight"
"""Of the section `length`: not the share in the sum, which has the same name."""


@dataclass(frozen=True)
class Chosen:
    """A composition as JSON, in words, and what a success is."""

    values: dict[str, Any]
    told: str
    success: str
    notes: tuple[str, ...] = ()


def choose(config: GRPOConfig, with_answers: int, rows: int) -> Chosen:
    """The reward of a configuration, for data of which so many rows bring an answer."""
    given, where = _given(config)
    if not any(key in given for key in FLAT_KEYS):
        return _as_it_is(given, where, config)
    given, notes = _possible(given, with_answers, rows)
    read_composition(given, where)
    shares = {name: float(given[f"{name}_weight"]) for name in SECTIONS if given.get(f"{name}_weight")}
    if not shares:
        raise UserError("no component has a weight", where=where, mend="accuracy_weight, length_weight, quality_weight")
    if not _judges(given, shares):
        notes.append("nothing but the length of a response is scored: --reward-config FILE says what is good")
    if config.rewards == "single":
        settings = {f"{name}_weight": share for name, share in shares.items()}
        for name in shares:
            section = dict(given.get(name, {}))
            if name == "length" and SLOPE in section:
                section["length_slope"] = section.pop(SLOPE)
            settings |= section
        values: dict[str, Any] = {"components": [{"name": "unified", "as": TOTAL, "settings": settings}]}
    else:
        values = {key: value for key, value in given.items() if key.removesuffix("_weight") in shares}
    read_composition(values, where)
    return Chosen(values, _told(config.rewards, shares), _success(config.rewards, shares), tuple(notes))


def _given(config: GRPOConfig) -> tuple[dict[str, Any], str]:
    if config.reward_config_file is None:
        return dict(PRESETS[config.reward_config_name]), f"reward_config_name {config.reward_config_name}"
    path = Path(config.reward_config_file)
    load_composition(path)  # which tells everything that is wrong with it
    return json.loads(path.read_text(encoding="utf-8")), str(path)


def _as_it_is(given: dict[str, Any], where: str, config: GRPOConfig) -> Chosen:
    composition = read_composition(given, where)
    shares = {part.name: part.weight for part in composition.parts}
    notes = []
    if config.rewards == "single" and len(shares) > 1:
        notes.append(f"{where} names its components, so each has a curve of its own")
    return Chosen(given, _told("multi" if len(shares) > 1 else "single", shares), _success("multi", shares), (*notes,))


def _possible(given: dict[str, Any], with_answers: int, rows: int) -> tuple[dict[str, Any], list[str]]:
    """Without accuracy where it has nothing to go by."""
    if not given.get("accuracy_weight") or given.get("accuracy", {}).get("correct_keywords"):
        return given, []
    if with_answers:
        lacking = rows - with_answers
        return given, [
            f"{lacking} of {rows} rows have no answer to compare with and are not trained"
        ] if lacking else []
    left = {key: value for key, value in given.items() if key not in ("accuracy", "accuracy_weight")}
    return left, ["no row has an answer to compare with: the reward is without accuracy"]


def _judges(given: dict[str, Any], shares: dict[str, float]) -> bool:
    """Whether anything but the length counts: quality without words is always 0."""
    quality = given.get("quality", {})
    words = quality.get("quality_keywords") or quality.get("negative_keywords")
    return "accuracy" in shares or bool("quality" in shares and words)


def _told(kind: str, shares: dict[str, float]) -> str:
    parts = " + ".join(f"{share:g} {name}" for name, share in shares.items())
    return f"{kind}: {parts}; the weights sum to {sum(shares.values()):g}"


def _success(kind: str, shares: dict[str, float]) -> str:
    """What counts as a success in pass rates and in what is told; the training itself goes by scores."""
    if kind == "multi" and "accuracy" in shares:
        return "[{component: accuracy, op: '>=', value: 1.0}]"
    half = sum(share for share in shares.values() if share > 0) / 2
    return f"[{{component: score, op: '>=', value: {half:g}}}]"


def write_reward(chosen: Chosen, folder: Path) -> Path:
    """The composition's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(json.dumps(chosen.values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
