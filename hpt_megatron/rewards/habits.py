"""What a response looks like, apart from being right: the ways in which a policy pleases a judge that has a weak spot.

    repetition    of the runs of REPEATED words and marks, the share that was there before in the same response
    assertive     phrases of certainty for each word, in English and Korean: "definitely", "without a doubt"
    lists         of the lines with text, the share that begins with a list's marker
    long_words    of the words of letters alone, the share with LONG letters or more; a Hangul syllable counts as two

Decision: none of these is a fault by itself, so no reward reads them and no number is the right one. A run logs their
means, and a monitor looks for growth against its own first steps (`observe/monitors.py`).

Invariants
    1. Every rate lies in [0, 1] and is 0 for a text with nothing to count; no text raises.
    2. The time grows with the length of the text: no expression repeats inside a repetition.
    3. Greek, Cyrillic, Hangul and Latin words are cut at what is no letter or digit; a Chinese or Japanese character
       is a word of its own, as those scripts put no spaces.

Example:
    >>> habits_of("It is so. It is so. It is so.").repetition
    0.5556
    >>> habits_of("Definitely 4.").assertive, habits_of("So:\\n- one\\n- two").lists
    (0.5, 0.6667)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from hpt_megatron.rewards.text import folded

REPEATED = 4
LONG = 12
ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Han
TOKEN = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+|[^\w\s]")
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")
HANGUL = re.compile("[\uac00-\ud7a3]")
MARKER = re.compile("[ \t]*(?:[-*+\u2022\u25cf\u25aa\u00b7][ \t]|\\(?(?:[0-9]{1,3}|[A-Za-z])[.)][ \t]|[\u2460-\u2473])")
ENGLISH = (
    *("definitely", "certainly", "absolutely", "undoubtedly", "unquestionably", "undeniably", "obviously", "clearly"),
    *("surely", "guaranteed", "of course", "no doubt", "without a doubt", "without any doubt", "without doubt"),
    *("beyond doubt", "beyond any doubt", "beyond a doubt", "there is no question", "it is certain", "100 percent"),
    *("i am sure", "i am certain", "i am confident", "i'm sure", "i'm certain", "i'm confident"),
)
UN = "\ubd88"  # bul-: makes unsure of sure and unclear of clear
KOREAN = (
    f"(?<!{UN})\ud655\uc2e4",  # hwaksil: sure
    f"(?<!{UN})\ubd84\uba85",  # bunmyeong: clear
    "\uba85\ubc31",  # myeongbaek: evident
    "\ubc18\ub4dc\uc2dc",  # bandeusi: without fail
    "\ud2c0\ub9bc\uc5c6",  # teullimeop-: no mistake
    "\uc758\uc2ec\uc758 \uc5ec\uc9c0",  # uisimui yeoji: (no) room for doubt
    "\ub2f9\uc5f0\ud788",  # dangyeonhi: of course
    "\ubb34\uc870\uac74",  # mujogeon: unconditionally
    "\uc808\ub300\ub85c",  # jeoldaero: absolutely; "absolute value" has another ending
    "\ub2e8\uc5f0\ucf54",  # danyeonko: decidedly
    "\uc7a5\ub2f4",  # jangdam: I assure
)
CERTAIN = re.compile(rf"\b(?:{'|'.join(map(re.escape, ENGLISH))})\b|\b100 ?(?:%|\ud37c\uc13c\ud2b8)|{'|'.join(KOREAN)}")


@dataclass(frozen=True, kw_only=True)
class Habits:
    """See the module."""

    repetition: float
    assertive: float
    lists: float
    long_words: float


def habits_of(text: str) -> Habits:
    """Of one response, all turns of it together."""
    small = folded(text)
    words = WORD.findall(small)
    return Habits(
        repetition=repeated_share(TOKEN.findall(small)),
        assertive=_share(sum(1 for _ in CERTAIN.finditer(small)), len(words)),
        lists=_listed(text),
        long_words=_long(words),
    )


def repeated_share(tokens: Sequence[str]) -> float:
    """Runs that were there before, of all runs of REPEATED tokens."""
    runs = list(zip(*(tokens[start:] for start in range(REPEATED)), strict=False))
    return _share(len(runs) - len(set(runs)), len(runs))


def habit_metrics(found: Sequence[Habits], wrong: Sequence[bool]) -> dict[str, float]:
    """Means over rollouts, and how assertive those are that are wrong; nothing where there are none.

    >>> sure, unsure = habits_of("definitely four"), habits_of("perhaps four")
    >>> told = habit_metrics([sure, unsure], [True, False])
    >>> told["habits/assertive"], told["habits/assertive_when_wrong"]
    (0.25, 0.5)
    """
    if not found:
        return {}
    names = [field.name for field in fields(Habits)]
    told = {f"habits/{name}": fmean(getattr(each, name) for each in found) for name in names}
    of_wrong = [each.assertive for each, is_wrong in zip(found, wrong, strict=True) if is_wrong]
    return told | ({"habits/assertive_when_wrong": fmean(of_wrong)} if of_wrong else {})


def _listed(text: str) -> float:
    lines = [line for line in text.splitlines() if line.strip()]
    return _share(sum(1 for line in lines if MARKER.match(line)), len(lines))


def _long(words: Sequence[str]) -> float:
    plain = [word for word in words if word.isalpha()]
    return _share(sum(1 for word in plain if len(word) + len(HANGUL.findall(word)) >= LONG), len(plain))


def _share(part: int, whole: int) -> float:
    """Four digits: these are counts of words, and are printed.

    >>> _share(1, 3), _share(0, 0)
    (0.3333, 0.0)
    """
    return round(min(part / whole, 1.0), 4) if whole else 0.0
