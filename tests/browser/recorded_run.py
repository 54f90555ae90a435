"""A run's folder without a run: written by the product's own writers, of an embedded task, with decisions that the real
strategy makes. Only who answers is made up: rollouts are right by chance, more often as steps go on.
"""

import io
import json
import random
from pathlib import Path

from hpt_megatron.algorithms.routing import record
from hpt_megatron.algorithms.routing.build import build_strategy, route_step
from hpt_megatron.algorithms.routing.decision import IMITATE, Decision, Outcome, Routing
from hpt_megatron.config.load import load_run
from hpt_megatron.data.tasks.make import make
from hpt_megatron.data.tasks.place import task_folder
from hpt_megatron.observe.journal import Journal
from hpt_megatron.observe.record import write_record
from hpt_megatron.observe.step import Step
from hpt_megatron.protocol.step_report import StepReport
from hpt_megatron.rollout.agent.views import View
from hpt_megatron.rollout.trajectory import Builder, TurnNote
from hpt_megatron.rollout.trajectory_file import append

VIEW = View("", (0, 0, 56, 56), (56, 56), (1, 4, 4), None)


def trajectory(uid, sample, text, step, finish="answered"):
    """One of a single turn."""
    builder = Builder(uid, sample)
    builder.prompt([1, 2, 7, 7, 7, 7, 3], [VIEW])
    tokens = max(1, len(text) // 4)
    builder.turn([9] * tokens, [-0.5] * tokens, [str(step - 1)] * tokens)
    builder.notes.append(TurnNote(text, "", num_tokens=tokens, generate_s=0.1))
    return builder.freeze(finish, seconds={"total_s": 0.2})


def searching(uid, sample, query, step):
    """One that searches, sees a page, and answers."""
    builder = Builder(uid, sample)
    builder.prompt([1, 2, 3])
    builder.turn([9] * 6, [-0.5] * 6, [str(step - 1)] * 6)
    builder.notes.append(TurnNote(f"<search>{query}</search>", "search", query, "shown", ("deck/k07",), 6, 0.1, 0.02))
    builder.observe([5, 7, 7, 7, 7, 6], [View("deck/k07", (0, 0, 28, 56), (56, 56), (1, 4, 4), None)], ["deck/k07"])
    builder.turn([9] * 4, [-0.5] * 4, [str(step - 1)] * 4)
    builder.notes.append(TurnNote("<answer>7</answer>", "answer", "7", num_tokens=4, generate_s=0.1))
    return builder.freeze("answered", seconds={"total_s": 0.3})


class Learner:
    """Who answers: a prompt's chance to be right grows with the steps, sooner for some prompts than for others."""

    def __init__(self, seed, speed):
        self.chance, self.speed = random.Random(seed), speed

    def right(self, uid, step):
        hard = random.Random(uid).uniform(0.0, 1.0)
        likely = min(0.95, max(0.0, self.speed * step / 30 - hard * 0.7))
        return self.chance.random() < likely


def write_run(folder: Path, *overrides, steps=30, total=None, seed=0, speed=1.0, prompts=40):
    """Steps of a run; answers its folder. With `total` beyond `steps` it is still going on."""
    batch, warm_up, rollouts = prompts // 4, 4, 8
    given = [f"data.train_batch_size={batch}", f"trainer.sft_warmup_steps={warm_up}", f"rollout.n_verify={rollouts}"]
    run = load_run(
        [
            f"trainer.run_dir={folder}",
            f"trainer.seed={seed}",
            f"trainer.ppo_mini_batch_size={batch}",
            *given,
            *overrides,
        ]
    )
    write_record(run, folder)
    make(run.data.make, task_folder(folder, run.data.make), count=prompts, val_count=8, seed=0)
    journal = Journal(folder, total or steps, io.StringIO())
    journal.begin(0)
    learner, strategy = Learner(seed, speed), build_strategy(run.algorithm)
    for number in range(1, steps + 1):
        chance = random.Random(f"{seed}/{number}")
        taken = chance.sample(range(prompts), batch)
        log = Step(number)
        with log.stage("prepare"):
            pass
        outcomes = []
        for place in taken:
            uid = f"train-{place}"
            if number <= warm_up:
                outcomes.append(Outcome(0, 0, prompt=uid))
                continue
            right = [learner.right(uid, number) for _ in range(rollouts)]
            outcomes.append(Outcome(rollouts, sum(right), prompt=uid))
            write_rollouts(folder, number, uid, right, chance)
        routing = route_step(run.algorithm, strategy, outcomes, number)
        if number <= warm_up:
            routing = Routing([Decision(IMITATE, demo=True, arm="imitate")] * batch)  # as the loop does
        if number > warm_up:
            log.add(numbers_of(outcomes, number, chance))
        log.add(record.metrics(outcomes, routing))
        log.decisions(record.records(number, outcomes, routing))
        imitated = sum(decision.demo for decision in routing.decisions)
        kept = sum(outcome.n - decision.drop for outcome, decision in zip(outcomes, routing.decisions, strict=True))
        log.add({"uni/sft_data_ratio": imitated / max(1, imitated + kept)})
        losses = {"rl": -0.02 * chance.random(), "sft": 2.0 / number}
        log.updates([StepReport(losses, {"actor/ppo_kl": 0.001 * number}, 1.0 + chance.random(), 1e-3)])
        for name, seconds in (("generate", 1.6), ("update", 1.1), ("publish", 0.2), ("balance", 0.05)):
            log.stages[name] = seconds * (0.9 + 0.2 * chance.random())
        for stage, size in (("generate", 1.9e9), ("update", 2.6e9)):
            log.add({f"memory/{stage}/host": size + 4e6 * number, f"util/{stage}/host": 0.9 - 0.1 * chance.random()})
        log.tokens(16 * len(outcomes) * max(1, kept // len(outcomes)))
        log.end()
        log._seconds = sum(log.stages.values()) + 0.3  # a made-up clock, as nothing was computed
        journal.step(log)
        if number % 10 == 0:
            journal.validation(
                number, {"val/avg@1/count": min(0.9, number / 40), "val/pass@1/count": min(0.95, number / 35)}
            )
    return folder


def numbers_of(outcomes, number, chance):
    rate = sum(outcome.k for outcome in outcomes) / sum(outcome.n for outcome in outcomes)
    return {
        "reward/mean": rate,
        "reward/component/accuracy": rate,
        "reward/component/format": min(1.0, rate + 0.2),
        "batch/solved": rate,
        "batch/solve_none": float(sum(outcome.k == 0 for outcome in outcomes)),
        "batch/solve_all": float(sum(outcome.k == outcome.n for outcome in outcomes)),
        "agent/sampled_tokens_mean": 14 + 3 * chance.random(),
        "correction/abs_gap": 0.001 * (1 + chance.random()),
    }


def write_rollouts(folder, step, uid, right, chance):
    path = folder / "rollouts" / f"train_{step}.jsonl"
    done, scores = [], {}
    for sample, is_right in enumerate(right):
        text = f"<think>{chance.randint(0, 4)} {chance.randint(4, 6)} 7</think><answer>{7 if is_right else 3}</answer>"
        done.append(trajectory(uid, sample, text, step))
        score = float(is_right)
        scores[uid, sample] = {"accuracy": score, "format": 1.0, "score": score, "total": score}
    append(path, done, scores, step)


def tear(path: Path):
    """As a writer that is stopped leaves a file."""
    with path.open("a") as file:
        file.write(json.dumps({"step": 999})[:8])
