"""Reading a checkpoint's folder: one file or several, both spellings, and folders that are damaged."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hpt_megatron.embedded.random_folder import newer
from hpt_megatron.errors import UserError
from hpt_megatron.weights.hf_folder import INDEX, SINGLE, HfFolder

NAMES = ["model.layers.0.mlp.up_proj.weight", "visual.merger.ln_q.weight", "lm_head.weight"]


def drawn(names):
    return {name: torch.full((2, 3), float(number)) for number, name in enumerate(names)}


def sharded(folder, names):
    """One file for each tensor, and the index."""
    files = {name: f"model-{number:05d}.safetensors" for number, name in enumerate(names)}
    for name, tensor in drawn(names).items():
        save_file({name: tensor}, folder / files[name])
    write_index(folder, files)
    return folder


def write_index(folder, files):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def refused(folder, name="lm_head.weight"):
    """The one line that reading a tensor ends with."""
    with pytest.raises(UserError) as told, HfFolder(folder) as opened:
        opened.tensor(name)
    line = str(told.value)
    assert len(line.splitlines()) == 1
    assert str(folder) in line
    assert told.value.mend
    return line


@pytest.mark.parametrize("spelling", [str, newer])
def test_tensors_of_one_file_or_several_are_found_by_the_older_names(tmp_path, spelling):
    names = [spelling(name) for name in NAMES]
    one = tmp_path / "one"
    one.mkdir()
    save_file(drawn(names), one / SINGLE)
    several = tmp_path / "several"
    several.mkdir()
    for folder in (one, sharded(several, names)):
        with HfFolder(folder) as opened:
            assert sorted(opened.names()) == sorted(NAMES)
            for number, name in enumerate(NAMES):
                assert torch.equal(opened.tensor(name), torch.full((2, 3), float(number)))


def test_the_index_is_believed_where_a_single_file_lies_beside_it(tmp_path):
    """A folder that was saved over keeps files of the former checkpoint."""
    sharded(tmp_path, NAMES)
    save_file({"old": torch.zeros(1)}, tmp_path / SINGLE)
    assert sorted(HfFolder(tmp_path).names()) == sorted(NAMES)


def test_a_tensor_that_is_lacking_is_named(tmp_path):
    assert "lacks the tensor model.norm.weight" in refused(sharded(tmp_path, NAMES), "model.norm.weight")


def test_a_folder_without_safetensors_says_what_it_should_be(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    assert "holds no safetensors" in refused(tmp_path)
    assert "holds no safetensors" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "a\n/b"])
def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    save_file(drawn(NAMES), tmp_path.parent / "other.safetensors")
    write_index(tmp_path, {"lm_head.weight": name})
    assert "its index names a file outside the folder" in refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '"text"',
        '{"weight_map": null}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": null}}',
        "[" * 100_000,
        "\udcff",
    ],
    ids=["empty", "list", "no map", "text", "null", "map is a list", "number", "none", "deep", "bytes"],
)
def test_an_index_that_is_none_is_refused(tmp_path, content):
    (tmp_path / INDEX).write_bytes(content.encode(errors="surrogateescape"))
    assert "is no index of tensors" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xff" * 8 + b"{}", None], ids=["empty", "0", "ff", "cut"])
def test_a_damaged_file_is_refused_when_it_is_read(tmp_path, content):
    """`cut`: a copy that ended early."""
    sharded(tmp_path, NAMES)
    file = tmp_path / "model-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4] if content is None else content)
    assert f"{file}: cannot be read" in refused(tmp_path)
    with HfFolder(tmp_path) as opened:
        assert len(opened.tensor(NAMES[0])) == 2  # the others can still be read


def test_a_file_that_the_index_names_and_is_not_there_is_refused(tmp_path):
    sharded(tmp_path, NAMES)
    (tmp_path / "model-00002.safetensors").unlink()
    assert "model-00002.safetensors: cannot be read" in refused(tmp_path)


def test_a_tensor_that_its_file_does_not_hold_is_refused(tmp_path):
    sharded(tmp_path, NAMES)
    save_file({"other": torch.zeros(1)}, tmp_path / "model-00002.safetensors")
    assert "its index promises lm_head.weight, which cannot be read" in refused(tmp_path)


def test_one_tensor_under_both_spellings_is_refused(tmp_path):
    """Which of the two was meant cannot be known."""
    sharded(tmp_path, [*NAMES, "model.visual.merger.ln_q.weight"])
    line = refused(tmp_path)
    assert "one tensor twice, as visual.merger.ln_q.weight and as model.visual.merger.ln_q.weight" in line
