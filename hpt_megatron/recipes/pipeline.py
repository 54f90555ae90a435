"""Stages one after the other, each the command that a user would give, and each taking what the ones before it made.

    FOLDER/sft/           a run, whole: `hpt report` reads it, `hpt train` goes on with it
    FOLDER/sft/hub/       its last weights in the hub's form, once it has ended
    FOLDER/sft.txt        what its command said

Invariants
    1. What is done is not done again: the same command goes on in the stage, and at the step, where it was stopped.
    2. A stage that fails ends the pipeline; what it wrote stays.

Example: follow(read_pipeline("tiny-rlhf"), turns, sys.stdout)
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from hpt_megatron.config.algorithm import scores_rows
from hpt_megatron.config.load import load_run
from hpt_megatron.config.pipeline import HUB, Pipeline, Turn
from hpt_megatron.driver.loop.checkpoints import Checkpoints
from hpt_megatron.driver.loop.run import CHECKPOINTS, STOPPED, StoppedError, stoppable
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.recipes.side_by_side import TOLD_LINES
from hpt_megatron.weights.execute.exporting import export_checkpoint

DONE = "done.json"


@stoppable()
def follow(pipeline: Pipeline, turns: Sequence[Turn], shown: TextIO) -> None:
    """Runs what is missing."""
    pipeline.check(turns)
    for turn in turns:
        done = turn.folder / DONE
        if done.is_file():
            _same_words(turn, _words_of(done))
            shown.write(f"{turn.folder.name}: done before\n")
            continue
        began = time.monotonic()
        _run(turn, shown)
        _hand_over(turn)
        seconds = time.monotonic() - began
        told = {"given": [*turn.given, *turn.handed], "seconds": round(seconds, 1)}
        done.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        shown.write(f"{turn.folder.name}: {seconds:.0f} s\n")
        shown.flush()


def _words_of(done: Path) -> list[str]:
    """What a stage was done with."""
    try:
        return [str(word) for word in json.loads(done.read_text(encoding="utf-8"))["given"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        mend = "another --out, or without this file the stage goes on from its newest checkpoint"
        raise UserError(f"cannot be read ({type(error).__name__})", where=str(done), mend=mend) from error


def _same_words(turn: Turn, before: Sequence[str]) -> None:
    """Stages of other words would not be one pipeline."""
    now = [*turn.given, *turn.handed]
    if apart := [word for word in {*before} ^ {*now}]:
        what = f"was done with other words: {', '.join(sorted(apart)[:3])}"
        raise UserError(what, where=str(turn.folder), mend="the same words, or another --out")


def _run(turn: Turn, shown: TextIO) -> None:
    """To its end. Its own lines go to a file beside its folder."""
    try:
        turn.folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"no folder can be made here: {error.strerror}"
        raise UserError(what, where=str(turn.folder.parent), mend="another --out") from error
    said = turn.folder.with_name(f"{turn.folder.name}.txt")
    shown.write(f"{turn.folder.name}: hpt train {' '.join([*turn.given, *turn.handed])}\n")
    shown.flush()
    with said.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "hpt_megatron", "train", *turn.given, *turn.handed]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it saves, and the same command goes on from there
            process.wait()
            raise
    if code == 0:
        return
    last = said.read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD_LINES:]
    what = f"the stage {turn.folder.name} ended with exit code {code}:\n  " + "\n  ".join(last)
    if code == UserError.exit_code:
        raise UserError(what, where=str(said), mend="mend it and give the same command again, or another --out")
    mend = "the same command tries it again"
    raise StoppedError(what, mend=mend) if code == STOPPED else HptError(what, where=str(said), mend=mend)


def _hand_over(turn: Turn) -> None:
    """Its weights, where they are a model of the hub: a reward model is taken as the run that it is."""
    hub = turn.folder / HUB
    if hub.is_dir() or scores_rows(load_run([*turn.given, *turn.handed]).algorithm):
        return
    newest = Checkpoints(turn.folder / CHECKPOINTS, 1).newest()
    if newest is None:
        raise HptError("ended without a checkpoint", where=str(turn.folder), mend="trainer.save_freq")
    export_checkpoint(Path(newest) / "trainer", hub)
