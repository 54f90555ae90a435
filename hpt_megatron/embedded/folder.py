"""Writes the tiny Qwen2.5-VL as a folder in the Hugging Face layout: weights, configuration, tokenizer, processor.

Neither torch nor transformers takes part, so it takes a moment, and their releases do not change a byte.

Invariants:
    1. The folder appears whole or not at all: everything is written beside it and renamed.
    2. The same seed gives the same bytes in every file; another seed changes `model.safetensors` alone.
    3. `overwrite` replaces only a folder that holds nothing but files of these names.

Example:
    >>> write_tiny("/data/tiny", seed=0).name  # doctest: +SKIP
    'tiny'
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from hpt_megatron.config.load import load
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.embedded.model_config import generation_config, model_config, preprocessor_config
from hpt_megatron.embedded.template import CHAT_TEMPLATE
from hpt_megatron.embedded.vocabulary import token_ids, tokenizer_config, tokenizer_json
from hpt_megatron.embedded.weights import draw
from hpt_megatron.errors import HptError, UserError


def tiny_model() -> ModelConfig:
    """The shape of the tiny model: what `configs/model/tiny.yaml` says."""
    return load(["model=tiny"]).run.model


def tiny_files(seed: int = 0) -> dict[str, bytes]:
    """The content of every file, by name."""
    model = tiny_model()
    if model.vision is None or len(token_ids()) >= model.vocab_size:
        raise HptError("needs a vision tower and more rows than tokens", where="configs/model/tiny.yaml")
    tables: dict[str, dict[str, Any]] = {
        "config.json": model_config(model, model.vision),
        "generation_config.json": generation_config(),
        "preprocessor_config.json": preprocessor_config(model.vision),
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": tokenizer_config(model.max_position_embeddings),
    }
    texts = {name: json.dumps(table, indent=2, ensure_ascii=True) + "\n" for name, table in tables.items()}
    files = {name: text.encode() for name, text in texts.items()}
    files["chat_template.jinja"] = CHAT_TEMPLATE.encode()
    files["model.safetensors"] = save(draw(model, seed), metadata={"format": "pt"})
    return files


def write_tiny(folder: str | os.PathLike[str], seed: int = 0, overwrite: bool = False) -> Path:
    """Writes the model into a folder that does not exist or is empty; returns its full path."""
    if not os.fspath(folder):
        raise UserError("OUT is empty", mend="give the folder to write")
    target = Path(os.path.realpath(folder))  # resolve() raises on links that form a ring
    files = tiny_files(seed)
    try:
        refuse_to_lose(target, set(files), overwrite)
        place(target, files)
    except OSError as error:
        where, mend = shown(target), "give a folder that can be written"
        raise UserError(f"cannot be written: {error.strerror}", where=where, mend=mend) from error
    return target


def place(target: Path, files: dict[str, bytes]) -> None:
    """Writes the files beside the target and renames; a failure leaves what was there before."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    replaced = target.with_name(f".{target.name}.{os.getpid()}.replaced")
    try:
        beside.mkdir(parents=True)
        for name, content in files.items():
            (beside / name).write_bytes(content)
        if target.exists() and any(target.iterdir()):
            target.rename(replaced)
        beside.rename(target)
    except OSError:
        with suppress(OSError):  # fails where nothing was set aside; the first error is the one to tell
            replaced.rename(target)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)  # not reached by a failure: what could not be put back is kept


def refuse_to_lose(target: Path, names: set[str], overwrite: bool) -> None:
    """Raises when the target holds something that must not be replaced."""
    if target.exists() and not target.is_dir():
        raise UserError("is a file", where=shown(target), mend="give a folder")
    if target in (Path.cwd(), *Path.cwd().parents):
        raise UserError("the command runs inside this folder", where=shown(target), mend="give a folder below it")
    found = {path.name for path in target.iterdir()} if target.exists() else set()
    if found and not overwrite:
        raise UserError("is not empty", where=shown(target), mend="give another folder, or --overwrite")
    if found - names:
        what = f"holds other files ({shown(sorted(found - names)[0])}) and is not replaced"
        raise UserError(what, where=shown(target), mend="give another folder")


def shown(path: str | Path) -> str:
    """A path as a message shows it: on one line, whatever characters it holds."""
    text = str(path)
    return text if text.isprintable() else json.dumps(text)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
