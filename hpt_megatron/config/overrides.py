"""Reads override strings before Hydra does, because Hydra stops at the first unknown key.

Every string is split into its sign, key and value. A key is then one of: a key of ours (passed on), a group
(`model=tiny`, `experiment=hpt-7b`: passed on when the choice exists), an alias (rewritten), or a problem. So one
look finds every unknown key of a command line, and what goes on to Hydra composes.

Example:
    >>> reading = read_overrides(["trainer.unify_strategy=no", "layout.pt=2"], keys={"layout.tp": int,
    ...     "algorithm.unify_strategy": str}, choices={})
    >>> reading.kept, reading.renamed
    (['algorithm.unify_strategy=no'], [('trainer.unify_strategy', 'algorithm.unify_strategy')])
    >>> reading.problems[0].right
    'layout.tp (the nearest known key)'
"""

import re
from dataclasses import dataclass, field
from typing import Any

from hpt_megatron.config.aliases import LATER, RENAMED, RETIRED
from hpt_megatron.config.problem import Problem, nearest

_PARTS = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[\w./@\[\]-]+)(?:=(?P<value>.*))?", re.DOTALL)


@dataclass
class Reading:
    """What a command line said: strings that Hydra can take, aliases as they were read, and what is wrong."""

    kept: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_overrides(given: list[str], *, keys: dict[str, Any], choices: dict[str, list[str]]) -> Reading:
    """Sorts override strings into what Hydra can take and what is wrong."""
    reading = Reading()
    for text in given:
        parts = _PARTS.fullmatch(text)
        if parts is None:
            reading.problems.append(Problem(text, "", "is not an override", "key=value or group=choice"))
            continue
        sign, key, value = parts["sign"] or "", parts["key"], parts["value"]
        if sign == "~":
            removed = f"{key} cannot be removed" if key in choices else "a key cannot be removed"
            right = f"{key}=CHOICE" if key in choices else f"{key}=null where null is allowed"
            reading.problems.append(Problem(key, value or "", removed, right))
        elif key in choices:
            _read_choice(reading, text, key, value, choices[key])
        elif key.startswith("hydra.") or key == "hydra":
            reading.problems.append(
                Problem(key, value or "", "Hydra's own settings have no effect here", "leave it out")
            )
        elif value is None:
            reading.problems.append(Problem(text, "", "is not an override", "key=value or group=choice"))
        else:
            _read_key(reading, key, value, keys, choices)
    return reading


def alias_problem(key: str, value: Any) -> Problem | None:
    """Why a name that users know from elsewhere is refused, if it is."""
    if key in RETIRED:
        return Problem(key, value, f"no longer means anything: {RETIRED[key]}", "leave it out")
    if key in LATER:
        return Problem(key, value, f"nothing reads it yet; it arrives with {LATER[key]}", "leave it out until then")
    return None


def _read_choice(reading: Reading, text: str, group: str, value: str | None, known: list[str]) -> None:
    choice = (value or "").strip("'\"")
    if choice in known:
        reading.kept.append(text.lstrip("+"))
        return
    near = nearest(choice, known)
    right = f"{near} (the nearest of: {', '.join(known)})" if near else f"one of {', '.join(known)}"
    reading.problems.append(Problem(group, choice, "no such choice", right))


def _read_key(reading: Reading, key: str, value: str, keys: dict[str, Any], choices: dict[str, list[str]]) -> None:
    refused = alias_problem(key, value)
    if refused is not None:
        reading.problems.append(refused)
        return
    if key in RENAMED and key not in keys:
        reading.renamed.append((key, RENAMED[key]))
        key = RENAMED[key]
    # A sign is only needed where the schema is open; ours is closed, so `+key` can only mean the key itself.
    if key in keys or any(known.startswith(f"{key}.") for known in keys):
        reading.kept.append(f"{key}={value}")
        return
    pool = [*keys, *RENAMED, *(name for name in choices if "." not in key)]
    near = nearest(key, pool)
    near = RENAMED.get(near, near)
    right = f"{near} (the nearest known key)" if near else "see `hpt config show`"
    reading.problems.append(Problem(key, value, "no such key", right))
