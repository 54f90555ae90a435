r"""Mathematics as text: the last box, what follows the thinking, one spelling for equal answers, and what is refused.

Decision: before anything is parsed, two answers of one spelling are the same, and an answer that would take a parser or
a computer algebra system for ever is refused by its looks (`too_heavy`). The rest is for a process with time limits.

Invariants
    1. No function takes more than linear time, whatever the text; nothing is computed or evaluated.
    2. Braces are counted: a box ends where its own brace closes, and one that never closes is no box.
    3. Equal spellings mean equal answers: nothing is dropped that changes a value, but units, degrees and per cent.

Example:
    >>> boxed(r"so \boxed{1} and then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    >>> spelled(r"x = \dfrac12 \text{ cm}"), spelled("$1,234.50$"), spelled(r"\text{East}")
    ('\\frac{1}{2}', '1234.5', 'east')
    >>> too_heavy("9^9^9"), too_heavy(r"2^{10}")
    ('tower', None)
"""

import re
import unicodedata

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
STATED = re.compile(r"\b(?:answer|result)\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE)

LONGEST = 2000  # characters of an answer that is parsed
MOST_DIGITS = 100  # in one number
DEEPEST = 40  # brackets in one another
HEAVY = (
    ("digits", re.compile(rf"\d{{{MOST_DIGITS + 1}}}")),
    # 9^9^9 and 9^{9^{9}}: a power of numbers whose exponent is a power of numbers.
    ("tower", re.compile(r"[\d)}]\s{0,4}(?:\^|\*\*)[\s{(]{0,8}\d{1,100}\s{0,4}(?:\^|\*\*)[\s{(]{0,8}\d")),
    ("exponent", re.compile(r"(?:\^|\*\*)[\s{(+-]{0,8}\d{5}")),
    ("exponent", re.compile(r"\d[eE][+-]?\d{4}")),
    ("factorial", re.compile(r"\d{4}\s{0,4}!|[!)]\s{0,4}!")),
)

SPELLINGS = (
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s?\{([^{}]{0,200})\}"), r" \1 "),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\frac\s?(\d)\s?(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s?(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])"), ""),
    (re.compile(r"\^\s?(?:\\circ|\{\s?\\circ\s?\})|\\degree|\N{DEGREE SIGN}"), ""),
    (re.compile(r"\\[ ,;:!]|~|\\q?quad(?![a-zA-Z])|\\\$|\$|\\%|%"), " "),
)
# Not inside brackets, where a comma may divide.
THOUSANDS = re.compile(r"(?<![\d,.({\[])\d{1,3}(?:,\d{3})+(?![\d,)}\]])")
LED = re.compile(r"\s*[a-zA-Z]{1,2}\s?(?:=|\\in(?![a-zA-Z]))\s?(?=\S)")
UNIT = re.compile(
    r"(-?[\d.]{1,100}|-?\\frac\{[^{}]{1,100}\}\{[^{}]{1,100}\})\s+(?!pi\b)[a-zA-Z]{2}[a-zA-Z ]{0,30}(?:\^\{?[23]\}?)?"
)
NUMBER = re.compile(r"(-?)0*(\d*)(?:\.(\d*))?")
WORD = re.compile(r"[a-z][a-z' -]{3,}")


def boxed(text: str) -> str | None:
    r"""What stands in the last box that closes, in `\boxed{\boxed{4}}` the inner one; None without one."""
    opened = [match.end() for match in BOX.finditer(text)]
    # From the back, each only as far as the next: so every brace is passed once.
    end = len(text)
    for start in reversed(opened):
        depth = 1
        for brace in BRACE.finditer(text, start, end):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                return text[start : brace.start()].strip()
        end = start
    return None


def after_thinking(text: str) -> str | None:
    """What follows the last `</think>`; None where no thinking ends. The opening tag may stand in the prompt."""
    _, mark, rest = text.rpartition("</think>")
    return rest if mark else None


def stated(text: str) -> str | None:
    """The rest of the line after the last `answer is` or `answer:`; else the last line that is not empty."""
    found = None
    for found in STATED.finditer(text):  # noqa: B007  (the last one)
        pass
    if found is not None:
        said = text[found.end() :].split("\n", 1)[0].strip().rstrip(".").strip()
        if said:
            return said
    lines = text.strip().rsplit("\n", 1)
    return lines[-1].strip() or None


def too_heavy(text: str) -> str | None:
    """Why a text is not given to a parser; None where it may be."""
    if len(text) > LONGEST:
        return "too_long"
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        return "too_deep"
    return next((name for name, pattern in HEAVY if pattern.search(text)), None)


def spelled(text: str) -> str:
    """One spelling for answers that differ in the ways of writing alone; at most the first 2,000 characters."""
    text = unicodedata.normalize("NFKC", text[:LONGEST]).replace("\N{MINUS SIGN}", "-")
    for pattern, new in SPELLINGS:
        text = pattern.sub(new, text)
    text = THOUSANDS.sub(lambda number: number[0].replace(",", ""), " ".join(text.split()).rstrip(".").strip())
    if led := LED.match(text):
        text = text[led.end() :]
    if (unit := UNIT.fullmatch(text)) is not None:
        text = unit[1]
    number = NUMBER.fullmatch(text)
    if number and any(character.isdigit() for character in text):
        return _number(number[1], number[2] or "", number[3] or "")
    return text.casefold() if WORD.fullmatch(text.casefold()) else text.replace(" ", "")


def _number(sign: str, whole: str, decimals: str) -> str:
    decimals = decimals.rstrip("0")
    written = (whole or "0") + (f".{decimals}" if decimals else "")
    return written if written == "0" else sign + written


def is_word(text: str) -> bool:
    """A word of four letters or more; a computer algebra system would read it as a product of letters."""
    return WORD.fullmatch(spelled(text)) is not None
