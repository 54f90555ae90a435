"""The agent on the real engine: a model that knows nothing, told so turn after turn.

Not covered: a model that searches; tools are played in tests/unit/rollout. The search service is one that nobody asks.
Not the embedded one: its library loads numba into this process, whose modules vLLM stumbles over when it starts there.
"""

import dataclasses
import io

import pytest

from hpt_megatron.config.load import load
from hpt_megatron.data.record import Message, Record, Source
from hpt_megatron.rollout.agent.build import agent_of
from hpt_megatron.rollout.engine.role import Sampling

pytestmark = pytest.mark.slow


def collected(engine, folder, picture, driver):
    """Two prompts, one with an image, three rollouts each; a turn ends with a byte as often as with its real end."""
    run = load(
        [
            *("rollout=vrag", "rollout.search_url=http://127.0.0.1:9/search"),
            *("rollout.agent_prompt=none", "data.image_max_pixels=3136", "data.max_response_length=500"),
            *("rollout.max_turns=2", "rollout.max_model_len=1024", "rollout.max_new_tokens_per_turn=24"),
            f"rollout.agent_driver={driver}",
        ]
    ).run
    file = io.BytesIO()
    picture.save(file, format="PNG")
    seen = Record(index="1", prompt=(Message("user", "<image>count ?"),), images=(Source(data=file.getvalue()),))
    told = Record(index="2", prompt=(Message("user", "value k07 ?"),))
    sampling = dataclasses.replace(Sampling.of_training(run.rollout, 1, 24), stop_ids=tuple(range(128, 256)))
    with agent_of(run, engine, folder) as agent:
        groups = agent.collect([("1", seen), ("2", told)], sampling, 3, step=1)
        return [done for group in groups for done in group], agent.kit.chat


def test_both_drivers_sample_the_same_tokens_over_several_turns(shared_engine, folder, picture, forbidden):
    one, chat = collected(shared_engine, folder, picture, "lockstep")
    two, _ = collected(shared_engine, folder, picture, "async")
    assert [done.ids for done in one] == [done.ids for done in two]
    assert [done.turn_id for done in one] == [done.turn_id for done in two]
    assert max(done.counters["turns"] for done in one) == 3.0
    assert len({done.ids for done in one}) == 6
    for done in one:
        sampled = [token for token, mask in zip(done.ids, done.loss_mask, strict=True) if mask]
        assert not set(sampled) & set(forbidden)
        assert done.loss_mask[-1] == 1
        assert done.shows_what_it_says(chat.marks.image_pad)
        assert all(logp <= 0 for logp in done.rollout_logprobs)
        assert {version for version, mask in zip(done.versions, done.loss_mask, strict=True) if mask} == {"default"}
