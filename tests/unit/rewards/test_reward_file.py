"""Compositions in JSON: both spellings, the presets, the page's example, and everything wrong said at once."""

import json
import re
from pathlib import Path

import pytest

from hpt_megatron.config.presets import PRESETS
from hpt_megatron.errors import UserError
from hpt_megatron.rewards.by_number import named
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.composition_file import load_composition, read_composition

pytestmark = pytest.mark.fast

PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"


def told(values):
    with pytest.raises(UserError) as caught:
        read_composition(values)
    return str(caught.value)


def test_the_flat_file_scores_as_its_author_meant(tmp_path):
    """The example of the page: shares 0.4, 0.2, 0.4, and the nested slope 0.1 beside the share 0.2."""
    flat = next(
        block for block in re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if "_weight" in block
    )
    file = tmp_path / "reward.json"
    file.write_text(flat, encoding="utf-8")
    composition = load_composition(file)
    right = composition.score(Sample(turns=("yes, \uc644\ubcbd",), tokens=150))
    assert right.total == pytest.approx(0.4 * 1 + 0.2 * 0.1 + 0.4 * 1)
    poor = composition.score(Sample(turns=("\ubaa8\ub974\uaca0",), tokens=300))
    assert poor.total == pytest.approx(0.4 * 0 + 0.2 * 0 + 0.4 * -0.5)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("geometry3k", "exact")])
def test_presets_share_one_among_the_three_and_the_name_has_the_largest_share(name):
    weights = {part.name: part.weight for part in named(name).parts}
    assert list(weights) == ["accuracy", "length", "quality"]
    assert sum(weights.values()) == pytest.approx(1.0)
    assert name == "balanced" or max(weights, key=weights.get) == name
    perfect = named(name).score(Sample(turns=("4",), answer="4", golds=("4",), tokens=150))
    assert perfect.total == pytest.approx(weights["accuracy"] + weights["length"])
    with pytest.raises(UserError, match="balanced, accuracy"):
        named("systematic")


def test_one_component_may_stand_twice_under_two_names():
    numbers = [{"name": "number", "settings": {"rel_tol": 0.05}}, {"name": "number", "as": "exact", "weight": 2}]
    scored = read_composition({"components": numbers}).score(Sample(turns=(), answer="104", golds=("100",)))
    assert scored.components == {"number": 1.0, "exact": 0.0, "score": 1.0}
    assert "name of two scores" in told({"components": [{"name": "f1"}, {"name": "f1"}]})
    assert "name of two scores" in told({"components": [{"name": "f1", "as": "score"}]})


def test_everything_wrong_is_said_at_once():
    line = told(
        {
            "components": [
                {"name": "formt", "weight": 1},
                {"name": "anls", "wieght": 1},
                {"name": "anls", "settings": {"threshold": 7}},
                {"name": "ndcg", "settings": {"k": True}},
                {"name": "length", "settings": {"unit": "pages"}},
                {"name": "f1", "weight": float("nan")},
                {"name": "exact_match", "settings": {"k": 1}},
                {"name": "accuracy", "settings": {"correct_keywords": "yes"}},
                7,
            ],
            "gate": [{"component": "f2", "op": "=="}],
            "clip": [1, -1],
            "modality": {"imgae": 2.0},
            "sucess": {},
        }
    )
    for part in (
        "formt: no such component; right would be: format",
        "components[1].wieght = 1: no such key; right would be: weight",
        "components[2].settings.threshold = 7: 7.0 is no threshold",
        "components[3].settings.k = true: is no int",
        "tokens, words, characters",
        "components[5].weight",
        "components[6].settings.k = 1: no such key",
        "is no list of words",
        "components[8] = 7: is no object",
        "gate[0].component = f2: no such component here",
        "gate[0].op",
        "reward.clip",
        "reward.modality.imgae = 2.0: no such key; right would be: image",
        "sucess = {}: no such key; right would be: success",
    ):
        assert part in line
    assert "\n" not in line


def test_a_wrong_setting_is_named_by_its_own_key():
    for name, settings, key in (
        ("repetition", {"scale": -1.0}, "scale"),
        ("repetition", {"n": 0}, "n"),
        ("overlong", {"longest": 0, "buffer": 0}, "longest"),
        ("tool_use", {"bonus": -1.0}, "bonus"),
        ("tool_use", {"free": -1}, "free"),
        ("number", {"abs_tol": -1.0}, "abs_tol"),
        ("code", {"memory_mb": 1}, "memory_mb"),
    ):
        assert f"settings.{key} = {settings[key]}" in told({"components": [{"name": name, "settings": settings}]})


@pytest.mark.parametrize("values", [None, 3, [], {}, {"components": []}, {"components": {}}, {"length": {}}])
def test_what_is_no_composition_is_refused(values):
    assert told(values).startswith("reward: ")


@pytest.mark.parametrize("text", ["", "{", '{"clip": 1, "clip": 2}', "[" * 100_000])
def test_a_file_that_is_not_read_says_which(tmp_path, text):
    file = tmp_path / "reward.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"reward\.json: is not read"):
        load_composition(file)
    with pytest.raises(UserError, match="absent"):
        load_composition(tmp_path / "absent")


def test_values_of_json_survive_the_way_through_text():
    values = {"components": [{"name": "quality", "settings": {"quality_keywords": ["a", "b"]}}], "clip": [-1, 1]}
    assert read_composition(json.loads(json.dumps(values))) == read_composition(values)
