"""The engine as whoever drives it sees it: requests, masks, versions, ends, sleep, and the replicas of it.

Real vLLM on the tiny model, beside transformers. Not covered: the memory that sleeping gives back, which no device here
has to give.
"""

import os
import signal
from dataclasses import replace

import pytest
from prompts import prompt_of

from hpt_megatron.config.load import load_run
from hpt_megatron.errors import HptError
from hpt_megatron.rollout.engine.colocated import shared_devices
from hpt_megatron.rollout.engine.replicas import Replicas
from hpt_megatron.rollout.engine.role import EngineDiedError, Prompt, Sampling

pytestmark = pytest.mark.slow
TEXT = Prompt((5, 6, 7, 8, 9))
GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
LONG = Sampling(temperature=1, max_tokens=900, ignore_eos=True, seed=1)


@pytest.fixture(scope="module")
def served(shared_engine):
    return shared_engine


@pytest.fixture(scope="module")
def model(folder):
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    loaded.generation_config.eos_token_id = None
    return loaded


def asked(processor, kind, picture):
    """A prompt as the engine takes it, and what transformers makes of it."""
    text, images = prompt_of(processor, kind), [picture] if kind == "image" else None
    short = tuple(processor.tokenizer(text)["input_ids"])
    return Prompt(short, tuple(images or ())), processor(text=[text], images=images, return_tensors="pt")


def scores(model, inputs, ids, forbidden, temperature):
    """[n] log-probabilities of the given response under transformers, the mask and a temperature."""
    import torch

    whole = dict(inputs)
    whole["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    if "mm_token_type_ids" in whole:
        more = torch.zeros(1, len(ids), dtype=whole["mm_token_type_ids"].dtype)
        whole["mm_token_type_ids"] = torch.cat([whole["mm_token_type_ids"], more], 1)
    with torch.no_grad():
        logits = model(**whole).logits[0, -len(ids) - 1 : -1] / temperature
    logits[:, list(forbidden)] = float("-inf")
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_greedy_tokens_are_those_of_transformers_under_the_same_mask(
    served, model, processor, picture, forbidden, kind
):
    prompt, inputs = asked(processor, kind, picture)
    (answer,) = served.generate([prompt], GREEDY)[0]
    held_back = [[token] for token in forbidden]
    options = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.0, "bad_words_ids": held_back}
    expected = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()
    assert list(answer.ids) == expected
    assert answer.logp == pytest.approx(scores(model, inputs, expected, forbidden, 1.0), abs=1e-4)
    assert set(answer.versions) == {"default"}
    assert answer.finish == "length"


def test_several_rollouts_are_one_request_with_log_probs_under_temperature_and_mask(
    served, model, processor, picture, forbidden
):
    prompt, inputs = asked(processor, "image", picture)
    how = Sampling.of_training(served.run.rollout, n=6, max_tokens=10, seed=3)
    answers = served.submit(prompt, how).result()
    assert len({answer.ids for answer in answers}) == 6
    assert not {token for answer in answers for token in answer.ids} & set(forbidden)
    for answer in answers:
        assert answer.logp == pytest.approx(
            scores(model, inputs, answer.ids, forbidden, served.run.rollout.temperature), abs=1e-4
        )


def test_a_seed_gives_the_same_rollouts_and_another_gives_others(served):
    drawn = [
        [each.ids for each in served.generate([TEXT], Sampling(n=2, max_tokens=8, seed=seed, ignore_eos=True))[0]]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_seeded_prompts_that_are_computed_in_pieces_draw_the_same_tokens(served, monkeypatch):
    """Together they are more than the engine takes in a step; alone each is computed at once."""
    trainer = replace(served.run.trainer, deterministic=True)  # so that they begin together
    monkeypatch.setattr(served, "run", replace(served.run, trainer=trainer))
    prompts = [Prompt(tuple(300 + (place * (each + 3)) % 90 for place in range(500))) for each in range(6)]
    how = Sampling(max_tokens=4, seed=11, ignore_eos=True)
    together = served.generate(prompts, how)
    alone = [served.generate([prompt], how)[0] for prompt in prompts]
    assert [one.ids for (one,) in together] == [one.ids for (one,) in alone]


def test_validation_is_drawn_its_own_way(served):
    run = load_run(["rollout.n_val=3", "rollout.val_temperature=0.5", "rollout.val_top_p=0.9", "rollout.top_k=7"])
    drawn = served.generate([TEXT], Sampling.of_validation(run.rollout, max_tokens=6))[0]
    assert len(drawn) == 3
    greedy = load_run([]).rollout
    assert greedy.val_temperature == 0
    (alone,) = served.generate([TEXT], Sampling.of_validation(greedy, max_tokens=6))[0]
    assert alone.ids == served.generate([TEXT], GREEDY)[0][0].ids[: len(alone.ids)]


def test_it_goes_on_from_the_start_of_a_response(served):
    """What the prefix strategies ask for: the rest of a greedy response is the rest of it."""
    (whole,) = served.generate([TEXT], GREEDY)[0]
    (rest,) = served.generate([TEXT.continued(whole.ids[:5])], Sampling(temperature=0, max_tokens=7, ignore_eos=True))[
        0
    ]
    assert rest.ids == whole.ids[5:]
    assert rest.logp == pytest.approx(whole.logp[5:], abs=1e-4)


def test_it_stops_at_an_id_that_ends_a_response_and_keeps_it(served):
    (whole,) = served.generate([TEXT], GREEDY)[0]
    end = whole.ids[4]
    (cut,) = served.generate([TEXT], Sampling(temperature=0, max_tokens=12, stop_ids=(end,), ignore_eos=True))[0]
    assert cut.ids == whole.ids[: whole.ids.index(end) + 1]
    assert cut.finish == "stop"


def test_an_aborted_response_is_answered_as_far_as_it_came(served):
    waiting = [served.submit(TEXT, LONG) for _ in range(3)]
    served.generate([TEXT], GREEDY)  # so the others have begun
    served.abort()
    for answer in (each.result(timeout=60)[0] for each in waiting):
        assert answer.finish == "abort"
        assert 0 < len(answer.ids) == len(answer.logp) < 900


def test_a_request_that_cannot_be_is_refused_in_a_line_and_harms_no_other(served):
    good = served.submit(TEXT, GREEDY)
    with pytest.raises(HptError, match=r"refuses a request: .*1024"):
        served.generate([Prompt(tuple([5] * 2000))], GREEDY)
    assert len(good.result()[0].ids) == 12
    assert served.healthy()


def test_the_cache_is_measured_and_its_size_logged(folder, served, caplog):
    """What is logged at the start is what is told here; the shared engine has started before."""
    assert served.cache_tokens >= 1024
    with caplog.at_level("INFO", "hpt_megatron.rollout.engine.vllm_engine"):
        served.tell_cache()
    assert (
        f"cache for {served.cache_tokens} tokens, {served.cache_tokens / 1024:.1f} rows of the longest" in caplog.text
    )


def test_a_deterministic_turn_gives_the_same_bits_every_time(served, processor, picture):
    """Responses of different lengths, so the batch changes all the time."""
    loose = served.run
    prompts = [asked(processor, "image", picture)[0], TEXT, Prompt((7, 7, 7)), Prompt(tuple(range(130, 190)))]
    how = Sampling(n=2, temperature=1, max_tokens=24, seed=5, stop_ids=tuple(range(128, 160)))
    try:
        served.run = replace(loose, trainer=replace(loose.trainer, deterministic=True))
        first, second = served.generate(prompts, how), served.generate(prompts, how)
    finally:
        served.run = loose
    assert first == second
    assert len({len(answer.ids) for each in first for answer in each}) > 1


def test_asleep_it_refuses_and_awake_it_says_what_it_said(served):
    before = served.generate([TEXT], GREEDY)
    served.sleep()
    with pytest.raises(HptError, match="it sleeps"):
        served.submit(TEXT, GREEDY)
    with pytest.raises(HptError, match="weights sleep"), served.paused("x"):
        pass
    with pytest.raises(HptError, match="weights before the cache"):
        served.wake("cache")
    served.wake("weights")
    with pytest.raises(HptError, match="it sleeps"):
        served.submit(TEXT, GREEDY)
    served.wake("cache")
    assert served.generate([TEXT], GREEDY) == before


class Recorded:
    """Writes down what is asked of a part, and asks it."""

    def __init__(self, part, calls):
        self.part, self.calls = part, calls

    def __getattr__(self, name):
        def asked(*arguments, **named):
            self.calls.append(" ".join([name, *map(str, arguments), *(f"{k}={v}" for k, v in named.items())]))
            return getattr(self.part, name)(*arguments, **named) if self.part is not None else None

        return asked


def test_devices_are_shared_in_the_order_that_fits_them(served):
    """The engine is real; a trainer of several processes is `test_publishing.py`'s."""
    calls = []
    engine, trainer = Recorded(served, calls), Recorded(None, calls)
    served.sleep()
    with shared_devices(trainer, engine, lambda: calls.append("publish")):
        calls.append("generate")
        served.generate([TEXT], GREEDY)
    with pytest.raises(RuntimeError, match="lost"), shared_devices(trainer, engine, lambda: None):
        raise RuntimeError("lost")
    step = ["offload weights=False", "wake weights", "publish", "offload", "wake cache", "generate", "sleep", "onload"]
    assert calls == step + [call for call in step if call not in ("publish", "generate")]
    served.wake("weights")
    served.wake("cache")


def test_a_key_stays_with_its_replica_and_what_has_none_goes_where_least_is_outstanding(served):
    """Two replicas that are one engine: what is looked at is who was asked."""
    calls = [[], []]
    replicas = Replicas([Recorded(served, each) for each in calls], revive=None)
    order = (("a", 1), ("b", 3), ("a", 1), ("", 1), ("b", 1), ("c", 1))
    waiting = [replicas.submit(TEXT, Sampling(n=n, max_tokens=900, ignore_eos=True), key) for key, n in order]
    asked = [[call for call in each if call.startswith("submit")] for each in calls]
    assert [[call.rpartition(" ")[2] for call in each] for each in asked] == [["a", "a", "", "c"], ["b", "b"]]
    served.abort()
    assert [len(each.result(timeout=60)) for each in waiting] == [n for _, n in order]


def kill(engine):
    """SIGKILL to the process in which the engine computes."""
    (process,) = engine._engine.engine_core.resources.engine_manager.processes
    os.kill(process.pid, signal.SIGKILL)


def test_replicas_that_die_again_and_again_are_given_up(served):
    def revive(engine):
        tried.append(engine)
        raise HptError("no trainer")

    tried, replicas = [], Replicas([served], revive, patience=3)
    kill(served)
    with pytest.raises(EngineDiedError, match="no replica is left"):
        replicas.submit(TEXT, LONG).result(timeout=60)
    assert tried == [served, served]
    assert not replicas.healthy()
