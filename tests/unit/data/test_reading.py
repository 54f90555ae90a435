"""Files of every layout become records. Not covered: files too large for memory, which nobody reads yet."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpt_megatron.data.files import plain, rows, write_rows
from hpt_megatron.data.reading import read
from hpt_megatron.data.record import IMAGE, Message, Record, Source, problems_of
from hpt_megatron.data.rows import KNOWN, record_of, row_of
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast


def png(colour="red"):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(held, "PNG")
    return held.getvalue()


FULL = Record(
    index="k-1",
    data_source="lookup",
    prompt=(Message("system", "S"), Message("user", f"{IMAGE}value ?")),
    images=(Source(data=png()),),
    target=(Message("assistant", "<search>k07</search>"), Message("user", IMAGE), Message("assistant", "4")),
    target_images=(Source(data=png("blue")),),
    golds=("4", "four"),
    ability="search",
    choices=("3", "4"),
    reference=("deck/k07",),
    extra={"level": 3, "split": "train"},
)
BARE = Record(index="k-2", data_source="x", prompt=(Message("user", "1+1"),), golds=("2",))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_what_is_written_is_read_again(tmp_path, name):
    assert write_rows(tmp_path / name, map(row_of, [FULL, BARE])) == 2
    reading = read([tmp_path / name])
    assert reading.problems == []
    assert reading.sound() == [FULL, BARE]
    assert [place.rpartition("/")[2] for place in reading.places] == (
        ["a.parquet row 1", "a.parquet row 2"] if name.endswith("parquet") else ["a.jsonl:1", "a.jsonl:2"]
    )


def test_extra_values_of_mixed_types_survive_parquet(tmp_path):
    mixed = [Record(index=str(i), prompt=BARE.prompt, extra={"gold": value}) for i, value in enumerate([1, "a", [2]])]
    write_rows(tmp_path / "a.parquet", map(row_of, mixed))
    assert read([tmp_path / "a.parquet"]).sound() == mixed


def test_the_layout_of_luffy_and_hpt(tmp_path):
    row = {
        "data_source": "openr1",
        "prompt": [{"role": "system", "content": "long"}, {"role": "user", "content": "x?"}],
        "target": [{"role": "assistant", "content": "<think>\nso</think> 4"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 17, "split": "default"},
        "target_lst": ["a", "b"],
    }
    pq.write_table(pa.Table.from_pylist([row, {**row, "target": None}]), tmp_path / "t.parquet")
    reading = read([tmp_path / "t.parquet"])
    first, second = reading.records
    assert (first.index, second.index) == ("17", "17#2")
    assert [(p.kind, p.what) for p in reading.problems] == [("warning", "index '17' is there already")]
    assert [message.role for message in first.prompt] == ["system", "user"]
    assert first.target_text == "<think>\nso</think> 4"
    assert second.target is None
    assert (first.golds, first.ability, first.extra["target_lst"]) == (("4",), "math", ["a", "b"])


def test_the_layout_of_vrag_names_the_pages_that_hold_the_answer():
    extra = {"file_name": "a/deck 1.pdf", "reference_page": [3, 12], "question": "q", "answer": "6", "index": 0}
    row = {"id": "u1", "data_source": "slidevqa_test", "prompt": [{"role": "user", "content": "q"}]}
    row |= {"ability": "vqa", "reward_model": {"style": "model", "ground_truth": "6"}, "extra_info": extra}
    record = record_of(row, "here")
    assert record.reference == ("a/deck 1_3", "a/deck 1_12")
    for name in ("a/deck 1.PDF", "a/deck 1.pptx", "a/deck 1"):
        assert record_of({**row, "extra_info": {**extra, "file_name": name}}, "here").reference == record.reference
    assert (record.index, record.style, record.golds, record.extra["question"]) == ("u1", "model", ("6",), "q")


def test_numpy_at_any_depth_becomes_plain():
    row = {"prompt": np.array([{"role": "user", "content": "a"}], dtype=object), "index": np.int64(3)}
    row |= {"reward_model": {"ground_truth": np.array(["1", "2"])}, "extra_info": {"page": np.array([1.5])}}
    record = record_of(row, "here")
    assert (record.index, record.golds, record.extra) == ("3", ("1", "2"), {"page": [1.5]})
    assert type(plain(np.float32(2))) is float


def test_conversations_and_preferences_of_trl():
    said = [{"role": "user", "content": f"{IMAGE}a"}, {"role": "assistant", "content": "s"}]
    said += [{"role": "user", "content": IMAGE}, {"role": "assistant", "content": "t"}]
    record = record_of({"messages": said, "images": [png(), png("blue")]}, "here")
    assert [message.content for message in record.target] == ["s", IMAGE, "t"]
    assert (len(record.images), len(record.target_images)) == (1, 1)
    chosen, rejected = [said[0], {"role": "assistant", "content": "good"}], [said[0], said[1]]
    for row in ({"chosen": chosen, "rejected": rejected}, {"prompt": [said[0]], "chosen": "good", "rejected": "s"}):
        record = record_of({**row, "image": png()}, "here")
        assert (record.question, record.target_text) == (f"{IMAGE}a", "good")
        assert record.extra["rejected"] == [{"role": "assistant", "content": "s"}]
    parts = [{"type": "image"}, {"type": "text", "text": "hi"}]
    assert record_of({"prompt": [{"role": "user", "content": parts}], "images": [png()]}, "h").question == "<image>hi"


@pytest.mark.parametrize("target", [None, "", "  \n", [], [{"role": "assistant", "content": ""}]])
def test_an_empty_target_is_none(target):
    assert record_of({"prompt": "a", "target": target}, "here").target is None


def test_an_image_may_be_bytes_base64_a_path_or_pil(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(png())
    text = base64.b64encode(png()).decode()
    cells = [png(), {"bytes": png(), "path": "/else"}, {"bytes": text, "path": None}, f"data:image/png;base64,{text}"]
    cells += ["img/a.png", {"bytes": None, "path": "img/a.png"}, f"file://{tmp_path}/img/a.png", "img/../img/a.png"]
    for cell in cells:
        (source,) = record_of({"prompt": IMAGE, "images": [cell]}, "here", tmp_path).images
        assert source.read() == png(), cell
    drawn = Image.new("RGB", (8, 8), "red")
    assert record_of({"prompt": IMAGE, "image": drawn}, "here").images[0].read() == png()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../secret.png", "leads out of"),
        ("img/../../secret.png", "leads out of"),
        ("..\\secret.png", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("file:///etc/passwd", "leads out of"),
        ("a\0.png", "leads out of"),
        ("https://example.org/a.png", "nothing is fetched"),
        (7, "given as int"),
    ],
)
def test_a_path_out_of_the_folder_is_refused(tmp_path, path, told):
    with pytest.raises(UserError, match=told):
        record_of({"prompt": IMAGE, "images": [path]}, "here", tmp_path / "data")


def test_a_folder_whose_name_starts_like_the_root_is_outside(tmp_path):
    with pytest.raises(UserError, match="leads out of"):
        record_of({"prompt": IMAGE, "images": ["../data2/a.png"]}, "here", tmp_path / "data")


def test_every_broken_row_is_told_with_its_line(tmp_path):
    lines = ['{"prompt": "a"}', "[1]", '{"prompt": "<image>"}', '{"prompt": [{"role": "x", "content": "a"}]}', ""]
    (tmp_path / "b.jsonl").write_text("\n".join([*lines, '{"prompt": 3}', '{"a": 1}', "{"]))
    reading = read([tmp_path / "b.jsonl", tmp_path / "no.parquet", tmp_path / "x.csv"])
    told = {problem.where.rpartition("/")[2]: problem.what for problem in reading.problems}
    assert "is not a JSON object" in told["b.jsonl:2"]
    assert "marks 1 images and 0 are given" in told["b.jsonl:3"]
    assert "unknown role 'x'" in told["b.jsonl:4"]
    assert "schema" in told["b.jsonl:6"]
    assert "lacks the column 'prompt', a text or a list of {role, content}; it has a" in told["b.jsonl:7"]
    assert "is not JSON" in told["b.jsonl:8"]
    assert "no such file" in told["no.parquet"]
    assert "is not a data file" in told["x.csv"]
    with pytest.raises(UserError, match=r"and 7 more"):
        reading.sound()


def test_a_damaged_parquet_file_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    (problem,) = read([tmp_path / "a.parquet"]).problems
    assert "cannot be read" in problem.what
    assert "\n" not in problem.what


def test_a_document_with_one_list_is_read_past_what_is_no_row(tmp_path):
    listed = [{"prompt": "0"}, 7, {"prompt": "2"}, "x", {"prompt": "4"}]
    (tmp_path / "v.json").write_text(json.dumps({"examples": listed}))
    reading = read([tmp_path / "v.json"])
    assert [record.question for record in reading.records] == ["0", "2", "4"]
    assert [problem.where.rpartition("/")[2] for problem in reading.problems] == ["v.json row 2", "v.json row 4"]
    with pytest.raises(UserError, match="row 2: is not a JSON object"):
        list(rows(tmp_path / "v.json"))


def test_what_breaks_python_s_own_limits_is_one_line_and_the_rest_is_read(tmp_path):
    deep = "[" * 600 + "]" * 600
    lines = [f'{{"prompt": "a", "extra_info": {{"d": {deep}}}}}', '{"prompt": "b", "images": [1e999]}', "[" * 99_999]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"prompt": "c", "answer": 1e999}']))
    reading = read([tmp_path / "a.jsonl"])
    assert [record.question for record in reading.records] == ["c"]
    assert ["nested too deeply" in problem.what for problem in reading.problems] == [True, False, False]
    assert all("\n" not in problem.what for problem in reading.problems)


def test_a_file_that_may_not_be_read_or_written_is_one_line(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("/proc/self/mem")
    (problem,) = read([tmp_path / "a.jsonl"]).problems
    assert problem.what.startswith("cannot be read: Input/output error")
    (tmp_path / "file").write_text("")
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(UserError, match="cannot be written"):
            write_rows(tmp_path / "file" / name, [{"prompt": "a"}])
    deep: list = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(UserError, match="nested too deeply"):
        write_rows(tmp_path / "b.jsonl", [{"prompt": "a", "deep": deep}])
    with pytest.raises(UserError, match=r"the column 'ability' holds half of a surrogate pair.*write a \.jsonl"):
        write_rows(tmp_path / "b.parquet", [{"ability": "\ud800"}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "file"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_values_that_are_missing_are_not_there_after_a_round_trip_either(tmp_path, name):
    """Arrow fills what one row lacks and another has with None, at any depth."""
    extras = [{"a": None, "b": {"x": 1, "z": {}}}, {"b": {"y": [{"p": 1}, {"q": None}]}}, {}, {"big": 10**30}]
    written = [Record(index=str(i), prompt=BARE.prompt, extra=extra) for i, extra in enumerate(extras)]
    write_rows(tmp_path / name, map(row_of, written))
    again = read([tmp_path / name]).sound()
    assert again == written
    assert [dict(record.extra) for record in again] == [
        {"b": {"x": 1, "z": {}}},
        {"b": {"y": [{"p": 1}, {}]}},
        {},
        {"big": 10**30},
    ]
    row = {"prompt": "a", "note": None, "choices": ["x", None], "reference": [None, "d/1.png"]}
    record = record_of(row, "here")
    assert (dict(record.extra), record.choices, record.reference) == ({}, ("x",), ("d/1",))
    assert record_of(row_of(record), "here") == record


def test_an_empty_column_leaves_room_for_another_of_the_same_meaning():
    row = {"prompt": IMAGE, "images": None, "image": png(), "answer": None, "answers": ["2"], "choices": None}
    row |= {"reference": None, "index": None, "uid": "u", "reward_model": {"ground_truth": {"target": None}}}
    record = record_of({**row, "extra_info": {"choices": ["A"], "reference": ["d/1.png"]}}, "here")
    assert (len(record.images), record.golds, record.choices, record.reference) == (1, ("2",), ("A",), ("d/1",))
    assert record.index == "u"


def test_an_index_that_is_taken_by_its_own_suffix_is_stepped_over(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"index": name, "prompt": "a"} for name in ("a", "a#2", "a", "a")])
    assert [record.index for record in read([tmp_path / "a.jsonl"]).records] == ["a", "a#2", "a#3", "a#4"]


NAMES = st.sampled_from(
    [*KNOWN, "role", "content", "type", "text", "bytes", "path", "style", "ground_truth", "rejected", "file_name"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
SCRAP = st.recursive(
    LEAVES | st.just(IMAGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def made(row):
    try:
        return record_of(row, "here")
    except UserError as error:
        return str(error)


@settings(max_examples=300)
@given(st.dictionaries(NAMES, SCRAP, max_size=6), st.text(max_size=5))
def test_whatever_a_row_holds_it_is_a_record_or_one_line(row, text):
    for one in (row, {**row, "prompt": text}, {**row, "prompt": text, "images": None, "messages": None}):
        found = made(one)
        if isinstance(found, str):
            assert found.startswith("here: ")
        else:
            assert problems_of(found) == []
            assert record_of(row_of(found), "here").prompt == found.prompt
