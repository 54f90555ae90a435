"""The prompts of a GRPO run: rows of a public set, of a file, or of an embedded task, as many as were asked for.

Decision: GRPO takes the prompt alone. What a row brings besides (`chosen`, `rejected`, a demonstration) is left out and
said so; gold answers stay, for the rewards.

Invariants
    1. `max_samples` rows are trained on, the first ones that can be used; fewer only where the file has fewer.
    2. What is validated on stands behind them in the file. Where nothing does, the last twentieth is set aside if all
       rows were asked for, and else the first trained ones are taken, which a note says.
    3. A row of a file that cannot be used ends the reading with its line; of a public set it is left out and counted.
    4. With `streaming` no row behind the last one that is needed is looked at.

Example:
    >>> loader, dataset = create_grpo_dataloader("tiny", "count", max_samples=8)
    >>> len(dataset), len(loader), dataset[0]["prompt"][0]["content"]
    (8, 4, '<image>count ?')
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_megatron.config.problem import nearest, one_line
from hpt_megatron.data.files import KINDS, attempts, write_rows
from hpt_megatron.data.importers.sets import ALIASES, SETS, record
from hpt_megatron.data.reading import distinct
from hpt_megatron.data.record import Record
from hpt_megatron.data.rows import record_of, row_of
from hpt_megatron.data.tasks.make import TASKS
from hpt_megatron.data.tasks.make import records as task_rows
from hpt_megatron.errors import UserError
from hpt_megatron.grpo.config import GRPOConfig
from hpt_megatron.grpo.models import model_for

DATASETS = {
    "ultrafeedback": ("HuggingFaceH4/ultrafeedback_binarized", "data/train_prefs-*.parquet"),
    "ultrafeedback_large": ("openbmb/UltraFeedback", "one of its *.jsonl"),
    "hh_rlhf": ("Anthropic/hh-rlhf", "*/train.jsonl.gz, unpacked"),
    "openai_summarize": ("openai/summarize_from_feedback", "comparisons, as parquet or JSON lines"),
}
"""By the names of the command line: the set on the hub, and which file of it is meant."""
HELD_SHARE = 20


@dataclass(frozen=True)
class Origin:
    """Where rows come from: a public set's file, a file in one of our forms, or an embedded task."""

    set: str = ""
    file: str = ""
    task: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return self.task or (f"{self.set} in {self.file}" if self.set else self.file)


def origin_of(config: GRPOConfig) -> Origin | str:
    """Where rows come from; a text says what is to be provided first."""
    if config.custom_data is not None:
        return Origin(file=_there(config.custom_data, "--custom-data"))
    name = config.dataset_name
    by_id = {hub: known for known, (hub, _) in DATASETS.items()}
    name = by_id.get(name, name)
    if name in TASKS:
        return Origin(task=name)
    if name in DATASETS or ALIASES.get(name, name) in SETS:
        if config.data_file is not None:
            return Origin(set=name, file=_there(config.data_file, "--data-file"))
        hub, file = DATASETS.get(name, (SETS[ALIASES.get(name, name)].about, "its file"))
        return f"--data-file FILE with {hub} ({file})"
    if Path(name).suffix in KINDS:
        return Origin(file=_there(name, "--dataset"))
    known = [*DATASETS, *TASKS]
    mend = nearest(name, known) or f"{', '.join(known)}, or --custom-data FILE"
    raise UserError(f"no such set: {one_line(name)}", where="--dataset", mend=mend)


def _there(path: str, option: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"no such file: {one_line(path)}", where=option, mend="check the path; nothing is downloaded")
    return path


@dataclass(frozen=True)
class GRPODataset:
    """Prompts to train on and prompts to validate on; `notes` say what was left out."""

    trained: tuple[Record, ...]
    tested: tuple[Record, ...]
    origin: Origin
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.trained)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """A row as TRL's users know it: the messages of the prompt, and the answers that are right."""
        one = self.trained[place]
        said = [{"role": message.role, "content": message.content} for message in one.prompt]
        return {"prompt": said, "answers": list(one.golds), "index": one.index}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))

    @property
    def with_answers(self) -> int:
        """Rows that bring an answer to compare with."""
        return sum(bool(one.golds) for one in self.trained)


@dataclass(frozen=True)
class PromptLoader:
    """Batches of rows in the file's order, to look at; the run itself draws them shuffled, epoch by epoch."""

    dataset: GRPODataset
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for start in range(0, len(self.dataset), self.batch_size):
            yield [self.dataset[place] for place in range(start, min(start + self.batch_size, len(self.dataset)))]


def create_grpo_dataloader(
    model_name: str, dataset_name: str, max_samples: int | None = None, **more: Any
) -> tuple[PromptLoader, GRPODataset]:
    """Batches and rows; `more` are further fields of `GRPOConfig`, such as `data_file` or `streaming`."""
    config = GRPOConfig(model_name=model_name, dataset_name=dataset_name, max_samples=max_samples, **more)
    model_for(config)  # a model that is not trained here is refused before its data are read
    dataset = read_dataset(config)
    return PromptLoader(dataset, config.per_device_train_batch_size), dataset


def read_dataset(config: GRPOConfig) -> GRPODataset:
    """The prompts of a configuration."""
    origin = origin_of(config)
    if isinstance(origin, str):
        raise UserError("its rows are not here, and nothing is downloaded", where=config.dataset_name, mend=origin)
    taken = _Taken()
    rows = taken.records(origin, config)
    most = config.max_samples
    wanted = None if most is None else most + config.eval_samples
    found, _ = distinct([one for _, one in zip(range(wanted), rows, strict=False)] if wanted else list(rows))
    notes = list(taken.notes())
    if not config.streaming:
        for _ in rows:  # a broken row is told wherever it stands
            pass
    if not found:
        raise UserError("no row can be used", where=origin.name, mend="; ".join(notes) or "look at the file")
    trained, tested, told = _split(found, config)
    return GRPODataset(tuple(trained), tuple(tested), origin, (*notes, *told))


class _Taken:
    """Rows as prompts, with a count of what was taken off them."""

    def __init__(self) -> None:
        self.preferences, self.demonstrations, self.skipped = 0, 0, list[str]()

    def records(self, origin: Origin, config: GRPOConfig) -> Iterator[Record]:
        return (self._prompt(one) for one in self._read(origin, config))

    def _read(self, origin: Origin, config: GRPOConfig) -> Iterator[Record]:
        if origin.task:
            count = config.max_samples or TASKS[origin.task].count
            yield from task_rows(origin.task, "train", count, config.seed)[:count]
            yield from task_rows(origin.task, "val", config.eval_samples, config.seed)
            return
        root = Path(origin.file).parent
        for where, row in attempts(origin.file):
            try:
                if isinstance(row, UserError):
                    raise row
                yield record(origin.set, row, where, root) if origin.set else record_of(row, where, root)
            except UserError as error:
                if not origin.set:
                    raise
                self.skipped.append(str(error))

    def _prompt(self, one: Record) -> Record:
        rejected = "rejected" in one.extra
        self.preferences += rejected
        self.demonstrations += one.target is not None and not rejected
        extra = {name: value for name, value in one.extra.items() if name != "rejected"}
        return replace(one, target=None, target_images=(), extra=extra)

    def notes(self) -> Iterator[str]:
        if self.preferences:
            yield f"{self.preferences} rows have chosen and rejected answers: ignored, GRPO takes the prompt"
        if self.demonstrations:
            yield f"{self.demonstrations} rows have a demonstration: ignored, GRPO takes the prompt"
        if self.skipped:
            yield f"{len(self.skipped)} rows cannot be used and are left out, the first: {self.skipped[0]}"


def _split(found: Sequence[Record], config: GRPOConfig) -> tuple[Sequence[Record], Sequence[Record], list[str]]:
    most, evals = config.max_samples, config.eval_samples
    if most is None:
        held = min(evals, len(found) // HELD_SHARE)
        tested = found[len(found) - held :]
        trained, told = found[: len(found) - held], []
    else:
        trained, tested = found[:most], found[most : most + evals]
        told = [f"max_samples {most}: the file has {len(trained)} rows"] if len(trained) < most else []
    if not tested:
        tested = trained[:evals]
        told.append(f"no row is left to validate on: {len(tested)} of those that are trained on are taken")
    return trained, tested, told


def write_prompts(records: Iterable[Record], folder: Path, name: str) -> Path:
    """The file of some prompts; its name carries what it holds, so other rows are another file, and another run."""
    rows = [row_of(one) for one in records]
    texts = (json.dumps(row, sort_keys=True, default=lambda data: data.hex()) for row in rows)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}.jsonl"
    if not path.is_file():
        write_rows(path, rows)
    return path
