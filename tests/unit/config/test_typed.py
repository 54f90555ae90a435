"""Plain values to frozen dataclasses."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.config.load import load
from hpt_megatron.config.typed import MisfitError, convert, read

pytestmark = pytest.mark.fast


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outer:
    share: float
    mode: Literal["a", "no"]
    inner: Inner
    spare: Inner | None
    flag: bool
    count: int | None


SOUND = {"share": 1, "mode": False, "inner": {"size": 2, "names": ["x"]}, "spare": None, "flag": True, "count": None}


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.text())
)


def test_sound_values_become_the_dataclass():
    made, problems = read(Outer, SOUND, SOUND)
    assert not problems
    assert made == Outer(share=1.0, mode="no", inner=Inner(size=2, names=("x",)), spare=None, flag=True, count=None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.share = 2.0


def test_every_misfit_is_collected_and_the_rest_is_kept():
    bad = {
        "share": "1",
        "mode": "b",
        "inner": {"size": True, "names": "x", "more": 1},
        "spare": {"size": 3},
        "flag": 0,
        "cuont": 3,
    }
    made, problems = read(Outer, bad, SOUND)
    assert {problem.path for problem in problems} == {
        *("share", "mode", "inner.size", "inner.names", "inner.more", "spare.names", "flag", "count", "cuont")
    }
    assert made.share == 1.0
    assert made.spare is None, "an optional group with a hole is left out whole"
    near = {problem.path: problem.right for problem in problems}
    assert near["cuont"].startswith("count ")
    assert near["mode"] == "one of a, no"
    assert near["inner.names"] == "a list, each item text"


@pytest.mark.parametrize("hint", [int, float, bool, str, int | None, tuple[int, ...], Literal["a", "no"]])
@given(value=ANYTHING)
def test_a_value_is_converted_to_its_type_or_a_misfit_that_says_the_right_one(hint, value):
    plain = {int | None: (int, type(None)), tuple[int, ...]: tuple, Literal["a", "no"]: str}.get(hint, hint)
    try:
        converted = convert(hint, value)
    except MisfitError as misfit:
        expected = str(misfit)
        converted = None
    else:
        expected = ""
        assert isinstance(converted, plain)
    assert expected or converted is not None or (value is None and hint == int | None)


def test_a_value_that_cannot_be_read_does_not_hide_other_problems():
    """The bad tp gives way to the experiment's own, so the wrong batch is still found, and nothing is said twice."""
    loaded = load(["experiment=hpt-7b", "layout.tp=four", "data.train_batch_size=100", "layout=3"])
    assert [(p.path, p.severity) for p in loaded.problems] == [
        ("layout", "error"),
        ("layout.tp", "error"),
        ("data.train_batch_size", "error"),
    ]
    assert loaded.run.layout.tp == 4
