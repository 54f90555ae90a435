"""One number or several: the composition of a GRPO run. Not covered: the components (tests/unit/rewards)."""

import json

import pytest

from hpt_megatron.config.files import configs_folder
from hpt_megatron.config.presets import PRESETS
from hpt_megatron.errors import UserError
from hpt_megatron.grpo import GRPOConfig
from hpt_megatron.grpo.reward import choose, write_reward
from hpt_megatron.rewards.component import Sample
from hpt_megatron.rewards.composition_file import load_composition, read_composition

EXAMPLE = configs_folder() / "reward" / "reward_config.json"
SAMPLES = [
    Sample(turns=("<answer>4</answer> 좋아",), answer="4", golds=("4",), tokens=150),
    Sample(turns=("that is right",), answer="5", golds=("4",), tokens=75),
    Sample(turns=("모르겠 yes",), tokens=600),
    Sample(turns=("incorrect",), tokens=0),
]


def composition(tmp_path, answers=1, **values):
    return load_composition(write_reward(choose(GRPOConfig(**values), answers, 1), tmp_path))


@pytest.mark.parametrize("given", [{"reward_config_file": str(EXAMPLE)}, {"reward_config_name": "quality"}])
def test_one_component_scores_as_the_several_do_together(tmp_path, given):
    one = composition(tmp_path, reward_function_type="single", **given)
    several = composition(tmp_path, reward_function_type="multi", **given)
    assert one.names == ("total", "score")
    assert several.names == ("accuracy", "length", "quality", "score")
    for sample in SAMPLES:
        assert one.score(sample).total == pytest.approx(several.score(sample).total)
        assert one.score(sample).valid == several.score(sample).valid
    assert len({round(one.score(sample).total, 6) for sample in SAMPLES[:2]}) == 2


def test_the_example_that_ships_means_what_the_readme_says(tmp_path):
    values = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert (values["length_weight"], values["length"]["length_weight"]) == (0.2, 0.1)
    made = composition(tmp_path, reward_config_file=str(EXAMPLE), reward_function_type="multi")
    scored = made.score(Sample(turns=("정확 좋아 모르겠",), tokens=150))
    assert {name: result.score for name, result in scored.results.items()} == {
        "accuracy": 1.0,
        "length": pytest.approx(0.1),
        "quality": 0.5,
    }
    assert scored.total == pytest.approx(0.4 * 1.0 + 0.2 * 0.1 + 0.4 * 0.5)


def test_without_answers_and_keywords_accuracy_is_left_out_and_said(tmp_path):
    chosen = choose(GRPOConfig(reward_function_type="multi"), with_answers=0, rows=10)
    assert list(chosen.values) == ["length_weight", "quality_weight"]
    assert chosen.told == "multi: 0.2 length + 0.4 quality; the weights sum to 0.6"
    assert any("no row has an answer" in note for note in chosen.notes)
    assert any("nothing but the length of a response is scored" in note for note in chosen.notes)
    assert read_composition(chosen.values).score(Sample(turns=("a",), tokens=150)).valid
    some = choose(GRPOConfig(), with_answers=4, rows=10)
    assert some.notes == ("6 of 10 rows have no answer to compare with and are not trained",)
    assert choose(GRPOConfig(reward_config_file=str(EXAMPLE)), with_answers=0, rows=10).notes == ()


def test_the_weights_are_summed_and_a_success_is_on_what_is_there():
    several = choose(GRPOConfig(reward_function_type="multi", reward_config_name="balanced"), 1, 1)
    assert several.told == "multi: 0.4 accuracy + 0.2 length + 0.4 quality; the weights sum to 1"
    assert several.success == "[{component: accuracy, op: '>=', value: 1.0}]"
    assert choose(GRPOConfig(), 1, 1).success == "[{component: score, op: '>=', value: 0.5}]"
    assert set(PRESETS) >= {"balanced", "accuracy", "length", "quality"}


def test_a_file_that_names_components_is_taken_as_it_is(tmp_path):
    file = tmp_path / "r.json"
    parts = [{"name": "exact_match", "as": "right"}, {"name": "repetition", "weight": 0.5}]
    file.write_text(json.dumps({"components": parts}))
    chosen = choose(GRPOConfig(reward_config_file=str(file)), 1, 1)
    assert chosen.values == {"components": parts}
    assert any("each has a curve of its own" in note for note in chosen.notes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"acuracy_weight": 1, "length_weight": 1}, "acuracy_weight"),
        ({"length_weight": 1, "length": {"optimal": 3}}, "reward.length.optimal"),
        ({"length_weight": "much"}, "reward.length_weight"),
        ({"length_weight": 0}, "no component has a weight"),
    ],
)
def test_a_wrong_file_names_its_key_in_one_line(tmp_path, values, words):
    file = tmp_path / "r.json"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=words) as told:
        choose(GRPOConfig(reward_config_file=str(file)), 1, 1)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UserError, match=r"is not read: .*No such file"):
        choose(GRPOConfig(reward_config_file=str(tmp_path / "r.json")), 1, 1)
