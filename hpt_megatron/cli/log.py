"""`hpt log stats FILE...`: how long turns, tools and whole trajectories took, and how they ended.

hpt log stats runs/1/samples/*.jsonl
"""

import json
from pathlib import Path

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.config.problem import one_line


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt log", description=__doc__.splitlines()[0])
    options.add_argument("what", choices=["stats"], help="latency by event, and trajectories by what ended them")
    options.add_argument("files", nargs="+", type=Path, metavar="FILE", help="trajectories as JSON lines")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def run(arguments: list[str]) -> int:
    """The verb."""
    from hpt_megatron.rollout.trajectory_stats import COLUMNS, stats_of_files

    asked = parser().parse_args(arguments)
    stats = stats_of_files(asked.files)
    table, ends = stats.table(), dict(stats.finishes.most_common())
    if asked.json:
        print(json.dumps({"latency_s": table, "finish": ends, "unread_lines": stats.unread}))
        return 0
    print(f"{'event':<18}{'count':>9}" + "".join(f"{name + ' s':>10}" for name in COLUMNS[1:]))
    for event, told in table.items():
        print(f"{one_line(event):<18}{told['count']:>9,.0f}" + "".join(f"{told[name]:>10.3f}" for name in COLUMNS[1:]))
    print("\nended as  " + ", ".join(f"{one_line(name)} {count}" for name, count in ends.items()))
    if stats.unread:
        print(f"lines that are no trajectory: {stats.unread}")
    return 0
