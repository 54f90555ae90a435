"""Every layout of so many devices: refused with its reason, or legal and ranked by predicted tokens per second.

    tried      tp, pp, vpp (1, 2, 4), cp; dp is what is left; each with every way of recomputation, and with the
               optimizer offloaded where it does not fit otherwise; engines of 1, 2, 4, 8 devices
    refused    by the rules of a run (`config/rules/`), or because a phase does not fit: the phase, what it needs, and
               its largest term
    ranked     by tokens per second of the whole step; among equals the one that needs less memory

The trainer's part and the engine's are computed apart and added, so thousands of layouts take seconds.

Invariants
    1. Every combination that is tried is in the answer once, ranked or refused.
    2. A ranked layout breaks no rule; its tokens per second are those of `step_time` but for publishing, which the plan
       of the chosen layout says exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from hpt_megatron.config.problem import Problem
from hpt_megatron.config.rules import batch as batch_rules
from hpt_megatron.config.rules import layout as layout_rules
from hpt_megatron.config.rules import rollout as rollout_rules
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.planning.devices import Asked
from hpt_megatron.planning.engine import engine_of
from hpt_megatron.planning.memory import Phase, bucket_bytes, phases, rollout_phase, sent_bytes
from hpt_megatron.planning.parameters import stages_of
from hpt_megatron.planning.roles import trainer_roles
from hpt_megatron.planning.step_time import moves, passes, rollout, short_publish
from hpt_megatron.planning.workload import Assumed, Workload

GIB = 2**30
MOST_TP, MOST_CP = 64, 16
VIRTUAL = (1, 2, 4)
ENGINES = (1, 2, 4, 8)
Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
Rule = Callable[[RunConfig], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    *(rule for name, rule in vars(layout_rules).items() if name.startswith("check_")),
    batch_rules.check_rows_per_rank,
    batch_rules.check_interleaved_micro_batches,
    batch_rules.check_row_fits_pack,
)


@dataclass(frozen=True)
class Choice:
    """One combination that was tried."""

    tp: int
    pp: int
    vpp: int
    cp: int
    dp: int
    recompute: Recompute | None = None  # None: refused before that mattered
    offload: bool = False
    rollout_tp: int = 0  # 0: the trainer's part was refused before any engine was tried

    def __str__(self) -> str:
        words = [f"tp {self.tp}", f"pp {self.pp}", f"vpp {self.vpp}", f"cp {self.cp}", f"dp {self.dp}"]
        words += [f"recompute {self.recompute}" if self.recompute else "", "offload" if self.offload else ""]
        words.append(f"engines of {self.rollout_tp}" if self.rollout_tp else "")
        return ", ".join(word for word in words if word)


@dataclass(frozen=True)
class Ranked:
    """A legal layout with what is predicted of it."""

    choice: Choice
    engines: int
    seconds: float
    tokens_per_s: float
    bytes: int  # of the phase that needs most
    phase: str


@dataclass(frozen=True)
class Refused:
    """An illegal one."""

    choice: Choice
    reason: str


@dataclass(frozen=True)
class Layouts:
    """What was tried."""

    ranked: tuple[Ranked, ...]
    refused: tuple[Refused, ...]


def applied(run: RunConfig, choice: Choice) -> RunConfig:
    """The run under a choice."""
    layout = replace(run.layout, tp=choice.tp, pp=choice.pp, vpp=choice.vpp, cp=choice.cp, dp=None)
    recompute = choice.recompute or run.trainer.recompute
    trainer = replace(run.trainer, recompute=recompute, optimizer_offload=choice.offload)
    tp = choice.rollout_tp or run.rollout.tensor_parallel_size
    return replace(run, layout=layout, trainer=trainer, rollout=replace(run.rollout, tensor_parallel_size=tp))


def own_choice(run: RunConfig) -> Choice:
    """The one that the configuration makes."""
    layout, trainer = run.layout, run.trainer
    sizes = (layout.tp, layout.pp, layout.vpp, layout.cp, run.dp)
    return Choice(*sizes, trainer.recompute, trainer.optimizer_offload, run.rollout.tensor_parallel_size)


def tried(run: RunConfig, devices: int) -> Iterator[Choice]:
    """The trainer's sizes that devices divide into."""
    for tp in divisors(devices, MOST_TP):
        for pp in divisors(devices // tp, run.model.num_hidden_layers):
            for cp in divisors(devices // tp // pp, MOST_CP):
                for vpp in VIRTUAL if pp > 1 else (1,):
                    yield Choice(tp, pp, vpp, cp, devices // tp // pp // cp)


def divisors(number: int, most: int) -> list[int]:
    """Of a number, up to a bound.

    >>> divisors(24, 8)
    [1, 2, 3, 4, 6, 8]
    """
    return [each for each in range(1, min(number, most) + 1) if number % each == 0]


def rule_against(run: RunConfig, rules: tuple[Rule, ...] = RULES) -> str:
    """The first rule that a run breaks, as its line; leaving the node counts, which is a warning elsewhere."""
    for rule in rules:
        for problem in rule(run):
            if problem.severity == "error" or rule is layout_rules.check_node_boundary:
                return f"{problem.path} = {problem.value}: {problem.why}"
    return ""


def too_large(phase: Phase, room: int) -> str:
    """Why a phase does not fit, or nothing."""
    if phase.bytes <= room:
        return ""
    largest = max(phase.terms, key=lambda term: term.bytes)
    return (
        f"{phase.name} needs {phase.bytes / GIB:,.1f} GiB of {room / GIB:,.1f} on stage {phase.stage}, "
        f"most of it {largest.name} ({largest.bytes / GIB:,.1f})"
    )


def compare(run: RunConfig, asked: Asked, assumed: Assumed | None = None, split: int = 0) -> Layouts:
    """All layouts of a run on so many devices."""
    ranked: list[Ranked] = []
    refused: list[Refused] = []
    engines = {tp: engine_part(run, asked, tp, assumed, split) for tp in ENGINES if (split or asked.count) % tp == 0}
    for choice in tried(run, asked.count):
        against = rule_against(applied(run, choice))
        if against:
            refused.append(Refused(choice, against))
            continue
        for recompute in RECOMPUTE:
            for found in _try(run, asked, replace(choice, recompute=recompute), engines, (assumed, split)):
                (ranked if isinstance(found, Ranked) else refused).append(found)  # type: ignore[arg-type]
    ranked.sort(key=lambda one: (-one.tokens_per_s, one.bytes, str(one.choice)))
    return Layouts(tuple(ranked), tuple(refused))


@dataclass(frozen=True)
class EnginePart:
    """What an engine's size decides whatever the trainer's layout is."""

    against: str
    seconds: float
    phase: Phase


def engine_part(run: RunConfig, asked: Asked, tp: int, assumed: Assumed | None, split: int = 0) -> EnginePart:
    """Sampling with engines of tp devices."""
    chosen = replace(run, rollout=replace(run.rollout, tensor_parallel_size=tp))
    against = rule_against(chosen, (rollout_rules.check_engine_layout,))
    device = asked.device
    if against:
        return EnginePart(against, 0.0, Phase("rollout", "engine", 0, "", ()))
    engine, phase = engine_of(chosen, device), rollout_phase(chosen, device, bool(split))
    if engine.sequences < 1:
        room = max(0, engine.cache) / GIB
        share = run.rollout.gpu_memory_utilization
        against = (
            f"rollout: a cache of {room:.1f} GiB holds no sequence of {engine.longest} tokens at a share of {share}"
        )
    parts = rollout(chosen, asked, Workload.of(chosen, assumed), engine, split or asked.count)
    seconds = sum(part.seconds for part in parts)
    return EnginePart(against or too_large(phase, device.room), seconds, phase)


def _try(
    run: RunConfig,
    asked: Asked,
    choice: Choice,
    engines: dict[int, EnginePart],
    given: tuple[Assumed | None, int],
) -> Iterator[Ranked | Refused]:
    """A trainer's layout with every engine; offloaded if it does not fit otherwise."""
    device, (assumed, split) = asked.device, given
    for offload in (False, True):
        choice = replace(choice, offload=offload)
        chosen = applied(run, choice)
        try:
            work = Workload.of(chosen, assumed)
        except UserError as error:
            yield Refused(choice, str(error))
            return
        own = phases(chosen, device, work, placed="trainer")
        why = next((why for phase in own if (why := too_large(phase, device.room))), "")
        if not why or offload:
            break
        yield Refused(choice, why)
    if why:
        yield Refused(choice, why)
        return
    seconds = trainer_seconds(chosen, asked, work, split)
    worst = max(own, key=lambda phase: phase.bytes)
    sent = 0 if split else sent_bytes(chosen, work, device) + bucket_bytes(run) + 2 * device.runtime
    for tp, part in engines.items():
        one = replace(choice, rollout_tp=tp)
        if part.against:
            yield Refused(one, part.against)
            continue
        together = applied(run, one)
        engine = engine_of(together, device)
        publish = sent + engine.weights
        if publish > device.room:
            needs = f"publish needs {publish / GIB:,.1f} GiB of {device.room / GIB:,.1f}"
            yield Refused(one, f"{needs}: the trainer's weights beside the engine's")
            continue
        total = seconds + part.seconds + short_publish(together, asked, engine, split)
        sizes = {worst.name: worst.bytes, "rollout": part.phase.bytes, "publish": publish}
        phase = max(sizes, key=lambda name: sizes[name])
        yield Ranked(one, (split or asked.count) // tp, total, work.tokens / total, sizes[phase], phase)


def trainer_seconds(run: RunConfig, asked: Asked, work: Workload, split: int = 0) -> float:
    """A step without sampling and publishing."""
    seconds = 0.0
    for role in trainer_roles(run):
        for train in (False, True) if role.trained else (False,):
            seconds += sum(part.seconds for part in passes(run, asked, work, role, train)[0])
    if split:
        return seconds
    stages = stages_of(run.model, run.layout, run.trainer.freeze)
    return seconds + sum(part.seconds for part in moves(run, asked.device, stages))
