"""Which engine a run gets: the one built in, or one of another package, as docs/engine.md shows."""

import re
import subprocess
import sys

import pytest

from hpt_megatron.cli.main import main

USE = """
from hpt_megatron.config.load import load_run
from hpt_megatron.data.chat import Chat
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.rollout.build import engine_of
from hpt_megatron.rollout.engine import Prompt, Sampling

folder = str(write_tiny(sys.argv[1]))
run = load_run(["rollout.name=echo", f"model.path={folder}"])
chat = Chat.open(folder)
engine = engine_of(run, folder, chat)
(said,) = engine.generate([Prompt((1, 2, 3))], Sampling(n=2, max_tokens=2))
print([each.ids for each in said], chat.marks.image_pad in engine.forbidden)
"""


@pytest.mark.slow
def test_another_package_brings_an_engine_as_the_page_shows(tmp_path, checkout):
    """A real installed distribution: the page's own code, and its metadata on the path of a fresh process."""
    (code,) = re.findall(r"```python\n(from concurrent.*?)```", (checkout / "docs/engine.md").read_text(), re.DOTALL)
    (tmp_path / "echo_engine.py").write_text(code)
    metadata = tmp_path / "echo_engine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-engine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[hpt_megatron.engines]\necho = echo_engine:Echo\n")
    program = f"import sys; sys.path.append({str(tmp_path)!r})\n{USE}"
    command = [sys.executable, "-c", program, tmp_path / "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[(2, 3), (2, 3)] True"


def test_an_engine_that_nobody_brings_is_answered_with_those_there_are(capsys):
    assert main(["config", "validate", "rollout.name=sglang"]) == 2
    told = capsys.readouterr().out
    assert "rollout.name = sglang: no such engine is built in; right would be: vllm" in told
