"""A corpus of pages: images with their text, as the search service reads them.

    OUT/pages.jsonl     {"id": "deck/plan_3", "image": "deck/plan_3.png", "text": "..."}    one line for each page
    OUT/deck/plan_3.png

Invariants
    1. The id of a page is the relative path of its image without the extension: pages of one name in two folders stay
       two, and a page `1024` of one deck is not that of another. Two images that would share an id are refused.
    2. A page of a PDF is `{pdf}_{page}`, with pages from 1; its text is the PDF's text layer. The text of an image is
       the file beside it with the extension `.txt`, if there is one.
    3. Links out of the source folder are not followed; pages are sorted by id.
    4. `pages.jsonl` appears last: a folder that has it is whole.

Example:
    >>> build("decks", "corpus")  # doctest: +SKIP
    Built(pages=120, skipped=[])
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_megatron.data.files import rows
from hpt_megatron.data.pictures import MOST_PIXELS, decode, open_source
from hpt_megatron.data.rows import path_below, source_of
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


@dataclass(frozen=True)
class Built:
    """What became of a folder; `skipped` says what was left out and why."""

    pages: int
    skipped: list[str]


def read_pages(folder: str | Path) -> list[dict[str, str]]:
    """The index of a corpus: id, image (a path in the folder) and text of every page."""
    path = Path(folder) / INDEX
    if not path.is_file():
        raise UserError(f"holds no {INDEX}", where=str(folder), mend="make a corpus with `hpt data corpus IN OUT`")
    pages = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            page = json.loads(line)
            pages.append({name: str(page[name]) for name in ("id", "image", "text")})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"is no page: {error}", where=f"{path}:{number}") from error
    return pages


def write_pages(folder: str | Path, pages: Iterable[Page]) -> int:
    """Writes images as they come, then the index; returns the number of pages."""
    target, lines = Path(folder), {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / INDEX).unlink(missing_ok=True)
        for page in pages:
            if page.id in lines:
                raise UserError(f"two images have the id {page.id!r}", where=str(folder), mend="rename one of them")
            path = target / page.image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(page.data)
            lines[page.id] = json.dumps({"id": page.id, "image": page.image, "text": page.text[:LONGEST_TEXT]})
        beside = target / f".{INDEX}.{os.getpid()}"
        beside.write_text("".join(f"{lines[name]}\n" for name in sorted(lines)), encoding="utf-8")
        beside.rename(target / INDEX)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(folder)) from error
    return len(lines)


def build(source: str | Path, out: str | Path, dpi: int = DPI) -> Built:
    """A corpus from a folder of images and PDFs, at any depth, or from SlideVQA's file."""
    root, target = Path(source), Path(out)
    if root.is_file():
        return Built(write_pages(target, deck_pages(root)), [])
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
        deck = str(path_below(str(row["deck_name"]), where, "/decks").relative_to("/decks"))
        for number in range(1, PAGES_OF_A_DECK + 1):
            name, cell = f"{deck}_{number}", row.get(f"page_{number}")
            if cell is None or name in seen:
                continue
            seen.add(name)
            image = open_source(source_of(cell, where, file.parent))
            held = io.BytesIO()
            image.save(held, "PNG")
            yield Page(name, f"{name}.png", "", held.getvalue())


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
                    yield from _of_pdf(path, relative, dpi)
            except UserError as error:
                skipped.append(str(error))


def _of_image(path: Path, relative: str, root: Path) -> Page:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError("leads out of the folder", where=relative)
    data = path.read_bytes()
    decode(data, where=relative)
    beside = path.with_suffix(".txt")
    text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
    return Page(relative.removesuffix(path.suffix), relative, text, data)


def _of_pdf(path: Path, relative: str, dpi: int) -> Iterator[Page]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise UserError(f"is not a PDF that can be read: {error}", where=relative) from error
    stem = relative.removesuffix(path.suffix)
    try:
        for number in range(len(document)):
            image, text = _rendered(document, number, dpi, relative)
            held = io.BytesIO()
            image.save(held, "PNG")
            yield Page(f"{stem}_{number + 1}", f"{stem}_{number + 1}.png", text, held.getvalue())
    finally:
        document.close()


def _rendered(document: Any, number: int, dpi: int, relative: str) -> tuple[Any, str]:
    import pypdfium2

    try:
        page = document[number]
        width, height = page.get_size()
        if width * height * (dpi / POINTS) ** 2 > MOST_PIXELS:
            raise UserError(f"page {number + 1} has too many pixels at {dpi} dpi", where=relative)
        image = page.render(scale=dpi / POINTS).to_pil().convert("RGB")
        return image, page.get_textpage().get_text_bounded()
    except pypdfium2.PdfiumError as error:
        raise UserError(f"page {number + 1} cannot be rendered: {error}", where=relative) from error
