"""The ids that are never sampled in a run: one list, for the engine's mask and the trainer's log-probabilities.

Marks of vision and of a turn's start, because a model that writes `<|image_pad|>` into its response breaks the training
step with one image feature too few; and every row of the vocabulary that no token has, because its weights were never
trained and its id has no text.
"""

from hpt_megatron.data.chat import Chat


def forbidden_ids(chat: Chat, rows: int) -> tuple[int, ...]:
    """In order; `rows` is the size of the model's vocabulary."""
    return tuple(sorted(chat.forbidden | set(range(chat.size, rows))))
