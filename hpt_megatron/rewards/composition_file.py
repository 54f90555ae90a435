"""A composition read from JSON, in two spellings.

    {"components": [{"name": "format", "weight": 0.1}, {"name": "ndcg", "weight": 0.9, "settings": {"k": 10}}],
     "gate": ["format"], "clip": [-1, 1], "success": {"all": [{"component": "score", "op": ">", "value": 0.1}]}}

`as` gives a component another name, so that one may stand twice. A gate is a name (at least 1) or a condition, as
under `success`. Further keys: `gate_score`, `on_error`, `modality` (a weight for each). The flat spelling has
`accuracy_weight`, `length_weight`, `quality_weight` and a section of settings for each of the three; a weight that is
left out is 0. The nested `length.length_weight` is the slope of the peak, not the share in the sum.

Invariants
    1. Everything wrong with a file is in one `UserError`, each with its path and, for a wrong name, the nearest one.
    2. No key is ignored, and no key is given twice; numbers are finite.

Example:
    >>> flat = {"accuracy_weight": 0.4, "length_weight": 0.2, "accuracy": {"correct_keywords": ["yes"]}}
    >>> [(part.name, part.weight) for part in read_composition(flat).parts]
    [('accuracy', 0.4), ('length', 0.2)]
"""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hpt_megatron.config.problem import Problem, counted, nearest
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.conditions import OPERATORS, Condition
from hpt_megatron.rewards import tool_use, unified  # noqa: F401  (with all others, by name)
from hpt_megatron.rewards.component import COMPONENTS, Component
from hpt_megatron.rewards.composition import TOTAL, Composition, Weighted

KEYS = ("components", "gate", "gate_score", "clip", "success", "on_error", "modality")
MODALITIES = ("text", "image", "images", "search")  # what rows are, by their images or by the importer of their data
PART_KEYS = ("name", "as", "weight", "settings")
CONDITION_KEYS = ("component", "op", "value")
SECTIONS = ("accuracy", "length", "quality")
FLAT_KEYS = (*(f"{section}_weight" for section in SECTIONS), *SECTIONS)


def load_composition(path: Path) -> Composition:
    """The composition in a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"is not read: {error}", where=str(path), mend="a file of JSON, in UTF-8") from None
    return read_composition(values, where=str(path))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"given twice: {', '.join(twice)}")
    return dict(pairs)


def read_composition(values: Any, where: str = "reward") -> Composition:
    """The composition that values of JSON say, or one error with all that is wrong."""
    reader = _Reader()
    composition = reader.composition(values)
    if reader.problems:
        lines = "; ".join(str(problem).removeprefix("error: ") for problem in reader.problems)
        raise UserError(f"{counted(len(reader.problems), 'problem')}: {lines}", where=where)
    return composition


class _Reader:
    """Reads on after a problem, with a stand-in for the wrong value; the stand-ins never leave `read_composition`."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, path: str, value: Any, why: str, right: str = "") -> None:
        self.problems.append(Problem(path, value, why, right))

    def mapping(self, path: str, value: Any, known: Sequence[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(path, value, "is no object", "{...}")
            return {}
        for key in value:
            if known and key not in known:
                self.wrong(f"{path}.{key}", value[key], "no such key", nearest(key, known) or ", ".join(known))
        return value

    def items(self, path: str, value: Any) -> list[Any]:
        if isinstance(value, list):
            return value
        self.wrong(path, value, "is no list", "[...]")
        return []

    def number(self, path: str, value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e9:
            return float(value)
        self.wrong(path, value, "is no finite number", "-1e9 to 1e9")
        return 0.0

    def composition(self, values: Any) -> Composition:
        flat = isinstance(values, dict) and "components" not in values and any(key in values for key in FLAT_KEYS)
        given = self.mapping("reward", values, FLAT_KEYS if flat else KEYS)
        parts = self.flat_parts(given) if flat else self.parts(given.get("components", []))
        if not parts and not self.problems:
            self.wrong("reward.components", [], "names no component", ", ".join(COMPONENTS.names()))
        names = [part.name for part in parts]
        for name in sorted({name for name in names if names.count(name) > 1 or name == TOTAL}):
            self.wrong("reward.components", name, "is the name of two scores", "another name under `as`")
        success = self.mapping("reward.success", given.get("success", {"all": []}), ("all",)).get("all", [])
        modality = self.mapping("reward.modality", given.get("modality", {}), MODALITIES)
        return Composition(
            parts=tuple(parts),
            gates=self.conditions("reward.gate", given.get("gate", []), names),
            gate_score=self.number("reward.gate_score", given.get("gate_score", 0.0)),
            clip=self.clip(given.get("clip")),
            success=self.conditions("reward.success.all", success, [*names, TOTAL]),
            on_error=self.number("reward.on_error", given.get("on_error", 0.0)),
            modality={name: self.number(f"reward.modality.{name}", weight) for name, weight in modality.items()},
        )

    def flat_parts(self, given: dict[str, Any]) -> list[Weighted]:
        parts = []
        for section in SECTIONS:
            weight = self.number(f"reward.{section}_weight", given.get(f"{section}_weight", 0.0))
            component = self.component(f"reward.{section}", section, given.get(section, {}))
            if component is not None and f"{section}_weight" in given:
                parts.append(Weighted(section, weight, component))
            elif section in given and f"{section}_weight" not in given:
                self.wrong(f"reward.{section}", given[section], "has settings and no weight", f"{section}_weight")
        return parts

    def parts(self, listed: Any) -> list[Weighted]:
        parts = []
        for i, item in enumerate(self.items("reward.components", listed)):
            path = f"reward.components[{i}]"
            given = self.mapping(path, item, PART_KEYS)
            weight = self.number(f"{path}.weight", given.get("weight", 1.0))
            component = self.component(path, given.get("name"), given.get("settings", {}), "settings")
            name = given.get("as", given.get("name"))
            if not isinstance(name, str) or not name:
                self.wrong(f"{path}.as", name, "is no name")
            elif component is not None:
                parts.append(Weighted(name, weight, component))
        return parts

    def component(self, path: str, name: Any, settings: Any, below: str = "") -> Component | None:
        known = COMPONENTS.names()
        if name not in known:
            right = nearest(name, known) if isinstance(name, str) else ""
            self.wrong(f"{path}.name", name, "no such component", right or ", ".join(known))
            return None
        kind: Any = COMPONENTS.get(name)
        path = f"{path}.{below}" if below else path
        hints, before = get_type_hints(kind), len(self.problems)
        declared = {field.name: field for field in fields(kind)}
        given = self.mapping(path, settings, tuple(declared) or ("(none)",))
        made = {
            key: self.setting(f"{path}.{key}", value, hints[key]) for key, value in given.items() if key in declared
        }
        for key, field in declared.items():
            if key not in given and field.default is MISSING and field.default_factory is MISSING:
                self.wrong(f"{path}.{key}", None, "is missing")
        if len(self.problems) > before:
            return None
        try:
            component: Component = kind(**made)
        except UserError as error:
            self.wrong(f"{path}.{error.where}", given.get(error.where), error.what, error.mend)
            return None
        return component

    def setting(self, path: str, value: Any, kind: Any) -> Any:
        if kind is float:
            return self.number(path, value)
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                self.wrong(path, value, "no such word", ", ".join(get_args(kind)))
        elif get_origin(kind) is tuple:
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                self.wrong(path, value, "is no list of words", '["one", "two"]')
            return tuple(value) if isinstance(value, list) else ()
        elif type(value) is not kind:
            self.wrong(path, value, f"is no {kind.__name__}")
        return value

    def conditions(self, path: str, listed: Any, names: Sequence[str]) -> tuple[Condition, ...]:
        found = []
        for i, item in enumerate(self.items(path, listed)):
            at = f"{path}[{i}]"
            given = self.mapping(at, {"component": item} if isinstance(item, str) else item, CONDITION_KEYS)
            component, op = given.get("component"), given.get("op", ">=")
            if component not in names:
                right = nearest(component, names) if isinstance(component, str) else ""
                self.wrong(f"{at}.component", component, "no such component here", right or ", ".join(names))
            if op not in tuple(OPERATORS):
                self.wrong(f"{at}.op", op, "no such operator", " or ".join(OPERATORS))
            found.append(Condition(str(component), str(op), self.number(f"{at}.value", given.get("value", 1.0))))
        return tuple(found)

    def clip(self, value: Any) -> tuple[float, float] | None:
        if value is None:
            return None
        ends = [self.number(f"reward.clip[{i}]", end) for i, end in enumerate(self.items("reward.clip", value))]
        if len(ends) != 2 or not ends[0] < ends[1]:
            self.wrong("reward.clip", value, "is no range", "[lowest, highest]")
            return None
        return ends[0], ends[1]
