"""The families of the weight table: how one is found, that a fourth takes one file, and what is refused.

Not covered: that the trainer computes what such a family computes; tests/dist compares whole models.
"""

import doctest
import importlib
import sys
from collections import Counter
from dataclasses import replace

import pytest
from safetensors.numpy import load_file

from hpt_megatron.config.load import load
from hpt_megatron.config.shapes import shapes
from hpt_megatron.embedded.random_folder import ARCHITECTURES, write_random
from hpt_megatron.errors import UserError
from hpt_megatron.weights import families
from hpt_megatron.weights.families import decoder, family, family_named, family_of
from hpt_megatron.weights.table import Table

KNOWN = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_5": "Qwen2ForCausalLM",
    "llama3_1": "LlamaForCausalLM",
}
MISTRAL = '''"""Another one, as another package or a file here would add it."""
from hpt_megatron.weights.families.decoder import decoder
from hpt_megatron.weights.families.family import Family, register
MISTRAL = register(Family("mistral", "MistralForCausalLM", decoder(attention_bias=False)))
'''


@pytest.mark.parametrize("module", [families, family, decoder])
def test_the_examples_of_the_families_hold(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_a_family_is_found_by_its_word_and_by_its_architecture():
    assert {name: family_named(name).architecture for name in KNOWN} == KNOWN
    assert all(family_of(architecture) is family_named(name) for name, architecture in KNOWN.items())
    assert {name: KNOWN[name] for name in ARCHITECTURES} == {name: each[1] for name, each in ARCHITECTURES.items()}


@pytest.mark.parametrize("asked", ["MistralForCausalLM", "LlamaForSequenceClassification", ""])
def test_an_architecture_without_a_table_is_refused_with_those_there_are(asked):
    with pytest.raises(UserError) as told:
        family_of(asked)
    line = str(told.value)
    assert f"no weight table for {asked}" in line
    assert all(architecture in line for architecture in KNOWN.values())
    assert told.value.exit_code == 2


def test_a_word_without_a_table_is_refused_with_those_there_are():
    model = replace(load(["model=llama-3.1-8b"]).run.model, family="mistral")
    with pytest.raises(UserError, match="no such model family: mistral; one of") as told:
        Table.of(model, 1, 1)
    assert all(name in str(told.value) for name in KNOWN)


def test_only_a_family_with_a_tower_has_entries_for_one():
    assert [name for name in KNOWN if family_named(name).tower] == ["qwen2_5_vl"]
    table = Table.of(load(["model=llama-3.1-8b"]).run.model, 1, 1)
    with pytest.raises(Exception, match="no entry in the weight table"):
        table.entry("visual.blocks.0.norm1.weight")


def test_the_families_differ_in_the_biases_alone():
    """Llama's lines are those of Qwen2.5 without the bias of queries, keys and values."""
    qwen, llama = (family_named(name).language for name in ("qwen2_5", "llama3_1"))
    assert [entry for entry in qwen if entry not in llama] == [decoder.BIAS]
    assert set(llama) < set(qwen)


def test_a_fourth_family_takes_one_file(tmp_path, monkeypatch):
    """Its table covers every tensor of a checkpoint of its shape, and it is found by its architecture."""
    (tmp_path / "mistral.py").write_text(MISTRAL)
    name = f"{families.__name__}.mistral"
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setattr(family.FAMILIES, "_own", dict(family.FAMILIES._own))
    importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    assert family_of("MistralForCausalLM").name == "mistral"
    llama = load(["model=llama-3.1-8b", "model.num_hidden_layers=2", "model.hidden_size=64", "model.vocab_size=99"])
    sizes = ["intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"]
    model = replace(llama.run.model, **dict(zip(sizes, (96, 4, 2, 16), strict=True)))
    write_random(model, tmp_path / "hub")
    table = Table.of(replace(model, family="mistral"), 1, 1)
    covered = Counter(each for entry in table.entries() for each in entry.checkpoint)
    assert covered == dict.fromkeys(load_file(tmp_path / "hub" / "model.safetensors"), 1)
    assert covered.keys() == shapes(model).keys()
