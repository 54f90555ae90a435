"""The responses that a run or an evaluation wrote, beside the prompts that they answer.

    RUN/run.json, RUN/rollouts/train_7.jsonl, validate_20.jsonl     a run
    OUT/eval.json, OUT/rollouts/validate_0.jsonl                    an evaluation (`hpt eval`)
    RUN/rollouts/validate_20.jsonl                                  one file of either
    RUN/learned/train_7.jsonl                                       what reward models said, where some were asked

Files of rollouts name prompts by their index; their words and images are in the data files that `run.json` or
`eval.json` names, read again from there (or from `--data`, where those are gone or elsewhere).

Invariants
    1. Of what was sampled twice, after a run went on, the later one counts. A line that is torn is left out.
    2. A response that goes on from the start of a demonstration is not `whole`: the file has not its first words.

Example: [one.text for one in responses(find(Path("runs/a")), "train")]
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpt_megatron.data.reading import read
from hpt_megatron.data.record import Record
from hpt_megatron.data.tasks.place import TRAIN, VAL, task_folder
from hpt_megatron.errors import UserError
from hpt_megatron.observe.generations import ROLLOUTS
from hpt_megatron.observe.record import NAME
from hpt_megatron.protocol.conditions import OPERATORS, Condition
from hpt_megatron.report.folder import ROLLOUT_FILE, finite, lines_of
from hpt_megatron.report.rollouts import succeeded

EVALUATION = "eval.json"
LEARNED = "learned"
MEND = "the folder of a run or of an evaluation, or a file of its rollouts"


@dataclass(frozen=True)
class Response:
    """One rollout as it was written; `turns` are the policy's own texts, one after the other in `text`."""

    purpose: str
    step: int
    uid: str
    sample: int
    text: str
    turns: int
    total: float | None
    components: Mapping[str, float]
    finish: str
    tokens: int
    whole: bool
    valid: bool
    learned: float | None = None  # with what reward models said; None where none was asked

    @property
    def paid(self) -> float | None:
        """What the policy was paid; `total` is what the rules alone say, of any run and any evaluation."""
        return self.total if self.learned is None else self.learned

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What names it in a run."""
        return self.purpose, self.step, self.uid, self.sample


@dataclass(frozen=True)
class Written:
    """A folder with files of rollouts."""

    folder: Path
    files: Mapping[tuple[str, int], Path]
    told: Mapping[str, Any] = field(default_factory=dict)  # its run.json or eval.json
    evaluation: bool = False

    @property
    def success(self) -> list[Condition]:
        """What the run calls a success; empty where that is not known."""
        rule = [] if self.evaluation else (self.told.get("algorithm") or {}).get("success") or []
        found = []
        for one in rule if isinstance(rule, list) else ():
            if not isinstance(one, Mapping):
                continue
            value = finite(one.get("value"))
            if one.get("op") in OPERATORS and value is not None:
                found.append(Condition(str(one.get("component")), str(one["op"]), value))
        return found

    def succeeded(self, one: Response) -> bool | None:
        """Whether a response is a success by the run's own rule; None where there is none."""
        return succeeded(one.components, self.success)

    def data_files(self, purpose: str) -> list[str]:
        """The files that hold the prompts."""
        if self.evaluation:
            return [str(one) for one in self.told.get("files") or ()]
        data = self.told.get("data") or {}
        named = data.get("val_files" if purpose == "validate" else "train_files") or []
        if named or not data.get("make"):
            return [str(one) for one in named]
        return [str(task_folder(self.folder, str(data["make"])) / (VAL if purpose == "validate" else TRAIN))]

    def purposes(self) -> list[str]:
        """Of which there are files, validation first."""
        return sorted({purpose for purpose, _ in self.files}, reverse=True)


def find(path: Path) -> Written:
    """What a path names; whatever is none of it is refused in a line."""
    if path.is_file():
        match = ROLLOUT_FILE.fullmatch(path.name)
        if not match:
            raise UserError("is no file of rollouts", where=str(path), mend=MEND)
        whole = _folder(path.resolve().parent.parent)
        return Written(whole.folder, {(match[1], int(match[2])): path}, whole.told, whole.evaluation)
    if not path.is_dir():
        raise UserError("no such run", where=str(path), mend=MEND)
    found = _folder(path)
    if not found.files:
        raise UserError("holds no file of rollouts", where=str(path), mend=MEND)
    return found


def _folder(folder: Path) -> Written:
    rollouts = folder / ROLLOUTS
    files = {}
    for path in sorted(rollouts.iterdir()) if rollouts.is_dir() else []:
        if match := ROLLOUT_FILE.fullmatch(path.name):
            files[match[1], int(match[2])] = path
    for name in (NAME, EVALUATION):
        if (folder / name).is_file():
            return Written(folder, files, _told(folder / name), name == EVALUATION)
    return Written(folder, files)


def _told(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), mend="restore it") from error
    if not isinstance(told, dict):
        raise UserError("is no record of a run", where=str(path), mend="restore it")
    return told


def steps_of(given: Written, purpose: str, steps: range | None = None, every: int = 1) -> list[int]:
    """The steps of which there are responses: within some, and each `every`-th (those that it divides)."""
    known = sorted(step for each, step in given.files if each == purpose and (steps is None or step in steps))
    return [step for step in known if step % every == 0]


def responses(given: Written, purpose: str, steps: Sequence[int] | None = None) -> Iterator[Response]:
    """Every response, in the order of steps, each once."""
    for step in steps_of(given, purpose) if steps is None else steps:
        last: dict[tuple[str, int, str, int], Response] = {}
        paid = _learned(given.folder / LEARNED / f"{purpose}_{step}.jsonl")
        for told in lines_of(given.files[purpose, step]):
            one = _response(told, purpose, step)
            if one is not None:
                last[one.key] = _with_learned(one, paid.get((one.uid, one.sample), {}))
        yield from last.values()


def _learned(path: Path) -> dict[tuple[str, int], dict[str, float]]:
    """What reward models said of each rollout, and the whole score; nothing where none was asked."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for told in lines_of(path) if path.is_file() else ():
        try:
            assert told is not None
            numbers = {str(name): number for name, each in told.items() if (number := finite(each)) is not None}
            found[str(told["uid"]), int(told["sample"])] = numbers
        except (AssertionError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
    return found


def _with_learned(one: Response, said: Mapping[str, float]) -> Response:
    """Also what reward models said, where some were asked."""
    heads = {name: number for name, number in said.items() if name.split("/")[0] == LEARNED}
    return replace(one, learned=said.get("score"), components={**one.components, **heads})


def _response(told: Mapping[str, Any] | None, purpose: str, step: int) -> Response | None:
    try:
        if told is None or told.get("kind") != "trajectory":
            return None
        scores = {str(name): finite(score) for name, score in (told.get("components") or {}).items()}
        texts = [str(turn["text"]) for turn in told["turns"]]
        return Response(
            purpose=purpose,
            step=step,
            uid=str(told["uid"]),
            sample=int(told["sample"]),
            text="\n".join(texts),
            turns=len(texts),
            total=finite(told.get("total")),
            components={name: score for name, score in scores.items() if score is not None},
            finish=str(told.get("finish") or ""),
            tokens=int(told["tokens"]["sampled"]),
            whole=all(kind != "prefix" for kind, _ in told["spans"]),
            valid=told.get("valid") is not False,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def records_of(
    given: Written, purpose: str, files: Sequence[str] = (), image_root: str | None = None
) -> dict[str, Record]:
    """The prompts by their index, from the data files of the run, or from those that are given in their place."""
    named = list(files) or given.data_files(purpose)
    if not named:
        what = "does not say which data files its prompts are from"
        raise UserError(what, where=str(given.folder), mend="give them with --data FILE")
    missing = [one for one in named if not Path(one).is_file()]
    if missing:
        what = f"its data file is not here: {missing[0]}"
        raise UserError(what, where=str(given.folder), mend="run this where the run was started, or give --data FILE")
    root = image_root or (None if given.evaluation else (given.told.get("data") or {}).get("image_root"))
    return {record.index: record for record in read(named, root).sound("--data")}


def none_known(given: Written, uids: Sequence[str]) -> UserError:
    """The error where no response's prompt is in the data files."""
    what = f"none of its {len(uids)} prompts is in the data files, {uids[0]!r} for one"
    return UserError(what[:400], where=str(given.folder), mend="give the files that it was run with: --data FILE")
