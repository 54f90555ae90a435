"""`hpt config list | show | diff | validate`: what can be chosen, what it composes to, and whether it holds.

Needs neither torch nor a GPU, so that it also serves a login node.
"""

import json
import sys
from typing import Any

from hpt_megatron.cli.arguments import OVERRIDES, Parser
from hpt_megatron.errors import UserError

ACTIONS = ("list", "show", "diff", "validate")
USAGE = f"""usage: hpt config ACTION [OPTION...] [OVERRIDE...]

  list                      groups, their choices, and what each is
  show [OVERRIDE...]        the run that they compose to, as YAML (--json: as JSON)
  diff LEFT... -- RIGHT...  the keys in which two runs differ; without --, against the default run
  validate [OVERRIDE...]    every violation of the run at once; exit code 2 when there is an error
                            (--multirun: of every point of a sweep; --json: for machines)

  OVERRIDE                  {OVERRIDES}
  --config-dir DIR          a folder with groups of your own (DIR/experiment/NAME.yaml)"""


def run(arguments: list[str]) -> int:
    """Runs one action."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    action, rest = arguments[0], arguments[1:]
    if action not in ACTIONS:
        raise UserError(f"no such action: {action}", where="hpt config", mend=f"one of {', '.join(ACTIONS)}")
    actions = {"list": _list, "show": _show, "diff": _diff, "validate": _validate}
    return actions[action](rest)


def _parser(action: str) -> Parser:
    parser = Parser(prog=f"hpt config {action}")
    parser.takes_run()
    return parser


def _list(arguments: list[str]) -> int:
    from hpt_megatron.config.files import (
        CLUSTERS,
        NO_PART_OF_A_RUN,
        all_groups,
        check_folder,
        configs_folder,
        describe,
        groups,
    )

    parser = Parser(prog="hpt config list")
    parser.add_argument("group", nargs="*", help="show these groups alone")
    parser.takes_folder()
    options = parser.read(arguments)
    asked, folder = options.group, check_folder(options.config_dir)
    known, shipped = all_groups(folder), groups()
    for name in NO_PART_OF_A_RUN:  # of `hpt compare`, `hpt submit`, `hpt sweep`, `hpt feedback`
        shipped |= groups(own=name)
        own = groups(folder, own=name).get(name, []) if folder and name == CLUSTERS else []
        known[name] = [*shipped[name], *own]
    for name in asked:
        if name not in known:
            raise UserError(f"no such group: {name}", where="hpt config list", mend=f"one of {', '.join(known)}")
    print(f"configurations in {configs_folder()}" + (f" and {folder}" if folder else ""))
    for name, choices in known.items():
        if asked and name not in asked:
            continue
        print(f"\n{name}")
        for choice in choices:
            print(f"  {choice:<16} {describe(name, choice, None if choice in shipped[name] else folder)}")
    return 0


def _show(arguments: list[str]) -> int:
    from hpt_megatron.config.load import load

    parser = _parser("show")
    parser.add_argument("--json", action="store_true", help="JSON instead of YAML")
    asked = parser.read(arguments)
    loaded = load(asked.overrides, asked.config_dir)
    _print_renamed(loaded.renamed)
    for problem in loaded.problems:
        print(problem, file=sys.stderr)
    if asked.json:
        print(json.dumps(loaded.values, indent=2))
    else:
        print(_as_yaml(loaded.values), end="")
    return 0 if loaded.ok else UserError.exit_code


def _diff(arguments: list[str]) -> int:
    from hpt_megatron.config.load import load

    parser = _parser("diff")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    left, right = parser.read(arguments[:cut]), parser.read(arguments[cut + 1 :])
    folder = left.config_dir or right.config_dir
    sides = [load(side.overrides, folder) for side in (left, right)]
    broken = [problem for side in sides for problem in side.problems if problem.severity == "error"]
    if broken:
        raise UserError("\n  ".join(["a side cannot be composed:", *map(str, broken)]))
    first, second = (flatten(side.values) for side in sides)
    keys = [key for key in sorted({*first, *second}) if first.get(key, "-") != second.get(key, "-")]
    width = max(map(len, keys), default=0)
    names = [" ".join(side.overrides) or "experiment=tiny-hpt" for side in (left, right)]
    print(f"{'':<{width}}  {names[0]}  ->  {names[1]}" if keys else f"no difference between {names[0]} and {names[1]}")
    for key in keys:
        print(f"{key:<{width}}  {_as_text(first, key)}  ->  {_as_text(second, key)}")
    return 0


def _validate(arguments: list[str]) -> int:
    from hpt_megatron.config.load import each_point

    parser = _parser("validate")
    parser.add_argument("--multirun", "-m", action="store_true", help="check every point of a sweep")
    parser.add_argument("--json", action="store_true", help="JSON instead of lines")
    asked = parser.read(arguments)
    total, points = each_point(asked.overrides, multirun=asked.multirun, config_folder=asked.config_dir)
    ok = True
    if asked.json:
        described = []
        for point in map(_looked_into, points):
            ok = ok and point.ok
            described.append(_as_json(point))
        print(json.dumps({"ok": ok, "points": described}, indent=2, default=str))
    else:
        for number, point in enumerate(map(_looked_into, points), 1):
            ok = ok and point.ok
            _print_point(point, f"point {number} of {total}: " if asked.multirun else "")
            sys.stdout.flush()  # a sweep takes a while; each point is said when it is checked
    return 0 if ok else UserError.exit_code


def _looked_into(point: Any) -> Any:
    """A point that breaks no rule: what its reward cannot do, and what no device known could hold of it."""
    if point.ok:
        from hpt_megatron.planning import answer
        from hpt_megatron.rewards import build

        point.problems.extend([*build.problems_of(point.run), *answer.problems_of(point.run)])
    return point


def _as_json(point: Any) -> dict[str, Any]:
    return {
        "overrides": point.given,
        "ok": point.ok,
        "renamed": dict(point.renamed),
        "problems": [problem.as_json() for problem in point.problems],
    }


def _print_point(point: Any, prefix: str) -> None:
    from hpt_megatron.config.geometry import parameters
    from hpt_megatron.config.problem import counted, errors, one_line

    print(f"{prefix}{' '.join(map(one_line, point.given)) or 'experiment=tiny-hpt'}")
    _print_renamed(point.renamed, sys.stdout)
    for problem in point.problems:
        print(f"  {problem}")
    wrong = len(errors(point.problems))
    warned = len(point.problems) - wrong
    found = f"{counted(wrong, 'error')}, {counted(warned, 'warning')}"
    if wrong:
        print(f"  invalid: {found}")
    else:
        run, layout = point.run, point.run.layout
        spread = f"tp {layout.tp} x pp {layout.pp} x cp {layout.cp} x dp {run.dp} on {run.devices} devices"
        size = parameters(run.model)
        named = f"{size / 1e9:,.3f} billion" if size >= 1e8 else f"{size / 1e6:.1f} million"
        print(f"  valid: {found}; {named} parameters, {spread}")


def _print_renamed(renamed: list[tuple[str, str]], stream: Any = None) -> None:
    for old, new in renamed:
        print(f"  note: {old} is read as {new}", file=stream or sys.stderr)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _as_text(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "(none)"


def _as_yaml(values: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)
