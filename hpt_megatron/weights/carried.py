"""The files of a checkpoint beside its tensors, which a conversion carries along unchanged.

Named one by one: nothing that could be run is among them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

CONFIG = "config.json"
CARRIED = "hf"
"""Where they lie inside a distributed checkpoint."""
WEIGHTS_ALONE = "weights"
"""What an imported checkpoint says where others say how their optimizer is laid out."""
NAMES = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "LICENSE",
)
DTYPE_KEYS = ("dtype", "torch_dtype")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def carry(folder: Path, into: Path) -> None:
    """Copies them, where there is a configuration; links become files."""
    if not (folder / CONFIG).is_file():
        return
    into.mkdir(exist_ok=True)
    for name in NAMES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file, to notice that a folder has changed between two runs."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def quantised(folder: Path) -> str | None:
    """By which method a folder's weights are quantised; `None`: they are not."""
    table = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    given = table.get("quantization_config")
    return str(given.get("quant_method")) if isinstance(given, dict) else None


def architectures(folder: Path) -> list[str]:
    """The architectures that a folder's configuration names; none where it names none."""
    given = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("architectures")
    return [str(each) for each in given] if isinstance(given, list) else []


def with_dtype(config: Path, dtype: str) -> None:
    """Lets a configuration say the dtype that the tensors have; one that says so already keeps every byte."""
    table = json.loads(config.read_text(encoding="utf-8"))
    parts: list[dict[str, Any]] = [table, *(part for part in table.values() if isinstance(part, dict))]
    wrong = [(part, key) for part in parts for key in DTYPE_KEYS if part.get(key, DTYPES[dtype]) != DTYPES[dtype]]
    for part, key in wrong:
        part[key] = DTYPES[dtype]
    if wrong:
        config.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
