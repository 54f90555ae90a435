"""Quantised exports: the written numbers are ModelOpt's, everything else is as it was, and what is refused.

On the tiny model and on models of the other families. Not covered: what a quantised model of a useful size still
knows; that vLLM serves the folder, which tests/engines shows.
"""

import doctest
import hashlib
import json
from functools import partial

import pytest
import torch
from modelopt.torch.export import unified_export_hf as export
from PIL import Image
from safetensors.torch import load_file

from hpt_megatron.cli.convert import run
from hpt_megatron.config.load import load
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.embedded.random_folder import write_random
from hpt_megatron.errors import UserError
from hpt_megatron.weights.execute.importing import import_folder
from hpt_megatron.weights.quantise import calibration, exporting, formats, layout
from hpt_megatron.weights.quantise.exporting import Quantising, export_quantised
from hpt_megatron.weights.quantise.formats import FORMATS
from hpt_megatron.weights.quantise.layout import Written, apart, dequantised, pack, unpack
from hpt_megatron.weights.quantise.modelopt import load_model, quantise, write

pytestmark = pytest.mark.slow
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEXT = [f"model.{key}=null" for key in ("vision", "mrope_section", "image_token_id", "video_token_id")]
SIZES = ["hidden_size=128", "num_hidden_layers=2", "num_attention_heads=4", "num_key_value_heads=4", "head_dim=32"]
SIZES += ["intermediate_size=256", "vocab_size=101", "attention_bias=false", "rope_scaling.factor=8"]
SIZES += ["rope_scaling.original_max_position_embeddings=64"]
FAMILIES = {
    "qwen2_5": ["model=tiny", "model.family=qwen2_5", *TEXT],
    "llama3_1": ["model=llama-3.1-8b", *(f"model.{key}" for key in SIZES)],  # as many value heads as query heads
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture(scope="module")
def checkpoint(hub):
    import_folder(hub, hub.with_name("checkpoint"))
    return hub.with_name("checkpoint")


@pytest.fixture(scope="module", params=FORMATS)
def made(request, checkpoint):
    """A format, and the folder that the command wrote."""
    out = checkpoint.with_name(request.param)
    assert run(["export", str(checkpoint), str(out), "--quantize", request.param]) == 0
    return FORMATS[request.param], out


@pytest.mark.parametrize("module", [formats, calibration, layout])
def test_the_examples_of_the_modules_hold(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_four_bits_come_back_from_either_packing():
    """Every number, at every place in its word; ModelOpt's pairs of rows too."""
    numbers = torch.stack([torch.arange(-8, 8, dtype=torch.int8).roll(shift) for shift in range(16)])
    assert torch.equal(unpack(pack(numbers)), numbers)
    pairs = (numbers[0::2] & 15) | ((numbers[1::2] & 15) << 4)
    assert torch.equal(apart(pairs.view(torch.uint8)), numbers)


def says(model, ids):
    """Logits with quantised weights, activations as they are."""
    rounding = [each.input_quantizer for each in model.modules() if hasattr(each, "weight_quantizer")]
    rounding = [each for each in rounding if each.is_enabled]
    for each in rounding:
        each.disable()
    with torch.no_grad():
        said = model(input_ids=ids, use_cache=False).logits.float()
    for each in rounding:
        each.enable()
    return said


def plain_with(folder, tensors):
    """Transformers' model of a folder, with the weights that a quantised one stands for."""
    model = load_model(folder)
    with torch.no_grad():
        for name, param in model.named_parameters():
            stored = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
            if f"{stored}_scale" in tensors:
                param.copy_(dequantised(tensors, stored))
            elif stored in tensors:
                param.copy_(tensors[stored])
    return model


def apart_by(one, other):
    return float((one - other).abs().max() / other.abs().max())


def read_back(folder, form, rows, out):
    """What ModelOpt's model says just before it is packed, and its numbers in vLLM's layout."""
    model, said = load_model(folder), []
    quantise(model, form, rows)
    ids = torch.randint(5, 100, (2, 24), generator=torch.Generator().manual_seed(3))
    last_step = export.requantize_resmooth_fused_llm_layers

    def listen(network):
        last_step(network)
        said.append(says(network, ids))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, last_step.__name__, listen)
        write(model, out)
    written = Written(out, form.layout)
    return ids, said[0], {name: written.tensor(name) for name in written.infos}


def test_the_written_weights_are_those_that_modelopt_computes_with(made, hub, tmp_path):
    """Dequantised in transformers they give ModelOpt's logits; and they are what the command wrote, bit for bit."""
    form, out = made
    rows = calibration.inputs_of(hub, None) if form.calibrated else []
    ids, said, tensors = read_back(hub, form, rows, tmp_path / "modelopt")
    assert apart_by(says(plain_with(hub, tensors), ids), said) < 1e-5
    assert apart_by(says(load_model(hub), ids), said) > 1e-3, "nothing was quantised"
    again = load_file(out / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name].view(torch.uint8), tensors[name].view(torch.uint8)) for name in again)


def test_only_the_linear_layers_of_the_decoder_are_quantised(made, hub):
    """The tower, the embedding and, but for int4_awq's norms, all else is as it was."""
    form, out = made
    before, after = load_file(hub / "model.safetensors"), load_file(out / "model.safetensors")
    stored = "weight_packed" if form.name == "int4_awq" else "weight"
    dtype = {"fp8": torch.float8_e4m3fn, "int8": torch.int8, "int4_awq": torch.int32}[form.name]
    linear = {name for name in before if name.startswith("model.layers.") and name.split(".")[-2] in LINEAR}
    linear = {name for name in linear if name.endswith("weight")}
    assert {after[name.removesuffix("weight") + stored].dtype for name in linear} == {dtype}
    kept = {name for name in before if name not in linear}
    scaled = {name for name in kept if "layernorm" in name} if form.name == "int4_awq" else set()
    assert all(torch.equal(before[name], after[name]) for name in kept - scaled)
    assert not [name for name in after if name.endswith(("input_scale", "pre_quant_scale"))]
    assert len(scaled) in (0, 8)


def test_the_folder_says_what_it_is(made, hub):
    """And carries what the plain one has; every tensor's checksum is in the manifest."""
    form, out = made
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config") == json.loads(json.dumps(form.config))
    assert config == json.loads((hub / "config.json").read_text())
    names = {path.name for path in hub.iterdir()}
    assert {path.name for path in out.iterdir()} == names | {"manifest.json"}
    same = names - {"config.json", "model.safetensors"}
    assert all((out / name).read_bytes() == (hub / name).read_bytes() for name in same)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["quantised"], manifest["calibration"] == "none needed") == (form.name, not form.calibrated)
    tensors = load_file(out / "model.safetensors")
    sums = {
        name: hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in tensors.items()
    }
    assert {name: one["sha256"] for name, one in manifest["tensors"].items()} == sums
    assert not list(out.parent.glob(f".{out.name}*"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_families_are_quantised_too(tmp_path, family, form):
    """Llama here shares no value head between query heads, and int4_awq leaves its `o_proj` alone all the same."""
    folder = write_random(load(FAMILIES[family]).run.model, tmp_path / "hub")
    ids, said, tensors = read_back(
        folder, FORMATS[form], calibration.drawn(range(5, 100), 4, 16), tmp_path / "modelopt"
    )
    # ModelOpt divides by a scale where it packs and multiplies by its inverse where it computes: a tie may part them
    assert apart_by(says(plain_with(folder, tensors), ids), said) < 1e-3
    assert not [name for name in tensors if "pre_quant_scale" in name]


def test_prompts_and_images_are_what_awq_is_calibrated_on(hub, checkpoint, tmp_path):
    """Other prompts, other scales; the manifest names the file."""
    Image.new("RGB", (56, 56), (255, 0, 0)).save(tmp_path / "red.png")
    lines = [{"prompt": "count the red dots ?"}, {"prompt": "color ?", "images": ["red.png"]}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    text, seen = calibration.inputs_of(hub, calibration.read_prompts(file, sees=True))
    assert "pixel_values" not in text
    assert {"pixel_values", "image_grid_thw"} <= seen.keys()
    made = export_quantised(checkpoint, tmp_path / "out", Quantising("int4_awq", file))
    assert made["calibration"] == f"prompts.jsonl, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    drawn = export_quantised(checkpoint, tmp_path / "drawn", Quantising("int4_awq"))
    scales = "model.layers.1.mlp.down_proj.weight_scale"
    assert made["tensors"][scales]["sha256"] != drawn["tensors"][scales]["sha256"]
    assert {len(row["input_ids"][0]) for row in calibration.inputs_of(hub, None)} == {calibration.LENGTH}


def refused(tmp_path, convert):
    """The one line; nothing was written."""
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as told:
        convert()
    assert {path.name for path in tmp_path.iterdir()} == before
    assert told.value.exit_code == 2
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


def test_every_bad_line_of_the_prompts_is_named_at_once(checkpoint, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    lines = ['{"prompt": "fine"}', "{", "[]", '{"prompt": " "}', '{"prompt": "a", "images": "b"}', "", "[" * 100_000]
    lines += ['{"prompt": "a", "images": ["broken.png"]}', '{"prompt": "a", "images": ["nowhere.png"]}']
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    asked = Quantising("int4_awq", tmp_path / "prompts.jsonl")
    line = refused(tmp_path, partial(export_quantised, checkpoint, tmp_path / "out", asked))
    assert [number for number in range(1, 10) if f"line {number}:" in line] == [2, 3, 4, 5, 7, 8, 9]
    assert "broken.png is no image" in line


def test_a_model_without_eyes_takes_no_images(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "images": ["image.png"]}')
    with pytest.raises(UserError, match="the model takes none"):
        calibration.read_prompts(tmp_path / "prompts.jsonl", sees=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quantize", "fp8", "--calibration", "x"], "int4_awq alone is calibrated"),
        (["--calibration", "x"], "int4_awq alone is calibrated"),
        (["--quantize", "int8", "--resume"], "starts again"),
        (["--quantize", "int4_awq", "--calibration", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    ],
)
def test_options_that_would_do_nothing_are_refused(checkpoint, tmp_path, options, said):
    assert said in refused(tmp_path, partial(run, ["export", str(checkpoint), str(tmp_path / "out"), *options]))


def test_rows_that_make_no_groups_are_refused_for_int4_with_all_their_sizes(tmp_path):
    sizes = ["hidden_size=96", "num_attention_heads=3", "num_key_value_heads=3", "intermediate_size=160"]
    model = load([*FAMILIES["llama3_1"], *(f"model.{size}" for size in sizes)]).run.model
    write_random(model, tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "checkpoint")
    ask = partial(export_quantised, tmp_path / "checkpoint", tmp_path / "out")
    line = refused(tmp_path, partial(ask, Quantising("int4_awq")))
    assert all(part in line for part in ("hidden_size 96", "intermediate_size 160", "attention heads x head_dim 96"))
    assert ask(Quantising("int8"))["quantised"] == "int8"


def test_a_folder_without_a_tokenizer_is_refused_before_anything_is_written(tmp_path):
    write_random(load(FAMILIES["llama3_1"]).run.model, tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "checkpoint")
    ask = partial(export_quantised, tmp_path / "checkpoint", tmp_path / "out", Quantising("int4_awq"))
    assert "its tokenizer or processor cannot be loaded" in refused(tmp_path, ask)


def test_what_fails_halfway_leaves_nothing_under_the_name(checkpoint, tmp_path, monkeypatch):
    """ModelOpt's own failure is replaced by one; the next try starts again and is whole."""

    def fail(*_given):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write", fail)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            export_quantised(checkpoint, tmp_path / "out", Quantising("int8"))
    assert not (tmp_path / "out").exists()
    export_quantised(checkpoint, tmp_path / "out", Quantising("int8"))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_quantised_folder_is_not_trained_from(made, tmp_path):
    """One reason, not one for each tensor."""
    form, out = made
    line = refused(tmp_path, partial(import_folder, out, tmp_path / "checkpoint"))
    assert f"is quantised ({form.config['quant_method']})" in line
    assert "model.layers" not in line
