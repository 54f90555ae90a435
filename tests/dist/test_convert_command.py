"""`hpt convert verify --logits` and `launch/convert.py`, as commands in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hpt_megatron.embedded.folder import write_tiny

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "launch" / "convert.py"


def convert(where, *arguments):
    """The script, from a folder that is not the checkout."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300, check=False)


def test_logits_tell_what_a_change_of_weights_does(tmp_path):
    """bf16 moves them a little, another weight a lot; a tolerance lies between. The exit code says which."""
    hub = write_tiny(tmp_path / "hub")
    assert convert(tmp_path, "import", hub, "checkpoint").returncode == 0
    assert convert(tmp_path, "export", "checkpoint", "bf16", "--dtype", "bf16").returncode == 0
    near = convert(tmp_path, "verify", hub, "bf16", "--tolerance", "0.02", "--logits", "--json")
    assert near.returncode == 0, near.stderr
    told = json.loads(near.stdout)
    assert 1e-4 < told["logits"] < 0.02
    assert told["equal"]
    same = json.loads(convert(tmp_path, "verify", hub, hub, "--logits", "--json").stdout)
    assert (same["logits"], same["equal"]) == (0.0, True)
    tensors = load_file(hub / "model.safetensors")
    tensors["visual.merger.mlp.2.bias"][0] += 3  # one number of the tower: seen through images alone
    save_file(tensors, hub / "model.safetensors", metadata={"format": "pt"})
    far = convert(tmp_path, "verify", hub, "bf16", "--tolerance", "0.02", "--logits", "--json")
    assert far.returncode == 1
    assert json.loads(far.stdout)["logits"] > 2 * told["logits"]


def test_the_script_is_the_command_and_refuses_in_one_line(tmp_path):
    done = convert(tmp_path, "import", tmp_path / "nowhere", "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("hpt: ")
    assert [path.name for path in tmp_path.iterdir()] == []
