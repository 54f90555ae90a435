"""The table of `docs/metrics.md` against what a step gives: the loop with its parts, over roles in this process.

The policy here is a table of logits, one for each token and the one before it; what it says goes through the same
components, weights and counts as on the trainer. Not covered: values under names that only some recipes have (a
critic, a reference, a judge); that these names are in the table is read from the source text.
"""

import ast
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpt_megatron.config.load import load_run
from hpt_megatron.data.build import build_sampler
from hpt_megatron.data.prompts import Prompt, Prompts
from hpt_megatron.data.record import Message, Record
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.engines import Engines
from hpt_megatron.driver.loop.learned import Judge
from hpt_megatron.driver.loop.preference import PreferenceLoop
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.roles import Collected, Roles
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.driver.loop.validation import judged_pairs, numbers_of
from hpt_megatron.mcore.model.stage import Said
from hpt_megatron.mcore.packing.pack import build_pack
from hpt_megatron.mcore.packing.sequences import Place
from hpt_megatron.mcore.step.objective import total_loss, weighted_tokens
from hpt_megatron.observe.gpu_monitor import GPUMonitor
from hpt_megatron.observe.journal import Journal, Watchers
from hpt_megatron.observe.monitors import Monitors
from hpt_megatron.observe.pass_rates import Group
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.rows import MASKS, Rows
from hpt_megatron.protocol.step_report import StepReport
from hpt_megatron.rewards.component import Result
from hpt_megatron.rewards.composition import Scored
from hpt_megatron.rewards.habits import habit_metrics, habits_of
from hpt_megatron.rewards.scorer import reward_metrics
from hpt_megatron.rollout.agent.metrics import metrics as agent_metrics
from hpt_megatron.rollout.trajectory import Trajectory

ROOT = Path(__file__).parents[3]
PROMPTS, SAMPLES, WORDS = 4, 4, 12
NOT_OF_A_STEP = ("names.py", "overview.py", "display.py", "joined.py")
"""Names of others, and beginnings of names."""
ASKED = ["data.train_batch_size=4", "trainer.ppo_mini_batch_size=2", f"rollout.n_verify={SAMPLES}", "rollout.n=4"]


class Table:
    """A policy with nothing behind its head."""

    def __init__(self):
        self.table = torch.zeros(WORDS, WORDS, requires_grad=True)

    def said(self, pack):
        logp = self.table.log_softmax(-1)[pack.ids[0][pack.slots]]
        own = logp.gather(1, pack.labels[:, None])[:, 0]
        return Said(logp=own, entropy=-(logp.exp() * logp).sum(-1))

    def log_probs(self, batch):
        trained = batch.rows.tokens["trained"]
        pack = build_pack(batch, trained, Place(1, 1, 0, 0), None, device="cpu")
        return torch.zeros(batch.rows.num_tokens).index_put((pack.token,), self.said(pack).logp.detach())

    def update(self, batch, components):
        pack = build_pack(batch, weighted_tokens(batch.rows.tokens), Place(1, 1, 0, 0), None, device="cpu")
        loss, losses, metrics = total_loss(pack, self.said(pack), components, SimpleNamespace(size=lambda: 1))
        self.table.grad = None
        loss.backward()
        norm = float(self.table.grad.norm())
        with torch.no_grad():
            self.table -= 0.1 * self.table.grad
        means = {name: float(total) / float(count) for name, (total, count) in metrics.items() if float(count)}
        return StepReport({name: float(each) for name, each in losses.items()}, means, norm, 0.1)


def batch_of(prompts, scores, off):
    """Rows of five tokens, as rollouts and demonstrations have them."""
    count = len(prompts)
    mask = [0, 0, 1, 1, 1]
    columns = {"ids": [1, 2, 3, 4 + off, 9], "response": mask, "trained": mask, "off": mask if off else [0] * 5}
    columns |= {"turn": [-1, -1, 1, 1, 1], "logp": [0.0, 0.0, *[0.0 if off else -2.0] * 3]}
    tokens = {name: torch.tensor(column * count) for name, column in columns.items()}
    tokens = {name: column.bool() if name in MASKS else column for name, column in tokens.items()}
    tokens["logp"] = tokens["logp"].float()
    fields = {"prompt": torch.tensor(prompts).long(), "valid": torch.ones(count).bool()}
    fields |= {
        "off": torch.full((count,), off),
        "sample": torch.arange(count) % SAMPLES if not off else -torch.ones(count).long(),
    }
    if not off:
        score = torch.tensor(scores)
        fields |= {"score": score, "reward_accuracy": score, "reward_score": score, "reward_format": score}
        fields["cut"] = torch.zeros(count).bool()
    return Batch.of_text(Rows(torch.full((count,), 5), tokens, fields))


class Sampled:
    """Rollouts: of the first prompt of a step none is right, of the second one is, of the others all are."""

    def collect(self, asked):
        right = [0, 1, SAMPLES, SAMPLES]
        scores = [float(sample < right[place]) for place in asked.places for sample in range(SAMPLES)]
        places = [place for place in asked.places for _ in range(SAMPLES)]
        done = Trajectory(
            uid="p0",
            sample=0,
            ids=(1, 4, 9),
            loss_mask=(0, 1, 1),
            prefix_mask=(0, 0, 0),
            turn_id=(-1, 1, 1),
            rollout_logprobs=(0.0, -2.0, -2.0),
            versions=("", "0", "0"),
            num_prompt=1,
            images=(),
            retrieved=(),
            finish="stop",
        )
        rated = [
            Scored(score, score, {"accuracy": Result(score, flags=("no_answer",))}, bool(score), True)
            for score in scores
        ]
        looks = [habits_of("definitely 4") for _ in rated]
        told = {**agent_metrics([done]), **reward_metrics(rated), "reward/threads_left_behind": 0.0}
        told |= habit_metrics(looks, [not one.success for one in rated])
        return Collected(batch_of(places, scores, False), {}, told)


def step_of(folder, steps=2, *more):
    """Some steps of a run and a validation; answers the lines of its metrics."""
    run = load_run([*ASKED, "trainer.sft_warmup_steps=0", *more])
    records = [Record(index=f"p{place}", prompt=(Message("user", "?"),)) for place in range(PROMPTS)]
    prompts = Prompts({each.index: Prompt(each, (1, 2), (), (3, 5, 9)) for each in records})
    sync = SimpleNamespace(publish=lambda version: SimpleNamespace(bytes=10, seconds=0.1), close=lambda: None)
    engines = Engines(sync, SimpleNamespace(ready=lambda: None))
    teacher = SimpleNamespace(show=lambda records, places: batch_of(list(places), [], True))
    roles = Roles(Table(), teacher, Sampled(), engines)
    loop = RlLoop(run, roles, Algorithm(run), Supply(prompts, build_sampler(run.data, 1, prompts)))
    watch = GPUMonitor()
    journal = Journal(folder, steps, io.StringIO(), Watchers(monitors=Monitors(run), usage=watch))
    journal.begin(0)
    for number in range(1, steps + 1):
        log = journal.open_step(number)
        loop.step(number, log)
        log.end()
        journal.step(log)
    journal.validation(steps, numbers_of([Group("count", (1.0, 0.0), (True, False))], 2))
    lines = (folder / "metrics.jsonl").read_text().splitlines() + (folder / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


PAIRS = [
    *("data.train_batch_size=4", "trainer.ppo_mini_batch_size=2", "trainer.sft_warmup_steps=0"),
    *("algorithm.unify_strategy=no", "algorithm.preference.loss=dpo", "rollout.n=4"),
]


def pairs_of_a_step(folder, *more):
    """Steps over pairs, of the data and of rollouts that a reward model scores, and a validation of pairs."""
    run = load_run([*PAIRS, f"trainer.run_dir={folder}", *more])
    bad = {"rejected": [{"role": "assistant", "content": "no"}], "domain": "odd"}
    right = (Message("assistant", "yes"),)
    records = [Record(index=f"p{place}", prompt=(Message("user", "?"),), target=right, extra=bad) for place in range(4)]
    prompts = Prompts({each.index: Prompt(each, (1, 2), (), (3, 5, 9)) for each in records})
    sync = SimpleNamespace(publish=lambda version: SimpleNamespace(bytes=10, seconds=0.1), close=lambda: None)
    teacher = SimpleNamespace(show=lambda records, places: batch_of(list(places), [], True))
    roles = Roles(Table(), teacher, Sampled(), Engines(sync, SimpleNamespace(ready=lambda: None)), reference=Table())
    loop = PreferenceLoop(run, roles, Algorithm(run), Supply(prompts, build_sampler(run.data, 1, prompts)))
    scoring = SimpleNamespace(scores=lambda batch: torch.ones(batch.rows.num_rows, 1))
    loop.learned.judges.append(Judge("mine", ("safe",), scoring, (None,)))
    journal = Journal(folder, 1, io.StringIO())
    journal.begin(0)
    log = journal.open_step(1)
    loop.step(1, log)
    log.end()
    journal.step(log)
    journal.validation(1, judged_pairs(loop, [prompts[name] for name in prompts.names], folder, 1))
    lines = [
        *(folder / "metrics.jsonl").read_text().splitlines(),
        *(folder / "validation.jsonl").read_text().splitlines(),
    ]
    return {name: value for line in lines for name, value in json.loads(line).items()}


def table():
    """Names of the page as patterns, with whether a plain step has them."""
    found = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().partition("## Other names")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = not cells[2]
    return found


def pattern(name):
    """NAME and SOURCE may have parts of their own, other words in capitals are one."""
    parts = re.sub(r"NAME|SOURCE", r"[\\w@.:/-]+", name)
    return re.compile(re.sub(r"[A-Z]{3,}|\b[KN]\b", r"[\\w@.:-]+", parts))


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    return step_of(tmp_path_factory.mktemp("run"))


def test_every_number_of_a_step_is_in_the_table_and_every_plain_one_of_the_table_is_in_a_step(lines):
    given = {name for line in lines for name in line} - {"step", "of"}
    patterns = {name: pattern(name) for name in table()}
    unknown = sorted(name for name in given if not any(each.fullmatch(name) for each in patterns.values()))
    assert not unknown, f"not in docs/metrics.md: {unknown}"
    wanted = [name for name, plain in table().items() if plain]
    assert len(wanted) > 70
    lost = [name for name in wanted if not any(patterns[name].fullmatch(each) for each in given)]
    assert not lost, f"in docs/metrics.md and not in a step: {lost}"


def test_a_step_over_pairs_has_the_numbers_of_the_table(tmp_path):
    folders = [tmp_path / name for name in ("files", "rollouts")]
    for folder in folders:
        folder.mkdir()
    constraint = ["reward.constraint.how=lagrange", "reward.constraint.component=accuracy"]
    files = pairs_of_a_step(folders[0])
    rollouts = pairs_of_a_step(folders[1], "algorithm.preference.pairs=rollouts", *constraint)
    patterns = {name: pattern(name) for name in table()}
    given = {*files, *rollouts} - {"step", "of"}
    assert not [name for name in given if not any(each.fullmatch(name) for each in patterns.values())]
    wanted = [name for name in table() if name.startswith(("pairs/", "val/pairs/", "reward/learned/", "constraint/"))]
    wanted = [*({*wanted} - {"pairs/score"}), "reward/disagreement", "reward/best_of_n", "timing_s/STAGE"]
    assert len(wanted) > 18
    lost = [name for name in wanted if not any(patterns[name].fullmatch(each) for each in given)]
    assert not lost, f"in docs/metrics.md and not in a step: {lost}"
    assert {"timing_s/compare", "timing_s/reference"} <= {*files}
    assert "timing_s/reward_models" in rollouts
    assert files["actor/loss"] == files["pairs/loss"] == pytest.approx(0.6931, abs=1e-4), "policy and reference agree"
    assert (files["pairs/count"], files["pairs/without"]) == (4.0, 0.0)
    assert (rollouts["pairs/count"], rollouts["pairs/without"]) == (1.0, 3.0), "one prompt of which one is right"
    assert rollouts["reward/best_of_n"] == pytest.approx(3 / 4 + 1.0), "three are solved, and the model says 1"
    assert (files["val/pairs/accuracy"], files["val/pairs/accuracy/odd"]) == (0.5, 0.5), "both sides are the same rows"


def test_every_name_in_the_source_text_is_in_the_table():
    """Whole names alone; those that are put together are shown by the test above or held to one row here."""
    patterns = [pattern(name) for name in table()]
    groups = "|".join(sorted({name.partition("/")[0] for name in table()}))
    whole = re.compile(rf"(?:{groups})/[\w/@.]+")
    found = set()
    for path in (ROOT / "hpt_megatron").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
        texts = (node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in pieces)
        found |= {(path.name, text) for text in texts if isinstance(text, str) and whole.fullmatch(text)}
    assert len(found) > 80
    unknown = [each for each in found if not any(one.fullmatch(each[1]) for one in patterns)]
    assert not [each for each in unknown if each[0] not in NOT_OF_A_STEP]


def test_the_numbers_of_a_step_agree_with_one_another(lines):
    first, second, _ = lines
    for line in (first, second):
        parts = [value for name, value in line.items() if name.startswith("loss/")]
        assert sum(parts) == pytest.approx(line["actor/loss"])
        assert line["actor/pg_loss"] == pytest.approx(line["loss/rl"] + line["loss/off"])
        assert sum(value for name, value in line.items() if name.startswith("grad_share/")) == pytest.approx(1.0)
        assert line["token_share/rl"] == pytest.approx((4 / 5 + 1) / 2), "four rollouts and a demonstration; eight"
        assert line["token_share/sft"] == pytest.approx((1 / 5 + 0) / 2)
        counts = [line[f"uni/successes/{k}"] for k in range(SAMPLES + 1)]
        assert counts == [1.0, 1.0, 0.0, 0.0, 2.0]
        assert (line["batch/solve_none"], line["batch/solve_all"]) == (1.0, 2.0)
        assert line["batch/solve_none_format"] == 1.0
        assert (line["response_length/mean"], line["prompt_length/mean"]) == (3.0, 2.0)
        assert (line["perf/tokens"], line["global_seqlen/mean"]) == (65.0, 32.5), "two optimizer steps"
        assert (line["on_off_metrics/on_response_length_mean"], line["critic/rewards/max"]) == (3.0, 1.0)
        assert "correction/abs_gap_images" not in line, "no row shows an image"
        assert line["correction/abs_gap_text"] == pytest.approx(line["correction/abs_gap"])
    assert first["entropy/rl"] == pytest.approx(torch.tensor(float(WORDS)).log().item(), rel=0.05)
    assert second["uni/prompts_flipped"] <= PROMPTS


def test_the_loss_is_that_of_rollouts_and_the_weighed_one_of_demonstrations(tmp_path):
    """Recomputed from the log of a step, under the normalisation of the default."""
    more = ["trainer.ppo_mini_batch_size=4", "algorithm.sft_loss_coef=2.5", "algorithm.entropy_coeff=0.01"]
    line = step_of(tmp_path, 1, *more)[0]
    whole = line["actor/pg_loss"] + 2.5 * line["actor/sft_loss"] + line["loss/entropy"]
    assert line["loss/entropy"] < 0
    assert line["actor/loss"] == pytest.approx(whole, abs=1e-5)
