"""Plain values in, frozen dataclasses out; every misfit is collected, none is raised.

Invariants
    1. The result is complete and well typed even when problems were found: a value that cannot be read gives way to
       the one of `fallback`, so that the rules can go on to find the other problems of the same run.
    2. A key that no dataclass names is a problem that names the nearest key.
    3. A size that others are divided by (`Count`) is at least 1, so no rule divides by zero.
    4. Nothing is converted silently but what every reader would expect: an integer where a float is asked, a list
       where a tuple is asked, and YAML's habit of reading a bare `no` or `off` as false where it is one of the choices.
"""

import json
import types
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hpt_megatron.config.problem import Problem, nearest

T = TypeVar("T")
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class MisfitError(Exception):
    """A value does not have the type that its field asks for; the text says what would be right."""


def known_keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a dataclass type with its declared type, by dotted path (optional groups included)."""
    leaves: dict[str, Any] = {}
    for name, hint in get_type_hints(schema, include_extras=True).items():
        inner = _dataclass_in(hint)
        if inner is not None:
            leaves |= known_keys(inner, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = hint
    return leaves


def read(schema: type[T], values: Any, fallback: Any, path: str = "") -> tuple[T, list[Problem]]:
    """Builds `schema` from nested plain values; `fallback` holds a readable value for every key."""
    if not isinstance(values, dict):
        whole = fallback if isinstance(fallback, dict) else {}
        group = ", ".join(field.name for field in fields(schema))  # type: ignore[arg-type]
        return read(schema, whole, whole, path)[0], [Problem(path, values, "must be a group of keys", group)]
    problems: list[Problem] = []
    hints = get_type_hints(schema, include_extras=True)
    for key in values:
        if key not in hints:
            problems.append(unknown(f"{path}.{key}" if path else str(key), values[key], known_keys(schema), path))
    made = {}
    for field in fields(schema):  # type: ignore[arg-type]
        where = f"{path}.{field.name}" if path else field.name
        spare = fallback[field.name] if isinstance(fallback, dict) and field.name in fallback else None
        if field.name not in values:
            problems.append(Problem(where, None, "is missing", _expected(hints[field.name])))
            made[field.name], _ = _read_field(hints[field.name], spare, spare, where)
            continue
        made[field.name], found = _read_field(hints[field.name], values[field.name], spare, where)
        problems += found
    return schema(**made), problems


def unknown(path: str, value: Any, known: Any, prefix: str = "") -> Problem:
    """The problem of a key that nothing declares."""
    near = nearest(path, [f"{prefix}.{key}" if prefix else key for key in known])
    return Problem(path, value, "no such key", f"{near} (the nearest known key)" if near else "see `hpt config show`")


def _read_field(hint: Any, value: Any, spare: Any, where: str) -> tuple[Any, list[Problem]]:
    inner = _dataclass_in(hint)
    if inner is not None and not (value is None and _is_optional(hint)):
        made, problems = read(inner, value, spare, where)
        # What is missing in an optional group has no default of its own: then the whole group is left out.
        if problems and _is_optional(hint) and read(inner, spare, spare)[1]:
            return None, problems
        return made, problems
    try:
        return convert(hint, value), []
    except MisfitError as misfit:
        quoted = isinstance(value, str) and not _takes_text(hint)
        said = json.dumps(value) if quoted else value
        problems = [Problem(where, said, "is text" if quoted else "does not fit", str(misfit))]
        try:
            return convert(hint, spare), problems
        except MisfitError:
            return spare, problems


def convert(hint: Any, value: Any) -> Any:
    """The value as its declared type, or `MisfitError`.

    Example:
        >>> convert(float, 1), convert(Literal["switch", "no"], False)
        (1.0, 'no')
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        try:
            plain = convert(arguments[0], "no" if value is False and arguments[0] is str else value)
        except MisfitError:
            raise MisfitError(_expected(hint)) from None
        if arguments[0] is int and plain < 1:
            raise MisfitError(_expected(hint))
        return plain
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value)
    if origin is Literal:
        if value is False and (bare := [word for word in ("no", "off") if word in arguments]):
            return bare[0]
        if value in arguments and isinstance(value, str):
            return value
        raise MisfitError(_expected(hint))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise MisfitError(_expected(hint))
        return tuple(_convert_item(arguments[0], item) for item in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _convert_number(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise MisfitError(_expected(hint))


def _convert_number(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise MisfitError("a finite number") from None
    if not isfinite(number):
        raise MisfitError("a finite number")
    return number


def _convert_union(hint: Any, value: Any) -> Any:
    for one in get_args(hint):
        if one is type(None) and value is None:
            return None
        try:
            return convert(one, value)
        except (MisfitError, TypeError):
            continue
    raise MisfitError(_expected(hint))


def _convert_item(hint: Any, item: Any) -> Any:
    if not is_dataclass(hint):
        return convert(hint, item)
    made, problems = read(hint, item, item) if isinstance(item, dict) else (None, [item])  # type: ignore[arg-type]
    if problems:
        raise MisfitError(_expected(hint))
    return made


def _expected(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_expected(arguments[0])}, {arguments[1]}"
    if origin in (Union, types.UnionType):
        return ", or ".join("null" if one is type(None) else _expected(one) for one in arguments)
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is tuple:
        return f"a list, each item {_expected(arguments[0])}"
    if is_dataclass(hint):
        return "a group of " + ", ".join(field.name for field in fields(hint))
    return NAMES.get(hint, str(hint))


def _takes_text(hint: Any) -> bool:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType, Annotated) else ()
    return hint is str or get_origin(hint) is Literal or any(map(_takes_text, parts))


def _dataclass_in(hint: Any) -> Any:
    candidates = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((one for one in candidates if is_dataclass(one)), None)


def _is_optional(hint: Any) -> bool:
    return type(None) in get_args(hint)
