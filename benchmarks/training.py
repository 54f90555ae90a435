"""Tokens per second of forward and backward: the trainer beside transformers on the same rows in the same run.

    python benchmarks/training.py [--rows N] [--repeat N] [--images] [--even]

Both sides compute log-probs, a weighted loss and all gradients, in float32, on a model of a few million parameters. The
trainer packs rows; transformers gets batches padded to the longest row, as large as a pack, sorted by length so that it
pads as little as it can. Nothing is asserted: the figures depend on the host.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from clock import times

from hpt_megatron.config.load import load
from hpt_megatron.config.run import RunConfig
from hpt_megatron.embedded.random_folder import write_random
from hpt_megatron.layout.micro_batches import plan
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.local_processes import run as run_processes
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.reference import load_reference
from hpt_megatron.parity.rows import components
from hpt_megatron.protocol.batch import Batch, Images
from hpt_megatron.protocol.rows import Rows

SHAPE = (
    "model.hidden_size=256",
    "model.num_hidden_layers=4",
    "model.num_attention_heads=8",
    "model.num_key_value_heads=4",
    "model.intermediate_size=768",
    "model.vision.out_hidden_size=256",
    "model.vocab_size=2048",
    "model.max_position_embeddings=4096",
    "layout=tp1",
    "trainer.dtype=fp32",
    "trainer.recompute=none",
    "trainer.max_grad_norm=null",
    "rollout.max_model_len=2048",
    "data.max_prompt_length=1024",
    "data.max_response_length=512",
)
PACK = 2048


def rows_of(run: RunConfig, count: int, images: bool, even: bool) -> Batch:
    """Rows of about 200 tokens, lengths spread as those of rollouts or all the same; with an image of 8 x 8 patches."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp(torch.randn(count, generator=generator) * 0.8) * 150
    lengths = torch.full((count,), 200) if even else spread.long().clamp(16, 1000)
    tokens = int(lengths.sum()) + 16 * count * images
    allowed = torch.arange(2048)
    allowed = allowed[(allowed != run.model.image_token_id) & (allowed != run.model.video_token_id)]
    ids = allowed[torch.randint(len(allowed), (tokens,), generator=generator)]
    lengths = lengths + 16 * images
    rows = Rows(lengths, {"ids": ids}, {"prompt": torch.arange(count)})
    if images:
        for start in rows.starts.tolist():
            ids[start + 2 : start + 18] = run.model.image_token_id
    weight = torch.where(rows.position > 0, torch.rand(tokens, generator=generator) / tokens, 0.0)
    columns = {f"weight_{name}": weight for name in ("rl", "sft", "entropy", "kl")}
    columns |= {name: torch.full((tokens,), -7.0) for name in ("old_logp", "ref_logp", "credit")}
    rows = rows.with_tokens(**columns, trained=rows.position > 0)
    if not images:
        return Batch.of_text(rows)
    vision = run.model.vision
    channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 if vision else 0
    patches = torch.randn(64 * count, channels, generator=generator)
    pictures = Images(torch.tensor([[1, 8, 8]] * count), patches, torch.zeros(count))
    return Batch(rows, pictures, torch.arange(count), torch.ones(count, dtype=torch.int64))


def seconds(job: Callable[[], Any], repeat: int) -> float:
    """The median of some runs after one that warms up."""
    job()
    return statistics.median(times(job, repeat))


def ours(where: Rendezvous, run: RunConfig, batch: Batch, repeat: int, threads: int) -> float:
    """One process of the trainer."""
    torch.set_num_threads(threads)
    worker = MegatronWorker(run)
    worker.start(where)
    parts = worker.split(batch)
    how = replace(worker.sampling(), forbidden=())
    return seconds(lambda: worker.accumulate(parts, components("clip"), how), repeat)


def theirs(where: Rendezvous, folder: str, batch: Batch, repeat: int, threads: int) -> tuple[float, float]:
    """transformers in a process of its own: seconds, and the share of its slots that carry tokens."""
    torch.set_num_threads(threads)
    network = load_reference(folder).train()
    rows = batch.rows
    order = rows.lengths.argsort().tolist()
    batches: list[list[int]] = [[]]
    for row in order:
        if batches[-1] and int(rows.lengths[row]) * (len(batches[-1]) + 1) > PACK:
            batches.append([])
        batches[-1].append(row)
    pieces = torch.split(rows.tokens["ids"], rows.lengths.tolist())
    weights = torch.split(rows.tokens["weight_sft"], rows.lengths.tolist())
    slots = sum(len(one) * max(int(rows.lengths[row]) for row in one) for one in batches)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        for one in batches:
            padded = torch.nn.utils.rnn.pad_sequence([pieces[row] for row in one], batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(pieces[row]) for row in one], batch_first=True)
            weight = torch.nn.utils.rnn.pad_sequence([weights[row] for row in one], batch_first=True)
            extra = {}
            if len(batch.images):
                shown = [number for row in one for number in batch.shown_by(row)]
                extra = {"pixel_values": batch.images.pick(shown), "image_grid_thw": batch.images.grids[shown]}
                extra["mm_token_type_ids"] = (padded == network.config.image_token_id).int()
            logits = network(input_ids=padded, attention_mask=mask, use_cache=False, **extra).logits[:, :-1]
            spread = logits.float().log_softmax(-1)
            logp = spread.gather(2, padded[:, 1:, None])[..., 0]
            entropy = -(spread.exp() * spread).sum(-1)
            (weight[:, 1:] * (-logp - entropy)).sum().backward()

    return seconds(step, repeat), rows.num_tokens / slots


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--images", action="store_true", help="an image in every row")
    options.add_argument("--even", action="store_true", help="rows of one length")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = load([*SHAPE, f"model.path={folder}", "trainer.n_gpus_per_node=1"]).run
        write_random(base.model, folder)
        batch = rows_of(base, given.rows, given.images, given.even)
        tokens = batch.rows.num_tokens
        print(f"{given.rows} rows, {tokens:,} tokens, {len(batch.images)} images; packs of {PACK}, float32\n")
        print(f"{'':<34}{'tokens/s':>10}{'slots used':>12}{'spread':>9}")
        taken, fill = run_processes(1, theirs, folder, batch, given.repeat, 1, deadline_s=500)[0]
        print(f"{'transformers, padded, 1 thread':<34}{tokens / taken:>10,.0f}{fill:>12.1%}")
        for name, sizes in {"tp 1": {}, "tp 2": {"tp": 2}, "dp 2": {"dp": 2}}.items():
            processes = max([1, *sizes.values()])
            run = replace(
                base,
                layout=replace(base.layout, **sizes),
                trainer=replace(base.trainer, n_gpus_per_node=processes, ppo_max_token_len_per_gpu=PACK),
            )
            chosen = plan(batch, run)
            taken = max(run_processes(processes, ours, run, batch, given.repeat, 1, deadline_s=500))
            label = f"trainer, {name}, {processes} x 1 thread"
            print(f"{label:<34}{tokens / taken:>10,.0f}{chosen.fill:>12.1%}{chosen.spread:>9.2%}")


if __name__ == "__main__":
    main()
