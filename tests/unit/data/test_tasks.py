"""The embedded tasks are what they say. Not covered: whether a model learns them; that needs one."""

import collections
import itertools
import json

import numpy as np
import pytest

from hpt_megatron.data.pictures import PictureRules, decode, open_source, show, shown_size
from hpt_megatron.data.prompts import PromptRules, make_prompt
from hpt_megatron.data.reading import read
from hpt_megatron.data.record import problems_of
from hpt_megatron.data.tasks import drawing
from hpt_megatron.data.tasks.make import TASKS, make, records
from hpt_megatron.data.tasks.several import hops, lookup_pages, values
from hpt_megatron.data.tasks.single import held_out
from hpt_megatron.errors import UserError
from hpt_megatron.rewards.turns import can_be_done, first_action
from hpt_megatron.search.corpus import Corpus


@pytest.fixture(scope="module")
def model(tiny, chat):
    return chat, PictureRules.of_folder(tiny)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_sound_short_and_the_same_for_the_same_seed(model, task):
    for part in TASKS[task].parts:
        rows = records(task, part, 24, seed=1)
        assert rows == records(task, part, 24, seed=1) != records(task, part, 24, seed=2)
        assert len({row.index for row in rows}) == len(rows)
        for row in rows:
            assert problems_of(row) == []
            prompt = make_prompt(
                row, *model, PromptRules(longest=99, max_pixels=3136 if task in ("zoom", "search") else None)
            )
            assert len(prompt.ids) <= 48
            assert len(prompt.target_ids) <= 64
            assert part != "val" or task == "pref" or not prompt.target_ids
            for image, size in zip(row.images, prompt.sizes, strict=True):
                assert task in ("zoom", "search") or open_source(image).size == size  # nothing is resized


@pytest.mark.parametrize("task", ["color", "digitsum", "lookup", "lookup2", "zoom", "search"])
def test_the_teacher_of_these_is_right_and_speaks_in_actions(task):
    shown = [row for row in records(task, "train", 64, 0) if row.target]
    assert shown
    for row in shown:
        said = [message.content for message in row.target if message.role == "assistant"]
        actions = [first_action(turn) for turn in said]
        assert all(action and can_be_done(action) for action in actions)
        assert (actions[-1].name, actions[-1].body) == ("answer", row.golds[0])


def test_the_teacher_of_count_is_biased_from_six_on_and_its_sums_are_right():
    rows = records("count", "train", 500, 0)
    wrong = collections.defaultdict(list)
    for row in rows:
        sums = row.target_text.partition("</think>")[0].removeprefix("<think>").split()
        assert sums[-1] == row.golds[0]
        assert len(sums) == 4
        wrong[int(row.golds[0])].append(first_action(row.target_text).body != row.golds[0])
    assert not any(any(wrong[total]) for total in range(6))
    assert 0.55 < np.mean([found for total in range(6, 10) for found in wrong[total]]) < 0.65
    warmup = records("count", "warmup", 100, 0)
    assert {int(row.golds[0]) for row in warmup} == set(range(6))
    assert all(first_action(row.target_text).body == row.golds[0] for row in warmup)


def test_the_teacher_of_grid_goes_through_the_cells_rightly_and_is_biased_from_two_on_where_it_answers_in_digits():
    rows = records("grid", "train", 800, 0)
    wrong = collections.defaultdict(list)
    for row in rows:
        thought = row.target_text.partition("</think>")[0].removeprefix("<think>").split()
        listed, asked = [word[:-1] for word in thought], row.question.split()[1]
        assert [int(word[-1]) for word in thought] == list(itertools.accumulate(name == asked for name in listed))
        pixels = np.asarray(open_source(row.images[0])).astype(int)
        for number, name in enumerate(listed):
            seen = pixels[28 * (number // 2) + 14, 28 * (number % 2) + 14]
            assert np.abs(seen - drawing.COLOURS[name]).max() <= 12
        total = listed.count(asked)
        assert row.golds == (str(total) if row.data_source == "grid_digits" else f"k{total:02d}",)
        wrong[row.data_source, total].append(first_action(row.target_text).body != row.golds[0])
    assert not any(any(found) for (kind, total), found in wrong.items() if kind == "grid_keys" or total < 2)
    assert 0.62 < np.mean([found for total in (2, 3, 4) for found in wrong["grid_digits", total]]) < 0.78
    assert {row.data_source for row in rows} == {"grid_digits", "grid_keys"}
    for row in records("grid", "warmup", 50, 0):
        answers = row.target_text.partition("</think>")[2]
        assert answers == "" if row.data_source == "grid_keys" else answers.startswith("<answer>")


def test_the_sums_of_count_are_those_of_the_dots_in_each_visual_token():
    for row in records("count", "train", 50, 0):
        dark = np.asarray(open_source(row.images[0]))[..., 0] < 128
        cells = [dark[y : y + 28, x : x + 28].sum() / 36 for y in (0, 28) for x in (0, 28)]
        told = row.target_text.partition("</think>")[0].removeprefix("<think>")
        assert told == " ".join(str(round(total)) for total in np.cumsum(cells))


def test_pairs_of_digits_are_held_out_of_the_pictures_of_training():
    train = records("digitsum", "train", 200, 0)
    assert sum(not row.images for row in train) == 100
    pairs = [tuple(map(int, row.target_text[7:10].split("+"))) for row in train if row.images]
    assert not any(held_out(*pair) for pair in pairs)
    assert sum(held_out(a, b) for a in range(10) for b in range(10)) == 20


def test_every_digit_looks_different():
    shapes = set()
    for value in range(10):
        pixels = drawing.blank(56, 56)
        drawing.digit(pixels, value, 10, 10)
        shapes.add(pixels.tobytes())
    assert len(shapes) == 10


@pytest.mark.parametrize(("task", "share", "keys"), [("lookup", 0.5, 64), ("lookup2", 0.1, 32)])
def test_some_keys_are_demonstrated_and_the_page_shows_the_answer(task, share, keys):
    rows = records(task, "train", 2 * keys, 0)
    asked = {row.reference[0] for row in rows}
    shown = {row.reference[0] for row in rows if row.target}
    assert len(asked) == keys
    assert len(shown) == round(share * keys)
    for row in rows:
        assert row.golds == (str(values(0)[row.reference[-1]]),)
        assert row.question == f"value {row.reference[0]} ?"
        assert task == "lookup" or row.reference[1] == hops(0)[row.reference[0]]


def test_the_corpus_has_every_page_and_no_text_tells_a_value(tmp_path):
    written = make("lookup", tmp_path / "data", 64, 16)
    assert written == {"train.parquet": 64, "val.parquet": 16, "corpus/pages.jsonl": 64}
    images = lookup_pages(0)
    for page in Corpus.read(tmp_path / "data/corpus").pages:
        assert page.text == f"page {page.id}"
        assert (tmp_path / "data/corpus" / page.image).read_bytes() == images[page.id][0].data
    assert read([tmp_path / "data/train.parquet"]).sound() == records("lookup", "train", 64, 0)


def test_files_are_the_same_bytes_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        make("color", tmp_path / name, 8, 4, seed=5)
    assert (tmp_path / "a/train.parquet").read_bytes() == (tmp_path / "b/train.parquet").read_bytes()


def test_a_texture_is_seen_in_the_crop_and_not_on_the_whole_page(model):
    """At 56 x 56 pages differ in no bit, so without a crop an answer is a guess."""
    _, rules = model
    far, near = [], []
    for kind in drawing.TEXTURES:
        page = decode(drawing.source(drawing.quarters([kind] * 4, 0, (220, 30, 30))).data)
        far.append(np.asarray(show(page, shown_size(224, 224, rules, max_pixels=3136))).astype(int))
        crop = page.crop((0, 0, 112, 112))
        near.append(np.asarray(show(crop, shown_size(112, 112, rules, max_pixels=3136))).astype(int))
    for one in range(4):
        for other in range(one):
            assert np.array_equal(far[one], far[other])
            assert np.abs(near[one] - near[other])[12:44, 12:44].mean() > 12  # of 255
    rows = records("zoom", "train", 8, 0)
    assert {row.target[0].content for row in rows} <= {
        f"<bbox>[{x},{y},{x + 28},{y + 28}]</bbox>" for x in (0, 28) for y in (0, 28)
    }
    assert all(open_source(row.target_images[0]).size == (112, 112) for row in rows)


def test_pairs_prefer_what_is_right_and_short():
    for row in records("pref", "train", 60, 0):
        rejected = row.extra["rejected"][0]["content"]
        assert first_action(row.target_text).body == row.golds[0]
        right = first_action(rejected).body == row.golds[0]
        assert right == (row.extra["domain"] == "long")
        assert len(rejected) > len(row.target_text) or not right
    assert json.dumps(row.extra)
    for count in (8, 9):  # whatever the number of rows
        seen = [len(row.images) for row in records("pref", "train", count, 0)]
        assert seen == [(number + 1) % 2 for number in range(count)]


def test_an_unknown_task_or_no_rows_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such task: counting; one of color, count"):
        make("counting", tmp_path)
    with pytest.raises(UserError, match="1 or more rows"):
        make("color", tmp_path, 0)
