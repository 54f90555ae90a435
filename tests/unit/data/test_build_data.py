"""The group `data` of a run becomes prompts and an order. Not covered: the loop that takes them."""

import dataclasses

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.data.build import build_sampler, difficulties, train_prompts, val_prompts
from hpt_megatron.data.files import write_rows
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.record import Message, Record
from hpt_megatron.data.samplers import BySuccess, Hard, Shuffled, Staged
from hpt_megatron.errors import UserError


@pytest.fixture(scope="module")
def model(tiny, chat):
    return chat, PictureRules.of_folder(tiny)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "a.jsonl"
    write_rows(path, [{"prompt": "count ?", "rate": number / 10} for number in range(10)])
    return str(path)


def group(file, **changes):
    data = load([]).run.data
    return dataclasses.replace(data, train_files=(file,), train_batch_size=4, **changes)


@pytest.mark.parametrize(
    ("name", "kind"), [("shuffled", Shuffled), ("staged", Staged), ("by_success", BySuccess), ("hard", Hard)]
)
def test_every_name_of_a_sampler_builds_its_own(model, file, name, kind):
    data = group(file, sampler=name, difficulty="-rate", stages=2)
    prompts = train_prompts(data, *model)
    sampler = build_sampler(data, 0, prompts)
    assert type(sampler) is kind
    taken = sampler.take(4)
    assert len({prompts[name].index for name in taken}) == 4
    if name in ("staged", "by_success"):  # the first stage: the five of the highest rate
        assert all(prompts[name].record.extra["rate"] >= 0.5 for name in taken)


def test_settings_of_the_run_reach_the_prompts_and_what_is_left_out_is_told(model, file, caplog):
    data = group(file, suffix_prompt=" sum", response_prefix="<think>\n", max_prompt_length=64)
    text = model[0].text(train_prompts(data, *model)["a.jsonl:1"].ids)
    assert text.endswith("user\ncount ? sum\nassistant\n<think>\n")
    why = r"row a\.jsonl:1: its prompt has \d+ tokens, the limit is 3"
    with pytest.raises(UserError, match=rf"0 prompts can be used, a step takes 4 .*too_long 10.*{why}"):
        train_prompts(dataclasses.replace(data, max_prompt_length=3), *model)
    assert [record.getMessage()[:24] for record in caplog.records[:2]] == [
        "left out: row a.jsonl:1:",
        "left out: row a.jsonl:2:",
    ]
    assert caplog.records[-1].getMessage() == "left out: 5 more rows"


def test_no_file_to_train_on_is_one_line_and_none_to_validate_on_is_nothing(model, file):
    with pytest.raises(UserError, match="no file is given"):
        train_prompts(dataclasses.replace(group(file), train_files=()), *model)
    assert len(val_prompts(group(file), *model)) == 0
    assert len(val_prompts(group(file, val_files=(file,)), *model)) == 10


def test_a_difficulty_is_a_number_of_extra_info():
    records = [
        Record(index=str(i), prompt=(Message("user", "a"),), extra={"d": v})
        for i, v in enumerate(["1", "x", "2.5", 10**400])
    ]
    assert difficulties("d", records) == {"0": 1.0, "2": 2.5}
    assert difficulties("-d", records) == {"0": -1.0, "2": -2.5}
    with pytest.raises(UserError, match="no row has a number 'e'"):
        difficulties("e", records)
