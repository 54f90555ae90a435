"""Every loss over pairs on real Megatron workers, policy and reference, without an engine; every one learns.

Pairs are those of the embedded task: right and short against wrong, or against right and long.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.build import build_sampler, train_prompts, val_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import Prompt, Prompts
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.preference import PreferenceLoop
from hpt_megatron.driver.loop.roles import Roles
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.driver.loop.validation import Validation
from hpt_megatron.observe.step import Step
from hpt_megatron.recipes.files import with_files
from hpt_megatron.rollout.engine.forbidden import forbidden_ids

pytestmark = pytest.mark.slow
GIVEN = ["layout=tp1", "trainer.n_gpus_per_node=1", "trainer.lr=2e-4", "trainer.lr_warmup_steps=0"]
GIVEN.append("trainer.max_grad_norm=null")
STEPS = {"dpo": 15, "ipo": 25, "simpo": 15, "orpo": 15, "kto": 15}


class Parts(NamedTuple):
    """What all tests share; `start` is a checkpoint of the policy before any of them."""

    run: RunConfig
    roles: Roles
    prompts: Prompts
    tested: list[Prompt]
    start: Path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Policy and reference with the same weights, the pairs, and those of validation."""
    from hpt_megatron.driver.ray.start import open_roles

    folder = tmp_path_factory.mktemp("preferences")
    run = with_files(load_run(["experiment=tiny-dpo", f"trainer.run_dir={folder}", *GIVEN]), folder)
    chat, rules = Chat.open(run.model.path), PictureRules.of_folder(run.model.path)
    prompts, tested = train_prompts(run.data, chat, rules), val_prompts(run.data, chat, rules)
    with open_roles(run, forbidden_ids(chat, run.model.vocab_size), folder, generates=False) as roles:
        roles.policy.save(folder / "start", {}, True)
        yield Parts(run, roles, prompts, [tested[name] for name in tested.names][:64], folder / "start")


def loop_of(parts, name, *more):
    base, roles, prompts = parts[:3]
    own = load_run([f"experiment=tiny-{name}", *GIVEN, *more])
    run = replace(own, model=base.model, data=base.data, trainer=replace(own.trainer, run_dir=base.trainer.run_dir))
    return PreferenceLoop(run, roles, Algorithm(run), Supply(prompts, build_sampler(run.data, 7, prompts)))


def stepped(loop, *numbers):
    logs = [Step(number) for number in numbers]
    for log in logs:
        loop.step(log.number, log)
    return [log.metrics() for log in logs]


def test_before_the_first_step_policy_and_reference_are_one_and_every_loss_has_its_known_value(parts):
    """log 2 for dpo, (1 / 2 beta)^2 for ipo, 1/2 for kto; a pair is as good as its other half."""
    known = {"dpo": 0.693147, "ipo": 0.25, "kto": 0.5}
    for name, value in known.items():
        loop = loop_of(parts, name)
        shown = loop.shown_pairs(loop.supply.take(8))
        reference = loop._of_reference(shown.batch)
        batch = shown.batch.with_rows(shown.batch.rows.with_fields(reference=reference))
        ready, told = loop.compared(batch)
        assert told["pairs/loss"] == pytest.approx(value, abs=1e-4), name
        assert told["pairs/accuracy"] == 0.5, "no pair is on one side yet"
        weight = ready.rows.tokens["weight_sft"]
        preferred = batch.rows.per_token(batch.rows.fields["preferred"])
        assert bool((weight[preferred] >= 0).all())
        assert bool((weight[~preferred] <= 0).all())
        assert not bool(weight[~batch.rows.tokens["trained"]].any())


@pytest.mark.parametrize("name", STEPS)
def test_each_loss_learns_the_order_of_pairs_that_it_has_not_seen(parts, name):
    """From the same start, 16 pairs a step; validation is of 64 others."""
    roles, tested = parts.roles, parts.tested
    roles.policy.restore(parts.start)
    loop = loop_of(parts, name)
    validation = Validation(loop.run, loop, [], pairs=tested)
    first = validation(1, Step(1))
    told = stepped(loop, *range(1, 1 + STEPS[name]))
    last = validation(99, Step(99))
    assert all(each["actor/skipped"] == 0 and each["actor/grad_norm"] > 0 for each in told)
    assert told[0]["pairs/count"] == (32 if name == "kto" else 16)
    assert told[0]["actor/loss"] == told[0]["pairs/loss"], "the terminal shows the loss over pairs"
    losses = [each["pairs/loss"] for each in told]
    assert fmean(losses[-4:]) < fmean(losses[:4])
    assert last["val/pairs/accuracy"] >= 0.8 > first["val/pairs/accuracy"]
    assert last["val/pairs/margin"] > first["val/pairs/margin"]


def test_what_was_learned_is_written_down_by_domain_and_what_was_forgotten_is_told(parts):
    base, roles, tested = parts.run, parts.roles, parts.tested
    roles.policy.restore(parts.start)
    loop = loop_of(parts, "dpo")
    validation = Validation(loop.run, loop, [], pairs=tested, base=tested[:8])
    validation.begin()
    first = validation(1, Step(1))
    stepped(loop, *range(1, 16))
    last = validation(26, Step(26))
    assert first["val/forgetting"] == 0.0, "nothing was trained in between"
    assert last["val/forgetting"] == pytest.approx(last["val/base_loss"] - first["val/base_loss"], abs=1e-6)
    assert last["val/pairs/accuracy/long"] > 0.9
    path = Path(base.trainer.run_dir) / "preferences" / "step_26.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["all"]["accuracy"] == last["val/pairs/accuracy"]
    assert sum(written["histogram"]["chosen"]) == written["all"]["pairs"] == len(tested)
    assert {name: each["pairs"] for name, each in written["domains"].items()}.keys() == {"long", "wrong"}
