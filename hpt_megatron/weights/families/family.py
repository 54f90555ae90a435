"""A family of models: its word in a configuration, its architecture on the hub, and its lines of the weight table.

Invariants
    1. A family is found by its word and by its architecture alike, and neither belongs to two families.
    2. An architecture without a table is refused with the list of those that have one.

Example:
    >>> family_of("LlamaForCausalLM").name
    'llama3_1'
"""

from dataclasses import dataclass

from hpt_megatron.errors import UserError
from hpt_megatron.registry import Registry
from hpt_megatron.weights.kinds import Entry


@dataclass(frozen=True)
class Family:
    """The table of one family; `tower` is what the names of its vision tower begin with, which keeps them."""

    name: str
    architecture: str
    language: tuple[Entry, ...]
    tower: str | None = None


FAMILIES = Registry[Family]("model family", "hpt_megatron.family")


def register(family: Family) -> Family:
    """Adds a family under its word."""
    return FAMILIES.add(family.name)(family)


def family_named(name: str) -> Family:
    """The family of a word in a configuration (`model.family`)."""
    return FAMILIES.get(name)


def family_of(architecture: str) -> Family:
    """The family of an architecture, as the hub's `config.json` names it."""
    known = {family.architecture: family for family in map(FAMILIES.get, FAMILIES.names())}
    if architecture not in known:
        raise UserError(f"no weight table for {architecture}", mend=f"there are those of {', '.join(sorted(known))}")
    return known[architecture]
