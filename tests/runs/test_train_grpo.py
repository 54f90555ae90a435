"""`launch/train_grpo.py` and its Python interface, from nothing to a model: real Megatron, vLLM and Ray on this host.

Not covered: models of the real sizes, W&B's service, and whether anything is learned in four steps.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpt_megatron.embedded.text_folder import write_text_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def ran(where: Path, *command: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=where, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def grpo(where: Path, *arguments: str | Path) -> str:
    return ran(where, ROOT / "launch" / "train_grpo.py", *arguments)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quick test, as it is."""
    where = tmp_path_factory.mktemp("quick")
    out = grpo(where, "--quick-test")
    return where / "grpo_outputs" / "quick_test", out


def test_the_quick_test_prints_its_preset_and_leaves_numbers_logs_and_a_model(quick):
    folder, out = quick
    assert "--quick-test stands for\n  model_name = tiny\n" in out
    assert "8 on a device x 4 accumulated x 1 data-parallel = 32 responses a step: 8 prompts x group_size 4" in out
    assert "single: 0.4 accuracy + 0.2 length + 0.4 quality; the weights sum to 1" in out
    told = lines(folder / "metrics.jsonl")
    assert [line["step"] for line in told] == [1, 2, 3, 4]
    assert all(line["batch/rollouts"] == 32 and line["actor/grad_norm"] > 0 for line in told)
    components = {name for name in told[0] if name.startswith("reward/component/")}
    assert components == {"reward/component/total"}
    assert told[0]["reward/component/total"] == pytest.approx(told[0]["reward/mean"])
    assert told[0]["actor/lr"] == 1e-3
    assert "actor/kl_loss" in told[0], "beta 0.1 keeps a reference"
    assert (folder / "final_model" / "model.safetensors").is_file()
    log = (folder / "grpo_training.log").read_text()
    assert all(f"INFO step {number}/4" in log for number in range(1, 5))
    assert " ERROR " not in log


def test_generation_logs_are_there_by_default_in_the_form_of_the_readme(quick):
    folder, _ = quick
    logs = sorted(path.name for path in (folder / "generation_logs").iterdir())
    assert logs == ["generation_log_step_2.json", "generation_log_step_4.json"]
    entries = json.loads((folder / "generation_logs" / logs[1]).read_text())
    assert [entry["sample_index"] for entry in entries] == [0, 1, 2, 3, 4]
    assert {"eval_step", "sample_index", "prompt", "generated", "full_response"} <= entries[0].keys()
    assert {entry["eval_step"] for entry in entries} == {4}
    assert all("count ?" in entry["prompt"] for entry in entries)


def test_a_resumed_run_has_the_numbers_of_one_that_was_not_interrupted(quick, tmp_path):
    folder, _ = quick
    again = tmp_path / "again"
    grpo(tmp_path, "--quick-test", "--output-dir", again, "--resume-from-checkpoint", folder / "checkpoints" / "step_2")
    straight, resumed = lines(folder / "metrics.jsonl")[2:], lines(again / "metrics.jsonl")
    assert [line["step"] for line in resumed] == [3, 4]
    names = [
        name for name in straight[0] if name.split("/")[0] in ("actor", "reward", "loss", "critic", "uni", "entropy")
    ]
    assert len(names) > 30
    for before, after in zip(straight, resumed, strict=True):
        assert {name: after[name] for name in names} == {name: before[name] for name in names}
    models = [each / "final_model" / "model.safetensors" for each in (folder, again)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_an_evaluation_measures_a_checkpoint_and_changes_nothing(quick, tmp_path):
    folder, _ = quick
    before = (folder / "metrics.jsonl").read_bytes()
    out = grpo(tmp_path, "--quick-test", "--eval-only", "--output-dir", "own", "--resume-from-checkpoint", folder)
    own = tmp_path / "own"
    told = json.loads((own / "eval" / "eval.json").read_text())
    assert told["figures"]["count"]["mean_score"]["value"] == pytest.approx(
        lines(folder / "validation.jsonl")[-1]["val/mean_score"]
    )
    assert "mean_score" in out
    assert len(json.loads((own / "generation_logs" / "generation_log_step_0.json").read_text())) == 5
    assert not (own / "metrics.jsonl").exists()
    assert not (own / "checkpoints").exists()
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("family", ["llama3_1", pytest.param("qwen2_5", marks=pytest.mark.soak)])
def test_production_trains_a_text_model_on_the_prompts_of_preferences_with_a_curve_for_each_component(tmp_path, family):
    """Each family in its own form of a conversation; the tokenizers are of the embedded vocabulary.

    One epoch of one batch, and lengths that the model has positions for.
    """
    model = write_text_model(tmp_path / "text", family)
    rows = [{"prompt": f"{i}+1 ?", "chosen": f"{i + 1}", "rejected": "no"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = {"model_name": str(model), "max_prompt_length": 160, "learning_rate": 1e-3, "beta": 0}
    (tmp_path / "c.json").write_text(json.dumps({**config, "num_train_epochs": 3}))
    lengths = ("rollout.max_model_len=224", "data.max_prompt_length=160")
    lengths = (*lengths, "data.max_response_length=64", "data.max_prefix_len=64", "rollout.n=2")
    out = grpo(
        tmp_path,
        *("--production", "--config", "c.json", "--custom-data", "rows.jsonl", "--max-samples", "16", "--epochs", "1"),
        *("--reward-function", "multi", "--reward-config", ROOT / "configs" / "reward" / "reward_config.json"),
        *("--generation-log-dir", "logs", "--max-generation-samples", "2", "--output-dir", "out", "--no-wandb"),
        *(word for key in lengths for word in ("--set", key)),
    )
    assert "--production stands for\n  max_samples = None, given here as 16\n" in out
    assert "2 on a device x 64 accumulated x 1 data-parallel = 128 responses a step: 16 prompts x group_size 8" in out
    assert "16 rows of rows.jsonl to train on, 4 to validate on" in out
    assert "20 rows have chosen and rejected answers: ignored" in out
    assert "16 prompts, 1 steps of 16" in out, "the option of 1 epoch comes before the file's 3"
    (told,) = lines(tmp_path / "out" / "metrics.jsonl")
    assert told["batch/rollouts"] == 16 * 2, "a key that is set is the last word"
    assert told["actor/updates"] == 1
    components = {name.rpartition("/")[2] for name in told if name.startswith("reward/component/")}
    assert components == {"accuracy", "length", "quality"}
    assert "reward/mean" in told
    assert "actor/kl_loss" in told, "the beta of --production comes before the 0 of the file"
    assert len(json.loads((tmp_path / "logs" / "generation_log_step_1.json").read_text())) == 2
    assert not (tmp_path / "out" / "generation_logs").exists()


def test_the_example_of_the_page_runs(tmp_path):
    text = (ROOT / "docs" / "grpo.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "example.py").write_text(script)
    ran(tmp_path, "example.py")
    assert json.loads((tmp_path / "my_config.json").read_text())["max_samples"] == 5000
    assert [line["step"] for line in lines(tmp_path / "my_grpo_outputs" / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "my_grpo_outputs" / "final_model" / "config.json").is_file()
