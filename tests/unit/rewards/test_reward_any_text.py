"""Every component over random and hostile text: no exception, no score out of bounds, no long wait; the examples."""

import doctest
import importlib
import pkgutil
import random
import time

import pytest

from hpt_megatron import rewards
from hpt_megatron.rewards import composition_file, text  # noqa: F401  (all components by name)
from hpt_megatron.rewards.code_answers import program
from hpt_megatron.rewards.component import COMPONENTS, Sample, place_of
from hpt_megatron.rewards.judge import messages, verdict
from hpt_megatron.rewards.math_text import after_thinking, boxed, is_word, spelled, stated, too_heavy
from hpt_megatron.rewards.turns import final_answer, first_action

pytestmark = pytest.mark.fast

SETTINGS = {
    "accuracy": {"correct_keywords": ("yes", "\uc815\ud655")},
    "repetition": {"n": 2},
    "tool_use": {"free": 0, "price": 0.25},
    "quality": {"quality_keywords": ("good",), "negative_keywords": ("a", "\x00")},
    "unified": {"accuracy_weight": 0.5, "length_weight": 0.25, "quality_weight": 0.25, "correct_keywords": ("yes",)},
}
# What computes on an answer runs in a process (below), and code not at all unless it is asked for.
HERE = [name for name in COMPONENTS.names() if name != "code" and place_of(COMPONENTS.get(name)()) == "here"]
BELOW_ZERO = {"length", "overlong", "repetition", "quality", "tool_use", "unified"}
PIECES = [
    *("<think>", "</think>", "<search>", "</search>", "<bbox>", "</bbox>", "<answer>", "</answer>"),
    *("<search_complete>", "</search_complete>", "<", ">", "</", "[", "1,2,3,4", "]", "true", "\\boxed{", "}"),
    *("9^9^9", "1e308", "-", ".", "/0", "0", "%", "A", "(B)", "yes", "The answer is C", "x" * 50, "../", ".png"),
    *("\x00", "\ud800", "\u202e", "\ufdfa", "\u0301", "\U0001f600", "\n", " ", "\t", "\u2044", "\u2212", "\u0661"),
]
# Rarer, so that what is well formed still comes up.
HOSTILE = [
    *("<think><think>", "</answer></answer>", "<answer><answer>", "9" * 300, "\\boxed{\\boxed{", "9^{9^{9}}", "10000!"),
    *(
        "\\frac",
        "\\text{ cm}",
        "\\sqrt2",
        "^\\circ",
        "$",
        "x=",
        ",000",
        "<judge>True</judge>",
        "<|im_end|>",
        "```python\n",
    ),
    *("\x1b[31m", "\x7f", "\u2028", "\ufeff", "\u200b", "\uff11", "\u0660", "\r", "<\x00answer>", "{" * 60),
]


def drawn(draw):
    return "".join(draw.choices(PIECES if draw.random() < 0.9 else HOSTILE)[0] for _ in range(draw.randrange(12)))


def several(draw, most):
    return tuple(drawn(draw) for _ in range(draw.randrange(most)))


def random_sample(draw):
    answer = None if draw.random() < 0.1 else drawn(draw)
    lists = {name: several(draw, 4) for name in ("golds", "choices", "retrieved", "reference")}
    return Sample(turns=several(draw, 4), answer=answer, tokens=draw.randrange(5000), **lists)


def test_thousands_of_samples_raise_nothing_and_stay_in_bounds():
    draw = random.Random(13)
    components = {name: COMPONENTS.get(name)(**SETTINGS.get(name, {})) for name in HERE}
    assert len(components) >= 17
    seen = {name: set() for name in components}
    for _ in range(3_000):
        sample = random_sample(draw)
        for name, component in components.items():
            score = component.score(sample).score
            assert (-1.0 if name in BELOW_ZERO else 0.0) <= score <= 1.0, (name, sample)
            seen[name].add(score)
    # A component that always says the same was not tried.
    assert {name for name, scores in seen.items() if len(scores) < 2} == set()


def test_thousands_of_texts_go_through_every_parser():
    draw = random.Random(12)
    seen = set()
    for _ in range(3_000):
        turn = drawn(draw)
        action, inside = first_action(turn), boxed(turn)
        assert inside is None or inside in turn
        assert spelled(spelled(turn)) == spelled(turn), turn
        assert not is_word(turn) or spelled(turn).replace(" ", "").replace("-", "").replace("'", "").isalpha()
        assert program(turn) in turn
        assert action is None or final_answer([turn]) == (action.body if action.name == "answer" else None)
        said = messages(Sample(turns=(), question=turn, golds=(turn,)), turn)[1]["content"]
        assert verdict(said) is None, turn  # whatever it repeats, an answer is no verdict
        seen |= {too_heavy(turn), type(stated(turn)), type(after_thinking(turn)), type(inside), action and action.name}
    # None of the looks always says the same.
    assert seen >= {None, "tower", "digits", "factorial", "too_deep", type(None), str, "search", "answer", "bbox"}


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "piece", ["<search>", "<answer></search>", "9", "1,234", " ", "answer ", "a ", "(", "-.", "[", "yesyes", "\u0301a"]
)
def test_long_hostile_text_is_done_in_time(name, piece):
    """Below 1 s of processor time where it grows as it should; minutes where it grows with the square."""
    long = piece * (20_000 // len(piece))
    golds = (long[:-1] + "z", "1", "A")
    sample = Sample(turns=(long, f"<answer>{long}"), answer=long, golds=golds, choices=("1", long, "B"), tokens=9)
    sample_of_pages = Sample(turns=(long,), retrieved=(long,) * 20, reference=(long, "1"))
    component = COMPONENTS.get(name)(**SETTINGS.get(name, {}))
    start = time.process_time()
    component.score(sample)
    component.score(sample_of_pages)
    assert time.process_time() - start < 30


def test_text_measures_are_symmetric_and_full_for_equal_texts():
    draw = random.Random(5)
    for _ in range(2_000):
        a, b = drawn(draw), drawn(draw)
        assert text.f1(a, b) == text.f1(b, a)
        assert text.same(a, b) == text.same(b, a)
        assert text.anls(a, b, 0.5) == text.anls(b, a, 0.5)
        assert text.f1(a, a) == text.anls(a, a, 0.5) == float(text.same(a, a)) == 1.0


ELSEWHERE = {"workers", "mathematics", "math_equality"}  # in test_reward_workers.py: they start a process, or compute
EXAMPLES = sorted({module.name for module in pkgutil.iter_modules(rewards.__path__)} - ELSEWHERE)


BELOW = ["protocol.conditions", "protocol.overlong", "protocol.pages", "config.presets", "config.address"]


@pytest.mark.parametrize("name", [*(f"rewards.{name}" for name in EXAMPLES), *BELOW])
def test_the_examples_hold(name):
    result = doctest.testmod(importlib.import_module(f"hpt_megatron.{name}"))
    assert (result.failed, result.attempted > 0) == (0, True)
