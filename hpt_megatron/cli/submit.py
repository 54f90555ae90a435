"""`hpt submit [VERB] [OVERRIDE...] [cluster=PROFILE] [cluster.KEY=VALUE]`: the same command, as a job of SLURM.

Everything is checked on the host that submits, which needs no GPU. A run that is asked to stop, by its time limit or
because another job wants its nodes, saves, goes back into the queue under the same number, and goes on.

Example:
    $ hpt submit experiment=hpt-7b model.path=... cluster.account=vision cluster.time=12:00:00
    $ hpt submit --dry-run experiment=hpt-72b cluster=pyxis cluster.image=... > job.sbatch
    $ hpt submit convert import HF_DIR OUT cluster.memory=500G
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpt_megatron.cli import sweep
from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.sft import SUPERVISED
from hpt_megatron.config.problem import Problem, counted, errors
from hpt_megatron.config.sweep import METRIC
from hpt_megatron.errors import UserError

TRAINS = ("train", "sft")
OTHERS = ("compare", "convert", "data", "eval", "parity", "plan", "replay", "report")


def run(arguments: list[str]) -> int:
    """Checks, writes, submits, and says how to follow it."""
    options = Parser(prog="hpt submit", description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, metavar="DIR", help="of another verb than train: where its log goes")
    options.add_argument("--gpus", type=int, default=0, metavar="N", help="of another verb than train")
    options.add_argument("--multirun", "-m", action="store_true", help="every point of a sweep, as one job array")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="with --multirun: where its runs lie (multirun)")
    sweep.takes_array(options)
    options.takes_folder()
    asked, rest = options.parse_known_args(arguments)

    from hpt_megatron.config.cluster import is_of_cluster, read_cluster

    of_cluster = [text for text in rest if is_of_cluster(text)]
    rest = [text for text in rest if not is_of_cluster(text)]
    verb = rest.pop(0) if rest and rest[0] in (*TRAINS, *OTHERS) else "train"
    if asked.multirun:
        if verb not in TRAINS:
            raise UserError(f"is for {' and '.join(TRAINS)}", where="--multirun", mend="one `hpt submit` each")
        given = [*(SUPERVISED if verb == "sft" else ()), *rest, *of_cluster]
        return sweep.submit(given, (asked.out or Path("multirun")).absolute(), asked, METRIC, "max")
    if verb in TRAINS and (asked.out is not None or asked.concurrent is not None):
        raise UserError("are of a sweep", where="--out and --concurrent", mend="add --multirun, or leave them out")
    after = sweep.job_number(asked.after)
    cluster, problems = read_cluster(of_cluster, asked.config_dir)
    if verb in TRAINS:
        submission = _run_of(verb, rest, asked, cluster, problems, after)
    else:
        _refuse(problems)

        from hpt_megatron.cluster.submission import of_command

        folder = (asked.folder or Path("runs") / verb).absolute()
        submission = of_command(verb, rest, folder, asked.gpus, cluster, Path.cwd())
        submission = replace(submission, after=after)
    if asked.dry_run:
        print(submission.text(), end="")
        return 0
    number = submission.submit()
    run_folder = submission.folder.parent
    print(f"job {number}, {counted(submission.job.all_nodes, 'node')}; its files: {submission.folder}")
    print(f"  follow it   tail -F {run_folder}/job-{number}.log")
    if verb in TRAINS:
        print(f"  look at it  hpt report {run_folder}")
    print(f"  end it      scancel {number}")
    return 0


def _run_of(verb: str, given: list[str], asked: Any, cluster: Any, problems: list[Problem], after: str) -> Any:
    from hpt_megatron.cluster.submission import of_run, problems_of
    from hpt_megatron.config.load import load
    from hpt_megatron.observe.record import check_record

    strange = [text for text in given if text.startswith("-")]
    if strange:
        raise UserError(f"no such option: {strange[0]}", where="hpt submit", mend="see `hpt submit --help`")
    loaded = load([*SUPERVISED, *given] if verb == "sft" else given, asked.config_dir)
    problems = [*loaded.problems, *problems]
    if not errors(problems):
        problems += problems_of(loaded.run, cluster)
    _refuse(problems)
    submission = of_run(loaded.run, cluster, Path.cwd(), after)
    check_record(submission.runs[0], submission.folder.parent)
    return submission


def _refuse(problems: list[Problem]) -> None:
    found = errors(problems)
    if found:
        told = [f"nothing was submitted, for {counted(len(found), 'error')}:", *map(str, found)]
        raise UserError("\n  ".join(told))
    for problem in problems:
        print(problem, file=sys.stderr)
