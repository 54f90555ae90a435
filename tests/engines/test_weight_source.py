"""The trainer's weights by vLLM's `WeightSource`: what it says beforehand is what comes, stage by stage, bit for bit.

Not covered: vLLM's own back-ends that read it; they need GPUs.
"""

import pytest

from hpt_megatron.config.load import load_run
from hpt_megatron.config.shapes import shapes
from hpt_megatron.mcore.local_processes import run as run_processes

pytestmark = pytest.mark.slow


def read(where, run):
    """One process: two passes in vLLM's own order, which checks it; the digests of both."""
    import torch

    from hpt_megatron.mcore.publishing import held_tensors
    from hpt_megatron.mcore.worker import MegatronWorker
    from hpt_megatron.rollout.engine.vllm_source import MegatronSource
    from hpt_megatron.weights.publish.digests import digest

    worker = MegatronWorker(run, train=False)
    worker.start(where)
    held = held_tensors(worker.models, worker.table)
    source = MegatronSource(worker.weights, shapes(run.model), torch.float32, held)
    passes = []
    for _ in range(2):
        seen = {}
        for names, tensors in source.iter_groups():
            for name, tensor in zip(names, tensors, strict=True):
                if name in source.held_names():
                    seen[name] = (tuple(tensor.shape), str(tensor.dtype), digest(tensor))
                else:
                    assert tensor is None
        passes.append(seen)
    promised = {each.name: (each.shape, str(each.dtype)) for each in source.metadata()}
    return passes, promised


def test_every_stage_brings_what_it_holds_and_says_so(folder):
    from hpt_megatron.weights.hf_folder import HfFolder
    from hpt_megatron.weights.publish.digests import digest

    run = load_run([f"model.path={folder}", "layout.tp=2", "layout.pp=2", "trainer.n_gpus_per_node=4"])
    said = run_processes(4, read, run)
    with HfFolder(folder) as opened:
        wanted = {name: digest(opened.tensor(name)) for name in opened.names()}
    brought = {}
    for (first, second), promised in said:
        assert first == second, "a second pass is a fresh one"
        assert promised == said[0][1]
        for name, (shape, dtype, told) in first.items():
            assert (shape, dtype) == promised[name]
            assert brought.setdefault(name, told) == told
    assert brought == wanted
    stages = [set(passes[0]) for passes, _ in said]
    assert stages[0] == stages[1], "ranks of one stage"
    assert not stages[0] & stages[2], "no tensor comes from two stages"
