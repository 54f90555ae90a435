"""`hpt parity`: what it prints, when it says no, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_vl import folder_of

from hpt_megatron.cli.main import main
from hpt_megatron.embedded.folder import write_tiny

pytestmark = pytest.mark.slow


def parity(*arguments: object) -> int:
    """The verb in this process; its own processes come from the fork server as ever. Answers the exit code."""
    return main(["parity", *map(str, arguments)])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


def test_the_tiny_model_agrees_under_a_layout(tiny: Path) -> None:
    """One table, nothing on standard error, exit code 0; as a user calls it."""
    command = [sys.executable, "-m", "hpt_megatron", "parity", str(tiny), "--layout", "tp=2,cp=2", "--seed", "3"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}  # an engine sets its own
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=clean)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,111,488 parameters" in done.stdout
    assert "tp 2 x cp 2: 4 processes" in done.stdout
    assert done.stdout.rstrip().endswith("equal within 1e-05")
    for part in ("logits", "logp", "entropy", "loss: rl", "gradient: vision: tower", "gradient: language: attention"):
        assert f"\n{part}" in done.stdout


def test_a_tolerance_that_rounding_exceeds_is_reported_and_exits_1(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON: every difference with its place, and the verdict."""
    assert parity(tiny, "--json", "--tolerance", "1e-12") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] is False
    assert told["layout"] == {"tp": 1, "pp": 1, "vpp": 1, "cp": 1, "dp": 1}
    assert all(one["relative"] < 1e-5 for one in told["differences"])
    assert any(one["where"].startswith("visual.") for one in told["differences"])


def test_a_family_without_a_tower_goes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Llama 3.1 with its stretched frequencies, on two stages."""
    llama = ("model=llama-3.1-8b", "model.attention_bias=false", "model.rope_scaling.factor=8")
    small = (*llama, "model.rope_scaling.original_max_position_embeddings=64", "model.max_position_embeddings=512")
    assert parity(folder_of(tmp_path, *small), "--layout", "pp=2") == 0
    said = capsys.readouterr().out
    assert "with 0 images" in said
    assert "vision" not in said


def test_what_cannot_be_compared_is_one_line_and_exit_code_2(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layouts, folders and tensors."""
    short = tmp_path / "short"
    short.mkdir()
    for file in tiny.iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    tensors = load_file(short / "model.safetensors")
    tensors["model.stranger.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    cases = {
        (tiny, "--layout", "tp=3"): "does not divide the 4 attention heads; right would be: 1, 2, 4",
        (tiny, "--layout", "tp=two"): "--layout: 'tp=two' cannot be read; sizes from 1 for some of tp, pp, vpp, cp, dp, each once",
        (tiny, "--layout", "ep=2"): "--layout: 'ep=2' cannot be read; sizes from 1 for some of tp, pp, vpp, cp, dp, each once",
        (tiny, "--layout", "vpp=2"): "interleaves the stages of a pipeline, and pp is 1",
        (tiny, "--rows", "0"): "a whole number from 1 is needed",
        (tmp_path / "nowhere",): "config.json: cannot be read: No such file or directory",
        (short, "--layout", "pp=2"): "lacks model.norm.weight; has model.stranger.weight, unknown here",
    }
    for given, said in cases.items():
        assert parity(*given) == 2, given
        written = capsys.readouterr()
        assert said in written.err
        assert (len(written.err.strip().splitlines()), written.out) == (1, "")
