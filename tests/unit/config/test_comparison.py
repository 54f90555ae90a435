"""A comparison is checked before any of its runs starts: its file, its methods, and every run that they stand for."""

import pytest
import yaml

from hpt_megatron.config.comparison import Comparison, read_comparison
from hpt_megatron.config.files import groups
from hpt_megatron.config.load import load_run
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast
GIVEN = {
    "base": ["experiment=tiny-grpo"],
    "start": ["algorithm=hpt", "trainer.sft_warmup_steps=null"],
    "seeds": [1, 2],
    "metrics": ["val/mean_score"],
    "methods": {"grpo": ["algorithm=grpo"], "soft": ["algorithm=soft", "trainer.lr=2e-4"]},
}


def written(tmp_path, **more):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**GIVEN, **more}))
    return str(file)


def test_the_shipped_one_stands_for_sound_runs_of_all_seven_methods(tmp_path):
    shipped = read_comparison("tiny-compare")
    shipped.check(tmp_path)
    assert sorted(shipped.methods) == ["adaptive", "grpo", "hpt", "luffy", "sft", "sft_grpo", "soft"]
    assert len(shipped.seeds) == 5
    runs = {name: load_run(shipped.run_of(name, 3, tmp_path)) for name in shipped.methods}
    assert {run.trainer.seed for run in runs.values()} == {3}
    assert len({run.trainer.total_training_steps for run in runs.values()}) == 1, "all have as many steps"
    assert {name: run.algorithm.unify_strategy for name, run in runs.items()} == {
        **{"hpt": "switch", "soft": "soft", "adaptive": "adaptive", "sft": "switch"},
        **{"grpo": "no", "sft_grpo": "no", "luffy": "no"},
    }
    assert load_run(shipped.start_of(3, tmp_path)).supervised
    assert "comparison" not in groups(), "it is no group of a run"


def test_the_overrides_of_a_run_are_those_of_all_then_of_its_method(tmp_path):
    one = read_comparison(written(tmp_path))
    run = load_run(one.run_of("soft", 2, tmp_path))
    assert (run.algorithm.unify_strategy, run.trainer.lr, run.trainer.seed) == ("soft", 2e-4, 2)
    assert run.trainer.run_dir == str(tmp_path / "soft" / "seed_2")


def test_every_error_of_every_run_is_told_at_once(tmp_path):
    wrong = {"a": ["trainer.lr=-1"], "b": ["algorithm=grpo"], "c": ["rollout.n=0", "no.such.key=1"]}
    one = read_comparison(written(tmp_path, methods=wrong))
    with pytest.raises(UserError) as caught:
        one.check(tmp_path)
    told = str(caught.value)
    assert all(part in told for part in ("a: error: trainer.lr", "c: error: rollout.n", "c: error: no.such"))
    assert "b: " not in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [True]}, "seeds must be"),
        ({"methods": {}}, "methods must name"),
        ({"methods": {"start": []}}, "a method must have a name"),
        ({"methods": {"../up": []}}, "a method must have a name"),
        ({"methods": {"a": "algorithm=grpo"}}, "methods.a must be a list"),
        ({"base": "x"}, "base must be a list"),
        ({"more": 1}, "and no others"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path, more, told):
    with pytest.raises(UserError, match=told) as caught:
        read_comparison(written(tmp_path, **more))
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there_say_which_are(tmp_path):
    with pytest.raises(UserError, match="one of tiny-compare"):
        read_comparison("tiny-compared")
    with pytest.raises(UserError, match="one of grpo, soft"):
        read_comparison(written(tmp_path)).only(["sft"], [])
    part = read_comparison(written(tmp_path)).only(["soft"], [7])
    assert isinstance(part, Comparison)
    assert (list(part.methods), part.seeds) == (["soft"], (7,))
