"""What a run reads from disk, there before anything heavy starts.

The embedded default brings its own: where no checkpoint is named and the model is the tiny one, and where `data.make`
names a task and no file is given, both are made in the run's folder, the same bytes for the same seed. Where the task
has pages, they are what an agent searches.

Invariant: what is there is taken as it is; nothing is overwritten.
"""

from dataclasses import replace
from pathlib import Path

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.tasks.make import make
from hpt_megatron.data.tasks.place import CORPUS, TRAIN, VAL, WARMUP, task_folder
from hpt_megatron.embedded.folder import tiny_model, write_tiny
from hpt_megatron.errors import UserError

MODEL = "model"


def with_files(run: RunConfig, folder: Path) -> RunConfig:
    """The run with its checkpoint and its data files on disk."""
    return _with_data(_with_model(run, folder), folder)


def _with_model(run: RunConfig, folder: Path) -> RunConfig:
    if run.model.path is not None:
        return run
    if replace(run.model, path=None) != tiny_model():
        mend = "the folder of a checkpoint with its tokenizer"
        raise UserError("no checkpoint is named, and only the tiny model is made here", where="model.path", mend=mend)
    path = folder / MODEL
    if not path.is_dir():
        write_tiny(path, seed=run.trainer.seed)
    return replace(run, model=replace(run.model, path=str(path)))


def _with_data(run: RunConfig, folder: Path) -> RunConfig:
    data = run.data
    if data.train_files or data.make is None:
        return run
    path = task_folder(folder, data.make)
    if not (path / TRAIN).is_file():
        make(data.make, path, seed=run.trainer.seed)
    val = data.val_files or (str(path / VAL),)
    warmup = path / WARMUP
    shown = data.warmup_files or ((str(warmup),) if warmup.is_file() else ())
    files = replace(data, train_files=(str(path / TRAIN),), warmup_files=shown, val_files=val)
    corpus, rollout = path / CORPUS, run.rollout
    if corpus.is_dir() and rollout.search_corpus_root is None:
        rollout = replace(rollout, search_corpus_root=str(corpus))
    return replace(run, data=files, rollout=rollout)
