"""Tasks of one turn: `color`, `count`, `digitsum`, `pref`.

`count`: the demonstration first tells the running sum over the four quarters of the picture, then answers: a tiny model
does not count at a glance, but it adds up. The teacher is wrong on purpose: from 6 on its answer is one too low in 6 of
10 pictures, though its sums are right. So imitation alone ends at the teacher's level, and exploration goes beyond.
"""

import random
from collections.abc import Sequence

from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.tasks import drawing

BIASED_FROM, BIAS = 6, 0.6
WARM_UP = 5  # the largest count that the warm-up demonstrates
PREFERRED = 4  # colours that pairs are about


def single(
    index: str, task: str, question: str, answer: str, target: str | None, images: Sequence[Source] = ()
) -> Record:
    """A row of one turn."""
    return Record(
        index=index,
        data_source=task,
        prompt=(Message("user", IMAGE * len(images) + question),),
        images=tuple(images),
        target=(Message("assistant", target),) if target else None,
        golds=(answer,),
        ability=task,
    )


def answered(answer: str | int, thought: str = "") -> str:
    """A response in the form that all tasks ask for."""
    return (thinking(thought) if thought else "") + f"<answer>{answer}</answer>"


def thinking(thought: str) -> str:
    """A response that ends before its answer."""
    return f"<think>{thought}</think>"


def color(chance: random.Random, count: int, part: str) -> list[Record]:
    """Name the colour of a square."""
    rows = []
    for number in range(count):
        name = chance.choice(list(drawing.COLOURS))
        image = _square(name, chance)
        rows.append(single(f"{part}-{number}", "color", "color ?", name, answered(name), [image]))
    return rows


def count(chance: random.Random, count: int, part: str) -> list[Record]:
    """Count the dots; `warmup` has small counts alone, and a teacher that is right about them."""
    rows = []
    for number in range(count):
        total = chance.randint(0, WARM_UP if part == "warmup" else 9)
        places = sorted(chance.sample(range(16), total))
        told = total - (total >= BIASED_FROM and chance.random() < BIAS)
        image = drawing.source(drawing.dots(places, chance))
        target = answered(told, " ".join(map(str, running_sums(places))))
        row = single(f"{part}-{number}", "count", "count ?", str(total), target, [image])
        rows.append(row)
    return rows


def running_sums(places: Sequence[int]) -> list[int]:
    """Dots up to and with each quarter of the picture, which is one visual token: row by row."""
    quarters = [2 * (place // 8) + (place % 4) // 2 for place in places]
    return [sum(quarter <= last for quarter in quarters) for last in range(4)]


def held_out(one: int, other: int) -> bool:
    """A fifth of all pairs is never shown as a picture in training."""
    return (3 * one + other) % 5 == 0


def digitsum(chance: random.Random, count: int, part: str) -> list[Record]:
    """Add two digits: pictures, and in training the hundred sums as text before them."""
    rows = []
    if part == "train":
        for one, other in ((one, other) for one in range(10) for other in range(10)):
            target = answered(one + other, f"{one}+{other}")
            name = f"{part}-text-{one}{other}"
            rows.append(single(name, "digitsum", f"{one}+{other} ?", str(one + other), target))
    pairs = [(a, b) for a in range(10) for b in range(10) if held_out(a, b) == (part == "val")]
    for number in range(count):
        one, other = chance.choice(pairs)
        image = drawing.source(drawing.digits([one, other], chance))
        target = answered(one + other, f"{one}+{other}")
        rows.append(single(f"{part}-{number}", "digitsum", "sum ?", str(one + other), target, [image]))
    return rows


def pref(chance: random.Random, count: int, part: str) -> list[Record]:
    """Pairs by rule: right and short is better than wrong, and than right but long; every other one without picture."""
    rows = []
    colours = list(drawing.COLOURS)[:PREFERRED]
    for number in range(count):
        name, seen = chance.choice(colours), number % 2 == 0
        image = [_square(name, chance)] if seen else []
        question = "color ?" if seen else f"read {name} ?"
        wrong = chance.random() < 0.5
        other = chance.choice([each for each in colours if each != name]) if wrong else name
        long = " ".join(["the color is"] * chance.randint(2, 4))
        said = answered(other) if wrong else answered(name, long)
        row = single(f"{part}-{number}", "pref", question, name, answered(name), image)
        extra = {"rejected": [{"role": "assistant", "content": said}], "domain": "wrong" if wrong else "long"}
        rows.append(Record(**{**vars(row), "extra": extra}))
    return rows


def _square(name: str, chance: random.Random) -> Source:
    pixels = drawing.blank(56, 56)
    pixels[6:50, 6:50] = drawing.COLOURS[name]
    return drawing.source(drawing.noisy(pixels, chance))
