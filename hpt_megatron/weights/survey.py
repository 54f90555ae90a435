"""What a folder of the hub holds, by the headers of its files; and everything that is wrong with it.

Nothing is loaded. A conversion asks here first, so that it refuses a damaged or foreign checkpoint with every reason at
once, before a byte is written.

Example:
    >>> grouped(["lacks model.layers.0.mlp.up_proj.weight", "lacks model.layers.1.mlp.up_proj.weight"])
    ['lacks model.layers.0-1.mlp.up_proj.weight']
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.shapes import shapes
from hpt_megatron.errors import UserError
from hpt_megatron.weights.hf_folder import INDEX, SINGLE
from hpt_megatron.weights.safetensors_file import Info, read_header
from hpt_megatron.weights.table import LM_HEAD, VISUAL, Table, canonical

CONVERTED = ("F32", "F16", "BF16")
NUMBER = re.compile(r"(?<=[a-z]\.)\d+(?=\.)")


@dataclass
class Survey:
    """Canonical name to what is stored and where: file, name inside it, first and last byte."""

    infos: dict[str, Info] = field(default_factory=dict)
    where: dict[str, tuple[Path, str, int, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def survey(folder: Path) -> Survey:
    """Reads the index and every header."""
    found = Survey()
    try:
        promised = _promised(folder)
    except UserError as error:
        found.problems.append(briefly(error))
        return found
    for file in sorted(promised):
        try:
            infos, places = read_header(folder / file)
        except UserError as error:
            found.problems.append(briefly(error))
            continue
        wanted = promised[file]
        found.problems += [
            f"the index promises {name} in {file}, which lacks it" for name in sorted(wanted - set(infos))
        ]
        for name, info in infos.items():
            if wanted and name not in wanted:
                found.problems.append(f"{file} holds {name}, which the index does not place there")
                continue
            other = found.where.setdefault(canonical(name), (folder / file, name, *places[name]))
            if other[1] != name or other[0].name != file:
                found.problems.append(f"holds one tensor twice, as {other[1]} and as {name}")
            found.infos[canonical(name)] = info
    return found


def _promised(folder: Path) -> dict[str, set[str]]:
    """File to the names that the index places in it; none for a single file, which says so itself."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            mend = "name a folder in the Hugging Face layout (`hpt tiny OUT` writes one)"
            raise UserError("holds no safetensors", where=str(folder), mend=mend)
        return {SINGLE: set()}
    promised: dict[str, set[str]] = {}
    try:
        for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            if Path(file).name != file or file in ("", ".."):
                raise UserError(f"names a file outside the folder: {file!r}", where=str(index), mend="copy it again")
            promised.setdefault(file, set()).add(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("is no index of tensors", where=str(index), mend="copy it again") from error
    return promised


def contradictions(model: ModelConfig, infos: Mapping[str, Info]) -> list[str]:
    """What a checkpoint's tensors and its configuration do not agree on; the folder's copy of a tied head may stay."""
    expected = shapes(model)
    found = Table.of(model, 1, 1).contradictions(infos)
    visual = {name for name in expected if name.startswith(VISUAL)}
    given = {name for name in infos if name.startswith(VISUAL)} if model.vision is not None else set()
    found += [f"lacks {name}" for name in sorted(visual - given)]
    found += [f"has {name}, unknown here" for name in sorted(given - visual)]
    known = expected | ({LM_HEAD: expected["model.embed_tokens.weight"]} if model.tie_word_embeddings else {})
    for name in sorted(set(known) & set(infos)):
        info = infos[name]
        if info.shape != known[name]:
            found.append(f"{name} is {list(info.shape)} where config.json makes it {list(known[name])}")
        if info.dtype not in CONVERTED:
            found.append(f"{name} is stored as {info.dtype}; {', '.join(CONVERTED)} are converted")
    found += mixed(Table.of(model, 1, 1), infos)
    return grouped(found) + _sizes_at_odds(model)


def mixed(table: Table, infos: Mapping[str, Info]) -> list[str]:
    """Parameters whose tensors have several dtypes: fused they would have one."""
    return [
        f"{' + '.join(entry.checkpoint)} have several dtypes"
        for entry in table.entries()
        if len({infos[name].dtype for name in entry.checkpoint if name in infos}) > 1
    ]


def _sizes_at_odds(model: ModelConfig) -> list[str]:
    found = []
    if model.num_attention_heads % model.num_key_value_heads:
        heads = f"{model.num_attention_heads} heads"
        found.append(f"config.json: {heads} do not share {model.num_key_value_heads} key-value heads evenly")
    if model.mrope_section is not None and 2 * sum(model.mrope_section) != model.head_dim:
        found.append(
            f"config.json: mrope_section {list(model.mrope_section)} is not half of a head of {model.head_dim}"
        )
    vision = model.vision
    if vision is not None and vision.out_hidden_size != model.hidden_size:
        found.append(
            f"config.json: the tower gives {vision.out_hidden_size} channels, the model has {model.hidden_size}"
        )
    if vision is not None and vision.hidden_size % vision.num_heads:
        found.append(f"config.json: {vision.num_heads} heads do not divide the tower's {vision.hidden_size} channels")
    return found


def grouped(lines: Iterable[str]) -> list[str]:
    """Lines that differ in the number of a layer alone, as one line with all its numbers."""
    groups: dict[str, set[int]] = {}
    for line in lines:
        pattern = NUMBER.sub("\0", line)
        groups.setdefault(pattern, set()).update(int(number) for number in NUMBER.findall(line))
    return [pattern.replace("\0", _ranges(sorted(numbers))) for pattern, numbers in groups.items()]


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 5 as `1-3,5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def briefly(error: UserError) -> str:
    """One problem among several: the file's name and what is wrong with it."""
    return f"{Path(error.where).name}: {error.what}"


ANOTHER_MODEL = "is it the checkpoint of this model?"


def refuse(where: Path, problems: list[str], mend: str = ANOTHER_MODEL) -> None:
    """Raises all problems in one line, where there are any."""
    if problems:
        raise UserError("; ".join(problems), where=str(where), mend=mend)
