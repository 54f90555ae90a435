"""The command line up to where something would start. Not covered: the runs (tests/runs/test_train_grpo.py)."""

import json
import subprocess
import sys

import pytest

from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.grpo.command import main
from hpt_megatron.grpo.options import config_of, parse
from hpt_megatron.grpo.presets import PRODUCTION, QUICK_TEST

OF_THE_README = [
    *("--model", "--dataset", "--custom-data", "--config", "--quick-test", "--production", "--max-samples", "--epochs"),
    *("--learning-rate", "--batch-size", "--output-dir", "--reward-function", "--reward-config", "--wandb-project"),
    *("--no-wandb", "--eval-only", "--resume-from-checkpoint", "--enable-generation-logging"),
    *("--disable-generation-logging", "--generation-log-dir", "--max-generation-samples"),
]


def made(*arguments):
    return config_of(parse(list(arguments)))


def refused(capsys, *arguments):
    """The one line of a command that is refused."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    return err, out


def test_the_script_lists_every_option_with_its_choices_and_defaults(checkout):
    command = [sys.executable, checkout / "launch" / "train_grpo.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert [name for name in OF_THE_README if name not in done.stdout] == []
    assert "{llama-3.1-8b,llama-3.1-70b,gemma-2-9b,qwen2.5-7b}" in done.stdout
    assert "default: llama-3.1-8b" in done.stdout
    assert "{ultrafeedback,ultrafeedback_large,hh_rlhf,openai_summarize}" in done.stdout


def test_an_option_comes_before_a_preset_and_a_preset_before_the_file(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"learning_rate": 1e-5, "group_size": 2, "beta": 0.5, "output_dir": "mine"}))
    plain = made("--config", str(file), "--learning-rate", "2e-6")
    assert (plain.learning_rate, plain.group_size, plain.beta) == (2e-6, 2, 0.5)
    quick = made("--config", str(file), "--quick-test", "--learning-rate", "2e-6")
    assert (quick.learning_rate, quick.group_size, quick.beta) == (2e-6, QUICK_TEST["group_size"], 0.5)
    assert quick.output_dir == "mine"
    assert made("--quick-test").output_dir != made("--quick-test", "--output-dir", "x").output_dir == "x"


def test_every_option_sets_its_field():
    config = made(
        *("--model", "qwen2.5-7b", "--dataset", "hh_rlhf", "--data-file", "a.jsonl", "--max-samples", "7"),
        *("--epochs", "2", "--learning-rate", "1e-6", "--batch-size", "1", "--output-dir", "o"),
        *("--reward-function", "multi", "--reward-config", "r.json", "--wandb-project", "p"),
        *("--resume-from-checkpoint", "c", "--disable-generation-logging", "--generation-log-dir", "g"),
        *("--max-generation-samples", "10", "--set", "trainer.seed=3", "--set", "layout=tp1", "--model-path", "m"),
    )
    told = vars(config)
    assert {name: told[name] for name in ("model_name", "model_path", "dataset_name", "data_file", "max_samples")} == {
        "model_name": "qwen2.5-7b",
        "model_path": "m",
        "dataset_name": "hh_rlhf",
        "data_file": "a.jsonl",
        "max_samples": 7,
    }
    assert (config.num_train_epochs, config.learning_rate, config.per_device_train_batch_size) == (2, 1e-6, 1)
    assert (config.output_dir, config.reward_function_type, config.reward_config_file) == ("o", "multi", "r.json")
    assert (config.wandb_project, config.resume_from_checkpoint) == ("p", "c")
    assert (config.enable_generation_logging, config.generation_log_dir) == (False, "g")
    assert (config.max_generation_samples, config.overrides) == (10, ["trainer.seed=3", "layout=tp1"])


def test_no_wandb_comes_before_a_file_and_nothing_is_logged_there_unasked(tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"wandb_project": "ours"}')
    assert made("--config", str(file)).wandb_project == "ours"
    assert made("--config", str(file), "--no-wandb").wandb_project is None
    assert made().wandb_project is None
    assert made().enable_generation_logging is True
    assert made("--enable-generation-logging").enable_generation_logging is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "gpt-2"], "invalid choice: 'gpt-2'"),
        (["--dataset", "wiki"], "invalid choice: 'wiki'"),
        (["--quick-test", "--production"], "not allowed with argument"),
        (["--max-samples", "0"], "a whole number from 1 is needed"),
        (["--max-samples", "-3"], "a whole number from 1 is needed"),
        (["--learning-rate", "0"], "a number above 0 is needed"),
        (["--learning-rate", "nan"], "a number above 0 is needed"),
        (["--epochs", "1.5"], "a whole number from 1"),
        (["--max-generation-samples", "many"], "a whole number from 1"),
        (["--reward-function", "both"], "invalid choice: 'both'"),
        (["--modle", "x"], "unrecognized arguments"),
    ],
)
def test_a_wrong_option_is_one_line_and_code_2(capsys, arguments, words):
    assert words in refused(capsys, *arguments)[0]


def test_a_family_without_a_builder_is_named_precisely(capsys):
    line, _ = refused(capsys, "--model", "gemma-2-9b")
    assert "gemma-2-9b: supported by config only, no Megatron builder; llama-3.1-8b" in line


def test_weights_and_rows_that_are_not_here_are_named_in_one_line(capsys, tmp_path):
    line, _ = refused(capsys, "--max-samples", "1000")
    assert "the weights of llama-3.1-8b and the rows of ultrafeedback are not here" in line
    assert "--model-path FOLDER with meta-llama/Llama-3.1-8B-Instruct" in line
    assert "--data-file FILE with HuggingFaceH4/ultrafeedback_binarized" in line
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1 ?"}\n')
    line, _ = refused(capsys, "--model", "qwen2.5-7b", "--custom-data", str(rows))
    assert "rows of" not in line
    assert "Qwen/Qwen2.5-7B-Instruct" in line
    assert "no such file" in refused(capsys, "--custom-data", str(tmp_path / "none.jsonl"))[0]


def test_four_bits_are_refused_by_name(capsys, tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"load_in_4bit": true}')
    assert "load_in_4bit: 4-bit weights are not trained on Megatron" in refused(capsys, "--config", str(file))[0]
    file.write_text('{"load_in_4bit": false}')
    assert "4-bit" not in refused(capsys, "--config", str(file))[0]


def test_a_folder_that_lacks_a_file_is_said_before_anything_starts(capsys, tmp_path):
    write_tiny(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    line, _ = refused(capsys, "--model", "qwen2.5-7b", "--model-path", str(tmp_path / "m"))
    assert "holds no tokenizer.json" in line


@pytest.mark.parametrize(("option", "preset"), [("--quick-test", QUICK_TEST), ("--production", PRODUCTION)])
def test_a_preset_is_printed_with_what_an_option_changes_in_it(capsys, option, preset):
    assert main([option, "--dry-run", "--learning-rate", "2e-5"]) == 0
    out = capsys.readouterr().out
    for name, value in preset.items():
        if name != "learning_rate":
            assert f"  {name} = {value}\n" in out
    assert f"  learning_rate = {preset['learning_rate']}, given here as 2e-05\n" in out
    assert "trainer.lr=2e-05" in out


def test_a_dry_run_says_what_is_missing_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--production", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "experiment=grpo-8b" in out
    assert "2 on a device x 64 accumulated x 2 data-parallel = 256 responses a step: 32 prompts x group_size 8" in out
    assert "the weights of llama-3.1-8b are not here: give --model-path" in out
    assert list(tmp_path.iterdir()) == []
