"""A Qwen2.5-VL of a few thousand parameters, and what the processes of a test do with it.

Smaller than the tiny model, because 27 layouts go through it; odd sizes on purpose: a tower whose FFN nothing divides,
KV heads fewer than tp, a vocabulary that needs padding.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from processes import run

from hpt_megatron.config.load import load
from hpt_megatron.config.run import RunConfig
from hpt_megatron.embedded.random_folder import write_random
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.worker import MegatronWorker
from hpt_megatron.parity.reference import Outcome, reference_outcome
from hpt_megatron.parity.rows import components, random_batch
from hpt_megatron.parity.trained import put_together, say
from hpt_megatron.protocol.batch import Batch

SMALL = (
    "model.hidden_size=32",
    "model.num_hidden_layers=4",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=8",
    "model.intermediate_size=48",
    "model.vocab_size=509",
    "model.mrope_section=[1,2,1]",
    "model.vision.depth=2",
    "model.vision.patch_size=4",  # few weights, so that none has a gradient as small as rounding: Adam would enlarge it
    "model.vision.window_size=16",
    "model.vision.hidden_size=16",
    "model.vision.num_heads=2",
    "model.vision.intermediate_size=19",
    "model.vision.out_hidden_size=32",
    "trainer.dtype=fp32",
    "trainer.lr=1e-3",
    "trainer.lr_warmup_steps=0",
    "trainer.recompute=none",
    "trainer.max_grad_norm=null",
    "layout=tp1",
    "rollout.temperature=1.0",
    "data.max_prompt_length=32",
    "data.max_response_length=16",
    "data.max_prefix_len=16",
    "rollout.max_model_len=64",
)


@dataclass(frozen=True)
class Layout:
    """One way to spread the model, and how rows are packed on it."""

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    dp: int = 1
    pack: int = 128
    order: int = 0  # seed of the rows' order; 0 keeps it
    also: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        """How many it takes."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def name(self) -> str:
        """For a test's id."""
        sizes = (("tp", self.tp), ("pp", self.pp), ("vpp", self.vpp), ("cp", self.cp), ("dp", self.dp))
        return "-".join(f"{key}{size}" for key, size in sizes if size > 1) or "alone"

    def run(self, folder: Path | str, *more: str) -> RunConfig:
        """The run on it."""
        blind = any(text.startswith("model=llama") for text in self.also)
        given = [
            *(text for text in SMALL if not (blind and ("vision" in text or "mrope" in text))),
            f"model.path={folder}",
            *(f"layout.{key}={getattr(self, key)}" for key in ("tp", "pp", "vpp", "cp", "dp")),
            f"trainer.n_gpus_per_node={self.processes}",
            f"trainer.ppo_max_token_len_per_gpu={self.pack}",
            *self.also,
            *more,
        ]
        loaded = load(given)
        wrong = [str(problem) for problem in loaded.problems if problem.severity == "error"]
        assert not wrong, wrong
        return loaded.run

    def rows(self, batch: Batch) -> Batch:
        """The batch in this layout's order."""
        if not self.order:
            return batch
        generator = torch.Generator().manual_seed(self.order)
        return batch.select(torch.randperm(batch.rows.num_rows, generator=generator))


@cache
def folder_of(where: Path, *model: str, spelling: str = "older") -> Path:
    """A checkpoint of the small model, written once."""
    target = where / f"small-{abs(hash((model, spelling)))}"
    if not target.exists():
        write_random(Layout(also=model).run("null").model, target, seed=1, spelling=spelling)  # type: ignore[arg-type]
    return target


def small_batch(run: RunConfig, seed: int = 2, rows: int = 9) -> Batch:
    """Rows with none, one and two images."""
    return random_batch(run.model, seed, rows=rows, longest=12)


def reference(run: RunConfig, batch: Batch) -> Outcome:
    """What transformers says."""
    assert run.model.path is not None
    return reference_outcome(run.model.path, run.model, batch, components())


def started(where: Rendezvous, config: RunConfig, **how: Any) -> MegatronWorker:
    """A worker that has joined."""
    worker = MegatronWorker(config, **how)
    worker.start(where)
    return worker


def train_and_say(where: Rendezvous, config: RunConfig, batch: Batch, steps: int) -> Any:
    """What one process says before any step, and its weights after some."""
    worker = started(where, config)
    said = say(worker, batch, components())
    for _ in range(steps):
        report = worker.update(worker.split(batch), components(), plain(worker))
        assert not report.skipped, report.skipped
    return said, held(worker)


def held(worker: MegatronWorker) -> dict[str, torch.Tensor]:
    """The weights of a stage, from the process that answers for it."""
    weights = {name: tensor.clone() for name, tensor in worker.weights()}
    return weights if worker.speaks else {}


def plain(worker: MegatronWorker) -> Any:
    """Temperature 1, nothing forbidden."""
    return replace(worker.sampling(), temperature=1.0, forbidden=())


def outcome_of(config: RunConfig, batch: Batch, steps: int = 0) -> tuple[Outcome, dict[str, torch.Tensor]]:
    """What the processes of a run say together, and the whole model's weights after some steps."""
    answers = run(processes_of(config), train_and_say, config, batch, steps)
    return put_together([said for said, _ in answers], batch), merged([weights for _, weights in answers])


def processes_of(config: RunConfig) -> int:
    """How many a run takes."""
    return config.layout.tp * config.layout.pp * config.layout.cp * config.dp


def merged(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of all stages."""
    return {name: tensor for part in parts for name, tensor in part.items()}
