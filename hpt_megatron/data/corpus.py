"""A corpus of pages: images with their text, as the search service reads them.

    OUT/pages.jsonl       {"id": "a/plan_3", "image": "a/plan_3.png", "text": "...", "deck": "a/plan"}    a line a page
    OUT/a/plan_3.png

Invariants
    1. The id of a page is the relative path of its image without the extension: pages of one name in two folders stay
       two, and a page `1024` of one deck is not that of another. Two images that would share an id are refused.
    2. A page of a PDF is `{pdf}_{page}`, with pages from 1; its text is the PDF's text layer. The text of an image is
       the file beside it with the extension `.txt`, if there is one. A deck is a PDF, or a folder of images.
    3. Links out of the source folder are not followed, nor are links to nothing. Pages stand in their natural order:
       page 2 before page 10.
    4. `pages.jsonl` appears last: a folder that has it is whole. A corpus that is there already is touched only when
       all of the new one has been made.

Example:
    >>> build("decks", "corpus")  # doctest: +SKIP
    Built(pages=120, skipped=[])
"""

import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_megatron.data.files import check_output, rows
from hpt_megatron.data.pictures import MOST_PIXELS, decode, open_source
from hpt_megatron.data.rows import document_of, page_ids, path_below, source_of
from hpt_megatron.errors import UserError

INDEX = "pages.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
DPI = 144
POINTS = 72  # of an inch: a PDF's unit
LONGEST_TEXT = 200_000
PAGES_OF_A_DECK = 20


@dataclass(frozen=True)
class Page:
    """A page with its image's bytes; `image` is its path in the corpus."""

    id: str
    image: str
    text: str
    data: bytes
    deck: str = ""


@dataclass(frozen=True)
class Built:
    """What became of a folder; `skipped` says what was left out and why."""

    pages: int
    skipped: list[str]


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts as people count.

    >>> sorted(["a_10", "a_2", "a"], key=natural)
    ['a', 'a_2', 'a_10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


def write_pages(folder: str | Path, pages: Iterable[Page]) -> int:
    """Writes images beside what is there, puts them in place, then the index; returns the number of pages."""
    target = Path(folder)
    made: dict[str, Page] = {}
    beside = target / f".partial.{os.getpid()}"
    try:
        for page in pages:
            if page.id in made:
                what = f"two images have the id {page.id!r}: {made[page.id].image} and {page.image}"
                raise UserError(what, where=str(folder), mend="rename one of them")
            path = beside / page.image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(page.data)
            made[page.id] = replace(page, data=b"")
        if made:
            _put_in_place([made[name] for name in sorted(made, key=natural)], beside, target)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(folder)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(made)


def _put_in_place(pages: Sequence[Page], beside: Path, target: Path) -> None:
    told = [{"id": page.id, "image": page.image, "text": page.text[:LONGEST_TEXT], "deck": page.deck} for page in pages]
    (beside / INDEX).write_text("".join(json.dumps(line) + "\n" for line in told), encoding="utf-8")
    for page in pages:  # whatever stands in the way is met before anything is replaced
        (target / page.image).parent.mkdir(parents=True, exist_ok=True)
        if (target / page.image).is_dir():
            raise IsADirectoryError(0, f"{page.image} is a folder there")
    (target / INDEX).unlink(missing_ok=True)
    for page in pages:
        (beside / page.image).replace(target / page.image)
    (beside / INDEX).replace(target / INDEX)


def build(source: str | Path, out: str | Path, dpi: int = DPI) -> Built:
    """A corpus from a folder of images and PDFs, at any depth, from one PDF, or from SlideVQA's file."""
    root, target = Path(source), Path(out)
    if root.is_file():
        check_output(target / INDEX, root)
        found = _of_pdf(root, root.name, dpi) if root.suffix.lower() == ".pdf" else deck_pages(root)
        written = write_pages(target, found)
        if not written:
            raise UserError("holds no page", where=str(source))
        return Built(written, [])
    if not root.is_dir():
        raise UserError("no such folder", where=str(source))
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(root)):
        raise UserError("stands in the folder it is made from", where=str(out), mend="give a folder outside of it")
    skipped: list[str] = []
    count = write_pages(target, _pages(root, dpi, skipped))
    if not count:
        what = f"holds no image ({', '.join(SUFFIXES)}) and no PDF that can be read"
        raise UserError(f"{what}: {skipped[0]}" if skipped else what, where=str(source))
    return Built(count, skipped)


def deck_pages(file: Path) -> Iterator[Page]:
    """The pages of the decks of SlideVQA, each once: `deck_name` and `page_1` to `page_20` of every row."""
    seen: set[str] = set()
    for where, row in rows(file):
        if "deck_name" not in row or "page_1" not in row:
            raise UserError("has no deck_name and page_1", where=where, mend="give a folder, or SlideVQA's parquet")
        deck = document_of(str(path_below(str(row["deck_name"]), where, "/decks").relative_to("/decks")))
        for number in range(1, PAGES_OF_A_DECK + 1):
            (name,), cell = page_ids(deck, [number]), row.get(f"page_{number}")
            if cell is None or name in seen:
                continue
            seen.add(name)
            image = open_source(source_of(cell, where, file.parent))
            held = io.BytesIO()
            image.save(held, "PNG")
            yield Page(name, f"{name}.png", "", held.getvalue(), deck)


def _pages(root: Path, dpi: int, skipped: list[str]) -> Iterator[Page]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            try:
                if path.suffix.lower() in SUFFIXES:
                    yield _of_image(path, relative, root)
                elif path.suffix.lower() == ".pdf":
                    _check_inside(path, relative, root)
                    yield from _of_pdf(path, relative, dpi)
            except UserError as error:
                skipped.append(str(error))


def _check_inside(path: Path, relative: str, root: Path) -> None:
    if not relative.isprintable():  # half of a surrogate pair too: a name that no text can hold
        raise UserError("has a name that is no text", where=repr(relative), mend="rename it")
    if not os.path.exists(path):
        raise UserError("is a link to nothing", where=relative)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError("leads out of the folder", where=relative)
    if not path.is_file():  # a pipe would be waited for
        raise UserError("is not a file", where=relative)


def _content(path: Path, relative: str, root: Path) -> bytes:
    _check_inside(path, relative, root)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=relative) from error


def _of_image(path: Path, relative: str, root: Path) -> Page:
    data = _content(path, relative, root)
    decode(data, where=relative)
    beside, named = path.with_suffix(".txt"), relative.removesuffix(path.suffix)
    has_text = os.path.lexists(beside)
    text = _content(beside, f"{named}.txt", root).decode("utf-8", "replace") if has_text else ""
    return Page(named, relative, text, data, named.rpartition("/")[0])


def _of_pdf(path: Path, relative: str, dpi: int) -> Iterator[Page]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except (pypdfium2.PdfiumError, OSError) as error:
        raise UserError(f"is not a PDF that can be read: {error}", where=relative) from error
    stem = document_of(relative)
    try:
        for number in range(len(document)):
            image, text = _rendered(document, number, dpi, relative)
            held = io.BytesIO()
            image.save(held, "PNG")
            (name,) = page_ids(relative, [number + 1])
            yield Page(name, f"{name}.png", text, held.getvalue(), stem)
    finally:
        document.close()


def _rendered(document: Any, number: int, dpi: int, relative: str) -> tuple[Any, str]:
    import pypdfium2

    try:
        page = document[number]
        width, height = page.get_size()
        if not width * height * (dpi / POINTS) ** 2 <= MOST_PIXELS:
            raise UserError(f"page {number + 1} has too many pixels at {dpi} dpi", where=relative)
        image = page.render(scale=dpi / POINTS).to_pil().convert("RGB")
        return image, page.get_textpage().get_text_bounded()
    except pypdfium2.PdfiumError as error:
        raise UserError(f"page {number + 1} cannot be rendered: {error}", where=relative) from error
