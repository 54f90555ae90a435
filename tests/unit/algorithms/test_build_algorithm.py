"""From configuration to the parts: names agree with what is registered, and every key reaches its part."""

from dataclasses import replace

import pytest
import torch

from hpt_megatron.algorithms import build
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS
from hpt_megatron.algorithms.objective.kl import KL_ESTIMATORS
from hpt_megatron.algorithms.objective.part import COMPONENTS, View
from hpt_megatron.algorithms.objective.reshape import RESHAPES
from hpt_megatron.algorithms.outcome import success_rule
from hpt_megatron.algorithms.routing.build import build_strategy, route_step
from hpt_megatron.algorithms.routing.decision import Outcome
from hpt_megatron.algorithms.target import make_target
from hpt_megatron.config import algorithm as names
from hpt_megatron.config.files import groups
from hpt_megatron.config.load import load, load_run
from hpt_megatron.protocol.conditions import Condition
from hpt_megatron.protocol.rows import Rows


def algorithm(*overrides):
    return load_run(list(overrides)).algorithm


def group(scores, demo=False):
    """One group of one-token rows, with a demonstration last where asked."""
    count = len(scores) + demo
    off = torch.tensor([False] * len(scores) + [True] * demo)
    return Rows(
        torch.ones(count, dtype=torch.int64),
        {"trained": torch.ones_like(off), "off": off, "reward": torch.tensor([*scores, *[1.0] * demo])},
        {"prompt": torch.zeros(count, dtype=torch.int64), "off": off, "valid": torch.ones_like(off)},
    )


def test_the_names_of_the_configuration_are_those_that_are_registered():
    assert set(ESTIMATORS.names()) == set(names.ADV_ESTIMATORS)
    assert set(RESHAPES.names()) == set(names.RESHAPES)
    assert {*KL_ESTIMATORS.names(), "full"} == set(names.KL_ESTIMATORS)
    policies = {kind for kind in COMPONENTS.names() if COMPONENTS.get(kind)().name == "rl"}
    assert policies == set(names.POLICY_LOSSES)


def test_credit_is_estimated_then_whitened_then_weighed():
    rows = group([1.0, 0.0, 0.0, 1.0], demo=True)
    plain = build.credit(rows, algorithm()).advantage
    assert plain.tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, 0.5])
    with_demo = build.credit(rows, algorithm("algorithm.adv_include_demo=true")).advantage
    assert with_demo.tolist() == pytest.approx([0.4, -0.6, -0.6, 0.4, 0.4])
    weighed = build.credit(rows, algorithm("algorithm.prefix_reward_weight_alpha=0.5")).advantage
    assert weighed.tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, 0.25])
    white = build.credit(group([1.0, 0.0, 0.0, 1.0]), algorithm("algorithm.whiten_advantages=true")).advantage
    assert white.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white.std().item() == pytest.approx(1.0, abs=1e-6)


def test_a_score_that_is_no_number_moves_no_statistic_and_gets_nothing():
    for broken in (float("nan"), float("inf")):
        advantage = build.credit(group([1.0, broken, 0.0]), algorithm("algorithm.whiten_advantages=true")).advantage
        assert torch.isfinite(advantage).all()
        assert advantage[1] == 0
    assert build.credit(group([1.0, float("nan"), 0.0]), algorithm()).advantage.tolist() == [0.5, 0.0, -0.5]


def test_the_weights_follow_the_normalisation_and_the_critic_learns():
    rows = group([1.0, 0.0]).with_fields(mix_on=torch.ones(2), mix_off=torch.zeros(2), mix_sft=torch.zeros(2))
    micro = torch.zeros(2, dtype=torch.int64)

    def weights(*overrides):
        return build.build_weights(rows, algorithm(*overrides), 8, micro, 1)

    assert weights()["rl"].tolist() == [0.5, 0.5]
    assert weights("algorithm.normalize=official")["rl"].tolist() == [0.125, 0.125]
    assert weights("algorithm.normalize=paper")["rl"].tolist() == [0.5, 0.5]
    assert weights("algorithm.adv_estimator=gae", "algorithm.value_coef=0.5")["value"].tolist() == [0.25, 0.25]
    assert weights()["value"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        ((), ["Clip", "Entropy", "Sft", "OffPolicy"]),
        (("algorithm=grpo",), ["Clip", "Entropy"]),
        (("algorithm=luffy",), ["Unclipped", "Entropy", "Sft", "OffPolicy"]),
        (("algorithm=srft",), ["SrftRl", "Entropy", "SrftSft", "OffPolicy"]),
        (("algorithm.adv_estimator=gae",), ["Clip", "Entropy", "Sft", "OffPolicy", "Value"]),
        (
            ("algorithm.use_kl_loss=true", "algorithm.kl_loss_coef=0.1", "algorithm.policy_loss=cispo"),
            ["Cispo", "Entropy", "Sft", "OffPolicy", "Kl"],
        ),
    ],
)
def test_a_run_trains_with_the_components_that_it_asks_for(overrides, kinds):
    components = build.build_components(algorithm(*overrides))
    assert [type(component).__name__ for component in components] == kinds


def test_the_clips_of_the_configuration_are_those_of_the_loss():
    """A ratio of 1.25 with credit: inside a clip of 0.3, held by one of 0.2; a correction halves a weight of 2."""
    old, new = torch.zeros(1), torch.full((1,), 0.2231435, requires_grad=True)

    def gradient(*overrides):
        loss = build.build_components(algorithm(*overrides))[0]
        columns = {"old_logp": old, "rollout_logp": old - 0.6931472, "credit": torch.ones(1)}
        part = loss(View.of_rows(new, torch.ones(1), torch.zeros(1, dtype=torch.int64), **columns))
        return torch.autograd.grad(part.loss, new)[0].item()

    assert gradient() == 0.0
    assert gradient("algorithm.clip_ratio_high=0.3") == pytest.approx(-1.25, abs=1e-5)
    assert gradient("algorithm.policy_loss=none") == pytest.approx(-1.25, abs=1e-5)
    held = ("algorithm.policy_loss=none", "algorithm.correction.kind=tis", "algorithm.correction.high=1.0")
    assert gradient("algorithm.policy_loss=none", "algorithm.correction.kind=tis") == pytest.approx(-2.5, abs=1e-5)
    assert gradient(*held) == pytest.approx(-1.25, abs=1e-5)


def test_scores_are_scaled_by_the_keys_over_the_rollouts_that_count(tmp_path):
    """Global: (s - 1) / 0.5; then batch over the two sampled rollouts that are valid numbers; length; bounds."""
    statistics = tmp_path / "rewards.json"
    statistics.write_text('{"mean": 1.0, "std": 0.5, "count": 10}')
    rows = Rows.from_lists(
        {"trained": [[True] * 2, [True, False], [True], [True], [True]]},
        prompt=[0] * 5,
        score=[2.0, 0.0, float("nan"), 9.0, 7.0],
        valid=[True, True, True, True, True],
        off=[False, False, False, True, False],
        greedy=[False, False, False, False, True],
    )

    def scores(*overrides):
        keys = [f"algorithm.reward_scale.{override}" for override in overrides]
        scaled, metrics = build.scale_scores(rows, build.build_reward_scale(algorithm(*keys)))
        return [scaled.fields["score"][i].item() for i in (0, 1, 3, 4)], metrics

    assert scores() == ([2.0, 0.0, 9.0, 7.0], {})
    assert scores(f"statistics={statistics}")[0] == pytest.approx([2.0, -2.0, 16.0, 12.0])
    assert scores("batch=true")[0] == pytest.approx([0.7071068, -0.7071068, 5.6568542, 4.2426407])
    assert scores("length=true")[0] == [1.0, 0.0, 9.0, 7.0]
    assert scores("r_max=1.5")[0] == [1.5, 0.0, 1.5, 1.5]
    assert scores("r_min=0.5", "r_max=8")[0] == [2.0, 0.5, 8.0, 7.0]
    every, metrics = scores(f"statistics={statistics}", "batch=true", "length=true", "r_min=-0.5")
    assert every == pytest.approx([0.3535534, -0.5, 5.6568542, 4.2426407])
    assert metrics["reward_scale/clip_fraction"] == 0.5


def test_the_settings_of_srft_reach_both_of_its_parts():
    rl, _, imitation, _ = build.build_components(algorithm("algorithm=srft"))
    assert (rl.form, rl.scale, rl.clip_low, rl.clip_high, rl.negative_floor) == ("paper", 0.1, None, None, -10.0)
    assert imitation.scale == 0.5
    keys = ("type=minus_old", "on_scale=0.2", "sft_scale=0.25", "clip=true", "negative_floor=null")
    chosen = algorithm("algorithm=srft", *(f"algorithm.srft.{key}" for key in keys))
    rl, _, imitation, _ = build.build_components(chosen)
    assert (rl.form, rl.scale, rl.clip_low, rl.clip_high) == ("minus_old", 0.2, 0.2, 0.2)
    assert rl.negative_floor == -float("inf")
    assert imitation.scale == 0.25


def test_targets_are_cut_as_the_run_says_at_its_lengths():
    """Four tokens and an end where three fit; the released cut adds the end and loses a token."""

    def made(*overrides):
        run = load_run(["data.max_prefix_len=3", "data.max_response_length=4", *overrides])
        rules = build.build_target_rules(run.algorithm, run.data, eos=2, pad=0)
        return make_target([5, 6, 7, 8], rules), make_target([5, 6, 0], rules).ids

    assert made() == (None, (5, 6, 2))
    assert made("algorithm.target_cut=truncate")[0].ids == (5, 6, 7)
    assert made("algorithm=official")[0].ids == (5, 6, 7, 2)


def test_prefix_tokens_get_their_fixed_advantage_where_it_is_asked_for():
    """The engine serves no partial target yet, so validation refuses n_prefix=-1; the function is ready for it."""
    rows = group([1.0, 0.0], demo=True)
    earned = build.credit(rows, algorithm())
    assert build.credit_prefixes(rows, earned, algorithm(), samples=2) is earned
    asked = replace(algorithm(), use_sft_prefix_reward=True, sft_prefix_reward_weight=3.0, n_prefix=-1)
    assert build.credit_prefixes(rows, earned, asked, samples=2).advantage.tolist() == [0.5, -0.5, 1.5]


def test_controller_gates_prefix_and_overlong_take_their_keys():
    kl = algorithm("algorithm.kl_ctrl.type=ppo_rule", "algorithm.kl_ctrl.kl_coef=0.1", "algorithm.kl_ctrl.high=0.15")
    controller = build.build_controller(kl)
    controller.observe(100.0, 1)
    assert controller.coefficient == 0.15, "doubled, and held at its bound"
    gates = build.build_gates(algorithm("algorithm=dapo"))
    assert [gate.name for gate in gates] == ["minimum_valid", "success_rate", "mixed"]
    overlong = build.build_overlong(algorithm("algorithm=dapo"), 32)
    assert (overlong.max_length, overlong.buffer, overlong.factor) == (32, 6, 1.0)
    assert build.build_overlong(algorithm(), 32) is None
    prefix = build.build_prefix(algorithm("algorithm=luffy"), seed=3)
    assert (prefix.n_prefix, prefix.min_ratio, prefix.max_ratio, prefix.seed) == (1, 1.0, 1.0, 3)
    refill = build.build_refill(algorithm("algorithm=dapo"), wanted=4, most_at_once=8)
    assert (refill.settings.max_rounds, refill.to_draw()) == (10, 4)
    estimator = build.kl_estimator(algorithm("algorithm.kl_ctrl.estimator=k2"))
    assert estimator(torch.tensor([-1.0]), torch.tensor([-2.0])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("choice", groups()["algorithm"])
def test_every_algorithm_file_builds_all_of_its_parts(choice):
    chosen = algorithm(f"algorithm={choice}")
    assert build.build_components(chosen)
    assert build.build_gates(chosen)
    assert build.build_controller(chosen).coefficient == chosen.kl_ctrl.kl_coef
    assert build.build_prefix(chosen, 1).n_prefix == chosen.n_prefix


@pytest.mark.slow
def test_demonstrations_count_in_the_groups_statistics_in_three_presets_alone():
    """No experiment but theirs turns it on, and a preset of ours that is added later has to be named here."""
    counting = [name for name in groups()["algorithm"] if algorithm(f"algorithm={name}").adv_include_demo]
    assert sorted(counting) == ["luffy", "official", "srft"]
    counting = [name for name in groups()["experiment"] if algorithm(f"experiment={name}").adv_include_demo]
    assert sorted(counting) == ["tiny-luffy", "tiny-srft"]


@pytest.mark.parametrize(
    ("choice", "weights"),
    [
        ("sft", (1.0, 1.0)),
        ("off_policy", (0.1, 0.4)),  # pi A, with A = 1
        ("off_sft", (1.0, 1.0)),  # below the gate; between the gates it is as off_policy
        ("switch_off_sft", (1.1, 1.4)),
        ("srft", (0.2839396, 0.5839396)),  # 0.5 exp(-1), and pi A beside it
    ],
)
def test_every_choice_for_demonstrations_trains_them_as_its_name_says(choice, weights):
    """The gradient weights of a demonstration's tokens of probability 0.1 and 0.4, of a row of entropy 1."""
    chosen = algorithm(f"algorithm.offline_loss_type={choice}")
    decision = route_step(chosen, build_strategy(chosen), [Outcome(8, 0)], 0).decisions[0]
    logp = torch.tensor([0.1, 0.4], dtype=torch.float64).log().requires_grad_()
    stored = {"credit": torch.ones(2), "accept": torch.ones(2), "target_logp": torch.zeros(2), "entropy": torch.ones(2)}
    total = torch.zeros((), dtype=torch.float64)
    for component in build.build_components(chosen):
        if component.name in ("off", "sft"):
            weight = torch.full((2,), getattr(decision.mix, component.name), dtype=torch.float64)
            total = total + component(View.of_rows(logp, weight, torch.zeros(2, dtype=torch.int64), **stored)).loss
    assert (-torch.autograd.grad(total, logp)[0]).tolist() == pytest.approx(weights)


def test_an_unknown_choice_for_demonstrations_lists_the_known():
    problem = next(p for p in load(["algorithm.offline_loss_type=dpo"]).problems if "offline" in p.path)
    assert all(choice in problem.right for choice in ("sft", "off_policy", "off_sft", "switch_off_sft", "srft", "none"))


def test_a_success_is_full_accuracy_by_default_and_a_score_above_a_tenth_under_reward_7():
    assert success_rule(algorithm()) == [Condition("accuracy", ">=", 1.0)]
    assert success_rule(algorithm("reward=rag")) == [Condition("score", ">", 0.1)]
