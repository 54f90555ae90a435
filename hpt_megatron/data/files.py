"""Data files as plain rows: parquet, JSON lines, or one JSON document with a list in it.

Invariants
    1. Rows come in the order of the file, each with its place (`FILE:LINE` or `FILE row N`, both from 1) for messages.
    2. A row is made of dict, list, str, bytes, numbers, bool and None: numpy's and arrow's nesting ends here.
    3. A file is written whole or not at all.

Example:
    >>> list(rows("a.jsonl"))  # doctest: +SKIP
    [('a.jsonl:1', {'prompt': '1+1', 'answer': '2'})]
"""

import base64
import datetime
import decimal
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpt_megatron.errors import UserError

Row = dict[str, Any]
Reader = Callable[[Path], Iterator[tuple[str, Row | UserError]]]
KINDS = (".parquet", ".jsonl", ".json")
ROWS_AT_ONCE = 256  # of a parquet file; rows may hold images


def rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    """Every row with its place; a broken one is raised."""
    for where, row in attempts(path):
        if isinstance(row, UserError):
            raise row
        yield where, row


def attempts(path: str | Path) -> Iterator[tuple[str, Row | UserError]]:
    """The same, with the error of a broken row in its place; only what stops the reading is raised."""
    file = Path(path)
    if file.suffix not in KINDS:
        raise UserError(f"is not a data file ({', '.join(KINDS)})", where=str(path))
    if not file.is_file():
        raise UserError("no such file", where=str(path), mend="check the path, or make one with `hpt data make`")
    readers: dict[str, Reader] = {".parquet": _parquet, ".jsonl": _json_lines, ".json": _json}
    try:
        yield from readers[file.suffix](file)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or _line(error)}", where=str(path)) from error


def _parquet(file: Path) -> Iterator[tuple[str, Row | UserError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file} row {number}", row
    except (pa.ArrowException, ValueError, OverflowError) as error:  # of a cell, such as a text that is not UTF-8
        raise UserError(f"cannot be read: {_line(error)}", where=str(file)) from error


def _json_lines(file: Path) -> Iterator[tuple[str, Row | UserError]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file}:{number}"
                try:
                    yield where, _object(line, where)
                except UserError as error:
                    yield where, error


def _json(file: Path) -> Iterator[tuple[str, Row | UserError]]:
    table = _parsed(file.read_bytes(), str(file))
    if isinstance(table, dict):  # ViDoSeek and others keep the list under a name
        lists = [value for value in table.values() if isinstance(value, list)]
        table = lists[0] if len(lists) == 1 else table
    if not isinstance(table, list):
        raise UserError("holds no list of rows", where=str(file), mend="use JSON lines, one object a line")
    for number, row in enumerate(table, 1):
        where = f"{file} row {number}"
        yield where, row if isinstance(row, dict) else UserError("is not a JSON object", where=where)


def _object(line: bytes, where: str) -> Row:
    row = _parsed(line, where)
    if not isinstance(row, dict):
        raise UserError("is not a JSON object", where=where, mend="one object a line")
    return row


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {_line(error)}", where=where) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def plain(value: Any) -> Any:
    """The value without numpy's arrays and scalars, at any depth; dates and decimals as text."""
    if hasattr(value, "tolist") and not isinstance(value, bytes | bytearray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def check_output(out: str | Path, *inputs: str | Path) -> None:
    """An output never overwrites what it is made from."""
    if any(os.path.exists(one) and os.path.exists(out) and os.path.samefile(one, out) for one in inputs):
        raise UserError("is the input, which would be overwritten", where=str(out), mend="give another path")


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Writes a parquet or JSON lines file; returns the number of rows."""
    file = Path(path)
    if file.suffix not in (".parquet", ".jsonl"):
        raise UserError("ends neither with .parquet nor with .jsonl", where=str(path))
    held = list(rows)
    beside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".jsonl":
            beside.write_text("".join(json.dumps(_jsonable(row)) + "\n" for row in held), encoding="utf-8")
        else:
            _write_parquet(beside, held)
        beside.rename(file)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    except RecursionError as error:
        raise UserError("cannot be written: a row is nested too deeply", where=str(path)) from error
    finally:
        with suppress(OSError):  # the folder may be a file
            beside.unlink(missing_ok=True)
    return len(held)


def _write_parquet(file: Path, held: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    text = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    known = {"prompt": text, "target": text, "images": image, "target_images": image}
    columns = list(dict.fromkeys(name for row in held for name in row))
    arrays = {}
    for name in columns:
        values = [row.get(name) for row in held]
        try:
            arrays[name] = pa.array(values, known.get(name))
        except UnicodeEncodeError as error:
            what = f"the column {name!r} holds half of a surrogate pair, which parquet cannot"
            raise UserError(what, where=str(file), mend="write a .jsonl file") from error
        except (pa.ArrowException, OverflowError):  # a key has another type in another row; a number is too large
            arrays[name] = _as_json(values)
        if _has_empty_struct(arrays[name].type):  # parquet knows none
            arrays[name] = _as_json(values)
    pq.write_table(pa.table(arrays), file)


def _as_json(values: list[Any]) -> Any:
    import pyarrow as pa

    return pa.array([None if value is None else json.dumps(_jsonable(value)) for value in values])


def _has_empty_struct(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return not len(kind) or any(_has_empty_struct(field.type) for field in kind)
    return bool(pa.types.is_list(kind)) and _has_empty_struct(kind.value_type)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
