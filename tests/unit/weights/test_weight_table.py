"""The weight table against the tensors of every shape in configs/model.

Not covered: that the trainer's model has parameters of these names; comparisons of whole models show that.
"""

import doctest
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.config.shapes import shapes
from hpt_megatron.embedded.random_folder import newer
from hpt_megatron.errors import HptError
from hpt_megatron.weights import table as module
from hpt_megatron.weights.families import family_named
from hpt_megatron.weights.table import Table, canonical, lookup

LANGUAGE = family_named("qwen2_5_vl").language
SHAPES = sorted(path.stem for path in (Path(__file__).parents[3] / "configs" / "model").glob("*.yaml"))


@cache
def shape(name):
    return load([f"model={name}"]).run.model


@cache
def tensors(name):
    return shapes(shape(name))


def entries(name):
    return Table.of(shape(name), 1, 128).entries([each for each in tensors(name) if each.startswith("visual.")])


def test_the_examples_of_the_table_hold():
    result = doctest.testmod(module)
    assert (result.failed, result.attempted) == (0, 3)


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_of_a_checkpoint_belongs_to_one_entry(name):
    covered = Counter(each for entry in entries(name) for each in entry.checkpoint)
    assert covered == dict.fromkeys(tensors(name), 1)


@pytest.mark.parametrize("name", SHAPES)
def test_every_parameter_has_one_entry_and_its_lookup_is_that_entry(name):
    table, found = Table.of(shape(name), 1, 128), entries(name)
    assert len({entry.trainer for entry in found}) == len(found)
    assert [table.entry(entry.trainer) for entry in found] == found
    assert {table.kind(entry.trainer) == entry.kind for entry in found} == {True}
    assert not [entry for entry in found if "{" in entry.trainer + "".join(entry.checkpoint)]


@pytest.mark.parametrize("name", SHAPES)
def test_the_newer_spelling_of_every_tensor_comes_back(name):
    respelt = {each: newer(each) for each in tensors(name)}
    assert all(each != told or each == "lm_head.weight" for each, told in respelt.items())
    assert {canonical(told): each for each, told in respelt.items()} == {each: each for each in tensors(name)}
    assert {canonical(each) for each in tensors(name)} == set(tensors(name))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_the_sizes_of_the_fusion_are_those_of_the_tensors(name, tp):
    """Groups and channels of keys; a vocabulary padded by less than a step, so that every rank holds as much."""
    fusion = Table.of(shape(name), tp, 128).fusion
    assert fusion.groups * fusion.head_dim == tensors(name)["model.layers.0.self_attn.k_proj.weight"][0]
    assert fusion.vocabulary == tensors(name)["model.embed_tokens.weight"][0]
    assert 0 <= fusion.padded_vocabulary - fusion.vocabulary < 128 * tp
    assert fusion.padded_vocabulary % (128 * tp) == 0


def test_a_tied_output_matrix_is_the_embedding_and_an_untied_one_is_its_own():
    tied, untied = shape("qwen2.5-vl-3b"), shape("qwen2.5-vl-7b")
    assert (tied.tie_word_embeddings, untied.tie_word_embeddings) == (True, False)
    told = [Table.of(model, 1, 128).entry("output_layer.weight") for model in (tied, untied)]
    assert [entry.checkpoint for entry in told] == [("model.embed_tokens.weight",), ("lm_head.weight",)]
    assert {entry.kind for entry in told} == {"vocabulary"}


def test_the_layer_s_number_is_in_all_names_of_its_entry():
    found = lookup(LANGUAGE, "decoder.layers.17.self_attention.linear_qkv.bias")
    assert found.checkpoint == tuple(f"model.layers.17.self_attn.{each}_proj.bias" for each in "qkv")


def test_gate_is_named_before_up():
    """Their order is that of the fused rows, of which the first half goes through the activation."""
    found = lookup(LANGUAGE, "decoder.layers.0.mlp.linear_fc1.weight")
    assert found.checkpoint == tuple(f"model.layers.0.mlp.{each}_proj.weight" for each in ("gate", "up"))


def test_a_name_that_no_entry_has_is_named():
    for name in ("decoder.layers.0.mlp.router.weight", "decoder.layers.x.mlp.linear_fc2.weight", ""):
        with pytest.raises(HptError, match="no entry in the weight table"):
            lookup(LANGUAGE, name)
