"""The whole plan of a run as plain data, in a few lines, and as problems for validation.

    plan_run     memory by phase, host memory, the step, publishing, layouts; of the run's own layout where it is legal
                 and fits, else of the best one that is
    short_form   what a verb prints before it starts anything
    problems_of  what fits on no device at all

Example:
    >>> from hpt_megatron.config.load import load
    >>> run = load(["experiment=hpt-7b"]).run
    >>> plan = plan_run(run, read_devices("h100:8"))
    >>> plan["own"]["fits"], plan["memory"][-1]["phase"], plan["publish"]["buckets"]
    (True, 'publish', 7)
"""

from dataclasses import asdict, replace
from math import isfinite
from typing import Any

from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import UserError
from hpt_megatron.planning.devices import HOST, LARGEST, LINK_RATES, Asked, read_devices
from hpt_megatron.planning.engine import MOST_SEQUENCES, engine_of
from hpt_megatron.planning.host_memory import of_node
from hpt_megatron.planning.layouts import Choice, Layouts, applied, compare, own_choice, rule_against, too_large
from hpt_megatron.planning.memory import Phase, holdings, most, phases
from hpt_megatron.planning.step_time import StepTime, step_time
from hpt_megatron.planning.workload import Assumed, Workload
from hpt_megatron.weights.plan.bucket import Plan
from hpt_megatron.weights.plan.cost import GB, cost
from hpt_megatron.weights.plan.publish import ALL, plan_of_run, plans_of_run

GIB = 2**30
TINY = 100_000_000  # parameters: below it a run is planned for this host
MOST_PLANNED = 64  # devices of a publishing plan; with more, replicas repeat what is planned for some


def default_devices(run: RunConfig) -> Asked:
    """What a run is planned for when nothing is said: this host for the tiny model, H100 otherwise."""
    kind = HOST if parameters(run.model) <= TINY else "h100"
    return read_devices(f"{kind}:{run.devices}")


def publishing(run: RunConfig, asked: Asked, split: int = 0) -> dict[str, Any]:
    """The publishing plan: seconds bucket after bucket on the device's links, and the largest buffer."""
    layout, block = run.layout, run.layout.tp * run.layout.pp * run.layout.cp
    planned, dp = run, run.dp
    while block * dp > MOST_PLANNED and dp % 2 == 0 and block * dp // 2 % max(asked.per_node, 1) == 0:
        dp //= 2
    if dp != run.dp:
        trainer = replace(run.trainer, nnodes=block * dp // asked.per_node, n_gpus_per_node=asked.per_node)
        planned = replace(run, layout=replace(layout, dp=dp), trainer=trainer)
    counted = cost(split_plan(planned, split) if split else plan_of_run(planned))
    device = asked.device
    rates = [device.rate(link) / GB for link in (device.within, device.between)]
    at_once, in_turn = counted.seconds(*rates)
    return {
        "buckets": len(counted.by_bucket),
        "bytes": counted.total * (1 if split else run.devices) // (1 if split else planned.devices),
        "buffer_bytes": max(counted.buffers),
        "seconds_at_once": at_once,
        "seconds_in_turn": in_turn,
        "planned_for": planned.devices,
    }


def split_plan(run: RunConfig, split: int) -> Plan:
    """Publishing to engines on devices of their own, behind the trainer's."""
    return plans_of_run(run, split // run.rollout.tensor_parallel_size, apart=run.devices)[ALL]


def plan_run(
    run: RunConfig, asked: Asked, assumed: Assumed | None = None, split: int = 0, refused: str = ""
) -> dict[str, Any]:
    """Everything; `refused` is what validation has found against the run's own layout."""
    own = own_choice(run)
    against = refused or rule_against(run)
    layouts = compare(run, asked, assumed, split)
    why = against or _too_large(run, asked, assumed, split)
    chosen = run
    if why and layouts.ranked:
        chosen = applied(run, layouts.ranked[0].choice)
    elif against:
        return {**_head(run, asked), "own": _own(own, against, why), "layouts": _layouts(layouts)}
    work = Workload.of(chosen, assumed)
    published = publishing(chosen, asked, split)
    found = phases(chosen, asked.device, work, published["buffer_bytes"], "split" if split else "colocated")
    engine = engine_of(chosen, asked.device)
    step = step_time(chosen, asked, work, published["seconds_in_turn"], split)
    return {
        **_head(run, asked),
        "own": _own(own, against, why),
        "planned": {**asdict(own_choice(chosen)), "text": str(own_choice(chosen))},
        "split": split,
        "workload": asdict(work),
        "roles": [{**asdict(one), "bytes": one.bytes} for one in holdings(chosen, asked.device, work)],
        "memory": [phase_data(phase, asked.device.room) for phase in found],
        "host": {"nodes": asked.nodes, **_host(chosen, asked, work, found, split)},
        "engine": {
            "engines": (split or asked.count) // chosen.rollout.tensor_parallel_size,
            "tp": chosen.rollout.tensor_parallel_size,
            "weights_bytes": engine.weights,
            "cache_bytes": max(0, engine.cache),
            "cache_bytes_per_token": engine.per_token,
            "cached_tokens": engine.cached_tokens,
            "sequences_of_the_greatest_length": engine.sequences,
            "sequences_at_once": min(MOST_SEQUENCES, engine.cached_tokens // work.mean_length),
        },
        "publish": published,
        **({"step": step_data(step, asked, split)} if isfinite(step.seconds) else {}),
        "layouts": _layouts(layouts),
    }


def _head(run: RunConfig, asked: Asked) -> dict[str, Any]:
    device = asked.device
    names = (device.within, device.between, device.to_host)
    rates = {name: LINK_RATES.get(name, device.bandwidth / GB) for name in names}
    return {
        "model": {"family": run.model.family, "parameters": parameters(run.model), "dtype": run.trainer.dtype},
        "devices": {
            "kind": device.name,
            "title": device.title,
            "count": asked.count,
            "nodes": asked.nodes,
            "per_node": asked.per_node,
            "memory_bytes": device.memory,
            "room_bytes": device.room,
            "flops": device.flops,
            "bandwidth": device.bandwidth,
            "links_gb_per_s": rates,
            "shares": {
                "products": device.product_share,
                "attention": device.attention_share,
                "memory": device.memory_share,
                "links": device.link_share,
            },
            "source": device.source,
        },
    }


def _own(own: Choice, against: str, why: str) -> dict[str, Any]:
    return {**asdict(own), "text": str(own), "legal": not against, "fits": not why, "reason": why}


def _too_large(run: RunConfig, asked: Asked, assumed: Assumed | None, split: int) -> str:
    """The first phase of the run's own layout that does not fit."""
    work = Workload.of(run, assumed)
    found = phases(run, asked.device, work, placed="split" if split else "colocated")
    engine = engine_of(run, asked.device)
    if engine.sequences < 1:
        return f"rollout: a cache of {max(0, engine.cache) / GIB:.1f} GiB holds no sequence of {engine.longest} tokens"
    return next((why for phase in found if (why := too_large(phase, asked.device.room))), "")


def phase_data(phase: Phase, room: int) -> dict[str, Any]:
    """One phase as plain data."""
    told = {"phase": phase.name, "role": phase.role, "stage": phase.stage, "moment": phase.moment}
    terms = [{"name": term.name, "bytes": term.bytes} for term in phase.terms]
    return {**told, "bytes": phase.bytes, "fits": phase.bytes <= room, "terms": terms}


def _host(run: RunConfig, asked: Asked, work: Workload, found: list[Phase], split: int) -> dict[str, Any]:
    terms = of_node(run, asked, work, found, bool(split))
    return {"bytes": sum(term.bytes for term in terms), "terms": [asdict(term) for term in terms]}


def step_data(step: StepTime, asked: Asked, split: int = 0) -> dict[str, Any]:
    """The step as plain data."""
    return {
        "seconds": step.seconds,
        "tokens_per_s": step.tokens_per_s,
        "tokens_per_s_per_device": step.tokens_per_s / (asked.count + split),
        "utilization": step.utilization(asked.device),
        "phases": {phase: step.of(phase) for phase in dict.fromkeys(part.phase for part in step.parts)},
        "parts": [asdict(part) for part in step.parts],
        "exchanges": [asdict(exchange) for exchange in step.exchanges],
    }


def _layouts(layouts: Layouts) -> dict[str, Any]:
    ranked = [{**asdict(one), "text": str(one.choice)} for one in layouts.ranked]
    refused = [{"text": str(one.choice), "reason": one.reason} for one in layouts.refused]
    return {"ranked": ranked, "refused": refused}


def short_form(run: RunConfig, asked: Asked | None = None) -> list[str]:
    """The plan of a run in three lines, for verbs that are about to start it."""
    asked = asked or default_devices(run)
    work = Workload.of(run)
    found = phases(run, asked.device, work)
    step = step_time(run, asked, work)
    worst, room = most(found), asked.device.room
    verdict = "fits" if worst.bytes <= room else "DOES NOT FIT"
    each = ", ".join(f"{phase.name} {phase.bytes / GIB:.1f}" for phase in found)
    split = ", ".join(f"{phase} {step.of(phase) / step.seconds:.0%}" for phase in ("rollout", "log-probs", "update"))
    return [
        f"plan for {asked.count} x {asked.device.title}: {own_choice(run)}",
        f"memory in GiB: {each} of {room / GIB:.1f}: {verdict}",
        f"a step of {work.tokens:,} tokens in about {step.seconds:,.1f} s ({split}), {step.tokens_per_s:,.0f} tokens/s",
    ]


def problems_of(run: RunConfig) -> list[Problem]:
    """A phase that the largest named device cannot hold keeps a run from starting; the run breaks no other rule."""
    try:
        found = phases(run, LARGEST, Workload.of(run))
    except UserError as error:
        return [Problem("layout", own_text(run), str(error))]
    right = "a layout that fits: `hpt plan` lists them"
    engine, share = engine_of(run, LARGEST), run.rollout.gpu_memory_utilization
    if engine.sequences < 1:
        why = f"on {LARGEST.title} the engine's weights leave no room for a sequence of {engine.longest} tokens"
        return [Problem("rollout.gpu_memory_utilization", share, why, "more, or a larger tensor_parallel_size")]
    why = too_large(most(found), LARGEST.room)
    return (
        [Problem("layout", own_text(run), f"{why}; no larger device is known than {LARGEST.title}", right)]
        if why
        else []
    )


def own_text(run: RunConfig) -> str:
    """The layout of a run in words."""
    return str(own_choice(run))
