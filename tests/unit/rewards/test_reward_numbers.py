"""Every `reward_impl_version` on answers that tell it from the others; numbers of other packages; presets and files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from reward_seven import RETRIEVAL

from hpt_megatron.config.algorithm import SuccessConfig
from hpt_megatron.config.load import load
from hpt_megatron.errors import UserError
from hpt_megatron.rewards.build import build_scorer, composition_of, problems_of
from hpt_megatron.rewards.by_number import BY_NUMBER
from hpt_megatron.rewards.component import Sample

RUN = load(["reward=math"]).run
REWARD = RUN.reward
THOUGHT = "<think>because</think> "


def of(number, **changes):
    """A run whose reward names the components that it has."""
    success = (SuccessConfig(component="score", op=">", value=0.5),)
    reward = replace(REWARD, reward_impl_version=number, **changes)
    return replace(RUN, reward=reward, algorithm=replace(RUN.algorithm, success=success))


def totals(number, *turns, gold=r"\frac{1}{2}"):
    composition = composition_of(of(number))
    return [composition.score(Sample(turns=(turn,), golds=(gold,))).total for turn in turns]


# right, right in other words, wrong, right without thinking, right in text alone
ANSWERS = (
    THOUGHT + r"\boxed{\frac{1}{2}}",
    THOUGHT + r"\boxed{0.5}",
    THOUGHT + r"\boxed{0.6}",
    r"\boxed{\frac{1}{2}}",
    THOUGHT + "The answer is $0.5$",
)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, [1, 1, 0, 0, 0]),
        (1, [1, 1, -0.5, -1, -1]),
        (2, [1, 1, 0, 1, 0]),
        (3, [1, 1, 0, 0, 1]),
        (4, [1, 1, 0, 1, 1]),
        (5, [1, 1, 0, 1, 1]),
        (6, [1, 1, 0, 1, 0]),
    ],
)
def test_the_numbers_of_the_released_code(number, expected):
    assert totals(number, *ANSWERS) == expected
    scored = composition_of(of(number)).score(Sample(turns=(ANSWERS[0],), golds=("1/2", r"\frac{1}{2}")))
    assert (scored.success, scored.components["accuracy"]) == (True, 1.0)


def test_five_has_a_tolerance_and_six_has_sets():
    assert totals(5, r"\boxed{3.1416}", gold="3.14159") == [1.0]
    assert totals(0, THOUGHT + r"\boxed{3.1416}", gold="3.14159") == [0.0]
    assert totals(6, r"\boxed{\{2,1\}}", gold=r"\{1,2\}") == [1.0]


FOUND = {"retrieved": ("d/2", "d/1"), "reference": ("d/1",)}


def test_seven_is_the_retrieval_reward_with_constants_of_the_run():
    assert composition_of(of(7)) == RETRIEVAL
    changed = replace(REWARD.weights, format=0.5, ndcg=0.25)
    other = composition_of(of(7, weights=changed))
    found = other.score(Sample(turns=("<answer>4</answer>",), **FOUND))
    assert found.total == pytest.approx(0.5 + 0.25 * 0.6309, abs=1e-4)
    assert found.success
    assert other.score(Sample(turns=("<answer>4</answer>",), reference=("d/1",))).success is False


def test_eight_and_nine_mix_the_answer_with_the_pages():
    answered = Sample(turns=("<answer>red fox</answer>",), answer="red fox", golds=("red fox",), **FOUND)
    assert composition_of(of(8)).score(answered).total == pytest.approx(0.7 + 0.1 + 0.2 * 0.6309, abs=1e-4)
    assert composition_of(of(8)).score(replace(answered, turns=("red fox",))).total == 0.0
    searched = replace(answered, turns=("<search_complete>true</search_complete>",))
    assert composition_of(of(9)).score(searched).total == pytest.approx(0.8 + 0.2 * 0.6309, abs=1e-4)
    gated = of(9, weights=replace(REWARD.weights, format=0.1))
    assert composition_of(gated).score(replace(searched, turns=("no",))).total == 0.0


def test_an_unknown_number_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no such reward number: 12; one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        composition_of(of(12))


USE = """
from hpt_megatron.config.load import load
from hpt_megatron.rewards.build import build_scorer
from hpt_megatron.rewards.component import Sample
vowels = "algorithm.success=[{component: vowels, op: '>=', value: 1}]"
loaded = load(["reward=math", "reward.reward_impl_version=100", vowels])
assert loaded.ok, loaded.problems
with build_scorer(loaded.run) as scorer:
    rows = scorer.score([Sample(turns=("aei",)), Sample(turns=("xyz",))])
    print([row.total for row in rows], len(scorer.workers.ids))
print([p.right for p in load(["reward=math", "reward.reward_impl_version=101"]).problems if "reward_impl" in p.path])
"""


@pytest.mark.slow
def test_number_100_of_another_package_scores_in_a_process_without_a_change_here(with_plugin):
    """The page's example as it stands there."""
    page = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Vowels" in block)
    entry_points = (
        "[hpt_megatron.reward_numbers]\n100 = vowel_reward:mine\n[hpt_megatron.rewards]\nvowels = vowel_reward:Vowels\n"
    )
    scores, names = with_plugin("vowel_reward", example, entry_points, USE).splitlines()
    assert scores == "[0.75, 0.0] 2"
    assert "found: 100" in names


def test_a_file_comes_before_a_preset_and_a_preset_before_the_number(tmp_path):
    file = tmp_path / "reward.json"
    file.write_text(json.dumps({"components": [{"name": "f1"}]}))
    assert [part.name for part in composition_of(of(6, file=str(file))).parts] == ["f1"]
    geometry = composition_of(of(6, preset="geometry3k"))
    right = geometry.score(Sample(turns=(ANSWERS[1],), golds=("0.5",)))
    assert (right.total, right.success) == (1.0, True)
    assert geometry.score(Sample(turns=(ANSWERS[3],), golds=("0.5",))).total == 0.9
    assert geometry.score(Sample(turns=(ANSWERS[2],), golds=("0.5",))).total == 0.1
    assert [str(number) for number in range(10)] == BY_NUMBER.names()[:10]


@pytest.mark.parametrize("choice", ["math", "rag", "vrag", "geometry3k"])
def test_every_choice_of_the_group_makes_a_composition(choice):
    loaded = load([f"reward={choice}"])
    assert loaded.ok, loaded.problems
    assert composition_of(loaded.run).parts


def test_what_cannot_work_is_refused_before_the_first_sample(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"reward\.judge\.url"):
        build_scorer(of(9))
    here = replace(REWARD.judge, url="http://127.0.0.1:1/", token_env="NO_SUCH_TOKEN")
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    with pytest.raises(UserError, match="export NO_SUCH_TOKEN"):
        build_scorer(of(9, judge=here))
    code = Path(tmp_path, "code.json")
    code.write_text(json.dumps({"components": [{"name": "code"}]}))
    with pytest.raises(UserError, match=r"reward\.run_code"):
        build_scorer(of(6, file=str(code)))
    with build_scorer(of(6, file=str(code), run_code=True)) as scorer:
        assert scorer.workers is None
    tools = Path(tmp_path, "tools.json")
    tools.write_text(json.dumps({"components": [{"name": "tool_use", "settings": {"right": "code"}}]}))
    with pytest.raises(UserError, match="no component 'code' says what is right"):
        build_scorer(of(6, file=str(tools)))


def test_the_runs_weight_of_a_modality_multiplies_any_reward_and_a_files_own(tmp_path):
    words = ["reward.modality_weights.image=0.5"]
    shown = Sample(turns=("<answer>4</answer>",), retrieved=("d/1",), reference=("d/1",), modality="image")
    told = replace(shown, modality="text")
    by_number = composition_of(load(["reward=rag", *words]).run)
    assert (by_number.score(shown).total, by_number.score(told).total) == (0.5, 1.0)
    file = tmp_path / "own.json"
    file.write_text('{"components": [{"name": "format", "weight": 1.0}], "modality": {"image": 0.5, "search": 3.0}}')
    own = composition_of(load([f"reward.file={file}", *words]).run)
    assert dict(own.modality) == {"image": 0.25, "search": 3.0}


def test_what_looks_at_actions_knows_the_runs_further_tools(tmp_path):
    run = replace(of(7), rollout=replace(RUN.rollout, tools=("calculator",)))
    turns = ("<calculator>1 + 1</calculator>", "<answer>4</answer>")
    assert composition_of(run).score(Sample(turns=turns, **FOUND)).gated == ()
    assert composition_of(of(7)).score(Sample(turns=turns, **FOUND)).gated == ("format",)
    own = tmp_path / "own.json"
    own.write_text(
        '{"components": [{"name": "tool_use"}, {"name": "format", "settings": {"tools": ["ruler"]}}]}', encoding="utf-8"
    )
    by_file = composition_of(replace(run, reward=replace(REWARD, file=str(own))))
    assert [part.component.tools for part in by_file.parts] == [("calculator",), ("ruler",)]


def test_a_program_may_take_its_time_before_the_scorer_gives_a_sample_up(tmp_path):
    file = tmp_path / "code.json"
    part = {"name": "code", "settings": {"seconds": 300.0}}
    file.write_text(json.dumps({"components": [part, {**part, "as": "again"}]}))
    with build_scorer(of(6, file=str(file), run_code=True)) as scorer:
        assert scorer.seconds > 600


def test_a_validated_run_has_a_reward_that_can_be_scored(tmp_path):
    def said(words, text):
        file = tmp_path / "own.json"
        file.write_text(text, encoding="utf-8")
        return [(problem.path, problem.why) for problem in problems_of(load([f"reward.file={file}", *words]).run)]

    assert said([], '{"components": [{"name": "math", "as": "accuracy"}]}') == []
    ((path, why),) = said([], '{"components": [{"name": "maths"}]}')
    assert (path, "no such component" in why) == ("reward.file", True)
    assert said([], '{"components": [{"name": "f1"}]}') == [("algorithm.success", "no such component in the reward")]
    assert said([], '{"components": [{"name": "llm_judge", "as": "accuracy"}]}')[0][0] == "reward.judge.url"
    assert said([], '{"components": [{"name": "code", "as": "accuracy"}]}')[0][0] == "reward.run_code"
    assert said(["reward.run_code=true"], '{"components": [{"name": "code", "as": "accuracy"}]}') == []
