"""A batch in one file: safetensors, with what else is told of it as JSON in the header. Nothing in it can run.

    save(batch, path, {"step": 7})        load(path) -> Batch        told(path) -> {"step": 7}

    lengths, tokens.NAME, fields.NAME     the columns of the rows
    grids, patches, seconds               the images
    shown, counts                         which row shows which

Invariants
    1. What comes back has the same columns in the same order, with the same types and bits.
    2. Images that are kept elsewhere are asked for when a batch is saved; a file holds them itself.
    3. A file that is no batch is refused in one line that names what is wrong, the row where it is one row's.
    4. A file appears under its name when it is whole.

Example:
    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "rows.safetensors"
    >>> save(Batch.of_text(Rows.from_lists({"ids": [[5, 6], [7]]}, score=[0.5, 1.0])), path, {"step": 7})
    >>> load(path).rows.tokens["ids"].tolist(), told(path)
    ([5, 6, 7], {'step': 7})
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hpt_megatron.errors import UserError
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

FORMAT = "hpt_megatron.batch.1"
TOKENS, FIELDS = "tokens.", "fields."
PARTS = ("lengths", "grids", "patches", "seconds", "shown", "counts")


def save(batch: Batch, path: Path, told: Mapping[str, Any] | None = None) -> None:
    """Writes the file; `told` is plain JSON."""
    rows, images = batch.rows, batch.images
    columns: dict[str, Tensor] = {"lengths": rows.lengths, "grids": images.grids, "seconds": images.seconds}
    columns |= {"patches": images.pick(range(len(images))), "shown": batch.shown, "counts": batch.counts}
    columns |= {f"{TOKENS}{name}": column for name, column in rows.tokens.items()}
    columns |= {f"{FIELDS}{name}": column for name, column in rows.fields.items()}
    header = {"format": FORMAT, "columns": json.dumps(list(columns)), "told": json.dumps(dict(told or {}))}
    beside = path.with_name(f"{path.name}.new")
    # Columns may share memory (values and old values do), which the library refuses to write.
    save_file({name: column.detach().clone().contiguous() for name, column in columns.items()}, str(beside), header)
    beside.replace(path)


def load(path: Path) -> Batch:
    """Reads it back."""
    header, columns = _read(path, with_columns=True)
    try:
        order = [str(name) for name in json.loads(header["columns"])]
        parts = {name: columns[name] for name in PARTS}
        tokens = {name.removeprefix(TOKENS): columns[name] for name in order if name.startswith(TOKENS)}
        fields = {name.removeprefix(FIELDS): columns[name] for name in order if name.startswith(FIELDS)}
        rows = Rows(parts["lengths"], tokens, fields)
        images = Images(parts["grids"], parts["patches"], parts["seconds"])
        batch = Batch(rows, images, parts["shown"], parts["counts"])
    except KeyError as error:
        raise _refused(path, f"holds no {error.args[0]!r}") from error
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise _refused(path, " ".join(str(error).split())) from error
    for row in range(rows.num_rows):
        if outside := [number for number in batch.shown_by(row) if not 0 <= number < len(images)]:
            raise _refused(path, f"{batch.name(row)} shows image {outside[0]}, there are {len(images)}")
    return batch


def told(path: Path) -> dict[str, Any]:
    """What was told beside the batch, without reading it."""
    found = json.loads(_read(path, with_columns=False)[0].get("told", "{}"))
    return dict(found)


def _read(path: Path, with_columns: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            header = dict(file.metadata() or {})
            columns: dict[str, Tensor] = {}
            if with_columns:
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path)) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise _refused(path, f"cannot be read ({' '.join(str(error).split())})") from error
    if header.get("format") != FORMAT:
        raise _refused(path, f"is no batch of this version ({header.get('format', 'no format is named')})")
    return header, columns


def _refused(path: Path, what: str) -> UserError:
    return UserError(what, where=str(path), mend="write it again with hpt_megatron.protocol.batch_file.save")
