"""Which engine a run gets: the one built in, or one of another package, as docs/engine.md shows."""

import re

import pytest

from hpt_megatron.cli.main import main

USE = """
import sys
from hpt_megatron.config.load import load_run
from hpt_megatron.data.chat import Chat
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.rollout.engine.build import engine_of
from hpt_megatron.rollout.engine.role import Prompt, Sampling

folder = str(write_tiny(sys.argv[1]))
run = load_run(["rollout.name=echo", f"model.path={folder}"])
chat = Chat.open(folder)
engine = engine_of(run, folder, chat)
(said,) = engine.generate([Prompt((1, 2, 3))], Sampling(n=2, max_tokens=2))
print([each.ids for each in said], chat.marks.image_pad in engine.forbidden)
"""


@pytest.mark.slow
def test_another_package_brings_an_engine_as_the_page_shows(with_plugin, tmp_path, checkout):
    """The page's own code, as it stands there."""
    (code,) = re.findall(r"```python\n(from concurrent.*?)```", (checkout / "docs/engine.md").read_text(), re.DOTALL)
    entry_points = "[hpt_megatron.engines]\necho = echo_engine:Echo\n"
    said = with_plugin("echo_engine", code, entry_points, USE, tmp_path / "tiny")
    assert said.splitlines()[-1] == "[(2, 3), (2, 3)] True"


def test_an_engine_that_nobody_brings_is_answered_with_those_there_are(capsys):
    assert main(["config", "validate", "rollout.name=sglang"]) == 2
    told = capsys.readouterr().out
    assert "rollout.name = sglang: no such engine is built in; right would be: vllm" in told
