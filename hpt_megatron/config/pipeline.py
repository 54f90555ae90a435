"""What `hpt pipeline` runs: stages, each an ordinary run that takes what an earlier one made.

    configs/pipeline/NAME.yaml
        base      overrides of every stage
        stages    by name, in order:
            set         overrides of the stage
            from        the stage whose last weights it begins with; none: `model.path` of the command line
            judged_by   stages that trained reward models, which score its rollouts
            rounds      so many runs of it, each beginning with the last weights of the one before; 1

Every stage is checked before the first one starts. Places that are only there once a stage has run (weights, reward
models) are left out of that check.

Example: read_pipeline("tiny-rlhf").stages["ppo"].judged_by
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.algorithm import scores_rows
from hpt_megatron.config.files import PIPELINES, read_named
from hpt_megatron.config.load import load
from hpt_megatron.config.problem import errors, one_line
from hpt_megatron.errors import UserError

HUB = "hub"
KEYS = {"set", "from", "judged_by", "rounds"}


@dataclass(frozen=True)
class Stage:
    """One of them."""

    name: str
    given: tuple[str, ...]
    begins_with: str | None
    judged_by: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class Turn:
    """One run of a stage: its folder, and overrides that hold once the stages before it have ended."""

    stage: str
    folder: Path
    given: tuple[str, ...]
    weights_of: Path | None
    judges: tuple[Path, ...]

    @property
    def handed(self) -> list[str]:
        """What earlier stages made."""
        found = [] if self.weights_of is None else [f"model.path={self.weights_of / HUB}"]
        return found + ([f"reward.learned.runs=[{','.join(map(str, self.judges))}]"] if self.judges else [])


@dataclass(frozen=True)
class Pipeline:
    """See the module."""

    name: str
    base: tuple[str, ...]
    stages: Mapping[str, Stage]

    def turns(self, folder: Path, more: Sequence[str] = ()) -> list[Turn]:
        """Every run in order; `more` are overrides of the command line, the last word in every stage."""
        found: list[Turn] = []
        last: dict[str, Path] = {}
        for stage in self.stages.values():
            for number in range(1, stage.rounds + 1):
                name = stage.name if stage.rounds == 1 else f"{stage.name}_{number}"
                before = stage.name if number > 1 else stage.begins_with
                given = (*self.base, *stage.given, *more, f"trainer.run_dir={folder / name}")
                weights = None if before is None else last[before]
                found.append(
                    Turn(stage.name, folder / name, given, weights, tuple(last[each] for each in stage.judged_by))
                )
                last[stage.name] = folder / name
        return found

    def check(self, turns: Sequence[Turn]) -> None:
        """All runs, and all their problems together."""
        folders = [turn.folder.name for turn in turns]
        if twice := sorted({name for name in folders if folders.count(name) > 1}):
            what = f"two runs would be in one folder: {', '.join(twice)}"
            raise UserError(what, where=self.name, mend="another name for a stage")
        loaded = {turn.folder: load(list(turn.given)) for turn in turns}
        found = [f"{turn.folder.name}: {each}" for turn in turns for each in errors(loaded[turn.folder].problems)]
        if not found:
            scoring = {folder for folder, each in loaded.items() if scores_rows(each.run.algorithm)}
            found = [each for turn in turns for each in _handed_wrongly(turn, scoring)]
        if found:
            raise UserError("\n  ".join([f"{len(found)} errors in the stages of {self.name}:", *found]))


def _handed_wrongly(turn: Turn, scoring: Container[Path]) -> Iterator[str]:
    """What a stage would take from one that does not make it; `scoring` are the folders of reward models."""
    for judge in turn.judges:
        if judge not in scoring:
            yield f"{turn.folder.name}: judged_by {judge.name}, which trains no reward model"
    if turn.weights_of is not None and turn.weights_of in scoring and turn.folder not in scoring:
        yield f"{turn.folder.name}: from {turn.weights_of.name}, a reward model, which has no words to go on with"


def read_pipeline(asked: str) -> Pipeline:
    """A shipped one by its name, or a file."""
    path, told = read_named(asked, PIPELINES)
    problems = list(_problems(told))
    if problems:
        raise UserError("; ".join(problems), where=str(path), mend="see `configs/pipeline/tiny-rlhf.yaml`")
    stages = {
        name: Stage(
            name,
            tuple(stage["set"]),
            stage.get("from"),
            tuple(stage.get("judged_by", ())),
            int(stage.get("rounds", 1)),
        )
        for name, stage in told["stages"].items()
    }
    return Pipeline(path.stem, tuple(told["base"]), stages)


def _problems(told: Any) -> Iterator[str]:
    if not isinstance(told, dict) or set(told) != {"base", "stages"}:
        yield "must have the keys base and stages, and no others"
        return
    if not _texts(told["base"]):
        yield "base must be a list of texts"
    stages = told["stages"]
    if not isinstance(stages, dict) or not stages:
        yield "stages must name at least one"
        return
    before: list[str] = []
    for name, stage in stages.items():
        if not isinstance(name, str) or not name.replace("_", "").isalnum():
            yield f"a stage must have a name of letters, digits and _: {one_line(str(name))}"
            continue
        yield from (f"stages.{name}{problem}" for problem in _stage_problems(stage, before))
        before.append(name)


def _stage_problems(stage: Any, before: Sequence[str]) -> Iterator[str]:
    if not isinstance(stage, dict) or not set(stage) <= KEYS or "set" not in stage:
        yield f" must have the key set, and of others only {', '.join(sorted(KEYS - {'set'}))}"
        return
    if not _texts(stage["set"]):
        yield ".set must be a list of texts"
    judges = stage.get("judged_by", [])
    if not _texts(judges):
        yield ".judged_by must be a list of stages"
        return
    for other in [*([stage["from"]] if stage.get("from") is not None else []), *judges]:
        if other not in before:
            yield f" takes from {one_line(str(other))}, which is no stage before it"
    rounds = stage.get("rounds", 1)
    if type(rounds) is not int or rounds < 1:
        yield ".rounds must be a whole number from 1"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
