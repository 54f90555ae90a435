"""The command `hpt VERB ...`: finds the verb, runs it, turns failures into one line and an exit code.

Nothing heavy is imported here, so that `hpt --help` answers at once on a login node; each verb's module holds
`run(arguments) -> exit code` and imports what it needs.
"""

import importlib
import sys
import traceback
from difflib import get_close_matches

from hpt_megatron import __version__
from hpt_megatron.errors import HptError, UserError

VERBS = {
    "data": "inspect and import data files, make embedded tasks and corpora",
    "compare": "methods from the same start over several seeds: one table, one figure",
    "convert": "bring a checkpoint from the hub's format to the trainer's and back; compare and inspect both",
    "distill-success": "a supervised set of what a run got right",
    "doctor": "what this host has, what each missing part costs, and how to get it",
    "config": "list, show, compare and check configurations",
    "eval": "avg@n and pass@k of a model or a checkpoint at the prompts of files, by data source",
    "feedback": "AI feedback: a judge labels pairs by principles, or criticises and revises answers",
    "explain": "what an algorithm does with a prompt and with a token",
    "human-eval": "responses of a run as sheets for people; how far their ratings agree with the reward",
    "log": "latency of turns, tools and trajectories from the files of a run",
    "parity": "whether a checkpoint under a layout is, number for number, the model of transformers",
    "pipeline": "stages one after the other, each taking what the ones before it made: demonstrations, rewards, PPO",
    "plan": "what a run will need: memory by phase, time of a step, and which layouts fit so many devices",
    "replay": "work a recorded step of a run out again, in one process, and say whether it agrees",
    "report": "what runs came to: curves, decisions, prompts, rollouts, differences, as one page",
    "job": "what a submitted job does on its nodes; `submit` makes use of it",
    "sft": "train on demonstrations alone: `train`, supervised from end to end",
    "submit": "the same as a job of SLURM: checked here, run there, started again where it was cut off",
    "sweep": "many runs that differ in a few keys, here or on SLURM, and one table of them",
    "train": "train a run, from data to checkpoints; go on where it stopped",
    "tiny": "write the tiny Qwen2.5-VL that the embedded default runs on",
    "win-rate": "how often one model's responses beat another's at the same prompts, by score or by a judge",
}


def usage() -> str:
    """The text of `hpt --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}} {text}" for verb, text in VERBS.items())
    return (
        "usage: hpt VERB [OPTION...] [experiment=NAME] [group=choice] [key=value]\n\n"
        f"verbs:\n{verbs}\n\n"
        "  hpt VERB --help   its options\n"
        "  --debug           with any verb: a traceback instead of one line\n"
        "  --version         the version of hpt_megatron\n\n"
        "A verb that takes a run reads Hydra's grammar, in any order; with nothing given it is experiment=tiny-hpt."
    )


def dispatch(arguments: list[str]) -> int:
    """Runs the verb that the arguments name."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        raise UserError(f"no such verb: {verb}", mend=f"did you mean `hpt {near[0]}`?" if near else "see `hpt --help`")
    run = importlib.import_module(f"hpt_megatron.cli.{verb.replace('-', '_')}").run
    try:
        return int(run(rest))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if not package or package == "hpt_megatron":
            raise
        mend = "pip install 'hpt_megatron[cpu]', or [gpu] on a host with NVIDIA GPUs; `hpt doctor` shows what is there"
        raise UserError(f"needs the package {package}", where=f"hpt {verb}", mend=mend) from error


def main(arguments: list[str] | None = None) -> int:
    """The console entry point; returns the exit code (0 done, 1 ours, 2 the user's mistake, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        return dispatch([argument for argument in given if argument != "--debug"])
    except KeyboardInterrupt:
        print("hpt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `hpt ... | head` is no failure
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif isinstance(error, HptError):
            print(f"hpt: {error}", file=sys.stderr)
        else:
            print(f"hpt: {type(error).__name__}: {error} (our mistake; --debug shows where)", file=sys.stderr)
        return error.exit_code if isinstance(error, HptError) else 1
