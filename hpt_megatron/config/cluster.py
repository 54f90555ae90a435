"""Where a job runs: a profile of `configs/cluster/`, and what must hold of it.

It is no part of a run: the same run gives the same numbers wherever it is submitted.

Example: read_cluster(["cluster=pyxis", "cluster.account=vision"], None)[0].container
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from hpt_megatron.config.compose import compose
from hpt_megatron.config.files import CLUSTERS, check_folder, describe, groups
from hpt_megatron.config.model import Count
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.config.typed import known_keys, read, unknown
from hpt_megatron.errors import UserError

ROOT = "submit"
TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
NAMED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORD = re.compile(r"[^\s\\\"'`$;&|<>]+")
"""What a field of the header may be: SLURM reads it, and a shell beside it must not."""
WORDS = (
    *("partition", "rollout_partition", "account", "qos", "constraint", "reservation", "exclude"),
    *("gpu_type", "memory", "interface"),
)
TRAINER, ROLLOUT = "hpt_trainer", "hpt_rollout"
"""Resources by which the nodes of a job tell Ray what they are for: so many devices each. Nodes that say nothing, such
as a single host, are filled in their order."""
KEPT_S = 60
"""SLURM may signal a job that much earlier than it was asked to."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """One site, in the words of its SLURM."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    reservation: str | None
    exclude: str | None
    time: str
    nodes: Count | None
    rollout_nodes: int
    rollout_partition: str | None
    gpus: Literal["gpus-per-node", "gres", "none"]
    gpu_type: str | None
    cpus_per_node: Count | None
    memory: str | None
    exclusive: bool
    comment: str | None
    signal_s: Count
    fruitless: Count
    requeue_on_failure: bool
    container: Literal["none", "pyxis", "apptainer"]
    image: str | None
    mounts: tuple[str, ...]
    python: str | None
    setup: tuple[str, ...]
    environment: tuple[str, ...]
    forward: tuple[str, ...]
    interface: str | None
    scratch: str
    scratch_gb: int
    health_command: str | None
    ready_s: Count
    object_store_mb: Count


KEYS = known_keys(ClusterConfig)


def is_of_cluster(text: str) -> bool:
    """Whether an override speaks of the profile."""
    key = text.partition("=")[0].lstrip("+~")
    return key == CLUSTERS or key.startswith(f"{CLUSTERS}.")


def read_cluster(given: list[str], folder: Path | None) -> tuple[ClusterConfig, list[Problem]]:
    """A profile, and everything that is wrong with it."""
    own = check_folder(folder)
    choices = sorted({*groups(own=CLUSTERS)[CLUSTERS], *(groups(own, own=CLUSTERS).get(CLUSTERS, []) if own else [])})
    for text in given:
        key, _, value = text.partition("=")
        if key == CLUSTERS and value not in choices:
            mend = f"one of {', '.join(choices)}, or --config-dir with {CLUSTERS}/{value}.yaml"
            raise UserError("no such profile", where=text, mend=mend)
    values, refused = compose([text for text in given if _known(text)], [own] if own else [], root=ROOT)
    problems = refused + [unknown(key, value, KEYS, CLUSTERS) for key, value in _strange(given)]
    spare, _ = compose([], root=ROOT)
    cluster, misfits = read(ClusterConfig, values[CLUSTERS], spare[CLUSTERS], CLUSTERS)
    wrong = {problem.path for problem in misfits}
    return cluster, [*problems, *misfits, *(each for each in check(cluster) if each.path not in wrong)]


def profiles() -> dict[str, str]:
    """What ships, and what each is."""
    return {name: describe(CLUSTERS, name) for name in groups(own=CLUSTERS)[CLUSTERS]}


def _known(text: str) -> bool:
    key = text.partition("=")[0]
    return key == CLUSTERS or key.removeprefix(f"{CLUSTERS}.") in KEYS


def _strange(given: list[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (text.partition("=") for text in given) if not _known(key)]


def seconds(time: str) -> int | None:
    """Of [DAYS-]HH:MM:SS; None where it is something else.

    Example:
        >>> seconds("1-00:00:30"), seconds("2h")
        (86430, None)
    """
    found = TIME.fullmatch(time)
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def check(cluster: ClusterConfig) -> Iterator[Problem]:
    """What must hold of a profile alone."""
    yield from _times(cluster)
    yield from _texts(cluster)
    yield from _container(cluster)
    yield from _variables(cluster)
    if not Path(cluster.scratch).is_absolute():
        yield Problem("cluster.scratch", cluster.scratch, "must be the same folder on every node", "an absolute path")
    for name in ("scratch_gb", "rollout_nodes"):
        if getattr(cluster, name) < 0:
            yield Problem(f"cluster.{name}", getattr(cluster, name), "must not be negative", "0 or more")


def _times(cluster: ClusterConfig) -> Iterator[Problem]:
    limit = seconds(cluster.time)
    if not limit:
        yield Problem("cluster.time", cluster.time, "is no length of time", "[DAYS-]HH:MM:SS, in quotes")
    elif cluster.signal_s + KEPT_S >= limit:
        why = f"leaves nothing of {cluster.time}: SLURM may also ask up to {KEPT_S} s earlier"
        yield Problem("cluster.signal_s", cluster.signal_s, why, f"below {max(1, limit - KEPT_S)}")


def _texts(cluster: ClusterConfig) -> Iterator[Problem]:
    for name in WORDS:
        value = getattr(cluster, name)
        if value is not None and not WORD.fullmatch(value):
            right = "no spaces, quotes, dollars or other signs of a shell"
            yield Problem(f"cluster.{name}", value, "is not one plain word", right)
    if cluster.comment is not None and set(cluster.comment) & set('"\\'):
        yield Problem("cluster.comment", cluster.comment, "holds a quote or a backslash", "plain words")
    for field in fields(cluster):
        value = getattr(cluster, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.isprintable():
                yield Problem(f"cluster.{field.name}", text, "holds a character that breaks the line", "one line")


def _container(cluster: ClusterConfig) -> Iterator[Problem]:
    if (cluster.container == "none") != (cluster.image is None):
        why = "needs an image" if cluster.image is None else "is not read where cluster.container is none"
        yield Problem("cluster.image", cluster.image, why, "both, or neither")
    for text in cluster.mounts:
        if ":" not in text or "," in text:
            yield Problem("cluster.mounts", text, "is no mount", "FROM:TO")


def _variables(cluster: ClusterConfig) -> Iterator[Problem]:
    for text in cluster.environment:
        if not NAMED.fullmatch(text.partition("=")[0]) or "=" not in text:
            yield Problem("cluster.environment", text, "sets no variable", "NAME=value")
    for text in cluster.forward:
        if not NAMED.fullmatch(text):
            yield Problem("cluster.forward", text, "is no name of a variable", "the name alone, such as HF_TOKEN")


def check_room(cluster: ClusterConfig, run: RunConfig) -> Iterator[Problem]:
    """Whether the nodes that are asked for hold the run."""
    trainer = run.trainer
    engines = run.engines * run.rollout.tensor_parallel_size
    if cluster.rollout_nodes:
        if trainer.placement == "colocated":
            why = "are for engines alone, and these share the trainer's devices"
            yield Problem("cluster.rollout_nodes", cluster.rollout_nodes, why, "0, or trainer.placement=split")
        elif engines > cluster.rollout_nodes * trainer.n_gpus_per_node:
            why = f"hold {cluster.rollout_nodes * trainer.n_gpus_per_node} of the {engines} devices of the engines"
            least = -(-engines // trainer.n_gpus_per_node)
            yield Problem("cluster.rollout_nodes", cluster.rollout_nodes, why, f"{least} or more")
    least = nodes_of(cluster, run)
    if cluster.nodes is not None and cluster.nodes < least:
        why = "are too few for the devices of the run"
        yield Problem("cluster.nodes", cluster.nodes, why, f"{least}, or null for what it takes")
    if trainer.placement != "host" and cluster.gpus == "none":
        yield Problem(
            "cluster.gpus", "none", "asks for no GPU, and the run needs some", "gpus-per-node or gres", "warning"
        )


def nodes_of(cluster: ClusterConfig, run: RunConfig) -> int:
    """Nodes of the first component: those of the trainer, and of engines that have no component of their own."""
    trainer = run.trainer
    devices = run.devices
    if trainer.placement == "split" and not cluster.rollout_nodes:
        devices += run.engines * run.rollout.tensor_parallel_size
    return -(-devices // trainer.n_gpus_per_node)
