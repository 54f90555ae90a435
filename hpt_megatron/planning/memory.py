"""Bytes of one device, phase by phase, as terms with names.

    rollout    the engine's weights and cache; the trainer is moved out. What is left of the engine's share is cache
    log-probs  a forward pass of the policy, and of a reference or a critic, one after the other; the engine sleeps
    update     forward, backward and step of what is trained, whichever moment is the worst
    publish    the trainer's weights beside the engine's, and the buckets between them

Colocated devices see all four phases. Split ones see rollout and publish on the engine's devices, the others on the
trainer's. On a host, processes take the devices' place: the engine is a process beside them, and the trainer stays
where it is.

The moments of `update`: in `backward` activations and gradients of one layer or of the head; in `embedding` the dense
gradient of the embedding, twice where it is tied, when activations are gone; in `step` what the optimizer needs beside
its state. With `trainer.optimizer_offload` moments and float32 copies are on the device in `step` alone.

A process on a host differs in three ways, all measured (`benchmarks/planner.py`): gloo reduces copies of gradients and
lets go of them when all have arrived, and gathers parameters through a copy of a bucket; the backward pass runs in a
thread of its own, whose memory the C library does not take from what the forward pass has freed, so that activations
are still resident when the embedding's gradient comes; and messages between processes are copied.

Invariants
    1. A phase's bytes are the sum of its terms, and every term is above zero.
    2. The worst stage of the pipeline decides, and the worst role.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hpt_megatron.config.rules.rollout import BYTES, MIB
from hpt_megatron.config.run import RunConfig
from hpt_megatron.layout.sizes import GRADIENT_BUCKET
from hpt_megatron.planning import activations
from hpt_megatron.planning.activations import Setting
from hpt_megatron.planning.devices import Device
from hpt_megatron.planning.engine import engine_of
from hpt_megatron.planning.parameters import Stage, stages_of
from hpt_megatron.planning.roles import POLICY, Role, trainer_roles
from hpt_megatron.planning.workload import Workload

PHASES = ("rollout", "log-probs", "update", "publish")
GLOO_MESSAGES = 8  # copies of a pack's hidden states that gloo's threads hold on to, measured
GRAPH = 5_000_000  # bytes, whatever the pack; measured
ROWS_BYTES = 120  # per token of a pack: ids, three positions, a dozen columns


@dataclass(frozen=True)
class Term:
    """One amount with its name."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Phase:
    """What a device holds in a phase at its worst moment."""

    name: str
    role: str
    stage: int
    moment: str
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(term.bytes for term in self.terms)


def made(name: str, role: str, stage: int, moment: str, terms: Iterable[tuple[str, int]]) -> Phase:
    """A phase of the terms that are above zero."""
    return Phase(name, role, stage, moment, tuple(Term(what, size) for what, size in terms if size > 0))


@dataclass(frozen=True)
class Rank:
    """One rank of a stage of one role."""

    run: RunConfig
    device: Device
    work: Workload
    role: Role
    stage: Stage

    @property
    def element(self) -> int:
        """Bytes of a number."""
        return BYTES[self.run.trainer.dtype]

    @property
    def replicas(self) -> int:
        """Ranks over which the optimizer's state is cut."""
        return self.run.dp * self.run.layout.cp

    @property
    def rows(self) -> int:
        """Rows of the output matrix on this rank."""
        if not (self.stage.last and self.role.vocabulary):
            return 0
        hidden = self.run.model.hidden_size
        if self.tied_here:
            return self.stage.embedding.held // hidden
        return (self.stage.output.held - hidden) // hidden  # without the last norm

    @property
    def tied_here(self) -> bool:
        """Embedding and output are one parameter on this rank."""
        return self.run.model.tie_word_embeddings and self.run.layout.pp == 1 and self.role.vocabulary

    def setting(self, *, entropy: bool = True) -> Setting:
        """For `activations.py`."""
        trainer = self.run.trainer
        return Setting(
            layout=self.run.layout,
            element=self.element,
            fused=not self.device.processes,
            recompute=trainer.recompute,
            tokens=self.work.pack_tokens,
            patches=self.work.rank_patches if self.stage.first else 0,
            packs=self.work.packs,
            entropy=entropy,
        )


def weights(rank: Rank) -> list[tuple[str, int]]:
    """Parameters of the trainer."""
    return [("weights", rank.stage.all.held * rank.element)]


def state(rank: Rank, *, moments: bool) -> list[tuple[str, int]]:
    """Gradients, and the optimizer's state unless it is out."""
    trained = rank.stage.all.trained if rank.role.trained else 0
    copies = 4 if rank.element == 2 else 0
    return [
        ("gradients, float32", 4 * trained),
        ("main parameters, float32", copies * trained // rank.replicas if moments else 0),
        ("moments, float32", 8 * trained // rank.replicas if moments else 0),
    ]


def buffers(rank: Rank) -> list[tuple[str, int]]:
    """What exchanges need: the gathered sequence, messages of the pipeline, and keys and values of all cp ranks."""
    model, layout, tokens = rank.run.model, rank.run.layout, rank.work.pack_tokens
    gathered = tokens * model.hidden_size * rank.element if layout.tp > 1 else 0
    messages = 4 * tokens * model.hidden_size // layout.tp * rank.element if layout.pp > 1 else 0
    heads = max(1, model.num_key_value_heads // layout.tp)
    keys = 2 * heads * model.head_dim * tokens * layout.cp if layout.cp > 1 else 0
    copied = GLOO_MESSAGES * gathered if rank.device.processes else 0
    return [
        ("gloo's copies of messages", copied),
        ("buffer: sequence gathered over tp", gathered),
        ("buffer: messages of the pipeline", messages),
        ("buffer: keys and values over cp", 2 * keys * rank.element),
        ("rows of a pack", tokens * ROWS_BYTES),
        ("context and libraries", rank.device.runtime),
    ]


def forward(rank: Rank) -> Phase:
    """A pass without gradients: log-probs, values."""
    setting, model = rank.setting(entropy=False), rank.run.model
    at_work = [("a layer at work", activations.layer_forward(model, setting))]
    if rank.rows:
        head = activations.head_forward(model, rank.rows, setting)
        at_work = [("logits of a chunk", head)] if head > at_work[0][1] else at_work
    if rank.stage.first and model.vision is not None and setting.patches:
        tower = setting.patches * activations.tower_block(
            model.vision.hidden_size, model.vision.intermediate_size, rank.element
        )
        at_work = [("the tower at work", tower)] if tower > at_work[0][1] else at_work
    moments = not rank.run.trainer.optimizer_offload
    if rank.device.processes and rank.role.trained and rank.run.trainer.overlap_communication:
        at_work.append(("gloo's copy of a bucket", rank.element * largest_bucket(rank)))
    terms = [*weights(rank), *state(rank, moments=moments), *at_work, *buffers(rank)]
    return made("log-probs", rank.role.name, rank.stage.rank, "forward", terms)


def update(rank: Rank) -> Phase:
    """The worst of the moments of a step."""
    moments = not rank.run.trainer.optimizer_offload
    base = [*weights(rank), *state(rank, moments=moments)]
    found = []
    for moment, terms in (("backward", backward(rank)), ("embedding", embedding(rank))):
        found.append(made("update", rank.role.name, rank.stage.rank, moment, [*base, *terms, *buffers(rank)]))
    base = [*weights(rank), *state(rank, moments=True)]
    found.append(made("update", rank.role.name, rank.stage.rank, "step", [*base, *step(rank), *buffers(rank)]))
    return max(found, key=lambda phase: phase.bytes)


def backward(rank: Rank) -> list[tuple[str, int]]:
    """Activations that are kept, and the larger of a layer's and the head's work."""
    setting, model, stage = rank.setting(), rank.run.model, rank.stage
    on_way = activations.in_flight(rank.run.layout, stage.rank, setting.packs, stage.layers)
    terms = [("activations of the layers", on_way * activations.layer_kept(model, setting))]
    options = [[("a layer at work", activations.layer_beside(model, setting))]]
    if rank.rows:
        matrix = activations.head_matrix(rank.rows, model.hidden_size, rank.element)
        kept = activations.head_kept(model, setting)
        options.append(
            [
                ("last norm and scored tokens", kept + setting.tokens * model.hidden_size * rank.element),
                ("logits of a chunk", activations.logits(model, rank.rows, setting, backward=True)),
                ("gradient of the output matrix", matrix),
            ]
        )
        if rank.tied_here:  # it waits for the embedding's, in the model's precision
            waiting = rank.rows * model.hidden_size * rank.element
            options[0].append(("gradient of the tied matrix", waiting))
    if stage.vision.trained and model.vision is not None and setting.patches:  # a frozen tower keeps nothing
        packs = activations.packs_in_flight(rank.run.layout, stage.rank, setting.packs)
        terms.append(("activations of the tower", packs * activations.tower_kept(model.vision, setting)))
        options.append([("the tower at work", activations.tower_beside(model.vision, setting))])
    return [*terms, *max(options, key=lambda option: sum(size for _, size in option))]


def embedding(rank: Rank) -> list[tuple[str, int]]:
    """The embedding's dense gradient; a tied matrix has the head's beside it."""
    copies = 2 if rank.tied_here else 1
    dense = copies * rank.stage.embedding.trained * rank.element
    if not rank.device.processes:
        return [("dense gradient of the embedding", dense)]
    setting, model = rank.setting(), rank.run.model
    layers = activations.in_flight(rank.run.layout, rank.stage.rank, setting.packs, rank.stage.layers)
    kept = layers * activations.layer_kept(model, setting)
    if rank.stage.vision.trained and model.vision is not None:
        kept += activations.tower_kept(model.vision, setting)
    own = activations.layer_kept(model, setting, "none") + activations.layer_beside(model, setting)
    return [
        ("activations of the layers, freed and resident", kept),
        ("a layer at work, in the other thread", own),
        ("gloo's copies of gradients", 4 * rank.stage.all.trained),
        ("threads and graph of the backward pass", GRAPH),
        ("dense gradient of the embedding", dense // copies),
    ]


def step(rank: Rank) -> list[tuple[str, int]]:
    """Our Adam makes two tensors of the largest parameter's shard; the fused ones none."""
    if not rank.device.processes or not rank.role.trained:
        return []
    return [("Adam at work", 8 * largest_part(rank) // rank.replicas)]


def largest_bucket(rank: Rank) -> int:
    """Elements of the last bucket: it closes once it has 40 million, in the order in which gradients arrive."""
    stage, model = rank.stage, rank.run.model
    each = stage.decoder.trained // max(1, stage.layers)
    open_, largest = stage.output.trained, 0
    for part in (*[each] * stage.layers, stage.vision.trained, stage.embedding.trained):
        open_ += part
        largest = max(largest, open_)
        open_ = 0 if open_ >= GRADIENT_BUCKET else open_
    return max(largest, model.hidden_size)


def largest_part(rank: Rank) -> int:
    """The largest trained parameter of a rank: the embedding, or the two halves of the MLP."""
    model, layout = rank.run.model, rank.run.layout
    ends = [part.trained for part in (rank.stage.embedding, rank.stage.output)]
    return max(*ends, 2 * model.hidden_size * model.intermediate_size // layout.tp)


def rollout_phase(run: RunConfig, device: Device, split: bool = False) -> Phase:
    """The engine awake. On a shared device the trainer is moved out, and its process keeps its context; on a host
    it has nowhere to go.
    """
    engine = engine_of(run, device)
    terms = [
        ("engine weights", engine.weights),
        ("engine at work", engine.working),
        ("cache of keys and values", engine.cache),
        ("context and libraries", (1 if split else 2) * device.runtime),
    ]
    if device.processes and not split:
        terms.append(("trainer, which stays", home_bytes(run, Workload.of(run), device)))
    return made("rollout", "engine", 0, "sampling", terms)


def while_sent(rank: Rank) -> list[tuple[str, int]]:
    """The trainer while its weights are sent: all else goes out first, and on a host has nowhere to go."""
    kept = state(rank, moments=not rank.run.trainer.optimizer_offload) if rank.device.processes else []
    return [*weights(rank), *kept]


def publish_phase(run: RunConfig, device: Device, stage: Stage, bucket: int, split: bool = False) -> Phase:
    """The trainer's weights, the engine's, its cache not yet; what two buckets take on either side.

    Where devices are split it is the engine's, cache included, for the trainer's holds less than in its update.
    """
    rank, engine = Rank(run, device, Workload.of(run), POLICY, stage), engine_of(run, device)
    terms = [
        *([("cache of keys and values", engine.cache)] if split else while_sent(rank)),
        ("engine weights", engine.weights),
        ("buckets, sent and received", bucket),
        ("context and libraries", (1 if split else 2) * device.runtime),
    ]
    return made("publish", "engine" if split else "policy", stage.rank, "a bucket on its way", terms)


@dataclass(frozen=True)
class Holding:
    """What one role holds on a device when it is at home and nothing is computed."""

    role: str
    stage: int
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(term.bytes for term in self.terms)


def holdings(run: RunConfig, device: Device, work: Workload) -> list[Holding]:
    """Every role on its fullest stage; the reward's rules hold nothing on a device."""
    moments, found = not run.trainer.optimizer_offload, []
    for role in trainer_roles(run):
        stages = telling(stages_of(run.model, run.layout, run.trainer.freeze if role.trained else (), role.vocabulary))
        ranks = [Rank(run, device, work, role, stage) for stage in stages]
        each = [(rank.stage.rank, [*weights(rank), *state(rank, moments=moments)]) for rank in ranks]
        stage, terms = max(each, key=lambda one: sum(size for _, size in one[1]))
        found.append(Holding(role.name, stage, tuple(Term(name, size) for name, size in terms if size)))
    engine = engine_of(run, device)
    cache = Term("cache of keys and values", max(0, engine.cache))
    return [*found, Holding("reward", 0, ()), Holding("engine", 0, (Term("engine weights", engine.weights), cache))]


def home_bytes(run: RunConfig, work: Workload, device: Device) -> int:
    """What the policy's trainer has at home between passes, on its fullest stage."""
    return holdings(run, device, work)[0].bytes


def sent_bytes(run: RunConfig, work: Workload, device: Device) -> int:
    """What the policy's trainer holds while its weights are sent, on its fullest stage."""
    ranks = [
        Rank(run, device, work, POLICY, stage)
        for stage in telling(stages_of(run.model, run.layout, run.trainer.freeze, POLICY.vocabulary))
    ]
    return max(sum(size for _, size in while_sent(rank)) for rank in ranks)


def bucket_bytes(run: RunConfig) -> int:
    """What two buckets take on a device that packs and receives: the bound of the plan's buffers."""
    return 4 * run.rollout.publish_bucket_mb * MIB


Placement = Literal["colocated", "split", "trainer"]


def phases(
    run: RunConfig, device: Device, work: Workload, bucket: int | None = None, placed: Placement = "colocated"
) -> list[Phase]:
    """Every phase at its worst stage and role; `trainer` alone leaves out those in which an engine is there."""
    by_phase: dict[str, list[Phase]] = {}
    for role in trainer_roles(run):
        freeze = run.trainer.freeze if role.trained else ()
        for stage in telling(stages_of(run.model, run.layout, freeze, role.vocabulary)):
            rank = Rank(run, device, work, role, stage)
            by_phase.setdefault("log-probs", []).append(forward(rank))
            if role.trained:
                by_phase.setdefault("update", []).append(update(rank))
            if role == POLICY and placed != "trainer":
                size = bucket_bytes(run) if bucket is None else bucket
                by_phase.setdefault("publish", []).append(publish_phase(run, device, stage, size, placed == "split"))
    if placed != "trainer":
        by_phase["rollout"] = [rollout_phase(run, device, placed == "split")]
    return [max(by_phase[name], key=lambda phase: phase.bytes) for name in PHASES if name in by_phase]


def telling(stages: Sequence[Stage]) -> list[Stage]:
    """Those among which the worst one is: both ends, and of stages that hold alike the one with the most on its way."""
    found = {(stage.first, stage.last, stage.all): stage for stage in reversed(stages)}
    return list(found.values())


def most(found: Sequence[Phase]) -> Phase:
    """The phase that needs the most."""
    return max(found, key=lambda phase: phase.bytes)
