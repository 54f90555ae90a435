"""Where the released code does something odd, what ours does: the rows of `docs/oddities.md`, by their numbers.

Here stand the tests of oddities that have none elsewhere; the page names the others. Not covered: parts that have not
landed, which the page calls open.
"""

import ast
import re
from functools import cache
from math import isfinite
from pathlib import Path

import pytest
import torch

from hpt_megatron.algorithms.assemble import assemble
from hpt_megatron.algorithms.build import build_components
from hpt_megatron.algorithms.credit.estimator import ESTIMATORS, CreditSettings
from hpt_megatron.algorithms.normalize.streams import STREAMS, Coefficients, coefficients, streams
from hpt_megatron.algorithms.normalize.weights import global_weights, official_weights, paper_weights
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.policy import Clip
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.algorithms.outcome import batch_metrics, count, success_rule, successes
from hpt_megatron.algorithms.routing.build import build_strategy, route_step
from hpt_megatron.algorithms.routing.decision import IMITATE, OFF_POLICY, Outcome
from hpt_megatron.algorithms.target import TargetRules, make_targets
from hpt_megatron.config.load import KEYS, load, load_run
from hpt_megatron.protocol.rows import Rows

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "oddities.md"
ODDITIES = 48


def algorithm(*overrides):
    return load_run(list(overrides)).algorithm


def refused(*overrides):
    """The problems of a run, as `path: why`."""
    return [f"{problem.path}: {problem.why}" for problem in load(list(overrides)).problems]


def rows_of(prompts, samples, ids, off):
    """Rows whose first token is the prompt's, and the others trained."""
    lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
    off = torch.tensor(off, dtype=torch.bool)
    made = Rows(
        lengths,
        {"ids": torch.tensor([token for row in ids for token in row], dtype=torch.int64)},
        {
            "prompt": torch.tensor(prompts, dtype=torch.int64),
            "sample": torch.tensor(samples, dtype=torch.int64),
            "off": off,
            "valid": torch.ones(len(ids), dtype=torch.bool),
        },
    )
    trained = made.position > 0
    return made.with_tokens(trained=trained, off=made.per_token(off) & trained)


def rollouts(successes_of, n, length=3):
    """n rollouts for every prompt, of which the first k succeed."""
    pairs = [(prompt, sample) for prompt in range(len(successes_of)) for sample in range(n)]
    made = rows_of([p for p, _ in pairs], [s for _, s in pairs], [[1] * length] * len(pairs), [False] * len(pairs))
    return made, torch.tensor([sample < successes_of[prompt] for prompt, sample in pairs], dtype=torch.bool)


def targets(prompts, length=4):
    """One target for every prompt, its tokens 100 times the prompt's number."""
    count_ = len(prompts)
    return rows_of(prompts, [0] * count_, [[1] + [100 * p] * (length - 1) for p in prompts], [True] * count_)


def step(algorithm_, successes_of, n, demonstrations=None):
    """The rows of a step whose prompts have so many successes of n, and the decisions behind them."""
    outcomes = [Outcome(n, k, prompt=str(p)) for p, k in enumerate(successes_of)]
    routing = route_step(algorithm_, build_strategy(algorithm_), outcomes, 0)
    sampled, success = rollouts(successes_of, n)
    shown = targets(range(len(successes_of))) if demonstrations is None else demonstrations
    return assemble(sampled, shown, routing.decisions, success).rows, routing.decisions


def filler(rows, length=2):
    """A row that fills a rank up: nothing of it is trained."""
    fields = {name: torch.zeros_like(column[:1]) for name, column in rows.fields.items()}
    tokens = {name: torch.zeros(length, dtype=column.dtype) for name, column in rows.tokens.items()}
    return Rows(torch.tensor([length]), tokens, {**fields, "prompt": torch.tensor([10**6])})


def test_01_all_rollouts_of_a_prompt_that_imitates_go_whatever_their_number():
    """The 8 of the released code acts as a yes. Here nothing is set for it, and none of 3, 5 or 12 rollouts stays."""
    for n in (3, 5, 12):
        rows, decisions = step(algorithm(), [0, 1], n)
        assert [decision.drop for decision in decisions] == [n, 0]
        assert rows.fields["prompt"].tolist() == [0] + [1] * n


def test_01_a_removal_number_below_n_leaves_the_other_rollouts():
    rows, decisions = step(algorithm("algorithm.on_remove_num=3"), [0], 8)
    assert decisions[0].drop == 3
    assert int((~rows.fields["off"]).sum()) == 5


def test_02_an_unknown_strategy_is_refused_and_the_default_is_one_that_exists():
    assert refused("algorithm.unify_strategy=balance") == ["algorithm.unify_strategy: no such name"]
    assert algorithm().unify_strategy == "switch"


def test_03_which_loss_a_demonstration_gets_survives_joining_padding_and_reordering():
    """Gates 0 and 2: the prompt with 0 successes imitates, that with 2 learns off-policy, that with 3 explores."""
    rows, _ = step(algorithm("algorithm.switch_gate_off=2"), [0, 2, 3], 4)
    moved = Rows.concat([rows, filler(rows)])
    moved = moved.select(torch.arange(moved.num_rows).flip(0))
    raw = streams(moved, Coefficients(off=0.5))
    prompt = moved.per_token(moved.fields["prompt"])
    for name, of_prompt, weight in (("sft", 0, 1.0), ("off", 1, 0.5), ("rl", 2, 1.0)):
        used = raw[name] != 0
        assert set(prompt[used].tolist()) == {of_prompt}
        assert set(raw[name][used].tolist()) == {weight}


def test_04_off_sft_imitates_below_the_gate_and_learns_off_policy_between_the_gates():
    """In the released code it becomes plain imitation in silence. So does ours where no arm lies between the gates."""
    between = algorithm("algorithm.offline_loss_type=off_sft", "algorithm.switch_gate_off=2")
    decisions = step(between, [0, 1, 2, 3], 8)[1]
    assert [decision.arm for decision in decisions] == ["imitate", "off_policy", "off_policy", "explore"]
    assert [decision.mix for decision in decisions[:3]] == [IMITATE, OFF_POLICY, OFF_POLICY]
    assert {"sft", "off"} <= {component.name for component in build_components(between)}


def test_08_soft_weights_belong_to_rows_and_any_number_of_rows_can_be_filled_up():
    """3 prompts of 7 rollouts make 23 rows: no multiple of 8, as the one more row makes it."""
    soft = algorithm("algorithm=soft")
    rows, decisions = step(soft, [0, 2, 3], 7)
    assert [(d.mix.on, d.mix.off, d.mix.sft) for d in decisions] == [(0, 0, 1), (0.25, 1, 0.25), (0.5, 0.5, 0.125)]
    assert rows.num_rows == 1 + 8 + 8
    filled = Rows.concat([rows, filler(rows)])
    settings = coefficients(soft, longest_response=3)
    alone, padded = global_weights(rows, settings), global_weights(filled, settings)
    for name in STREAMS:
        assert torch.equal(padded[name][: rows.num_tokens], alone[name])
        assert not padded[name][rows.num_tokens :].any()


def test_09_the_number_of_ranks_comes_from_the_devices():
    """The released code pads to multiples of 8. Here 4, 12 and 16 devices give 1, 3 and 4 ranks at tp 4."""
    for devices, dp in ((4, 1), (12, 3), (16, 4)):
        loaded = load(["experiment=hpt-7b", f"trainer.n_gpus_per_node={devices}"])
        assert (loaded.run.layout.tp, loaded.run.dp) == (4, dp)
        rows, _ = step(algorithm(), [0, 3], 8)
        weights = official_weights(rows, Coefficients(length=3), torch.zeros(rows.num_rows, dtype=torch.int64), dp)
        assert weights["rl"].max().item() == pytest.approx(1 / (3 * dp))
        assert weights["sft"].max().item() == pytest.approx(1 / (3 * dp))


def test_10_fifty_five_prompts_that_explore_fill_eight_ranks_alike():
    """128 prompts, 8 rollouts: 513 rows, at which the released ranks make different numbers of mini-batches. Here 7
    fillers stay in, every rank has 65 rows, and the loss is the sum over ranks. Not covered: the loop that deals them.
    """
    rows, _ = step(algorithm(), [1] * 55 + [0] * 73, 8)
    assert rows.num_rows == 513
    filled = Rows.concat([rows, *[filler(rows)] * 7])
    weights = global_weights(filled, Coefficients())
    filled = filled.with_tokens(**{f"weight_{name}": weight for name, weight in weights.items()})
    alone = global_weights(rows, Coefficients())
    of_rank = [filled.select(torch.arange(rank, filled.num_rows, 8)) for rank in range(8)]
    assert [part.num_rows for part in of_rank] == [65] * 8
    for name, expected in (("rl", 1.0), ("sft", 1.0)):
        over_ranks = sum(float(part.tokens[f"weight_{name}"].double().sum()) for part in of_rank)
        assert over_ranks == pytest.approx(float(alone[name].double().sum()))
        assert over_ranks == pytest.approx(expected)


def test_14_a_batch_of_only_demonstrations_or_only_rollouts_has_finite_weights_and_loss():
    for successes_of, used, empty in (([0, 0], "sft", "rl"), ([1, 2], "rl", "sft")):
        rows, _ = step(algorithm(), successes_of, 4)
        together = torch.zeros(rows.num_rows, dtype=torch.int64)
        for weights in (
            global_weights(rows, Coefficients()),
            paper_weights(rows, Coefficients()),
            official_weights(rows, Coefficients(length=3), together, 1),
        ):
            logp = torch.full((rows.num_tokens,), -1.0)
            columns = {"old_logp": logp, "credit": torch.ones_like(logp)}
            loss = {
                "rl": Clip()(View.of_rows(logp, weights["rl"], rows.row_of_token, **columns)).loss.item(),
                "sft": Sft()(View.of_rows(logp, weights["sft"], rows.row_of_token)).loss.item(),
            }
            assert loss[empty] == 0.0
            assert loss[used] != 0.0
            assert isfinite(loss[used])


def test_16_and_17_a_prompt_that_imitates_keeps_its_reward_under_every_group_estimator():
    """With the released grpo_split one such prompt ends the run; with std its grpo divides a zero spread by 1e-6."""
    rows, _ = step(algorithm(), [0, 2], 4)
    last = rows.starts + rows.lengths - 1
    score = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    rows = rows.with_tokens(reward=torch.zeros(rows.num_tokens).index_put((last,), score))
    for name in ("grpo", "grpo_split"):
        for use_std in (False, True):
            credit = ESTIMATORS.get(name)(rows, CreditSettings(use_std=use_std)).advantage[last]
            scale = 1 / 0.5773503 if use_std else 1.0
            assert credit.tolist() == pytest.approx([1.0, *[0.5 * scale] * 2, *[-0.5 * scale] * 2], rel=1e-5)


def test_19_in_a_row_that_goes_on_from_a_demonstration_each_token_has_the_weight_of_its_kind():
    row = rows_of([0], [0], [[1, 7, 7, 8, 8]], [False])
    row = row.with_tokens(off=torch.tensor([False, True, True, False, False]))
    row = row.with_fields(mix_on=torch.ones(1), mix_off=torch.zeros(1), mix_sft=torch.ones(1))
    raw = streams(row, Coefficients(sft=0.3))
    assert raw["sft"].tolist() == pytest.approx([0.0, 0.3, 0.3, 0.0, 0.0])
    assert raw["rl"].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_20_and_21_an_empty_or_dropped_target_leaves_its_prompt_to_its_rollouts_or_out():
    """Three prompts without a success: a target, a target of padding, one that is too long. Both losses are counted."""
    made, counts = make_targets([[5, 6], [0, 0, 0], [7] * 9], TargetRules(eos=2, pad=0, limit=4))
    assert counts == {"targets": 1, "targets_empty": 1, "targets_dropped": 1, "targets_cut": 0}
    outcomes = [Outcome(4, 0, has_target=target is not None) for target in made]
    sampled, success = rollouts([0, 0, 0], 4)
    left = {}
    for choice in ("keep", "drop"):
        wanted = algorithm(f"algorithm.without_target={choice}")
        routing = route_step(wanted, build_strategy(wanted), outcomes, 0)
        assert routing.without_target == 2
        rows = assemble(sampled, targets([0]), routing.decisions, success).rows
        left[choice] = list(zip(rows.fields["prompt"].tolist(), rows.fields["off"].tolist(), strict=True))
    assert left["drop"] == [(0, True)]
    assert left["keep"] == [(0, True), *[(1, False)] * 4, *[(2, False)] * 4]


def test_23_one_number_says_how_many_rows_a_prompt_brings():
    """The released mini-batches grow with n, the rollouts with n_verify. Here what is sampled is what divides."""
    given = ["experiment=hpt-7b", "rollout.n=8", "rollout.n_verify=5", "trainer.ppo_mini_batch_size=1"]
    said = {}
    for strategy in ("switch", "no"):
        loaded = load([*given, f"algorithm.unify_strategy={strategy}"])
        about = [problem.why for problem in loaded.problems if problem.path == "trainer.ppo_mini_batch_size"]
        said[strategy] = (loaded.run.rollouts_per_prompt, about)
    assert said["no"] == (8, [])
    assert said["switch"] == (5, ["1 prompts x 5 rollouts = 5 rows, which do not divide by dp 2"])


def test_26_a_step_without_rollouts_or_demonstrations_reports_numbers():
    """Per-component metrics are sums with counts, (0, 0) here, and left to be divided. Not covered: who leaves a
    metric without a count out of the log.
    """
    rows, success = rollouts([], 4)
    assert set(batch_metrics(count(rows, success, 0), rows, success).values()) == {0.0}
    nothing = torch.zeros(0)
    part = Sft()(View.of_rows(nothing, nothing, nothing.long()))
    assert [(total.item(), number.item()) for total, number in part.metrics.values()] == [(0.0, 0.0)]


def test_27_what_is_reported_of_a_step_is_taken_before_its_rows_come_and_go():
    """0, 1, 3 and 8 successes of 8 under gate 2: 0.375 of the rollouts, where the released score says 13 / 18."""
    gate = algorithm("algorithm.switch_gate=2")
    sampled, success = rollouts([0, 1, 3, 8], 8)
    assert batch_metrics(count(sampled, success, 4), sampled, success)["batch/solved"] == 0.375
    rows, _ = step(gate, [0, 1, 3, 8], 8)
    assert rows.num_rows == 18
    one = torch.zeros(1)
    assert "actor/sft_loss" in Sft()(View.of_rows(one, one + 1, one.long())).metrics


def test_28_a_success_has_a_threshold_and_graded_rewards_need_no_table():
    components = {"score": torch.tensor([0.0, 0.1, 0.11, 1.0, -0.5, -1.0, 1.5])}
    rule = success_rule(algorithm("algorithm.success=[{component: score, op: '>', value: 0.1}]"))
    assert successes(components, rule).tolist() == [False, False, True, True, False, False, True]
    rule = success_rule(algorithm("algorithm.success=[{component: score, op: '>=', value: 1.0}]"))
    assert successes(components, rule).tolist() == [False, False, False, True, False, False, True]


def test_31_a_demonstration_belongs_to_the_prompt_it_was_written_for_in_any_order():
    """The released extra demonstrations take another prompt's group and answer."""
    rows, _ = step(algorithm(), [0, 4, 0, 0], 4, demonstrations=targets([3, 0, 2, 1]))
    shown = rows.select(rows.fields["off"])
    assert shown.fields["prompt"].tolist() == [0, 2, 3]
    assert shown.tokens["ids"][shown.tokens["off"]].tolist() == [0] * 3 + [200] * 3 + [300] * 3


@pytest.mark.parametrize("key", ["off_policy_normalize", "off_policy_cliprange", "off_abs_cliprange"])
def test_34_a_setting_that_nothing_reads_is_refused(key):
    (said,) = refused(f"actor_rollout_ref.actor.{key}=1")
    assert said.startswith(f"actor_rollout_ref.actor.{key}: no")


def test_35_the_sequence_form_is_refused_where_the_released_arithmetic_is_asked_for():
    given = ["algorithm.offline_loss_type=off_policy", "algorithm.off_policy_loss_impl=seq"]
    assert refused(*given) == []
    (said,) = refused(*given, "algorithm.normalize=official")
    assert said.startswith("algorithm.off_policy_loss_impl: the released code's sequence form cannot run")


def test_43_rejection_by_accuracy_is_a_gate_on_groups_and_its_old_key_is_refused():
    """Not covered here: the gates and the refill themselves."""
    assert refused("trainer.acc_rebatch=true") == ["trainer.acc_rebatch: no such key"]
    groups = algorithm("algorithm.groups.success_low=0.1", "algorithm.groups.max_rounds=3").groups
    assert (groups.success_low, groups.max_rounds) == (0.1, 3)


def test_45_and_48_nothing_stops_in_a_debugger_and_only_the_command_line_prints():
    wrong = []
    for path in sorted((ROOT / "hpt_megatron").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name == "breakpoint" or (name == "print" and "cli" not in path.parts):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not wrong, "\n".join(wrong)


@cache
def names_in(path: Path) -> set[str]:
    """Top-level names of a Python file, and `Class.member`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for owner in (node, *(node.body if isinstance(node, ast.ClassDef) else ())):
            prefix = "" if owner is node else f"{node.name}."
            if isinstance(owner, (ast.FunctionDef, ast.ClassDef)):
                found.add(prefix + owner.name)
            elif isinstance(owner, ast.AnnAssign) and isinstance(owner.target, ast.Name):
                found.add(prefix + owner.target.id)
            elif isinstance(owner, ast.Assign):
                found |= {prefix + target.id for target in owner.targets if isinstance(target, ast.Name)}
    return found


def table():
    """Rows of the page's first table: number, the released code, here, symbol, test."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if re.match(r"\| \d+ \|", line)]


def test_the_page_has_every_oddity_once_with_a_test_or_what_it_waits_for():
    rows = table()
    assert [int(row[0]) for row in rows] == list(range(1, ODDITIES + 1))
    assert {len(row) for row in rows} == {5}
    for number, released, here, symbol, test in rows:
        assert released, number
        assert here, number
        assert ("::test_" in test and ":" in symbol) or "open: with the" in test, number


@pytest.mark.slow
def test_everything_the_page_names_exists_and_every_test_here_is_on_it():
    """Options too, with the values given. Not covered: whether a sentence is true of the symbol that it names."""
    text = PAGE.read_text(encoding="utf-8")
    references = re.findall(r"`((?:hpt_megatron|tests|configs)/[\w./-]+)(?:::?([\w.]+))?`", text)
    assert len(references) > 60
    wrong = [
        f"{path}:{symbol}"
        for path, symbol in references
        if not (ROOT / path).exists() or (symbol and symbol not in names_in(ROOT / path))
    ]
    assert not wrong, "\n".join(wrong)
    own = {name for name in names_in(Path(__file__)) if re.match(r"test_\d", name)}
    assert own <= {symbol for _, symbol in references}
    for option in sorted(set(re.findall(r"`((?:algorithm|rollout|data|trainer)\.[\w.]+(?:=[^`]*)?)`", text))):
        key, _, value = option.partition("=")
        assert key in KEYS, option
        assert not value or load([option]).ok, option
