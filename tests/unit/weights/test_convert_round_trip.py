"""Import and export on the tiny model: bit for bit, under both spellings, tied and untied, resumed after every kill.

Not covered: layouts (tests/dist) and sizes that matter for memory, which benchmarks/conversion.py measures.
"""

import io
import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hpt_megatron.config.load import load
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.embedded.random_folder import write_random
from hpt_megatron.errors import UserError
from hpt_megatron.weights.execute import exporting, importing
from hpt_megatron.weights.execute.comparing import inspect, verify
from hpt_megatron.weights.execute.exporting import export_checkpoint
from hpt_megatron.weights.execute.importing import import_folder
from hpt_megatron.weights.execute.target import Target
from hpt_megatron.weights.progress import Progress

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "hub")


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """Under the newer names."""
    model = load(["model=tiny", "model.tie_word_embeddings=false"]).run.model
    return write_random(model, tmp_path_factory.mktemp("untied") / "hub", spelling="newer")


def tensors_of(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_import_then_export_gives_every_tensor_and_every_file_back(hub, tmp_path):
    """Without the folder that was imported."""
    made = import_folder(hub, tmp_path / "checkpoint")
    again = export_checkpoint(tmp_path / "checkpoint", tmp_path / "out")
    assert same(tensors_of(hub), tensors_of(tmp_path / "out"))
    others = [path for path in hub.iterdir() if path.suffix != ".safetensors"]
    assert all(path.read_bytes() == (tmp_path / "out" / path.name).read_bytes() for path in others)
    assert made["digest"] == again["digest"] == inspect(tmp_path / "checkpoint")["digest"] == inspect(hub)["digest"]


def test_the_newer_names_come_back_as_the_older_ones(untied, tmp_path):
    import_folder(untied, tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out")
    names = set(tensors_of(tmp_path / "out"))
    assert {EMBED, HEAD, "visual.merger.ln_q.weight"} <= names
    assert verify(untied, tmp_path / "out") == (len(names), [])


def test_several_shards_have_an_index_that_the_library_agrees_with(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "shards", lambda infos: SHARDS(infos, 10**6))
    import_folder(hub, tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    files = sorted(tmp_path.glob("out/*.safetensors"))
    assert len(files) > 2
    for file in files:
        with safe_open(file, framework="pt") as opened:
            assert set(opened.keys()) == {name for name, where in index.items() if where == file.name}
    assert same(tensors_of(hub), tensors_of(tmp_path / "out"))


SHARDS = exporting.shards


def test_a_dtype_rounds_as_torch_does_and_the_configuration_says_so(hub, tmp_path):
    import_folder(hub, tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out", dtype="bf16")
    rounded = {name: tensor.bfloat16() for name, tensor in tensors_of(hub).items()}
    assert same(rounded, tensors_of(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "float32" not in (config.get("dtype"), config.get("torch_dtype"))


def test_the_configuration_decides_whether_the_head_is_a_tensor_of_its_own(hub, untied, tmp_path):
    """Untied on the way out it is the embedding's copy; tied, it has to be."""
    import_folder(hub, tmp_path / "tied")
    export_checkpoint(tmp_path / "tied", tmp_path / "out", like=untied)
    tensors = tensors_of(tmp_path / "out")
    assert torch.equal(tensors[HEAD], tensors[EMBED])
    import_folder(tmp_path / "out", tmp_path / "untied")
    export_checkpoint(tmp_path / "untied", tmp_path / "tied-again", like=hub)
    assert same(tensors_of(hub), tensors_of(tmp_path / "tied-again"))
    import_folder(untied, tmp_path / "other-head")
    with pytest.raises(UserError, match="ties the embeddings"):
        export_checkpoint(tmp_path / "other-head", tmp_path / "refused", like=hub)


class KilledError(Exception):
    """Stands for a kill, in this process."""


def interrupted(monkeypatch, after, convert):
    """Runs until so many pieces are written."""
    wrote, count = Target.wrote, 0

    def counting(self, piece):
        nonlocal count
        count += 1
        if count > after:
            raise KilledError
        wrote(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "wrote", counting)
        with pytest.raises(KilledError):
            convert(resume=False)
    return convert(resume=True)


@pytest.mark.parametrize("after", [0, 1, 7, 30, 50])
def test_what_was_interrupted_and_resumed_is_what_was_never_interrupted(hub, tmp_path, monkeypatch, after):
    """Every file byte for byte, with several parts and shards; nothing is there under the name meanwhile."""
    monkeypatch.setattr(importing, "PART", 10**6)
    monkeypatch.setattr(exporting, "shards", lambda infos: SHARDS(infos, 10**6))
    import_folder(hub, tmp_path / "whole")
    interrupted(monkeypatch, after, lambda resume: import_folder(hub, tmp_path / "pieces", resume))
    export_checkpoint(tmp_path / "whole", tmp_path / "whole-out")
    source = tmp_path / "pieces"
    interrupted(monkeypatch, after, lambda resume: export_checkpoint(source, tmp_path / "pieces-out", resume=resume))
    for one, other in (("whole", "pieces"), ("whole-out", "pieces-out")):
        ours, theirs = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir() if p.is_file()} for n in (one, other))
        assert ours == theirs
    assert not list(tmp_path.glob(".*"))


def test_bytes_that_changed_after_an_interruption_are_written_again(hub, tmp_path, monkeypatch):
    """What is kept is compared with what would be written, not taken on trust."""
    out = tmp_path / "out"

    def convert(resume):
        if resume:
            part = tmp_path / ".out.partial" / "__0_0.distcp"
            content = bytearray(part.read_bytes())
            content[5000] ^= 1  # in the first parameter's numbers
            part.write_bytes(content)
        return import_folder(hub, out, resume)

    interrupted(monkeypatch, 20, convert)
    assert verify(hub, out)[1] == []


def test_another_conversion_is_not_resumed(hub, untied, tmp_path, monkeypatch):
    def convert(resume):
        return import_folder(untied if resume else hub, tmp_path / "out", resume)

    with pytest.raises(UserError, match="of other files"):
        interrupted(monkeypatch, 3, convert)


KILL = """
import os, signal, sys
from hpt_megatron.weights.execute.importing import import_folder
from hpt_megatron.weights.execute.target import Target
from hpt_megatron.weights.progress import Progress
wrote, count = Target.wrote, [0]
def killed(self, piece):
    wrote(self, piece)
    count[0] += 1
    if count[0] == 9:
        os.kill(os.getpid(), signal.SIGKILL)
Target.wrote = killed
import_folder(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_resume_goes_on_with(hub, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILL, str(hub), str(out)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial" / "journal.jsonl").read_text().count("\n") == 10
    import_folder(hub, out, resume=True)
    assert verify(hub, out)[1] == []


TEXT = [f"model.{key}=null" for key in ("vision", "mrope_section", "image_token_id", "video_token_id")]
SIZES = ["hidden_size=32", "num_hidden_layers=3", "num_attention_heads=4", "num_key_value_heads=2", "head_dim=8"]
SIZES += ["intermediate_size=48", "vocab_size=101"]
LLAMA = ["rope_scaling.factor=8", "rope_scaling.original_max_position_embeddings=64", "attention_bias=false"]


@pytest.mark.parametrize(
    "given",
    [
        ["model=tiny", "model.family=qwen2_5", *TEXT],
        ["model=llama-3.1-8b", *(f"model.{key}" for key in (*LLAMA, *SIZES))],
    ],
    ids=["qwen2_5", "llama3_1"],
)
def test_families_without_a_tower_come_back_too(tmp_path, given):
    write_random(load(given).run.model, tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out")
    assert same(tensors_of(tmp_path / "hub"), tensors_of(tmp_path / "out"))


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_progress_is_told_to_terminals_alone(kind):
    """With a rate and the time that is left; bytes of an earlier run do not count for the rate."""
    stream = kind()
    with Progress("import", 4 * 2**30, stream) as progress:
        progress.begun -= 2
        progress.add(2**31, kept=True)
        progress._shown -= 1
        progress.add(2**30)
    told = stream.getvalue()
    assert ("MiB/s" in told and "s left" in told) == (kind is Terminal)
    assert "1.0 of 2.0 GiB (50%)" in told or kind is io.StringIO
