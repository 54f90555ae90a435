"""The weight table of one model, and the lookups in it. The lines come from its family: `families/`, one file each.

One table serves conversion, loading, freezing, publishing and inspection. Names on the checkpoint's side are those of
the hub's files; `canonical` brings the newer spelling (`model.language_model.*`, `model.visual.*`) to them.

Invariants
    1. Every parameter of the trainer's model has exactly one entry, and every tensor of a checkpoint belongs to one.
    2. The vision tower keeps its names, so one pattern covers it.
    3. Tied embeddings have one tensor: the output matrix is the embedding's entry again.

Example:
    >>> found = lookup(family_named("qwen2_5").language, "decoder.layers.7.mlp.linear_fc2.weight")
    >>> found.checkpoint, found.kind
    (('model.layers.7.mlp.down_proj.weight',), 'columns')
    >>> canonical("model.language_model.layers.0.input_layernorm.weight")
    'model.layers.0.input_layernorm.weight'
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpt_megatron.config.geometry import padded_vocab_size
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.errors import HptError
from hpt_megatron.weights.families import family_named
from hpt_megatron.weights.families.decoder import BLOCK, EMBED_TOKENS, EMBEDDING, LM_HEAD, OUTPUT
from hpt_megatron.weights.families.family import Family
from hpt_megatron.weights.kinds import Entry, Fusion, Kind

__all__ = ["BLOCK", "EMBEDDING", "EMBED_TOKENS", "LM_HEAD", "OUTPUT", "Table", "canonical", "lookup"]

VISUAL = "visual."
HEAD = "head."
COMPUTED = "rotary_emb.inv_freq"  # old checkpoints carry it; it follows from the configuration
NEWER = (("model.language_model.", "model."), ("model.visual.", VISUAL), ("language_model.model.", "model."))
NUMBER = re.compile(r"(?<=layers\.)\d+")


def canonical(name: str) -> str:
    """The hub's spelling of a checkpoint's tensor, without what wrappers put before and between."""
    name = name.removeprefix("base_model.model.").replace("_fsdp_wrapped_module.", "")
    return next((older + name.removeprefix(newer) for newer, older in NEWER if name.startswith(newer)), name)


def lookup(entries: Iterable[Entry], name: str) -> Entry:
    """The entry of a parameter of the trainer, with the layer's number filled in."""
    layer = NUMBER.search(name)
    pattern = NUMBER.sub("{layer}", name)
    for entry in entries:
        if entry.trainer == pattern:
            number = layer.group() if layer else ""
            names = tuple(each.replace("{layer}", number) for each in entry.checkpoint)
            return Entry(name, names, entry.kind)
    raise HptError("no entry in the weight table", where=name)


@dataclass(frozen=True)
class Table:
    """The table of one model: its family's entries, what it leaves out, and its sizes."""

    model: ModelConfig
    family: Family
    fusion: Fusion

    @classmethod
    def of(cls, model: ModelConfig, tp: int, vocab_multiple: int) -> "Table":
        """For a model whose vocabulary is padded for a tensor-parallel size."""
        padded = padded_vocab_size(model.vocab_size, vocab_multiple, tp)
        fusion = Fusion(model.num_key_value_heads, model.head_dim, model.vocab_size, padded)
        return cls(model, family_named(model.family), fusion)

    def entry(self, name: str) -> Entry:
        """The entry of a parameter of the trainer, by its name over the whole model."""
        if name.startswith(HEAD) or (self.family.tower is not None and name.startswith(self.family.tower)):
            return Entry(name, (name,), "replicated")
        if name == OUTPUT and self.model.tie_word_embeddings:
            return Entry(OUTPUT, (EMBED_TOKENS,), "vocabulary")
        return lookup(self.family.language, name)

    def entries(self, vision: Sequence[str] = ()) -> list[Entry]:
        """All entries of the language model, in the order of its layers, then those of the tower's names."""
        model, found = self.model, []
        for entry in self.family.language:
            if entry.trainer == OUTPUT and model.tie_word_embeddings:
                continue
            if "{layer}" not in entry.trainer:
                found.append(entry)
                continue
            layers = range(model.num_hidden_layers)
            found += [self.entry(entry.trainer.replace("{layer}", str(layer))) for layer in layers]
        return found + [self.entry(name) for name in vision]

    def contradictions(self, names: Iterable[str]) -> list[str]:
        """What the language model lacks among a checkpoint's tensors, and which of them nothing here knows."""
        given, wanted = set(names), {name for entry in self.entries() for name in entry.checkpoint}
        tied = {LM_HEAD} if self.model.tie_word_embeddings else set()  # some checkpoints carry the copy as well
        known = wanted | tied | {name for name in given if name.startswith(VISUAL) and self.model.vision is not None}
        strangers = sorted(name for name in given - known if not name.endswith(COMPUTED))
        return [f"lacks {name}" for name in sorted(wanted - given)] + [
            f"has {name}, unknown here" for name in strangers
        ]

    def kind(self, name: str) -> Kind:
        """How a parameter is fused and cut."""
        return self.entry(name).kind
