"""A recorded step worked out again: who imitates and who explores, which rows, which credit, which weights.

    recorded = read(Path("runs/a"), 7)
    lines, ready = again(recorded)      a line for each part; the rows of every optimizer step, for whoever has a model

Decision: the same functions as in the loop, on what the loop had in its hands, in another process. What differs is
named by its first row and number. Where a part differs, those behind it are not compared: they would differ for that.

Invariants
    1. Everything here is compared exactly, under as many threads as the loop had: sums depend on their order.
    2. Nothing is written.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from hpt_megatron.config.problem import counted
from hpt_megatron.config.recorded import run_of
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.prompts import Prompt
from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.algorithm import ENTROPY, Algorithm, all_imitate
from hpt_megatron.driver.loop.balance import balance, followed, numbered_on
from hpt_megatron.driver.loop.roles import Collected
from hpt_megatron.driver.loop.step_record import (
    BEFORE,
    CREDITED,
    DEMONSTRATIONS,
    ROLLOUTS,
    STEP,
    STEPS,
    UPDATE,
    VERSION,
    decided_of,
)
from hpt_megatron.driver.loop.update import updates, weighted
from hpt_megatron.errors import UserError
from hpt_megatron.protocol import batch_file
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import Rows, first_difference
from hpt_megatron.protocol.step_report import StepReport


@dataclass(frozen=True)
class Line:
    """One part of a step; `agrees` is None where it was not worked out."""

    part: str
    agrees: bool | None
    told: str


@dataclass(frozen=True)
class Recorded:
    """What the files of a step say; the run as it was in that step."""

    folder: Path
    told: Mapping[str, Any]
    run: RunConfig

    @property
    def step(self) -> int:
        """Which step it is."""
        return int(self.told["step"])

    @property
    def reports(self) -> list[StepReport]:
        """Of the policy's optimizer steps."""
        return [StepReport(**each) for each in self.told["updates"]]

    def batch(self, name: str) -> Batch:
        """One of its files."""
        return batch_file.load(self.folder / name)


class DiffersError(Exception):
    """Something came out otherwise; the text says where and what."""


def read(run_folder: Path, step: int) -> Recorded:
    """The record of one step of a run."""
    folder = run_folder / STEPS / f"step_{step}"
    if not (run_folder / "run.json").is_file():
        raise UserError("is no folder of a run: there is no run.json in it", where=str(run_folder))
    if not (folder / STEP).is_file():
        names = [path.parent.name.removeprefix("step_") for path in run_folder.glob(f"{STEPS}/step_*/{STEP}")]
        there = sorted(int(name) for name in names if name.isdecimal())
        mend = f"recorded are {', '.join(map(str, there))}" if there else "record some with trainer.record_freq=1"
        raise UserError(f"step {step} was not recorded", where=str(run_folder), mend=mend)
    where = str(folder / STEP)
    try:
        told = json.loads((folder / STEP).read_text(encoding="utf-8"))
        version = told["version"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"cannot be read ({type(error).__name__})", where=where) from error
    if version != VERSION:
        raise UserError(f"was written in version {version!r}, this is {VERSION}", where=where)
    missing = {"step", "threads", "run", "state", "state_after", "rounds", "updates"} - set(told)
    if missing:
        raise UserError(f"has no {sorted(missing)[0]!r}", where=where)
    return Recorded(folder, told, run_of(told["run"], where))


def again(recorded: Recorded) -> tuple[list[Line], list[Batch]]:
    """All parts but the loss; rows with weights only where everything agrees."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(recorded.told["threads"]))
    lines: list[Line] = []
    ready: list[Batch] = []
    parts = _parts(recorded, ready)
    part = "routing"
    try:
        for part in ("routing", "rows", "credit", "weights"):
            lines.append(Line(part, True, next(parts)))
    except DiffersError as error:
        lines.append(Line(part, False, str(error)))
        ready = []
    except (KeyError, TypeError, IndexError, ValueError) as error:
        what = f"cannot be worked out again: {type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(what, where=str(recorded.folder)) from error
    finally:
        torch.set_num_threads(threads)
    return lines, ready


def _parts(recorded: Recorded, ready: list[Batch]) -> Iterator[str]:
    """Works out one part after the other, and says of each what it is; raises where it differs."""
    algorithm = Algorithm(recorded.run)
    algorithm.restore(recorded.told["state"])
    made, prompts = _rounds(recorded, algorithm)
    yield f"{counted(prompts, 'prompt')} in {counted(len(recorded.told['rounds']), 'round')}"
    if not made.rows.num_rows:
        yield from ("none: every group was left out", "none", "none")
        return
    before = recorded.batch(BEFORE).rows
    _same_rows(before, made.rows.with_tokens(rollout_logp=made.rows.tokens["logp"]), more=True)
    yield f"{before.num_rows} rows of {before.num_tokens} tokens"
    credited, _ = algorithm.credited(before, before.tokens.get("ref_logp"))
    _same_rows(recorded.batch(CREDITED).rows, credited)
    yield f"of {int(credited.tokens['trained'].sum())} tokens"
    batch = followed(made.with_rows(before), before, credited)
    reports = recorded.reports
    for number, part in enumerate(updates(batch, recorded.run) if reports else (), 1):
        ready.append(weighted(part, algorithm, algorithm.components))
        if number <= len(reports):
            _same_rows(recorded.batch(UPDATE.format(number)).rows, ready[-1].rows, f"update {number}, ")
    if len(ready) != len(reports):
        raise DiffersError(f"{len(reports)} optimizer steps recorded, {len(ready)} now")
    told = [report.metrics[ENTROPY] for report in reports if ENTROPY in report.metrics]
    algorithm.updated({ENTROPY: fmean(told)} if told else {})
    _same_values(recorded.told["state_after"], algorithm.state(), "the algorithm's state after the step")
    names = ", ".join(each.name for each in algorithm.components)
    yield f"of {counted(len(ready), 'optimizer step')}, components {names}"


def _rounds(recorded: Recorded, algorithm: Algorithm) -> tuple[Batch, int]:
    """The rows of all rounds, decided again, and how many prompts they were of."""
    warm_up = recorded.run.imitates(recorded.step)
    if not warm_up:
        algorithm.refill.begin()
    parts: list[Batch] = []
    seen = 0
    for number, told in enumerate(recorded.told["rounds"], 1):
        prompts = [
            Prompt(Record(index=each["index"], prompt=()), (), (), tuple(each["target_ids"]))
            for each in told["prompts"]
        ]
        targets = {int(place): scores for place, scores in told["targets"].items()}
        collected = Collected(recorded.batch(ROLLOUTS.format(number)), targets)
        decided = all_imitate(prompts) if warm_up else algorithm.decide(collected, prompts, recorded.step)
        now = decided_of(decided)
        for kind in ("outcomes", "decisions"):
            for prompt, was, is_now in zip(prompts, told[kind], now[kind], strict=True):
                _same_values(was, is_now, f"round {number}, prompt {prompt.index!r}")
        _same_values(told["kept"], now["kept"], f"round {number}, the prompts that were kept")
        shown = recorded.batch(DEMONSTRATIONS.format(number))
        parts.append(numbered_on(balance(collected, shown, decided).batch, seen))
        seen += len(prompts)
    return Batch.concat(parts), seen


def _same_values(was: Any, is_now: Any, where: str) -> None:
    """Plain values, compared as JSON has them."""
    is_now = json.loads(json.dumps(is_now))
    if isinstance(was, dict) and isinstance(is_now, dict):
        for name in sorted(was.keys() | is_now.keys()):
            _same_values(was.get(name), is_now.get(name), f"{where}, {name}")
    elif was != is_now and not (was != was and is_now != is_now):  # what is no number equals itself
        raise DiffersError(f"{where}: {was!r} recorded, {is_now!r} now")


def _same_rows(was: Rows, now: Rows, what: str = "", more: bool = False) -> None:
    """Every column of both; with `more`, the record may have others beside."""
    if was.num_rows != now.num_rows:
        raise DiffersError(f"{what}{was.num_rows} rows recorded, {now.num_rows} now")
    if (row := first_difference(was.lengths, now.lengths)) is not None:
        raise DiffersError(f"{what}{now.name(row)}: {was.lengths[row]} tokens recorded, {now.lengths[row]} now")
    for kind, of_was, of_now in (("field", was.fields, now.fields), ("tokens", was.tokens, now.tokens)):
        odd = of_now.keys() - of_was.keys() if more else of_now.keys() ^ of_was.keys()
        if odd:
            raise DiffersError(f"{what}{kind} {sorted(odd)[0]!r} is only in {'what is now' if more else 'one of both'}")
        for name, column in of_now.items():
            if (at := first_difference(of_was[name], column)) is not None:
                row = at if kind == "field" else int(now.row_of_token[at])
                place = "" if kind == "field" else f", token {at - int(now.starts[row])}"
                values = f"{of_was[name][at].item()!r} recorded, {column[at].item()!r} now"
                raise DiffersError(f"{what}{now.name(row)}{place}, {name}: {values}")
