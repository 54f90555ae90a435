r"""Mathematics as text: the last box, what follows the thinking, one spelling for equal answers, and what is refused.

Decision: before anything is parsed, two answers of one spelling are the same, and an answer that would take a parser or
a computer algebra system for ever is refused by its looks (`too_heavy`). The rest is for a process with time limits.

Invariants
    1. No function takes more than linear time, whatever the text; nothing is computed or evaluated.
    2. Braces are counted: a box ends where its own brace closes, and one that never closes is no box.
    3. Equal spellings mean equal answers: nothing is dropped that changes a value, but units, degrees and per cent.
       A unit is a word of `UNITS`, or what stood in `\text` behind a number and says nothing about how many.
    4. `spelled` of what is spelled already is the same text.

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
# A tower looks the same with brackets of the right size, spacing commands, and braces around one term.
DISGUISES = (
    (re.compile(r"\\(?:(?:left|right|[bB]igg?[lr]?|displaystyle)(?![a-zA-Z])|[ ,;:!])|~"), " "),
    (re.compile(r"\{\s{0,8}([\w.]{1,100})\s{0,8}\}"), r" \1 "),
    (re.compile(r"\(\s{0,8}([\w.]{1,100})\s{0,8}\)"), r" \1 "),
)
HEAVY = (
    ("digits", re.compile(rf"\d{{{MOST_DIGITS + 1}}}")),
    # 9^9^9 and 9^{9^{9}}: a power of numbers whose exponent is a power of numbers.
    ("tower", re.compile(r"[\d)}]\s{0,4}(?:\^|\*\*)[\s{(]{0,8}\d{1,100}\s{0,4}(?:\^|\*\*)[\s{(]{0,8}\d")),
    ("exponent", re.compile(r"(?:\^|\*\*)[\s{(+-]{0,8}\d{5}")),
    ("exponent", re.compile(r"\d[eE][+-]?\d{4}")),
    ("factorial", re.compile(r"\d{4}\s{0,4}!|[!)]\s{0,4}!")),
)

# What stood in \text, and in \mathrm, keeps a mark until it is known whether it is a unit.
TEXT, UPRIGHT, END = "\x02", "\x03", "\x04"
SPELLINGS = (
    (re.compile(r"[\x00-\x08\x0e-\x1f]"), ""),
    (re.compile(r"\\(?:text|mbox|textrm)\s?\{([^{}]{0,200})\}"), rf"{TEXT}\1{END}"),
    (re.compile(r"\\mathrm\s?\{([^{}]{0,200})\}"), rf"{UPRIGHT}\1{END}"),
    (re.compile(r"\\(?:textbf|mathbf|operatorname)\s?\{([^{}]{0,200})\}"), r" \1 "),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\frac\s?(\d)\s?(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s?(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])"), ""),
    (re.compile(r"\^\s?(?:\\circ|\{\s?\\circ\s?\})|\\degree|\N{DEGREE SIGN}"), ""),
    (re.compile(r"\\[ ,;:!]|~|\\q?quad(?![a-zA-Z])|\\\$|\$|\\%|%"), " "),
)
PASSES = 20  # what one pass drops may bring together what the next one knows; most texts need one
# Not inside brackets, where a comma may divide.
THOUSANDS = re.compile(r"(?<![\d,.({\[])\d{1,3}(?:,\d{3})+(?![\d,)}\]])")
# Between digits a space divides, and behind a comma it may: 3 4 is not 34, and 1, 234 is not 1,234.
SPACE = re.compile(r"(?<!\d) | (?!\d)")
SPACE_NOT_AFTER_COMMA = re.compile(r"(?<![\d,]) | (?!\d)")
LED = re.compile(r"\s*[a-zA-Z]{1,2}\s?(?:=|\\in(?![a-zA-Z]))\s?(?=\S)")
VALUE = r"(-?[\d.]{1,100}|-?\\frac\{[^{}]{1,100}\}\{[^{}]{1,100}\})"
UNIT = re.compile(rf"{VALUE}\s+([a-zA-Z ]{{2,60}})(?:\^\{{?[23]\}}?)?")
MARKED = re.compile(rf"{VALUE}\s*([{TEXT}{UPRIGHT}])([a-zA-Z /.]{{1,60}})(?:\^[23])?{END}(?:\^\{{?[23]\}}?)?")
# Behind any other value, at its end.
LAST = re.compile(
    r"(?<=[\w})])(?:\\[ ,;:!]|[~ ]){0,4}"
    r"(?:\\(?:text|mbox|textrm|mathrm)\s?\{([a-zA-Z /.]{1,60})(?:\^[23])?\}|(?<=[~ ])([a-zA-Z ]{2,60}))"
    r"(?:\^\{?[23]\}?)?(?= {0,8}\.?(?:\$|\Z))"
)
MARKS = re.compile(f"[{TEXT}{UPRIGHT}{END}]")
NAMED = (
    "mm cm dm km mi ft foot feet yd yard yards inch inches mile miles millimeter millimeters centimeter centimeters "
    "meter meters metre metres kilometer kilometers kilometre kilometres centimetre centimetres mg kg gram grams "
    "kilogram kilograms ton tons tonne tonnes lb lbs pound pounds oz ounce ounces ml mL dl cl liter liters litre "
    "litres gallon gallons sec second seconds min minute minutes hr hrs hour hours day days week weeks month months "
    "year years deg degree degrees radian radians celsius fahrenheit kelvin percent unit units square cubic sq per "
    "mph kph kmh dollar dollars cent cents euro euros Hz Pa kPa kJ kW"
)
UNITS = frozenset(NAMED.split())
LETTERS = frozenset("mgshLlNJWVAKC")  # units of one letter; letters are variables unless they are marked
# Words that say how many, or that there is more than one answer.
AMOUNTS = (
    "hundred hundreds thousand thousands million millions billion billions trillion trillions dozen dozens half "
    "halves third thirds quarter quarters more less fewer least most or and to pi mod"
)
COUNTING = frozenset(AMOUNTS.split())
MORE = re.compile(
    r"\b(?:hundreds?|thousands?|(?:m|b|tr)illions?|dozens?|or (?:more|less|fewer)|at (?:least|most)"
    r"|(?:more|less|fewer) than)\b"
)
NUMBER = re.compile(r"(-?)0*(\d*)(?:\.(\d*))?")
# Letters. Short ones stand for factors, and so do the sides of a minus: `x - y`, `ab-cd`.
SMALL = "of|to|in|is|an|or|on|by|at|no|as|it"
RUN = r"[a-z]{3,}(?:'[a-z]{1,2})?"
WORD = re.compile(rf"(?=[a-z]{{4}}|[a-z]{{3}} ){RUN}(?:-{RUN}| (?:{RUN}|(?:{SMALL})(?= )))*")
FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg|exp|gcd|lcm|max|min|det"
FUNCTION = re.compile(rf"\\(?:operatorname\*?|mathrm|text)\s?\{{\s?({FUNCTIONS})\s?\}}")
VARIABLE = re.compile(r"\\(?:operatorname|mathrm)\s?\{\s?([a-zA-Z])\s?\}")


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
    for _ in range(3):
        for pattern, new in DISGUISES:
            text = pattern.sub(new, text)
    return next((name for name, pattern in HEAVY if pattern.search(text)), None)


def spelled(text: str) -> str:
    """One spelling for answers that differ in the ways of writing alone; at most the first 2,000 characters."""
    text = text[:LONGEST]
    for _ in range(PASSES):
        before, text = text, _pass(text)
        if text == before:
            break
    return text


def _pass(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
    for pattern, new in SPELLINGS:
        text = pattern.sub(new, text)
    text = THOUSANDS.sub(lambda number: number[0].replace(",", ""), _tidy(text))
    if led := LED.match(text):
        text = text[led.end() :]
    if (marked := MARKED.fullmatch(text)) and _is_unit(marked[3], marked[2]):
        text = marked[1]
    text = _tidy(MARKS.sub(" ", text))
    if (plain := UNIT.fullmatch(text)) and _is_unit(plain[2]):
        text = plain[1]
    number = NUMBER.fullmatch(text)
    if number and any(character.isdigit() for character in text):
        return _number(number[1], number[2] or "", number[3] or "")
    if WORD.fullmatch(text.casefold()):
        return text.casefold()
    joined = SPACE.sub("", text)
    return SPACE_NOT_AFTER_COMMA.sub("", text) if THOUSANDS.search(joined) else joined


def _tidy(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _is_unit(words: str, mark: str = "") -> bool:
    """In `\\text` any word may be one that does not count, elsewhere those that are known."""
    named = words.replace("/", " ").replace(".", " ").split()
    if mark == TEXT:
        return bool(named) and all(w in LETTERS if len(w) == 1 else w.casefold() not in COUNTING for w in named)
    return bool(named) and all(w in UNITS or w.casefold() in UNITS or (mark and w in LETTERS) for w in named)


def _number(sign: str, whole: str, decimals: str) -> str:
    decimals = decimals.rstrip("0")
    written = (whole or "0") + (f".{decimals}" if decimals else "")
    return written if written == "0" else sign + written


def is_word(text: str) -> bool:
    """Words, at least one of four letters or more than one: a computer algebra system would multiply the letters."""
    return WORD.fullmatch(spelled(text)) is not None


def says_more(text: str) -> bool:
    """Whether words change the number beside them (`3 million`, `5 or more`); a parser of mathematics drops them."""
    plain = SPELLINGS[1][0].sub(r" \1 ", text[:LONGEST])
    return MORE.search(" ".join(plain.casefold().split())) is not None


def written(text: str) -> str:
    r"""As a parser is to read it: without its unit, and `\operatorname{ln}` and `\mathrm{i}` as it knows them."""
    text = LAST.sub(lambda found: "" if _is_unit(found[1] or found[2], UPRIGHT * bool(found[1])) else found[0], text)
    text = FUNCTION.sub(r"\\\1 ", text)
    return VARIABLE.sub(lambda found: found[0] if found[1] in LETTERS else f" {found[1]} ", text)
