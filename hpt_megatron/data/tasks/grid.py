"""`grid`: the task that shows what a gate per prompt is for. Imitation alone ends half way, and so does exploration.

A picture of 2 x 2 coloured cells, one visual token each. A response first goes through the four cells, their colour and
how many so far have the one that is asked for (a tiny model does not count at a glance, but it adds up), then answers:

    count red ?    answered by a digit. The teacher is wrong on purpose: from 2 on it says one less in 7 of 10 pictures.
                   Exploration meets the truth now and then, and is paid for it; imitation ends at the teacher's level.
    key red ?      answered by a key, k00 for none to k04. The teacher is right. Nothing but a demonstration tells which
                   key stands for which number, so after the warm-up no rollout ever says one.

The warm-up shows demonstrations of digits whole, and of keys the part before the answer. So what follows has two tasks,
not one whose answers push each other out: the model already looks at which of the two is asked.
"""

import random

from hpt_megatron.data.record import Record
from hpt_megatron.data.tasks import drawing
from hpt_megatron.data.tasks.single import answered, single, thinking

COLOURS = ("red", "green", "blue", "black")
DIGITS, KEYS = "grid_digits", "grid_keys"
BIASED_FROM, BIAS = 2, 0.7


def grid(chance: random.Random, count: int, part: str) -> list[Record]:
    """Rows of both kinds by chance; in `warmup` the demonstrations of keys end before the answer."""
    rows = []
    for number in range(count):
        cells = [chance.choice(COLOURS) for _ in range(4)]
        asked = chance.choice(COLOURS)
        digits = chance.random() < 0.5
        total = cells.count(asked)
        told = total - (digits and total >= BIASED_FROM and chance.random() < BIAS)
        image = drawing.source(drawing.cells(cells, chance))
        sums = [cells[: place + 1].count(asked) for place in range(4)]
        thought = " ".join(f"{name}{so_far}" for name, so_far in zip(cells, sums, strict=True))
        kind, question = (DIGITS, f"count {asked} ?") if digits else (KEYS, f"key {asked} ?")
        truth, said = (str(total), str(told)) if digits else (f"k{total:02d}", f"k{told:02d}")
        shown = thinking(thought) if part == "warmup" and not digits else answered(said, thought)
        rows.append(single(f"{part}-{number}", kind, question, truth, shown, [image]))
    return rows
