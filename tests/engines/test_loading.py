"""Modules written into vLLM's model: whole or not at all, and made whole again after an interruption.

In this process, on the engine that the other tests share; it has its own weights again afterwards.
"""

import pytest

from hpt_megatron.embedded.folder import tiny_model, write_tiny
from hpt_megatron.errors import HptError

pytestmark = pytest.mark.slow


def landed_of(folder):
    """Every module with its rows, as they would come from a trainer of one rank."""
    import torch

    from hpt_megatron.config.run import LayoutConfig
    from hpt_megatron.weights.hf_folder import HfFolder
    from hpt_megatron.weights.plan.bucket import Bound, make_plan
    from hpt_megatron.weights.plan.engine import engine_layout
    from hpt_megatron.weights.plan.parcels import parcels, received_by
    from hpt_megatron.weights.plan.trainer import trainer_layout
    from hpt_megatron.weights.plan.transfer import Placement
    from hpt_megatron.weights.simulate import hold

    model = tiny_model()
    layout = LayoutConfig(tp=1, pp=1, vpp=1, cp=1, dp=None, sequence_parallel=None, vocab_multiple=1)
    plan = make_plan(trainer_layout(model, layout, 1), engine_layout(model, 1), Placement(1), Bound(4, 1))
    with HfFolder(folder) as opened:
        tensors = {name: opened.tensor(name).numpy() for name in opened.names()}
    held = hold(plan.source, tensors)[0]
    packed = parcels(plan)
    for (parcel,), crate in zip(packed, received_by(plan, packed, 0), strict=True):
        buffer = torch.zeros(parcel.size, dtype=torch.uint8)
        for row in parcel.rows:
            piece = row.piece
            values = torch.from_numpy(held[piece.source_parameter]).narrow(piece.axis, piece.source_at, piece.rows)
            values = values.contiguous()
            buffer[row.at : row.at + values.nbytes] = values.flatten().view(torch.uint8)
        landed = []
        for landing in crate.taken[0].landings:
            size = torch.Size(landing.shape)
            rows = buffer[landing.at : landing.at + 4 * size.numel()].view(torch.float32).view(size)
            landed.append((landing, rows))
        yield crate.modules, landed, buffer


@pytest.fixture
def loading(engine):
    from hpt_megatron.rollout.engine.vllm_loading import Loading

    worker = engine.llm_engine.model_executor.driver_worker.worker
    return Loading(worker.model_runner.get_model(), worker.model_config, worker.device)


def says(engine):
    from vllm import SamplingParams

    engine.reset_prefix_cache()
    how = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=0)
    (answer,) = engine.generate([{"prompt_token_ids": [5, 6, 7, 8]}], how, use_tqdm=False)
    return [
        (token, step[token].logprob)
        for token, step in zip(answer.outputs[0].token_ids, answer.outputs[0].logprobs, strict=True)
    ]


def test_a_module_is_whole_or_refused_and_an_interruption_is_made_good(engine, folder, loading, tmp_path):
    before = says(engine)
    other = write_tiny(tmp_path / "other", seed=1)
    loading.start()
    for number, (modules, landed, buffer) in enumerate(landed_of(other)):
        if len({landing.parameter for landing, _ in landed}) > 1:
            with pytest.raises(HptError, match=r"came with .* where it has|rows came for"):
                loading.load(modules, [one for one in landed if one[0].parameter == landed[0][0].parameter][:1])
        if number > 20:
            break  # the trainer is gone
        loading.load(modules, landed)
        buffer.fill_(255)  # what is loaded must not look at the buffer again
    loading.start()
    for modules, landed, buffer in landed_of(other):
        loading.load(modules, landed)
        buffer.fill_(255)
    loading.finish()
    assert not [name for name, parameter in loading.model.named_parameters() if parameter.is_meta]
    changed = says(engine)
    assert changed != before
    with pytest.raises(HptError, match="is not open for new weights"):
        loading.load(*next(landed_of(folder))[:2])
    loading.start()
    for modules, landed, _ in landed_of(folder):
        loading.load(modules, landed)
    loading.finish()
    assert says(engine) == before, "the first weights again, number for number"


def test_what_is_not_sent_is_put_back(engine, folder, loading):
    before = says(engine)
    loading.start()
    for modules, landed, _ in landed_of(folder):
        if not modules[0].startswith("visual."):
            loading.load(modules, landed)
    loading.finish()
    assert says(engine) == before


def test_a_head_that_is_the_embedding_is_known(loading):
    assert loading.tied == {"language_model.model.embed_tokens": ["language_model.lm_head"]}
