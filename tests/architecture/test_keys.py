"""Every configuration key is declared, has a value in `configs/`, and is read by something."""

import ast

import pytest
import yaml
from source import ROOT, modules

from hpt_megatron.config.aliases import LATER, RENAMED, RETIRED
from hpt_megatron.config.checkpoint import SAME_NAME, shape_of
from hpt_megatron.config.compose import compose
from hpt_megatron.config.load import KEYS

pytestmark = pytest.mark.fast


CHECKPOINT = {
    "model_type": "qwen2_5_vl",
    "vision_config": {"hidden_size": 1280, "tokens_per_second": 2},
    "rope_scaling": {"mrope_section": [16, 24, 24]},
    "rope_theta": 1e6,
    **dict.fromkeys(SAME_NAME, 1),
}


WAITING = {}
ONLY_CHECKED = {f"{group}.{key}" for group, keys in WAITING.items() for key in keys.split()}


def leaves(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def reads(but_for: str = "") -> set[tuple[str, str]]:
    """Pairs (group, key) for every `group.key` or `....group.key` in the package, but for a folder."""
    found = set()
    for module in modules():
        if but_for and str(module.path).startswith(but_for):
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Attribute):
                continue
            parent = node.value
            if isinstance(parent, ast.Name):
                found.add((parent.id, node.attr))
            elif isinstance(parent, ast.Attribute):
                found.add((parent.attr, node.attr))
    return found


def test_every_key_is_read_by_something():
    """A key counts as read where code says `group.key`, or where it is held against a checkpoint's `config.json`."""
    seen = reads() | {tuple(f"model.{key}".split(".")[-2:]) for key in shape_of(CHECKPOINT)}
    dead = [key for key in KEYS if tuple(key.split(".")[-2:]) not in seen]
    assert not dead, f"nothing reads: {dead}"


def test_the_keys_that_only_validation_reads_are_known_and_become_fewer():
    """Their code lands with the trainer, the rollouts, the data and the loop; a key leaves the list with its reader."""
    seen = reads(but_for="hpt_megatron/config/rules") | {
        tuple(f"model.{key}".split(".")[-2:]) for key in shape_of(CHECKPOINT)
    }
    only_checked = {key for key in KEYS if tuple(key.split(".")[-2:]) not in seen}
    assert only_checked == ONLY_CHECKED


def test_the_files_and_the_declared_keys_agree():
    """The default run has a value for every key but those of optional groups it does not use."""
    values, problems = compose([])
    assert not problems
    assert leaves(values) | {key for key in KEYS if key.startswith("model.rope_scaling.")} | {"model.rope_scaling"} == {
        *KEYS,
        "model.rope_scaling",
    }


def test_every_file_is_reachable_and_says_what_it_is():
    wrong = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
        if not lines[0].startswith("# "):
            wrong.append(f"{path.name} does not open with a line that says what it is")
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
            wrong.append(f"{path.name} holds no keys")
    assert not wrong, "\n".join(wrong)


def test_aliases_lead_to_keys_and_contradict_nothing():
    assert not [name for name, target in RENAMED.items() if target not in KEYS]
    tables = [set(RENAMED), set(RETIRED), set(LATER), set(KEYS)]
    for index, table in enumerate(tables):
        for other in tables[index + 1 :]:
            assert not table & other
