"""Seconds of one step, part by part: what is computed, what waits, what is moved.

Operations are those of `layout/cost.py`: the decoder's linear part and its attention, the head on the tokens that are
scored, the tower. A backward pass is twice a forward one. `recompute=full` adds a forward pass of layers and tower,
`selective` one of attention; the head always computes its logits again.

    update     packs x the slowest stage, and the bubble: (pp - 1) / vpp packs more
    log-probs  the same forward, once for each model that is asked
    rollout    decoding reads the weights once and the cache of every sequence for each token; prompts of a group are
               computed once. When most responses have ended, the longest go on almost alone
    publish    what the publishing plan says, bucket after bucket; a short form of it where layouts are compared
    moves      what colocated trainers move to host memory and back

Invariants
    1. The step is the sum of its parts: nothing runs beside anything, but for what an exchange hides.
    2. A part that does not occur has no line.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.rules.rollout import BYTES
from hpt_megatron.config.run import RunConfig
from hpt_megatron.layout.cost import head_cost, language_cost
from hpt_megatron.planning.communication import Exchange, of_gradients, of_pipeline, of_sequence
from hpt_megatron.planning.devices import Asked, Device
from hpt_megatron.planning.engine import MOST_SEQUENCES, Engine, engine_of
from hpt_megatron.planning.memory import telling
from hpt_megatron.planning.parameters import Stage, stages_of
from hpt_megatron.planning.roles import CRITIC, POLICY, Role, trainer_roles
from hpt_megatron.planning.workload import Workload

TAIL = 8  # of so many sequences one is still being sampled while the longest end


@dataclass(frozen=True)
class Spent:
    """Seconds of one part of the step."""

    phase: str
    name: str
    seconds: float


@dataclass(frozen=True)
class StepTime:
    """One step of a run."""

    parts: tuple[Spent, ...]
    exchanges: tuple[Exchange, ...]
    tokens: int
    operations: float  # of forward and backward of all rows, nothing computed twice
    devices: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(part.seconds for part in self.parts)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all rows, prompts included, per second of a step."""
        return self.tokens / self.seconds

    def of(self, phase: str) -> float:
        """Seconds of a phase."""
        return sum(part.seconds for part in self.parts if part.phase == phase)

    def utilization(self, device: Device) -> float:
        """Operations of the update over the peak of all devices in its time."""
        return self.operations / (self.of("update") * self.devices * device.flops)


@lru_cache(maxsize=1024)
def _linear(model: ModelConfig, length: int, cost: float) -> float:
    """The part of a sequence's cost that grows with its length alone."""
    once = language_cost(model, 1)
    square = (cost - length * once) / (length * length - length) if length > 1 else 0.0
    return cost - square * length * length


def stage_seconds(run: RunConfig, device: Device, work: Workload, stage: Stage, role: Role, rows: float) -> list[float]:
    """Forward and backward seconds of so many rows on one stage, were there no exchange."""
    layout, model, trainer = run.layout, run.model, run.trainer
    linear = _linear(model, work.mean_length, work.row_cost)
    share = stage.layers / model.num_hidden_layers * rows / (layout.tp * layout.cp)
    product, attention = device.flops * device.product_share, device.flops * device.attention_share
    decoder = share * linear / product
    attended = share * (work.row_cost - linear) / attention
    head = head_cost(model, 1) * rows * work.response / (layout.tp * layout.cp) / product
    head = head if stage.last and role.vocabulary else 0.0
    tower = work.image_cost * work.images * rows / (layout.tp * layout.cp) / product if stage.first else 0.0
    forward = decoder + attended + head + tower
    learned = tower if stage.vision.trained else 0.0  # no gradient passes through a frozen tower
    again = {"none": 0.0, "selective": attended, "full": decoder + attended + learned}[trainer.recompute]
    return [forward, 2 * (forward - tower + learned) + again + head]


def passes(run: RunConfig, asked: Asked, work: Workload, role: Role, train: bool) -> tuple[list[Spent], list[Exchange]]:
    """All rows of a step through one model."""
    layout, device, phase = run.layout, asked.device, "update" if train else "log-probs"
    stages = stages_of(run.model, layout, run.trainer.freeze if role.trained else (), role.vocabulary)
    rows = work.rows / run.dp
    packs = work.packs * work.mini_batches
    ends = telling(stages)
    times = [stage_seconds(run, device, work, stage, role, rows) for stage in ends]
    slowest = max(sum(each) if train else each[0] for each in times)
    least = min(sum(each) if train else each[0] for each in times)
    bubble = slowest / packs * (layout.pp - 1) / layout.vpp * work.mini_batches
    layers = max(stage.layers for stage in ends)
    tokens = rows * work.mean_length / packs / layout.cp
    exchanges = of_sequence(run, asked, tokens, layers, packs, train)
    exchanges += of_pipeline(run, asked, tokens, packs, train)
    parts = [Spent(phase, f"{role.name}: computing", least)]
    parts.append(Spent(phase, f"{role.name}: more on the slowest stage", slowest - least))
    parts.append(Spent(phase, f"{role.name}: bubble of the pipeline", bubble))
    if train:
        one = max((stage.all for stage in ends), key=lambda part: part.trained)
        of_dp = of_gradients(run, asked, one.held, one.trained)
        exchanges += [
            Exchange(each.kind, each.link, *(work.mini_batches * x for x in (each.bytes, each.seconds, each.exposed)))
            for each in of_dp
        ]
        state = one.trained / (run.dp * layout.cp)
        parts.append(Spent(phase, f"{role.name}: optimizer", work.mini_batches * optimizer(run, device, state)))
    parts += [Spent(phase, f"{role.name}: {each.kind} over {each.link}", each.exposed) for each in exchanges]
    return [part for part in parts if part.seconds > 0], exchanges


def optimizer(run: RunConfig, device: Device, shard: float) -> float:
    """One step over a shard: every number is read or written once or twice; with offload it comes and goes."""
    bf16 = run.trainer.dtype == "bf16"
    seconds = shard * (30 if bf16 else 28) / (device.bandwidth * device.memory_share)
    if run.trainer.optimizer_offload:
        seconds += 2 * shard * (12 if bf16 else 8) / device.rate(device.to_host)
    return seconds


def rollout(run: RunConfig, asked: Asked, work: Workload, engine: Engine, devices: int) -> list[Spent]:
    """Sampling all rows on engines over so many devices; endless where not one sequence fits."""
    device, model, tp = asked.device, run.model, run.rollout.tensor_parallel_size
    engines = max(1, devices // tp)
    product = device.flops * device.product_share * tp
    prompts = (language_cost(model, work.prompt) + work.images * work.image_cost) * work.prompts / engines / product
    rows = max(1.0, work.rows / engines)
    fitting = engine.cached_tokens // work.mean_length
    at_once = min(rows, MOST_SEQUENCES, fitting)
    if at_once < 1:
        return [Spent("rollout", "decoding", float("inf"))]
    full = max(rows / at_once, 1.0) * work.response * decoding(run, asked, engine, at_once, work)
    few = max(1.0, at_once / TAIL)
    tail = (work.longest - work.response) * decoding(run, asked, engine, few, work)
    parts = [Spent("rollout", "prompts", prompts), Spent("rollout", "decoding", full)]
    return [*parts, Spent("rollout", "decoding the longest", tail)]


def decoding(run: RunConfig, asked: Asked, engine: Engine, sequences: float, work: Workload) -> float:
    """Seconds of one token of every sequence."""
    device, model, tp = asked.device, run.model, run.rollout.tensor_parallel_size
    read = engine.weights + sequences * (work.prompt + work.response / 2) * engine.per_token
    reading = read / (device.bandwidth * device.memory_share)
    computing = (language_cost(model, 1) + head_cost(model, 1)) * sequences / (tp * device.flops * device.product_share)
    link = device.within if tp <= asked.per_node else device.between
    size = 2 * (tp - 1) / tp * sequences * model.hidden_size * BYTES[run.trainer.dtype]
    exchanging = 2 * model.num_hidden_layers * (size / device.rate(link) + device.launch) if tp > 1 else 0.0
    return max(reading, computing) + exchanging + 60 * device.launch


def moves(run: RunConfig, device: Device, stages: Iterable[Stage]) -> list[Spent]:
    """Weights and the optimizer's state out to host memory and back; gradients are not kept."""
    if device.processes:
        return []
    element, replicas = BYTES[run.trainer.dtype], run.dp * run.layout.cp
    state = 0 if run.trainer.optimizer_offload else (12 if element == 2 else 8)
    size = max(stage.all.held * element + state * stage.all.trained / replicas for stage in stages)
    return [Spent("moves", "trainer to host memory and back", 2 * size / device.rate(device.to_host))]


def short_publish(run: RunConfig, asked: Asked, engine: Engine, split: int = 0) -> float:
    """For comparing layouts: each rank receives its share, and one stage sends at a time."""
    apart = asked.count > asked.per_node or split
    device, stages = asked.device, run.layout.pp
    receivers = max(1.0, split / asked.count)
    return (
        receivers
        * engine.weights
        * stages
        / device.rate(device.between if apart and (stages > 1 or split) else device.within)
    )


def step_time(run: RunConfig, asked: Asked, work: Workload, publish: float | None = None, split: int = 0) -> StepTime:
    """The whole step. With `split`, so many devices more sample, and nothing has to be moved out."""
    engine = engine_of(run, asked.device)
    parts = rollout(run, asked, work, engine, split or asked.count)
    exchanges: list[Exchange] = []
    roles = trainer_roles(run)
    for role in roles:
        own, of_role = passes(run, asked, work, role, train=False)
        parts, exchanges = parts + own, exchanges + of_role
    for role in (role for role in roles if role.trained):
        own, of_role = passes(run, asked, work, role, train=True)
        parts, exchanges = parts + own, exchanges + of_role
    seconds = short_publish(run, asked, engine, split) if publish is None else publish
    parts.append(Spent("publish", "weights to the engines", seconds))
    if not split:
        parts += moves(run, asked.device, stages_of(run.model, run.layout, run.trainer.freeze))
    trained = work.rows * (work.row_cost + work.images * work.image_cost + head_cost(run.model, work.response))
    operations = 3.0 * trained * (1 + (CRITIC in roles)) if POLICY in roles else 0.0
    found = tuple(part for part in parts if part.seconds > 0)
    return StepTime(found, tuple(exchanges), work.tokens, operations, asked.count)
