"""Which parameters patterns freeze, over the whole model; and patterns that are refused.

Not covered: that a stage with nothing to train still trains and saves; that is in tests/dist.
"""

import pytest
import torch

from hpt_megatron.config.load import load
from hpt_megatron.config.shapes import shapes
from hpt_megatron.errors import UserError
from hpt_megatron.mcore.model.freeze import freeze
from hpt_megatron.weights.frozen import frozen, trainable
from hpt_megatron.weights.table import Table

TIED = load(["model=tiny"]).run.model
UNTIED = load(["model=tiny", "model.tie_word_embeddings=false"]).run.model
VISUAL = [name for name in shapes(TIED) if name.startswith("visual.")]


def found(*patterns, model=TIED):
    entries = Table.of(model, 1, 128).entries(VISUAL)
    return frozen(patterns, entries, model.tie_word_embeddings)


def of_layer(number):
    return {
        f"decoder.layers.{number}.{name}"
        for name in (
            "input_layernorm.weight",
            "self_attention.linear_qkv.weight",
            "self_attention.linear_qkv.bias",
            "self_attention.linear_proj.weight",
            "pre_mlp_layernorm.weight",
            "mlp.linear_fc1.weight",
            "mlp.linear_fc2.weight",
        )
    }


def test_the_tower_the_merger_and_parts_of_blocks_freeze_by_their_own_names():
    assert found("visual.*") == set(VISUAL)
    assert found("visual.merger.*") == {name for name in VISUAL if ".merger." in name}
    assert found("visual.blocks.1.attn.qkv.weight") == {"visual.blocks.1.attn.qkv.weight"}
    assert len(found("visual.patch_embed.*", "visual.blocks.?.norm1.weight")) == 3


def test_layers_freeze_whole_and_one_by_one():
    assert found("model.layers.2.*") == of_layer(2)
    assert found("model.layers.[0-1].*") == of_layer(0) | of_layer(1)
    assert found("model.norm.weight") == {"decoder.final_layernorm.weight"}
    assert found("model.layers.*.mlp.*") == {
        f"decoder.layers.{layer}.mlp.{name}.weight" for layer in range(4) for name in ("linear_fc1", "linear_fc2")
    }


def test_names_that_begin_alike_are_not_taken_for_one_another():
    """Layer 1 and layer 10 of a longer model."""
    longer = load(["model=tiny", "model.num_hidden_layers=12"]).run.model
    assert found("model.layers.1.*", model=longer) == of_layer(1)


@pytest.mark.parametrize(
    "newer",
    ["model.visual.merger.*", "model.language_model.layers.2.*", "model.language_model.embed_tokens.weight"],
)
def test_the_newer_spelling_freezes_what_the_older_does(newer):
    older = newer.replace("language_model.", "").replace("model.visual", "visual")
    assert found(newer) == found(older) != set()


@pytest.mark.parametrize("pattern", ["model.embed_tokens.weight", "lm_head.weight", "lm_head.*", "*embed_tokens*"])
def test_both_names_of_a_tied_tensor_freeze_both_copies(pattern):
    """The last stage of a pipeline calls its copy output_layer.weight; left out, it would go on training alone."""
    assert found(pattern) == {"embedding.word_embeddings.weight", "output_layer.weight"}


def test_an_embedding_and_an_output_matrix_that_are_two_freeze_apart():
    assert found("lm_head.weight", model=UNTIED) == {"output_layer.weight"}
    assert found("model.embed_tokens.weight", model=UNTIED) == {"embedding.word_embeddings.weight"}


def test_no_pattern_freezes_nothing():
    assert found() == set()


def test_every_pattern_that_matches_nothing_is_named_as_it_was_written():
    with pytest.raises(
        UserError, match=r"trainer\.freeze: no tensor of the model matches visul\.\*, model\.visual\.x;"
    ):
        found("visul.*", "visual.*", "model.visual.x")
    with pytest.raises(UserError, match=r"matches model\.layers\.4\.\*"):
        found("model.layers.4.*")
    with pytest.raises(UserError, match=r"matches Visual\.\*"):
        found("Visual.*")


@pytest.mark.parametrize(
    ("patterns", "missing"),
    [
        (["model.layers.0.self_attn.q_proj.weight"], "model.layers.0.self_attn.k_proj.weight"),
        (["model.layers.*.self_attn.[qk]_proj.*"], "model.layers.0.self_attn.v_proj.weight"),
        (["model.layers.3.mlp.up_proj.weight"], "model.layers.3.mlp.gate_proj.weight"),
    ],
)
def test_part_of_a_fused_parameter_is_refused_with_the_name_that_is_missing(patterns, missing):
    with pytest.raises(UserError, match="freezes part of a fused parameter") as told:
        found(*patterns)
    assert told.value.mend == f"freeze {missing} too, or none of them"


def test_parts_named_by_several_patterns_make_a_whole():
    assert found("*.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight", "*.1.mlp.gate_proj.bias") == {
        "decoder.layers.1.mlp.linear_fc1.weight",
        "visual.blocks.1.mlp.gate_proj.weight",
        "visual.blocks.1.mlp.gate_proj.bias",
    }


def test_a_frozen_weight_with_a_trained_bias_is_refused_for_the_decoder_alone():
    """Seen without any stage, so all processes say so; the tower computes both gradients apart."""
    with pytest.raises(UserError, match=r"model\.layers\.3\.self_attn\.q_proj\.weight .* but not its bias"):
        found("model.layers.3.self_attn.[qkv]_proj.weight")
    assert found("model.layers.3.self_attn.[qkv]_proj.bias") == {"decoder.layers.3.self_attention.linear_qkv.bias"}
    assert found("visual.blocks.0.attn.*.weight") == {
        "visual.blocks.0.attn.qkv.weight",
        "visual.blocks.0.attn.proj.weight",
    }


def test_gradients_are_off_for_the_named_parameters_and_on_for_all_others():
    """One stage's part of the names; a second call with fewer names thaws."""
    names = ["decoder.layers.2.mlp.linear_fc2.weight", "visual.merger.ln_q.weight", "output_layer.weight"]
    stage = {name: torch.nn.Parameter(torch.zeros(1)) for name in names}
    freeze(stage.items(), {names[0], names[2], "decoder.layers.0.mlp.linear_fc2.weight"})
    assert [stage[name].requires_grad for name in names] == [False, True, False]
    freeze(stage.items(), {names[1]})
    assert [stage[name].requires_grad for name in names] == [True, False, True]


def test_what_is_left_to_train_is_listed_by_the_checkpoint_s_names():
    table = Table.of(TIED, 1, 128)
    entries = table.entries(VISUAL)
    left = trainable(entries, found("visual.*", "model.layers.*"))
    assert left == ["model.embed_tokens.weight", "model.norm.weight"]
