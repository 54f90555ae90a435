"""A folder of images and PDFs becomes a corpus that the search service reads. Not covered: the search over it."""

import os

import pypdfium2
import pytest
from PIL import Image

from hpt_megatron.data.corpus import Page, build, write_pages
from hpt_megatron.data.files import write_rows
from hpt_megatron.data.importers.sets import record
from hpt_megatron.data.pictures import decode
from hpt_megatron.errors import UserError
from hpt_megatron.search.corpus import Corpus

pytestmark = pytest.mark.fast

SLIDE = {"qa_id": 1, "question": "q", "answer": "a", "evidence_pages": [2]}


def pdf(path, pages=2, side=100):
    """A real PDF with a text layer, written by hand: pypdfium2 cannot set text without a font file."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(pages))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>")
    font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for number in range(pages):
        text = f"BT /F1 12 Tf 10 50 Td (plan {number + 1}) Tj ET"
        box = f"[0 0 {side} {side}]"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox {box} /Contents {4 + 2 * number} 0 R /Resources {font} >>"
        )
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}\nendstream")
    whole, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(whole))
        whole += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    start = len(whole)
    whole += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    whole += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()
    path.write_bytes(whole)


def read_pages(folder):
    return Corpus.read(folder).pages


@pytest.fixture
def source(tmp_path):
    for deck in ("one", "two"):
        (tmp_path / "in" / deck).mkdir(parents=True)
        Image.new("RGB", (20, 30), "red" if deck == "one" else "blue").save(tmp_path / "in" / deck / "1024.jpg")
    (tmp_path / "in/one/1024.txt").write_text("Umsatz 2023")
    pdf(tmp_path / "in/one/report v1.2.pdf")
    return tmp_path / "in"


def test_pages_of_one_name_in_two_folders_stay_two(source, tmp_path):
    built = build(source, tmp_path / "out")
    assert (built.pages, built.skipped) == (4, [])
    pages = read_pages(tmp_path / "out")
    assert [page.id for page in pages] == ["one/1024", "one/report v1.2_1", "one/report v1.2_2", "two/1024"]
    assert [page.deck for page in pages] == ["one", "one/report v1.2", "one/report v1.2", "two"]
    assert pages[0].text == "Umsatz 2023"
    one, two = (decode((tmp_path / "out" / pages[i].image).read_bytes()).getpixel((5, 5)) for i in (0, 3))
    assert one[0] > 200 > 50 > two[0]


def test_a_pdf_is_rendered_page_by_page_with_its_text(source, tmp_path):
    build(source, tmp_path / "out", dpi=72)
    page = read_pages(tmp_path / "out")[2]
    assert page.image == "one/report v1.2_2.png"
    assert page.text.strip() == "plan 2"
    image = decode((tmp_path / "out" / page.image).read_bytes())
    assert image.size == (100, 100)
    assert min(image.convert("L").tobytes()) < 100  # something is written on it
    assert len(pypdfium2.PdfDocument(source / "one/report v1.2.pdf")) == 2


def test_one_pdf_alone_is_a_corpus_and_its_pages_stand_in_their_order(tmp_path):
    pdf(tmp_path / "Plan.PDF", pages=11)
    assert build(tmp_path / "Plan.PDF", tmp_path / "out", dpi=18).pages == 11
    corpus = Corpus.read(tmp_path / "out")
    assert [page.text.strip() for page in corpus.pages] == [f"plan {number}" for number in range(1, 12)]
    assert corpus.deck("Plan") == list(range(11))
    (tmp_path / "no.pdf").write_bytes(b"%PDF-1.4 no")
    with pytest.raises(UserError, match=r"no\.pdf: is not a PDF"):
        build(tmp_path / "no.pdf", tmp_path / "out")
    assert corpus == Corpus.read(tmp_path / "out")


def test_links_out_of_the_folder_and_to_nothing_are_not_followed_whatever_they_are(source, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    pdf(tmp_path / "secret.pdf", 1)
    (source / "two/1024.txt").symlink_to(tmp_path / "secret.txt")
    (source / "secret.pdf").symlink_to(tmp_path / "secret.pdf")
    (source / "gone.png").symlink_to(tmp_path / "gone.png")
    (source / "one/1024.txt").unlink()
    (source / "one/1024.txt").symlink_to(tmp_path / "gone.txt")
    os.mkfifo(source / "pipe.png")
    built = build(source, tmp_path / "out")
    assert built.pages == 2
    assert built.skipped == [
        "gone.png: is a link to nothing",
        "pipe.png: is not a file",
        "secret.pdf: leads out of the folder",
        "one/1024.txt: is a link to nothing",
        "two/1024.txt: leads out of the folder",
    ]
    assert "secret" not in (tmp_path / "out/pages.jsonl").read_text()


def test_a_corpus_that_is_there_stays_until_another_one_is_made(source, tmp_path):
    build(source, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    pdf(tmp_path / "new.pdf", 1)

    def broken():
        yield Page("one/1024", "one/1024.jpg", "", b"other")
        raise UserError("the second page is broken")

    with pytest.raises(UserError, match="second page"):
        write_pages(tmp_path / "out", broken())
    (tmp_path / "out/new_1.png").mkdir()
    with pytest.raises(UserError, match=r"cannot be written: new_1\.png is a folder there"):
        build(tmp_path / "new.pdf", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    (tmp_path / "out/new_1.png").rmdir()
    build(tmp_path / "new.pdf", tmp_path / "out")
    assert [page.id for page in read_pages(tmp_path / "out")] == ["new_1"]
    with pytest.raises(UserError, match="cannot be written"):
        build(tmp_path / "new.pdf", tmp_path / "new.pdf/out")


def test_what_cannot_be_read_is_skipped_and_told(source, tmp_path):
    (source / "broken.png").write_bytes(b"no")
    (source / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    (tmp_path / "secret.png").write_bytes((source / "one/1024.jpg").read_bytes())
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    (source / "notes.docx").write_bytes(b"")
    pdf(source / "poster.pdf", 1, side=14_000)
    built = build(source, tmp_path / "out")
    assert built.pages == 4
    told = "\n".join(built.skipped)
    for name in ("broken.png: is not an image", "broken.pdf: is not a PDF", "link.png: leads out", "too many pixels"):
        assert name in told
    assert len(built.skipped) == 4


def test_the_decks_of_slidevqa_become_pages_each_once(source, tmp_path):
    data = (source / "one/1024.jpg").read_bytes()
    deck = {"deck_name": "deck-a", "page_1": {"bytes": data}, "page_2": {"bytes": data}, "page_3": None}
    write_rows(tmp_path / "s.jsonl", [deck, deck, {**deck, "deck_name": "b.PPTX"}])
    assert build(tmp_path / "s.jsonl", tmp_path / "out").pages == 4
    assert [page.id for page in read_pages(tmp_path / "out")] == ["b_1", "b_2", "deck-a_1", "deck-a_2"]
    assert record("slidevqa", {**SLIDE, "deck_name": "deck-a"}, "here").reference == ("deck-a_2",)
    assert record("slidevqa", {**SLIDE, "deck_name": "b.PPTX"}, "here").reference == ("b_2",)
    write_rows(tmp_path / "t.jsonl", [{**deck, "deck_name": "../b"}])
    with pytest.raises(UserError, match="leads out of"):
        build(tmp_path / "t.jsonl", tmp_path / "out")
    write_rows(tmp_path / "u.jsonl", [{"a": 1}])
    with pytest.raises(UserError, match="has no deck_name"):
        build(tmp_path / "u.jsonl", tmp_path / "out")
    write_rows(tmp_path / "pages.jsonl", [deck])
    with pytest.raises(UserError, match="would be overwritten"):
        build(tmp_path / "pages.jsonl", tmp_path)


def test_two_images_of_one_id_are_refused(source, tmp_path):
    Image.new("RGB", (20, 30)).save(source / "one/1024.png")
    with pytest.raises(UserError, match=r"two images have the id 'one/1024': one/1024\.jpg and one/1024\.png; rename"):
        build(source, tmp_path / "out")
    assert not (tmp_path / "out/pages.jsonl").exists()


def test_a_folder_of_nothing_or_none_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        build(tmp_path / "no", tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        build(tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="stands in the folder"):
        build(tmp_path / "in", tmp_path / "in/out")


def test_a_text_without_end_is_cut(tmp_path):
    write_pages(tmp_path, [Page("a", "a.png", "x" * 300_000, b"")])
    assert len(read_pages(tmp_path)[0].text) == 200_000
