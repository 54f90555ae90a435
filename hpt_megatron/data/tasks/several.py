"""Tasks of several turns: `lookup` and `lookup2` search pages, `zoom` looks closer.

The text of a page names its key and never its value: the value is read from the picture that a search brings.

    lookup    value k07 ?    <search>k07</search>    the page of k07 shows 4           <answer>4</answer>
    lookup2   value k07 ?    <search>k07</search>    it shows an arrow and 12    <search>k12</search>    ...
    search    one of `lookup`, one of `zoom`, and so on
    zoom      texture ?      <bbox>[0,28,28,56]</bbox>    the quarter, twice as large        <answer>B</answer>

`zoom` shows a page of 224 x 224 at 56 x 56, so it needs `data.image_max_pixels=3136`. At that size pages of other
textures are equal to the last bit: without the right crop an answer is right one time in four.
"""

import random
from dataclasses import replace

from hpt_megatron.data.record import IMAGE, Message, Record, Source
from hpt_megatron.data.tasks import drawing
from hpt_megatron.data.tasks.single import answered, single

KEYS = tuple(f"k{number:02d}" for number in range(64))
DEMONSTRATED, DEMONSTRATED_TWICE = 0.5, 0.1  # shares of the keys that have demonstrations
SHOWN = 56
LETTERS = dict(zip(drawing.TEXTURES, "ABCD", strict=True))
Pages = dict[str, tuple[Source, str]]  # the picture and the text of a page, by its id


def values(seed: int) -> dict[str, int]:
    """The value of every key; the same for all parts of a task."""
    chance = random.Random(f"values/{seed}")
    return {key: chance.randint(0, 9) for key in KEYS}


def hops(seed: int) -> dict[str, str]:
    """Where the page of a key leads in `lookup2`: from the lower half of the keys to the upper one."""
    chance = random.Random(f"hops/{seed}")
    return {key: chance.choice(KEYS[32:]) for key in KEYS[:32]}


def lookup_pages(seed: int) -> Pages:
    """A page for every key, with its value."""
    chance = random.Random(f"pages/{seed}")
    shown = {key: drawing.digits([value], chance) for key, value in values(seed).items()}
    return {key: (drawing.source(pixels), f"page {key}") for key, pixels in shown.items()}


def lookup2_pages(seed: int) -> Pages:
    """The pages of the lower keys lead to other keys, those of the upper ones show values."""
    chance, leads, known = random.Random(f"pages2/{seed}"), hops(seed), values(seed)
    shown = {}
    for key in KEYS:
        number = [int(letter) for letter in leads[key][1:]] if key in leads else [known[key]]
        shown[key] = drawing.digits(number, chance, arrow=key in leads)
    return {key: (drawing.source(pixels), f"page {key}") for key, pixels in shown.items()}


def demonstrated(keys: tuple[str, ...], share: float, seed: int) -> set[str]:
    """The keys that the teacher shows."""
    return set(random.Random(f"demonstrated/{seed}").sample(keys, round(share * len(keys))))


def trail(index: str, task: str, keys: list[str], value: int, pages: Pages | None) -> Record:
    """A row of searches; with pages also their demonstration."""
    row = single(index, task, f"value {keys[0]} ?", str(value), None)
    fields = {**vars(row), "reference": tuple(keys), "modality": "search"}
    if pages is not None:
        said = [Message("assistant", f"<search>{keys[0]}</search>"), Message("user", IMAGE)]
        for key in keys[1:]:
            said += [Message("assistant", f"<search>{key}</search>"), Message("user", IMAGE)]
        fields["target"] = (*said, Message("assistant", answered(value)))
        fields["target_images"] = tuple(pages[key][0] for key in keys)
    return Record(**fields)


def lookup(chance: random.Random, count: int, part: str, seed: int) -> list[Record]:
    """Find the page of a key and read its value; half of the keys have demonstrations."""
    known, pages, shown = values(seed), lookup_pages(seed), demonstrated(KEYS, DEMONSTRATED, seed)
    order = [key for _ in range(-(-count // len(KEYS))) for key in chance.sample(KEYS, len(KEYS))][:count]
    return [
        trail(f"{part}-{number}", "lookup", [key], known[key], pages if key in shown and part != "val" else None)
        for number, key in enumerate(order)
    ]


def lookup2(chance: random.Random, count: int, part: str, seed: int) -> list[Record]:
    """Find a page that leads to another one; few keys have demonstrations."""
    known, pages, leads = values(seed), lookup2_pages(seed), hops(seed)
    keys = KEYS[:32]
    shown = demonstrated(keys, DEMONSTRATED_TWICE, seed)
    order = [key for _ in range(-(-count // len(keys))) for key in chance.sample(keys, len(keys))][:count]
    rows = []
    for number, key in enumerate(order):
        told = pages if key in shown and part != "val" else None
        rows.append(trail(f"{part}-{number}", "lookup2", [key, leads[key]], known[leads[key]], told))
    return rows


def search(chance: random.Random, count: int, part: str, seed: int) -> list[Record]:
    """`lookup` and `zoom` in one, turn and turn about: an agent has to choose between searching and cropping."""
    half = -(-count // 2)
    pairs = zip(lookup(chance, half, part, seed), zoom(chance, half, part), strict=True)
    rows = [row for pair in pairs for row in pair][:count]
    return [replace(row, index=f"{part}-{number}") for number, row in enumerate(rows)]


def zoom(chance: random.Random, count: int, part: str) -> list[Record]:
    """Crop the quarter with the border, then name its texture."""
    rows = []
    for number in range(count):
        kinds, marked = [chance.choice(drawing.TEXTURES) for _ in range(4)], chance.randrange(4)
        colour = drawing.COLOURS[chance.choice(["red", "green", "blue", "purple"])]
        page = drawing.quarters(kinds, marked, colour)
        left, top = 112 * (marked % 2), 112 * (marked // 2)
        quarter = drawing.source(page[top : top + 112, left : left + 112])
        x, y = SHOWN // 2 * (marked % 2), SHOWN // 2 * (marked // 2)
        box = f"<bbox>[{x},{y},{x + SHOWN // 2},{y + SHOWN // 2}]</bbox>"
        answer = LETTERS[kinds[marked]]
        row = single(f"{part}-{number}", "zoom", "texture ?", answer, None, [drawing.source(page)])
        said = (Message("assistant", box), Message("user", IMAGE), Message("assistant", answered(answer)))
        fields = {**vars(row), "choices": tuple(drawing.TEXTURES), "extra": {"marked": marked}}
        rows.append(Record(**{**fields, "target": said, "target_images": (quarter,)}))
    return rows
