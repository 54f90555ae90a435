"""What `hpt compare` runs: methods that differ in a few overrides, from the same start, over several seeds.

    configs/comparison/NAME.yaml
        base      overrides of every run
        start     overrides of the run that makes the start of a seed; its last weights are what the methods begin with
        seeds     whole numbers
        metrics   numbers of the last validation, the first one orders the table
        methods   a name, and the overrides that make it

Every run that the file stands for is checked before the first one starts, and all problems are told together.

Example: read_comparison("tiny-compare").run_of("hpt", 1, Path("runs/compared"))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.config.files import COMPARISONS, read_named
from hpt_megatron.config.load import load
from hpt_megatron.config.problem import errors, one_line
from hpt_megatron.errors import UserError

START = "start"
LISTS = ("base", "start", "metrics")


@dataclass(frozen=True)
class Comparison:
    """See the module."""

    name: str
    base: Sequence[str]
    start: Sequence[str]
    seeds: Sequence[int]
    metrics: Sequence[str]
    methods: Mapping[str, Sequence[str]]

    def start_of(self, seed: int, folder: Path) -> list[str]:
        """The overrides of the run that makes a seed's start."""
        return [*self.base, *self.start, f"trainer.seed={seed}", f"trainer.run_dir={folder / START / f'seed_{seed}'}"]

    def run_of(self, method: str, seed: int, folder: Path) -> list[str]:
        """The overrides of one run, but for what its start hands over."""
        given = (*self.base, *self.methods[method], f"trainer.seed={seed}")
        return [*given, f"trainer.run_dir={run_folder(folder, method, seed)}"]

    def only(self, methods: Sequence[str], seeds: Sequence[int]) -> "Comparison":
        """A part of it."""
        for name in methods:
            if name not in self.methods:
                known = ", ".join(self.methods)
                raise UserError(f"no such method: {one_line(name)}", where=self.name, mend=f"one of {known}")
        chosen = {name: self.methods[name] for name in methods or self.methods}
        return Comparison(self.name, self.base, self.start, tuple(seeds or self.seeds), self.metrics, chosen)

    def check(self, folder: Path) -> None:
        """Every run of the first seed; other seeds differ in nothing that a rule reads."""
        seed = self.seeds[0]
        asked = {START: self.start_of(seed, folder)} | {name: self.run_of(name, seed, folder) for name in self.methods}
        found = [f"{name}: {problem}" for name, given in asked.items() for problem in errors(load(given).problems)]
        if found:
            raise UserError("\n  ".join([f"{len(found)} errors in the runs of {self.name}:", *found]))


def run_folder(folder: Path, method: str, seed: int) -> Path:
    """Of one run."""
    return folder / method / f"seed_{seed}"


def read_comparison(asked: str) -> Comparison:
    """A shipped one by its name, or a file."""
    path, told = read_named(asked, COMPARISONS)
    problems = list(_problems(told))
    if problems:
        raise UserError("; ".join(problems), where=str(path), mend="see `configs/comparison/tiny-compare.yaml`")
    lists = {name: tuple(told[name]) for name in LISTS}
    methods = {name: tuple(given) for name, given in told["methods"].items()}
    return Comparison(path.stem, seeds=tuple(told["seeds"]), methods=methods, **lists)


def _problems(told: Any) -> Iterator[str]:
    keys = {*LISTS, "seeds", "methods"}
    if not isinstance(told, dict) or set(told) != keys:
        yield f"must have the keys {', '.join(sorted(keys))} and no others"
        return
    for name in LISTS:
        if not _texts(told[name]):
            yield f"{name} must be a list of texts"
    seeds = told["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        yield "seeds must be a list of whole numbers"
    methods = told["methods"]
    if not isinstance(methods, dict) or not methods:
        yield "methods must name at least one"
        return
    for name, given in methods.items():
        if not isinstance(name, str) or not name.replace("_", "").isalnum() or name == START:
            yield f"a method must have a name of letters, digits and _: {one_line(str(name))}"
        elif not _texts(given):
            yield f"methods.{name} must be a list of texts"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
