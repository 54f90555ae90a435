"""Weights from a trainer at tp 2 x pp 2 into real engines: what they generate, what they hold, what they refuse.

The engines start from other weights than the trainer's, so nothing here is right by chance. Not covered: engines on
GPUs, and trainers on other hosts (the copies of `sent` go through the loopback address here).
"""

import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from prompts import prompt_of
from trainers import FailedError, Trainers

from hpt_megatron.config.load import load_run
from hpt_megatron.embedded.folder import write_tiny
from hpt_megatron.errors import HptError
from hpt_megatron.rollout.engine.publish import meeting, publish, together, verify
from hpt_megatron.rollout.engine.replicas import Replicas
from hpt_megatron.rollout.engine.role import Prompt, Sampling
from hpt_megatron.rollout.engine.vllm_engine import VllmEngine
from hpt_megatron.rollout.engine.weight_sync import Transport, WeightSync
from hpt_megatron.weights.plan.cost import cost
from hpt_megatron.weights.plan.publish import ALL, TRAINED, plans_of_run

pytestmark = pytest.mark.slow
NEW_TOKENS = 8
ENGINE = ("rollout.max_num_seqs=4", "rollout.max_images=1")
GREEDY = Sampling(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
FROZEN = "trainer.freeze=[visual.*,model.layers.0.*]"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("publishing")


@pytest.fixture(scope="module")
def runs(base):
    """A run per size of the engine; all have one trainer."""
    trained = str(write_tiny(base / "trained", seed=1))
    given = [f"model.path={trained}", "layout.tp=2", "layout.pp=2", "trainer.n_gpus_per_node=4", FROZEN, *ENGINE]
    return {
        "tp 1": load_run(given),
        "tp 2": load_run([*given, "rollout.tensor_parallel_size=2"]),
        "tp 2, tower cut": load_run([*given, "rollout.tensor_parallel_size=2", "rollout.mm_encoder_tp_mode=weights"]),
    }


@pytest.fixture(scope="module")
def trainers(runs, base):
    started = Trainers(runs["tp 1"], 4, base)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def served(runs, folder):
    """The engine of tp 1, which most of the tests talk to."""
    engine = VllmEngine(runs["tp 1"], folder)
    engine.start()
    yield engine
    engine.stop()


def meet(trainers, engine, run, **how):
    """A session of the trainer with one engine."""
    session, told = meeting(run, 1, **{"timeout_s": 60, **how})
    try:
        together(lambda: trainers.call("meet", session, run.rollout), [lambda: engine.meet(told[0])])
    except BaseException:
        session.close()
        raise
    return session


def give(trainers, engine, which, version):
    return publish([engine], lambda which: trainers.call("send", which), which, version)


def check(trainers, engine, run):
    """What the engine computes with is what the trainer holds, tensor by tensor."""
    layout = plans_of_run(run, 1)[ALL].target
    trained = {}
    for said in trainers.call("digests", layout):
        trained |= said
    verify(engine, layout, trained)
    return trained


def same_tokens(trainers, engine, run, processor, picture):
    """The engine's greedy tokens, of text and of an image, are the trainer's most likely ones."""
    import torch

    from hpt_megatron.protocol.batch import Batch, Images
    from hpt_megatron.protocol.rows import Rows

    asked = {kind: prompt_of(processor, kind) for kind in ("text", "image")}
    short = {kind: tuple(processor.tokenizer(text)["input_ids"]) for kind, text in asked.items()}
    long = {
        "text": list(short["text"]),
        "image": processor(text=[asked["image"]], images=[picture])["input_ids"][0],
    }
    prompts = [Prompt(short["text"]), Prompt(short["image"], (picture,))]
    answers = [each[0] for each in engine.generate(prompts, GREEDY)]
    assert len({answer.ids for answer in answers}) == 2
    rows = [[*long[kind], *answer.ids] for kind, answer in zip(("text", "image"), answers, strict=True)]
    seen = processor.image_processor(images=[picture], return_tensors="pt")
    batch = Batch(
        Rows.from_lists({"ids": rows}, sample=[0, 1]),
        Images(seen["image_grid_thw"], seen["pixel_values"], torch.zeros(1)),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([0, 1]),
    )
    best = {}
    for said in trainers.call("greedy", batch):
        for samples, lengths, tokens in said:
            for sample, length in zip(samples, lengths, strict=True):
                best[sample], tokens = tokens[:length], tokens[length:]
    said = {kind: best[sample][-NEW_TOKENS:] for sample, kind in enumerate(("text", "image"))}
    assert said == {kind: list(answer.ids) for kind, answer in zip(("text", "image"), answers, strict=True)}
    return answers


def test_the_engine_says_what_the_trainer_would_and_which_version_said_it(trainers, served, runs, processor, picture):
    run = runs["tp 1"]
    before = served.generate([Prompt((5, 6, 7))], GREEDY)[0][0]
    assert set(before.versions) == {"default"}
    session = meet(trainers, served, run)
    plans = plans_of_run(run, 1)
    for version, which in (("1", ALL), ("2", TRAINED)):
        sent = give(trainers, served, which, version)
        assert served.version == version
        check(trainers, served, run)
        answers = same_tokens(trainers, served, run, processor, picture)
        assert {version} == {each for answer in answers for each in answer.versions}
        links = cost(plans[which]).links
        assert {(rank, target): size for rank, each in enumerate(sent) for target, size in each.items()} == links
        trainers.call("change", int(version), "layers.1.")
    assert sum(cost(plans[TRAINED]).links.values()) < 0.9 * sum(cost(plans[ALL]).links.values())
    taken = Counter({source: size for (source, _), size in (cost(plans[ALL]).links + links).items()})
    assert served.ask("hpt_counted") == [taken], "the engine counts the bytes of the plan too"
    assert served.generate([Prompt((5, 6, 7))], GREEDY)[0][0].logp != before.logp
    session.close()


def test_a_difference_is_found_and_named(trainers, served, runs):
    run = runs["tp 1"]
    session = meet(trainers, served, run)
    give(trainers, served, ALL, "3")
    check(trainers, served, run)
    trainers.call("change", 9, "layers.1.self_attention.linear_proj")
    with pytest.raises(HptError, match=r"1 parts are not .*: model\.layers\.1\.self_attn\.o_proj\.weight\[0:128\]"):
        check(trainers, served, run)
    give(trainers, served, TRAINED, "4")
    check(trainers, served, run)
    session.close()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["some", "every"])
def test_cut_off_at_any_tensor_it_refuses_until_everything_has_come(trainers, served, runs, every):
    """Each rank fails at each of its tensors in turn; after each, everything comes and is compared.

    In the suite the first rank does at nine of them, others at their first, middle and last one: all take minutes.
    """
    run = runs["tp 1"]
    served.whole = True
    rows = [range(1)] * 4
    done = 0
    for rank in range(4):
        row = 0
        while row < len(rows[rank]):
            session, told = meeting(run, 1, timeout_s=60)
            counts = together(partial(trainers.call, "meet", session, run.rollout), [partial(served.meet, told[0])])
            rows = [range(count) for count in counts]
            trainers.call("change", 1000 * rank + row)
            asked = [("send_until", row, ALL) if each == rank else ("send", ALL) for each in range(4)]
            with pytest.raises(FailedError, match="cut off"):
                publish([served], lambda _, asked=asked: trainers.each(asked), ALL, "mixture")
            session.close()
            with pytest.raises(HptError, match="its weights are a mixture"):
                served.generate([Prompt((5, 6, 7))], GREEDY)
            session = meet(trainers, served, run)
            give(trainers, served, TRAINED, f"{rank}.{row}")  # everything comes, whatever was asked
            check(trainers, served, run)
            session.close()
            row += 1 if every else max(1, (len(rows[rank]) - 1) // (8 if rank == 0 else 2))
            done += 1
    assert all(len(each) > 10 for each in rows)
    assert done >= (sum(map(len, rows)) if every else 9 + 9)
    assert served.generate([Prompt((5, 6, 7))], GREEDY)[0][0].versions[0].startswith("3.")


class AsOne:
    """The processes as the role that publishing talks to."""

    def __init__(self, trainers, run):
        self.trainers, self.run = trainers, run

    def meet(self, session):
        self.trainers.call("meet", session, self.run.rollout)

    def send(self, which):
        return self.trainers.call("send", which)

    def digests(self, layout):
        return {name: told for said in self.trainers.call("digests", layout) for name, told in said.items()}


def versions(answers):
    return {each for answer in answers for each in answer.versions}


def replaced(sync, served, late):
    """The second of two is killed while it generates: it comes back at the current version, and nothing is lost."""
    revived = threading.Event()

    def revive(engine):
        engine.restart()
        sync.join(engine)
        revived.set()

    replicas = Replicas([served, late], revive, lost=sync.leave)
    long = Sampling(temperature=1, max_tokens=400, ignore_eos=True, seed=1)
    waiting = [replicas.submit(Prompt((5, 6, 7)), long, key) for key in ("a", "b")]
    late.generate([Prompt((5, 6, 7))], GREEDY)  # so it is at work
    (process,) = late._engine.engine_core.resources.engine_manager.processes
    os.kill(process.pid, signal.SIGKILL)
    answers = [each.result(timeout=300)[0] for each in waiting]
    assert [len(answer.ids) for answer in answers] == [400, 400]
    assert versions(answers) == {"a5"}
    assert revived.wait(300)
    assert sync.engines == [served, late]
    assert late.version == "a5"


def test_a_replica_that_comes_late_has_the_current_version_before_its_first_request(
    trainers, served, runs, folder, processor, picture
):
    """Two engines of one session then take the same bytes; one that was interrupted gets everything again."""
    run = replace(runs["tp 1"], rollout=replace(runs["tp 1"].rollout, verify_every=1))
    late = VllmEngine(run, folder)
    sync = WeightSync(run, AsOne(trainers, run), [served], Transport(timeout_s=60))
    with pytest.raises(HptError, match="nothing has been published yet"):
        sync.join(late)
    try:
        alone = [sync.publish("a1"), sync.publish("a2")]
        assert [each.which for each in alone] == [ALL, TRAINED]
        late.start()
        trainers.call("change", 11, "layers.1.")
        sync.publish("a3")
        sync.join(late)
        answers = same_tokens(trainers, late, run, processor, picture)
        assert versions(answers) == {"a3"}
        trainers.call("change", 12)
        both = [sync.publish("a4"), sync.publish("a5")]
        assert [each.which for each in both] == [ALL, TRAINED], "the late one has it all, and nobody has to know"
        assert [each.bytes for each in both] == [2 * each.bytes for each in alone]
        assert all(each.verified for each in both)
        assert versions(same_tokens(trainers, late, run, processor, picture)) == {"a5"}
        assert served.version == "a5"
        replaced(sync, served, late)
        assert versions(same_tokens(trainers, late, run, processor, picture)) == {"a5"}
        sync.leave(late)
        assert sync.publish("a6").which == ALL
        assert (served.version, late.version) == ("a6", "a5")
    finally:
        sync.close()
        late.stop()


@pytest.mark.parametrize("name", ["tp 2", "tp 2, tower cut"])
def test_two_ranks_take_their_own_slices_over_the_network(name, trainers, runs, folder, processor, picture):
    """What the loaders of either rank do was held against the plan when it met the trainer."""
    run = runs[name]
    trainers.call("change", 77)
    engine = VllmEngine(run, folder)
    sync = WeightSync(run, AsOne(trainers, run), [engine], Transport("sent", timeout_s=120))
    try:
        engine.start()
        for version, which in (("n1", ALL), ("n2", TRAINED)):
            done = sync.publish(version)
            assert (done.which, done.bytes) == (which, cost(plans_of_run(run, 1)[which]).total)
        assert versions(same_tokens(trainers, engine, run, processor, picture)) == {"n2"}
        sync.verify()
    finally:
        sync.close()
        engine.stop()


def test_an_engine_and_a_plan_that_differ_never_start(trainers, served, runs):
    """The trainer is not asked at all: the engine looks at its own loaders first."""
    run = runs["tp 1"]
    session, (told,) = meeting(run, 1, timeout_s=5)
    name, _, parts = next(one for one in told["by_rank"][0]["held"] if one[0].endswith("qkv_proj.weight"))
    parts[0][3], parts[1][3] = parts[1][3], parts[0][3]
    with pytest.raises(Exception, match=f"loaders and the plan disagree: {name}"):
        served.meet(told)
    session.close()
    session, (told,) = meeting(run, 1, timeout_s=5)
    taken = told["by_rank"][0]["crates"][ALL][1]["taken"][0]
    *taken["landings"], last = taken["landings"]
    name = last["parameter"]
    with pytest.raises(Exception, match=f"leaves rows unwritten: {name}"):
        served.meet(told)
    session.close()
    session, (told,) = meeting(run, 1, timeout_s=5)
    with pytest.raises(Exception, match=r"the engine holds torch\.float32 and the trainer sends torch\.bfloat16"):
        served.meet({**told, "dtype": "bfloat16"})
    session.close()
