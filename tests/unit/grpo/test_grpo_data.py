"""Rows of a GRPO run. Not covered: the sets themselves, of which a few rows stand here in their form."""

import json

import pytest

from hpt_megatron.data.reading import read
from hpt_megatron.errors import UserError
from hpt_megatron.grpo import GRPOConfig, create_grpo_dataloader
from hpt_megatron.grpo.data import read_dataset, write_prompts

QUESTION = "What is the capital of France?"


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def pairs(number):
    return [{"prompt": f"{i}+1 ?", "chosen": f"{i + 1}", "rejected": "no"} for i in range(number)]


def said(dataset):
    return [row["prompt"][-1]["content"] for row in dataset]


def test_so_many_rows_as_asked_are_trained_on_and_the_following_ones_tested(tmp_path):
    file = written(tmp_path / "a.jsonl", pairs(30))
    loader, dataset = create_grpo_dataloader("tiny", "ultrafeedback", 20, custom_data=file, eval_samples=6)
    assert len(dataset) == 20
    assert said(dataset) == [f"{i}+1 ?" for i in range(20)]
    assert [one.question for one in dataset.tested] == [f"{i}+1 ?" for i in range(20, 26)]
    assert sum(len(batch) for batch in loader) == 20
    assert len(loader) == 10
    assert dataset[0] == {"prompt": [{"role": "user", "content": "0+1 ?"}], "answers": [], "index": "a.jsonl:1"}


def test_without_a_number_a_twentieth_is_set_aside(tmp_path):
    dataset = read_dataset(GRPOConfig(model_name="tiny", custom_data=written(tmp_path / "a.jsonl", pairs(100))))
    assert (len(dataset), len(dataset.tested)) == (95, 5)
    assert not {one.index for one in dataset.trained} & {one.index for one in dataset.tested}


def test_a_file_that_is_too_short_is_taken_whole_and_said(tmp_path):
    file = written(tmp_path / "a.jsonl", pairs(3))
    dataset = read_dataset(GRPOConfig(model_name="tiny", custom_data=file, max_samples=5))
    assert len(dataset) == 3
    assert any("max_samples 5: the file has 3 rows" in note for note in dataset.notes)
    assert any("no row is left to validate on: 3" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION},
        {"prompt": [{"role": "user", "content": QUESTION}]},
        {"prompt": QUESTION, "chosen": "Paris.", "rejected": "I don't know."},
        {
            "chosen": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Paris."}],
            "rejected": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "I don't know."}],
        },
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Paris."}]},
    ],
)
def test_every_form_of_a_row_gives_its_prompt_alone(tmp_path, row):
    dataset = read_dataset(GRPOConfig(model_name="tiny", custom_data=written(tmp_path / "a.jsonl", [row])))
    (record,) = dataset.trained
    assert dataset[0]["prompt"] == [{"role": "user", "content": QUESTION}]
    assert record.target is None
    assert "rejected" not in record.extra
    words = "chosen and rejected answers: ignored" if "rejected" in row else "a demonstration: ignored"
    assert any(words in note for note in dataset.notes) == (len(row) > 1 or "messages" in row)


def test_answers_stay_for_the_rewards_and_the_written_file_holds_the_same_rows(tmp_path):
    rows = [{"prompt": "1+1 ?", "answer": "2"}, {"prompt": "2+2 ?"}]
    dataset = read_dataset(GRPOConfig(model_name="tiny", custom_data=written(tmp_path / "a.jsonl", rows)))
    assert dataset.with_answers == 1
    path = write_prompts(dataset.trained, tmp_path / "out", "train")
    assert tuple(read([path]).sound()) == dataset.trained
    assert write_prompts(dataset.trained, tmp_path / "out", "train") == path
    assert write_prompts(dataset.trained[:1], tmp_path / "out", "train") != path


def test_a_broken_line_is_told_with_its_number_and_streaming_does_not_look_beyond(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "1 ?"}\n{"prompt": "2 ?"}\n{"prompt": \n')
    asked = {"model_name": "tiny", "custom_data": str(file), "max_samples": 1, "eval_samples": 1}
    with pytest.raises(UserError, match=r"a\.jsonl:3: is not JSON"):
        read_dataset(GRPOConfig(**asked))
    assert said(read_dataset(GRPOConfig(**asked, streaming=True))) == ["1 ?"]


def test_the_sets_of_the_readme_are_read_from_their_files(tmp_path):
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Paris."}]
    other = [turns[0], {"role": "assistant", "content": "Rome."}]
    talk = f"\n\nHuman: {QUESTION}\n\nAssistant:"
    rows = {
        "ultrafeedback": {"prompt_id": "7", "chosen": turns, "rejected": other, "score_chosen": 9, "score_rejected": 1},
        "ultrafeedback_large": {
            "instruction": QUESTION,
            "completions": [{"response": "Paris", "overall_score": 9}, {"response": "Rome", "overall_score": 1}],
        },
        "hh_rlhf": {"chosen": f"{talk} Paris.", "rejected": f"{talk} Rome."},
        "openai_summarize": {
            "info": {"post": "Long.", "title": "T"},
            "summaries": [{"text": "a"}, {"text": "b"}],
            "choice": 0,
        },
    }
    for name, row in rows.items():
        file = written(tmp_path / f"{name}.jsonl", [row, {"unlike": 1}])
        dataset = read_dataset(GRPOConfig(model_name="tiny", dataset_name=name, data_file=file))
        assert len(dataset) == 1
        assert (QUESTION if name != "openai_summarize" else "Post: Long.") in dataset[0]["prompt"][-1]["content"]
        assert any("1 rows cannot be used" in note for note in dataset.notes)


def test_a_set_has_its_name_on_the_hub_too_and_says_which_file_it_needs():
    with pytest.raises(UserError, match="nothing is downloaded; --data-file FILE with HuggingFaceH4/ultrafeedback"):
        create_grpo_dataloader("unsloth/llama-3.1-8b-bnb-4bit", "HuggingFaceH4/ultrafeedback_binarized", 10)
    with pytest.raises(UserError, match="no such set: ultrafedback; ultrafeedback"):
        create_grpo_dataloader("tiny", "ultrafedback")
    with pytest.raises(UserError, match="supported by config only"):
        create_grpo_dataloader("google/gemma-2-9b-it", "count")
