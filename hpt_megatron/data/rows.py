"""From a row of a file to a `Record`, and back.

    index, data_source, prompt [{role, content}], images [{bytes | path}], target [{role, content}], target_images,
    reward_model {style, ground_truth}, ability, extra_info {...}          the schema that we write

Understood as well: a prompt that is a text; contents in parts; a target that is a text; a conversation under `messages`
(what the assistant says first and all that follows is the target); `chosen` and `rejected` (the chosen one is the
target, the other one stays in `extra`); `id` or `uid` for `index`; a `ground_truth` that is a list or has one under
`target`; golds under `answer`; VRAG's `file_name` and `reference_page`; an image as bytes, base64, a path or of PIL.

Invariants
    1. A relative path of an image stands below the root, the file's folder unless another is given. A path that leads
       out of it, by `..` or from `/`, is refused; links are followed, they are of who made the folder.
    2. Nothing is fetched: an address of the web is no image.
    3. `record_of(row_of(record))` is the record.

Example:
    >>> record_of({"prompt": "1+1 ?", "answer": 2}, "a.jsonl:1").golds
    ('2',)
"""

import base64
import binascii
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from hpt_megatron.data.files import plain
from hpt_megatron.data.record import IMAGE, Message, Record, Source, marks_of, problems_of
from hpt_megatron.errors import UserError
from hpt_megatron.protocol.pages import canonical

KNOWN = (
    *("index", "id", "uid", "data_source", "prompt", "images", "image", "target", "target_images", "messages"),
    *("reward_model", "ability", "extra_info", "choices", "reference", "chosen", "answer", "answers", "modality"),
)


def record_of(row: Mapping[str, Any], where: str, root: str | Path = "") -> Record:
    """The record of a row; whatever is wrong with it is one line that starts with `where`."""
    if not any(name in row for name in ("prompt", "messages", "chosen")):
        what = "lacks the column 'prompt', a text or a list of {role, content}"
        raise UserError(what, where=where, mend=f"it has {', '.join(map(str, row)) or 'none'}"[:200])
    try:
        record = _record(plain(row), where, str(root))
    except RecursionError as error:
        raise UserError("is nested too deeply", where=where) from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"does not have the schema: {type(error).__name__}: {error}", where=where) from error
    wrong = problems_of(record)
    if wrong:
        raise UserError("; ".join(wrong), where=where)
    return record


def _record(row: dict[str, Any], where: str, root: str) -> Record:
    extra = _table(row.get("extra_info"))
    prompt, target, rejected = conversations(row)
    given = _listed(_first(row.get("images"), row.get("image")))
    images = [source_of(cell, where, root) for cell in given]
    of_target = [source_of(cell, where, root) for cell in _listed(row.get("target_images"))]
    if target and not of_target and marks_of(target) and len(images) == marks_of(prompt) + marks_of(target):
        images, of_target = images[: marks_of(prompt)], images[marks_of(prompt) :]
    model = _table(row.get("reward_model"))
    golds = _golds(model.get("ground_truth"), row.get("answer"), row.get("answers"), extra.get("answer"))
    index = _first(row.get("index"), row.get("id"), row.get("uid"), extra.get("index"))
    choices = _listed(_first(row.get("choices"), extra.get("choices")))
    own = {name: value for name, value in row.items() if name not in KNOWN and name != "rejected"}
    extra |= {name: value for name, value in own.items() if value is not None or name not in extra}
    if rejected:
        extra["rejected"] = [{"role": message.role, "content": message.content} for message in rejected]
    return Record(
        index=str(index if index is not None else Path(where).name),
        data_source=str(row.get("data_source") or ""),
        prompt=prompt,
        images=tuple(images),
        target=target or None,
        target_images=tuple(of_target),
        golds=golds,
        style=str(model.get("style") or "rule"),
        ability=str(row.get("ability") or ""),
        choices=tuple(str(choice) for choice in choices if choice is not None),
        reference=_references(row, extra),
        modality=str(row.get("modality") or ""),
        extra={name: value for name, value in extra.items() if name not in ("choices", "reference")},
    )


def row_of(record: Record) -> dict[str, Any]:
    """A record in the schema that we write."""
    extra = dict(record.extra)
    extra |= {"choices": list(record.choices)} if record.choices else {}
    extra |= {"reference": list(record.reference)} if record.reference else {}
    golds: Any = record.golds[0] if len(record.golds) == 1 else list(record.golds) or None
    told = {
        "index": record.index,
        "data_source": record.data_source,
        "prompt": [{"role": message.role, "content": message.content} for message in record.prompt],
        "images": [{"bytes": image.data, "path": image.path} for image in record.images],
        "target": [{"role": message.role, "content": message.content} for message in record.target or ()] or None,
        "reward_model": {"style": record.style, "ground_truth": golds},
        "ability": record.ability,
        "extra_info": extra,
    }
    if record.modality != replace(record, modality="").modality:
        told["modality"] = record.modality
    if record.target_images:
        told["target_images"] = [{"bytes": image.data, "path": image.path} for image in record.target_images]
    return told


Messages = tuple[Message, ...]


def conversations(row: Mapping[str, Any]) -> tuple[Messages, Messages, Messages]:
    """Prompt, target and rejected answer of a row; the last two may be empty."""
    prompt, target = messages_of(row.get("prompt"), "user"), messages_of(row.get("target"), "assistant")
    chosen, rejected = messages_of(row.get("chosen"), "assistant"), messages_of(row.get("rejected"), "assistant")
    if not prompt and row.get("messages"):
        said = messages_of(row["messages"], "user")
        start = next((i for i, message in enumerate(said) if message.role == "assistant"), len(said))
        prompt, target = said[:start], target or said[start:]
    if not prompt and chosen:  # the prompt is what both begin with
        pairs = zip(chosen[:-1], rejected or chosen[:-1], strict=False)
        prompt = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if chosen[: len(prompt)] == prompt:
        chosen = chosen[len(prompt) :]
    if rejected[: len(prompt)] == prompt:
        rejected = rejected[len(prompt) :]
    return prompt, target or chosen, rejected


def messages_of(value: Any, role: str) -> Messages:
    """A conversation from a text, one message, or a list of them; no message where there is no text."""
    if isinstance(value, str):
        return (Message(role, value),) if value.strip() else ()
    if isinstance(value, Mapping):
        value = [value]
    found = [Message(str(item.get("role") or role), content_of(item["content"])) for item in value or ()]
    return tuple(found) if any(message.content.strip() for message in found) else ()


def content_of(value: Any) -> str:
    """The text of a content, whose parts may be images."""
    if isinstance(value, str):
        return value
    parts = []
    for part in value or ():
        is_image = part.get("type") in ("image", "image_url") or "image" in part or "image_url" in part
        parts.append(IMAGE if is_image and part.get("text") is None else str(part.get("text") or ""))
    return "".join(parts)


def source_of(cell: Any, where: str, root: str | Path = "") -> Source:
    """Where an image is, from whatever a cell holds."""
    if isinstance(cell, Mapping):
        data = cell.get("bytes")
        cell = _base64(data, where) if isinstance(data, str) else data if data is not None else cell.get("path")
    if isinstance(cell, str) and cell.startswith("data:image/"):
        cell = _base64(cell.partition("base64,")[2], where)
    if isinstance(cell, bytes):
        return Source(data=cell)
    if hasattr(cell, "save") and hasattr(cell, "size"):  # a PIL image
        held = io.BytesIO()
        cell.save(held, "PNG")
        return Source(data=held.getvalue())
    if not isinstance(cell, str) or not cell:
        raise UserError(f"an image is given as {type(cell).__name__}", where=where, mend="give bytes or a path")
    return Source(path=str(path_below(cell, where, root)))


def path_below(path: str, where: str, root: str | Path = "") -> Path:
    """The full path of a file below the root; `file://` is dropped."""
    text = path.removeprefix("file://")
    if "://" in text:
        raise UserError("an image is an address, and nothing is fetched", where=where, mend="download it first")
    base = os.path.abspath(root or ".")
    full = os.path.normpath(os.path.join(base, text.replace("\\", "/")))
    if "\0" in text or (full != base and not full.startswith(base.rstrip("/") + "/")):
        mend = "put the images below the data file, or set data.image_root"
        raise UserError(f"the path {text[:200]!r} leads out of {base}", where=where, mend=mend)
    return Path(full)


def document_of(name: str) -> str:
    """The name of a document without its extension: the deck of its pages."""
    return re.sub(r"\.(pdf|pptx?)\Z", "", name, flags=re.IGNORECASE)


def page_ids(name: Any, pages: Iterable[Any]) -> list[str]:
    """Canonical ids of pages of a document.

    >>> page_ids("a/Plan.PDF", [3])
    ['a/Plan_3']
    """
    return [f"{document_of(str(name))}_{page}" for page in pages]


def _references(row: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
    named = _first(row.get("reference"), extra.get("reference"), extra.get("reference_documents"))
    if named is None and extra.get("file_name") and extra.get("reference_page") is not None:
        named = page_ids(extra["file_name"], _listed(extra["reference_page"]))
    return tuple(canonical(str(page)) for page in _listed(named) if page is not None)


def _golds(*given: Any) -> tuple[str, ...]:
    for value in given:
        inner = _first(value.get("target"), value.get("ground_truth")) if isinstance(value, Mapping) else value
        found = tuple(str(gold) for gold in _listed(inner) if gold is not None)
        if found:
            return found
    return ()


def _table(value: Any) -> dict[str, Any]:
    """A dict, also from its JSON text; keys without a value are left out (arrow fills a struct with them)."""
    if isinstance(value, str) and value:
        value = json.loads(value)
    return {name: inner for name, inner in (value or {}).items() if inner is not None}


def _first(*values: Any) -> Any:
    """The first one that is there: a column of another name may stand beside an empty one."""
    return next((value for value in values if value is not None), None)


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError("an image is neither base64 nor a path", where=where) from error
