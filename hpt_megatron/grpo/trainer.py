"""`GRPOTrainer`: load, train, evaluate, save, each of them a recipe of ours.

    OUT/grpo_training.log     what `train.log` says, and what happens before the run and after it
    OUT/data/, reward.json    the prompts and the composition that the configuration became
    OUT/final_model/          what `save_model` writes, in the hub's format

and all that a run leaves in its folder (docs/training.md).

Invariants
    1. Everything lies below `output_dir`, but for generation logs that are asked for elsewhere.
    2. `evaluate` changes no weight: no trainer is started.
    3. Lack of memory ends in a line that says what to do about it.

Example: `trainer = GRPOTrainer(config); trainer.load_model(); trainer.train(dataset); trainer.save_model()`
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.chat import Chat
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.errors import UserError
from hpt_megatron.grpo.config import GRPOConfig
from hpt_megatron.grpo.data import GRPODataset, read_dataset
from hpt_megatron.grpo.mapping import Key, checkpoint_of, mapped, run_of, table, with_files
from hpt_megatron.grpo.memory import advised, short_of_memory
from hpt_megatron.grpo.models import TINY, Model, model_for
from hpt_megatron.observe.generations import Generations, write_generations
from hpt_megatron.observe.log_file import TOLD, log_file
from hpt_megatron.recipes.evaluate import evaluate, exported
from hpt_megatron.recipes.files import MODEL
from hpt_megatron.recipes.train import train

LOG = "grpo_training.log"
FINAL = "final_model"


class GRPOTrainer:
    """See the module; `shown` is where lines for people go."""

    def __init__(self, config: GRPOConfig, shown: TextIO | None = None) -> None:
        self.config, self.shown = config, shown or sys.stdout
        self.folder = Path(config.output_dir)
        self._model: Model | None = None
        self._is_logging = False

    def tell(self, line: str, level: int = logging.INFO) -> None:
        """One line, to whoever watches and to the log."""
        self.shown.write(f"{line}\n")
        self.shown.flush()
        TOLD.log(level, "%s", line.strip())

    def load_model(self) -> ModelConfig:
        """Looks at the model: it is one that is trained here, and its folder has what a run needs.

        Devices get its weights when training begins, for that is when trainer and engine are started.
        """
        with self.logged():
            model = model_for(self.config)
            if model.missing:
                what = f"the weights of {model.name} are not here, and nothing is downloaded"
                raise UserError(what, where="--model", mend=model.missing)
            if model.name == TINY and model.folder is None and not (self.folder / MODEL).is_dir():
                write_tiny(self.folder / MODEL, seed=self.config.seed)
            Chat.open(model.folder or self.folder / MODEL)
            for note in model.notes:
                self.tell(note, logging.WARNING)
            self._model = model
            return run_of(mapped(self.config, model)).model

    def train(self, dataset: GRPODataset | None = None) -> int:
        """Trains on the rows, or on those that the configuration names; answers how many steps were made."""
        with self.logged():
            return train(self._run(dataset), self.shown)

    def evaluate(self, dataset: GRPODataset | None = None) -> dict[str, Any]:
        """Measures the model, or the checkpoint of `resume_from_checkpoint`, and changes no weight."""
        with self.logged():
            run, out = self._run(dataset), free(self.folder / "eval")
            if self.config.resume_from_checkpoint is not None:
                folder = exported(checkpoint_of(self.config.resume_from_checkpoint), out)
                run = replace(run, model=replace(run.model, path=str(folder)))
            told = evaluate(run, out, [1], self.shown)
            self._log_generations(run, out)
            self.tell(f"wrote {out / 'eval.json'}")
            return told

    def save_model(self, path: str | Path | None = None) -> Path:
        """Writes the newest checkpoint in the hub's format, for transformers, vLLM and others."""
        with self.logged():
            out = Path(path) if path is not None else free(self.folder / FINAL)
            from hpt_megatron.weights.execute.exporting import export_checkpoint

            export_checkpoint(checkpoint_of(str(self.folder)) / "trainer", out)
            self.tell(f"wrote {out}")
            return out

    def keys(self, dataset: GRPODataset) -> dict[str, Key]:
        """The keys of the run, once its files are written; what they came from is told."""
        if self._model is None:
            self.load_model()
        assert self._model is not None
        found, notes = with_files(self.config, mapped(self.config, self._model), dataset)
        self.tell(f"{len(dataset)} rows of {dataset.origin.name} to train on, {len(dataset.tested)} to validate on")
        for line in [*notes, *unmapped(self.config), "the run:", *table(found)]:
            self.tell(line)
        return found

    def _run(self, dataset: GRPODataset | None) -> RunConfig:
        if self._model is None:
            self.load_model()
        return run_of(self.keys(dataset or read_dataset(self.config)))

    def _log_generations(self, run: RunConfig, out: Path) -> None:
        questions = {}
        for file in run.data.val_files:
            for line in Path(file).read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                questions[str(row["index"])] = str(row["prompt"][-1]["content"])
        elsewhere = run.trainer.generation_log_dir
        how = Generations(run.trainer.log_val_generations, Path(elsewhere or self.folder / "generation_logs"))
        write_generations(out, 0, how, questions)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """What happens inside is in the log; lack of memory ends it with advice."""
        if self._is_logging:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot be made: {error.strerror}", where=str(self.folder), mend="--output-dir") from error
        self._is_logging = True
        try:
            with log_file(self.folder / LOG):
                try:
                    yield
                except Exception as error:
                    if short_of_memory(error):
                        raise advised(error) from error
                    raise
        finally:
            self._is_logging = False


def unmapped(config: GRPOConfig) -> list[str]:
    """What a field says that nothing reads, and why."""
    told = ["per_device_eval_batch_size is not read: the engine batches a validation by itself"]
    if config.gamma != 1.0:
        told.append(f"gamma {config.gamma:g}: the score of a whole response has no discount, so GRPO does not read it")
    return told


def free(path: Path) -> Path:
    """The path, or the first with a number behind it that nothing has.

    >>> free(Path("/usr")).as_posix()
    '/usr-2'
    """
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
