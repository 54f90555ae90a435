"""Which parameters are not trained, by patterns over the checkpoint's tensor names.

    visual.*                             the tower with its merger
    visual.merger.*                      the merger alone
    model.layers.[0-9].*                 the first ten layers
    model.embed_tokens.weight            the embedding; with tied embeddings the output matrix is the same tensor

Patterns are those of a shell (`*`, `?`, `[0-9]`) and match whole names in the hub's spelling; the newer one is
understood.

Invariants
    1. A pattern that matches nothing in the whole model is an error: misspelt, it would train what should stand still.
    2. A fused parameter is frozen as a whole or not at all; patterns that name part of it are an error, and so is a
       frozen weight whose bias is trained, for which megatron-core computes no gradient.
    3. Copies of a tied tensor are one parameter, so they freeze together, by either name.
    4. What is refused is seen in the whole model's entries, so every process refuses it, whichever stage it holds.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from hpt_megatron.errors import UserError
from hpt_megatron.weights.kinds import Entry
from hpt_megatron.weights.table import EMBED_TOKENS, EMBEDDING, LM_HEAD, OUTPUT, VISUAL, canonical

WHERE = "trainer.freeze"


def frozen(patterns: Sequence[str], entries: Iterable[Entry], tied: bool) -> set[str]:
    """Names of the trainer's parameters that the patterns freeze, over the whole model."""
    found: dict[str, Entry] = {}
    wanted = [canonical(pattern) for pattern in patterns]
    used, trainers = set(), set()
    for entry in entries:
        trainers.add(entry.trainer)
        hits = [[pattern for pattern in wanted if _matches(name, pattern, tied)] for name in entry.checkpoint]
        used |= {pattern for hit in hits for pattern in hit}
        if any(hits) and not all(hits):
            apart = next(name for name, hit in zip(entry.checkpoint, hits, strict=True) if not hit)
            what = f"freezes part of a fused parameter: {' + '.join(entry.checkpoint)}"
            raise UserError(what, where=WHERE, mend=f"freeze {apart} too, or none of them")
        if all(hits):
            found[entry.trainer] = entry
    unknown = [pattern for pattern, name in zip(patterns, wanted, strict=True) if name not in used]
    if unknown:
        mend = "names are those of the checkpoint, such as visual.* or model.layers.0.*"
        raise UserError(f"no tensor of the model matches {', '.join(unknown)}", where=WHERE, mend=mend)
    for name, entry in found.items():
        bias = name.removesuffix("weight") + "bias"
        if name.endswith(".weight") and bias in trainers and bias not in found and not name.startswith(VISUAL):
            what = f"freezes {' + '.join(entry.checkpoint)} but not its bias, for which no gradient is computed then"
            raise UserError(what, where=WHERE, mend="freeze both or none")
    # The last stage of a pipeline has its own copy of a tied tensor, under the name of an output matrix.
    return {*found, OUTPUT} if tied and EMBEDDING in found else set(found)


def _matches(name: str, pattern: str, tied: bool) -> bool:
    """Whether a tensor has the name, or the other name of the one that is both embedding and output."""
    names = (EMBED_TOKENS, LM_HEAD) if tied and name == EMBED_TOKENS else (name,)
    return any(fnmatchcase(each, pattern) for each in names)


def trainable(entries: Iterable[Entry], names: set[str]) -> list[str]:
    """The checkpoint's tensors that are trained."""
    return [name for entry in entries if entry.trainer not in names for name in entry.checkpoint]
