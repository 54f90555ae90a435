"""What a conversion refuses: everything that is wrong at once, by name, before anything is written.

On the tiny model and its checkpoints. Not covered: a disk that fills up for real (a limit on the size of files stands
for it), and checkpoints that ranks wrote, which tests/dist has.
"""

import json
import pickle
import random
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hpt_megatron.cli.convert import run
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.errors import UserError
from hpt_megatron.weights.execute import target
from hpt_megatron.weights.execute.exporting import export_checkpoint, shards
from hpt_megatron.weights.execute.importing import import_folder
from hpt_megatron.weights.safetensors_file import Info

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def hub(tmp_path):
    """The tiny model, to spoil."""
    return write_tiny(tmp_path / "hub")


@pytest.fixture
def checkpoint(hub, tmp_path):
    """It imported, to spoil."""
    import_folder(hub, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def refused(tmp_path, convert, *arguments, **options):
    """The one line; nothing was written."""
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as told:
        convert(*arguments, tmp_path / "out", **options)
    assert {path.name for path in tmp_path.iterdir()} == before
    line = str(told.value)
    assert len(line.splitlines()) == 1
    return line


def change(folder, edit, config=None):
    """Rewrites the tensors and the configuration."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **(config or {})}))


def test_all_that_is_wrong_with_a_folder_is_said_at_once(hub, tmp_path):
    """Missing, unknown, misshapen, of a strange dtype; of the language model and of the tower."""

    def edit(tensors):
        for layer in (0, 1):
            del tensors[f"model.layers.{layer}.mlp.up_proj.weight"]
        del tensors["visual.merger.ln_q.weight"]
        tensors["model.layers.0.mlp.experts.weight"] = torch.ones(2)
        tensors["visual.blocks.0.norm3.weight"] = torch.ones(2)
        tensors["model.norm.weight"] = torch.ones(7)
        tensors[EMBED] = tensors[EMBED].double()
        tensors["model.layers.1.self_attn.k_proj.weight"] = tensors["model.layers.1.self_attn.k_proj.weight"].half()

    change(hub, edit)
    line = refused(tmp_path, import_folder, hub)
    for part in (
        "lacks model.layers.0-1.mlp.up_proj.weight",
        "lacks visual.merger.ln_q.weight",
        "has model.layers.0.mlp.experts.weight, unknown here",
        "has visual.blocks.0.norm3.weight, unknown here",
        "model.norm.weight is [7] where config.json makes it [128]",
        f"{EMBED} is stored as F64",
        "model.layers.1.self_attn.v_proj.weight have several dtypes",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"tie_word_embeddings": False}, f"lacks {HEAD}"),
        ({"vocab_size": 640}, f"{EMBED} is [512, 128] where config.json makes it [640, 128]"),
        ({"num_key_value_heads": 3}, "do not share 3 key-value heads evenly"),
        ({"num_hidden_layers": 1}, "unknown here"),
        ({"architectures": ["Qwen2VLClassifier"]}, "no weight table for Qwen2VLClassifier, there are those of Llama"),
        ({"model_type": "gpt2"}, "'gpt2' is none of the known families"),
        ({"hidden_size": "wide"}, "config.json: describes no model"),
    ],
)
def test_a_configuration_that_the_tensors_contradict_is_refused(hub, tmp_path, config, said):
    table = json.loads((hub / "config.json").read_text())
    parts = [table, *(table[key] for key in ("text_config",) if key in table)]
    for part in parts:
        part.update({key: value for key, value in config.items() if key in part or part is table})
    (hub / "config.json").write_text(json.dumps(table))
    assert said in refused(tmp_path, import_folder, hub)


def test_a_tied_models_head_must_be_the_embedding(hub, tmp_path):
    """Its copy is left out; anything else is refused."""
    change(hub, lambda tensors: tensors.update({HEAD: tensors[EMBED].clone()}))
    import_folder(hub, tmp_path / "with-copy")
    change(hub, lambda tensors: tensors.update({HEAD: tensors[EMBED] + 1}))
    assert f"{HEAD} is not {EMBED}" in refused(tmp_path, import_folder, hub)


@pytest.mark.parametrize("kind", ["shard missing", "shard cut off", "tensor missing", "index damaged"])
def test_damaged_shards_are_refused(hub, tmp_path, kind):
    tensors = load_file(hub / "model.safetensors")
    (hub / "model.safetensors").unlink()
    names = list(tensors)
    files = {name: f"model-0000{1 + (at % 2)}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(files.values()):
        here = {name: tensors[name] for name in names if files[name] == file}
        if kind == "tensor missing" and file.startswith("model-00002"):
            del here[names[1]]
        save_file(here, hub / file)
    second = hub / "model-00002-of-00002.safetensors"
    index = json.dumps({"weight_map": files})
    (hub / "model.safetensors.index.json").write_text(index[: len(index) // 2] if kind == "index damaged" else index)
    if kind == "shard missing":
        second.unlink()
    if kind == "shard cut off":
        second.write_bytes(second.read_bytes()[:-10])
    said = {
        "shard missing": f"{second.name}: cannot be read",
        "shard cut off": f"{second.name}: has ",
        "tensor missing": f"the index promises {names[1]}",
        "index damaged": "is no index of tensors",
    }
    assert said[kind] in refused(tmp_path, import_folder, hub)


def spoil(checkpoint, kind):
    """A checkpoint after an accident."""
    part = checkpoint / "__0_0.distcp"
    if kind == "cut off":
        part.write_bytes(part.read_bytes()[:-1000])
    if kind == "file missing":
        part.unlink()
    if kind == "not complete":
        (checkpoint / "metadata.json").unlink()
    if kind == "description damaged":
        (checkpoint / ".metadata").write_bytes((checkpoint / ".metadata").read_bytes()[:100])
    if kind == "description of something else":
        (checkpoint / ".metadata").write_bytes(pickle.dumps(len))  # not print: Ray puts its own in place of that
    if kind == "common of something else":
        torch.save({"content_metadata": len}, checkpoint / "common.pt")


KINDS = {
    "cut off": "is truncated",
    "file missing": "lacks the file __0_0.distcp",
    "not complete": "not a complete checkpoint",
    "description damaged": "its description is damaged, or",
    "description of something else": "it names builtins.len",
    "common of something else": "more than plain values",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path, kind):
    spoil(checkpoint, kind)
    assert KINDS[kind] in refused(tmp_path, export_checkpoint, checkpoint)


def test_numbers_that_changed_on_the_disk_are_named(checkpoint, tmp_path):
    """The manifest knows what was imported; the folder does not get its name."""
    part = checkpoint / "__0_0.distcp"
    content = bytearray(part.read_bytes())
    content[5000] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=rf"{EMBED} has changed since it was imported"):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json", "hf/config.json"])
def test_a_flipped_byte_is_harmless_or_refused_in_one_line(checkpoint, tmp_path, name):
    """Fixed draws; never a traceback, and never other numbers."""
    draw, good = random.Random(name), (checkpoint / name).read_bytes()
    lines = []
    for number in range(25):
        spoilt = bytearray(good)
        spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        (checkpoint / name).write_bytes(spoilt)
        try:
            export_checkpoint(checkpoint, tmp_path / f"out-{number}")
        except UserError as error:
            lines.append(str(error))
    assert all(len(line.splitlines()) == 1 for line in lines)
    assert lines


def test_another_models_checkpoint_is_refused_with_its_names(checkpoint, hub, tmp_path):
    change(hub, dict, {"num_hidden_layers": 5, "vocab_size": 300})
    table = json.loads((hub / "config.json").read_text())
    if "text_config" in table:
        table["text_config"].update({"num_hidden_layers": 5, "vocab_size": 300})
        (hub / "config.json").write_text(json.dumps(table))
    line = refused(tmp_path, export_checkpoint, checkpoint, like=hub)
    assert "lacks decoder.layers." in line
    assert "mlp.linear_fc1.weight" in line


def test_a_larger_vocabulary_is_not_taken_for_padding(checkpoint, hub, tmp_path):
    """Rows beyond the configuration's vocabulary have to be zeros."""
    table = json.loads((hub / "config.json").read_text())
    for part in (table, table.get("text_config", {})):
        if "vocab_size" in part:
            part["vocab_size"] = 500
    (hub / "config.json").write_text(json.dumps(table))
    assert "it has a vocabulary of 512 where config.json has 500" in refused(
        tmp_path, export_checkpoint, checkpoint, like=hub
    )


def test_a_target_that_exists_is_left_alone(hub, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        import_folder(hub, taken)
    assert [path.name for path in taken.iterdir()] == ["notes"]


def test_too_little_space_is_noticed_before_anything_is_written(hub, tmp_path, monkeypatch):
    """The host's answer is replaced: a disk cannot be filled here."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(target.shutil, "disk_usage", lambda _path: usage._replace(free=65 * 2**20))
    assert "0.1 GiB are free" in refused(tmp_path, import_folder, hub)


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_disk_that_gives_up_leaves_nothing_under_the_final_name(hub, tmp_path, size):
    """And the conversion can be resumed once there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            import_folder(hub, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()
    made = import_folder(hub, tmp_path / "out", resume=True)
    assert made["digest"] == import_folder(hub, tmp_path / "again")["digest"]


def test_the_command_says_it_in_exit_codes(hub, checkpoint, tmp_path, capsys):
    """0 equal, 1 different; and `verify` names what differs."""
    assert run(["verify", str(hub), str(checkpoint)]) == 0
    change(hub, lambda tensors: tensors["model.norm.weight"].mul_(1 + 1e-4))
    assert run(["verify", str(hub), str(checkpoint), "--tolerance", "1e-3"]) == 0
    capsys.readouterr()
    assert run(["verify", str(hub), str(checkpoint), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["differences"]] == ["model.norm.weight"]
    with pytest.raises(UserError, match="two folders of the hub"):
        run(["verify", str(hub), str(checkpoint), "--logits"])


def test_a_tensor_larger_than_a_shard_has_one_for_itself():
    """Shards hold at most what they may, in order."""
    infos = {name: Info("F32", (size,)) for name, size in zip("abcde", (3, 2, 9, 1, 1), strict=True)}
    assert list(shards(infos, 20).values()) == [["a", "b"], ["c"], ["d", "e"]]


def test_a_layout_that_the_model_cannot_have_is_refused_with_every_rule_it_breaks(hub, tmp_path):
    """Four heads, two KV heads, four layers."""
    line = refused(tmp_path, import_folder, hub, layout="tp=3,pp=5")
    for said in ("the 4 attention heads", "the 2 KV heads do not divide one another", "4 layers leave a stage of pp 5"):
        assert said in line
    assert "interleaves the stages of a pipeline" in refused(tmp_path, import_folder, hub, layout="vpp=2")


@pytest.mark.parametrize(
    "text", ["", "tp", "tp=0", "tp=2,tp=4", "cp=2", "tp=x", "tp=2;pp=2", "tp=99999999999", "tp=2,"]
)
def test_sizes_that_cannot_be_read_are_refused(hub, tmp_path, text):
    assert "sizes from 1 for some of tp, pp, vpp" in refused(tmp_path, import_folder, hub, layout=text)


def test_a_layout_changes_no_file_of_a_checkpoint(hub, tmp_path):
    """Whole parameters load under every layout; the manifest keeps what was asked."""
    import_folder(hub, tmp_path / "plain")
    assert run(["import", str(hub), str(tmp_path / "laid"), "--layout", "tp=2,pp=2,vpp=2"]) == 0
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file())
    apart = [
        name for name in files if (tmp_path / "plain" / name).read_bytes() != (tmp_path / "laid" / name).read_bytes()
    ]
    assert [str(name) for name in apart] == ["manifest.json"]
    assert json.loads((tmp_path / "laid" / "manifest.json").read_text())["layout"] == {"tp": 2, "pp": 2, "vpp": 2}
