"""Demonstrations from targets: the released code's worked numbers, three ways to cut, and what holds for any ids."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_megatron.algorithms import target
from hpt_megatron.algorithms.target import Target, TargetRules, make_target, make_targets
from hpt_megatron.errors import UserError

pytestmark = pytest.mark.fast

EOS, PAD = 2, 0
SEVEN = [21, 22, 23, 24, 25, 26, 27]


def made(ids, **changed):
    return make_target(ids, TargetRules(**{"eos": EOS, "pad": PAD, "limit": 6, **changed}))


def test_the_examples_of_the_module_hold():
    assert doctest.testmod(target).failed == 0


def test_a_target_gets_one_end_token():
    """The worked row: targets [21, 22, 23] in responses of 6 train the tokens 21, 22, 23 and the end."""
    assert made([21, 22, 23]) == Target((21, 22, 23, 2), cut=False)
    assert made([21, 22, 23, 0, 0, 0]) == Target((21, 22, 23, 2), cut=False)


@pytest.mark.parametrize("ids", [[21, 22, 2], [21, 22], [21, 22, 2, 2, 2]])
def test_an_end_token_that_also_pads_is_taken_off_and_put_back_once(ids):
    assert made(ids, pad=EOS) == Target((21, 22, 2), cut=False)


def test_a_target_that_brings_its_end_token_along_gets_no_second_one():
    """The released code adds one and its mask then leaves it out, so the same tokens are trained."""
    assert made([21, 22, 2]) == made([21, 22, 2, 0, 0]) == Target((21, 22, 2), cut=False)
    assert made([21, 22, 2], pad=None) == Target((21, 22, 2), cut=False)


@pytest.mark.parametrize("cut", ["drop", "truncate", "official"])
@pytest.mark.parametrize(("ids", "pad"), [([], 0), ([0, 0, 0], 0), ([2, 2], 2), ([2], 0), ([2, 0], 0), ([2], None)])
def test_an_empty_target_makes_no_demonstration(ids, pad, cut):
    assert made(ids, pad=pad, cut=cut) is None


def test_a_target_that_is_too_long_is_dropped_unless_another_way_is_asked_for():
    assert made(SEVEN) is None
    assert made(SEVEN, cut="truncate") == Target((21, 22, 23, 24, 25, 26), cut=True)


def test_the_released_cut_has_its_worked_numbers():
    """A target of 7 tokens in responses of 6: the first 6 tokens and no end."""
    assert made(SEVEN, cut="official") == Target((21, 22, 23, 24, 25, 26), cut=True)


def test_the_released_cut_stops_in_the_middle_where_a_response_is_longer_than_a_target_may_be():
    """Ours never does: an end token stands behind the end of the target or nowhere."""
    assert made(SEVEN, limit=4, longest=6, cut="official") == Target((21, 22, 23, 24, 2), cut=True)
    assert made(SEVEN, limit=4, longest=6, cut="truncate") == Target((21, 22, 23, 24), cut=True)


def test_the_end_token_counts_towards_the_limit():
    """A target of exactly the limit loses its end; one less is whole, in every way."""
    assert made(SEVEN[:6]) is None
    assert made(SEVEN[:6], cut="truncate") == made(SEVEN[:6], cut="official") == Target(tuple(SEVEN[:6]), cut=True)
    for cut in ("drop", "truncate", "official"):
        assert made(SEVEN[:5], cut=cut) == Target((21, 22, 23, 24, 25, 2), cut=False)


def test_an_end_token_between_turns_is_kept_and_the_released_mask_ends_there():
    """The worked mask: [5, 6, 2, 7, 2, 0] trains [1, 1, 1, 0, 0, 0]."""
    assert made([5, 6, 2, 7, 2, 0]) == Target((5, 6, 2, 7, 2), cut=False)
    assert made([5, 6, 2, 7, 2, 0], cut="official") == Target((5, 6, 2), cut=True)


def test_what_becomes_of_targets_is_counted():
    many = [[21], [], SEVEN, [0, 0], SEVEN[:5], SEVEN]
    expected = {
        "drop": {"targets": 2, "targets_empty": 2, "targets_dropped": 2, "targets_cut": 0},
        "truncate": {"targets": 4, "targets_empty": 2, "targets_dropped": 0, "targets_cut": 2},
        "official": {"targets": 4, "targets_empty": 2, "targets_dropped": 0, "targets_cut": 2},
    }
    for cut, counts in expected.items():
        made_of_all, counted = make_targets(many, TargetRules(eos=EOS, pad=PAD, limit=6, cut=cut))
        assert counted == counts
        assert [one is None for one in made_of_all] == [False, True, cut == "drop", True, False, cut == "drop"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cut": "error"}, "no such way to cut a target: error; one of drop, truncate, official"),
        ({"limit": 0}, "a target of at most 0 tokens; 1 or more"),
        ({"limit": 9, "longest": 8}, "targets of 9 tokens do not fit into responses of 8; at most 8"),
    ],
)
def test_rules_that_make_no_sense_are_refused_in_one_line(changed, said):
    with pytest.raises(UserError) as refused:
        made([1], **changed)
    assert str(refused.value).endswith(said)


IDS = st.lists(st.integers(0, 5), max_size=9)
RULES = st.builds(
    TargetRules,
    eos=st.just(EOS),
    pad=st.sampled_from([PAD, EOS, None]),
    limit=st.integers(1, 10),
    cut=st.sampled_from(["drop", "truncate", "official"]),
)


@given(ids=IDS, rules=RULES)
def test_every_demonstration_is_whole_or_says_that_it_is_cut(ids, rules):
    body = list(ids)
    while body and body[-1] in (rules.pad, EOS):
        body.pop()
    found, whole = make_target(ids, rules), (*body, EOS)
    if found is None:
        dropped = rules.cut == "drop" and len(whole) > rules.limit
        nothing_left = rules.cut == "official" and {*ids[: rules.limit]} <= {rules.pad, EOS}
        assert not body or dropped or nothing_left
        return
    assert 0 < len(found.ids) <= rules.limit
    assert found.cut == (found.ids != whole)
    if rules.cut != "official":
        assert found.cut == (len(whole) > rules.limit)
        assert found.ids == whole[: len(found.ids)]


@given(ids=IDS, rules=RULES, padding=st.integers(0, 5))
def test_padding_on_the_right_changes_nothing_and_the_ids_given_stay(ids, rules, padding):
    before = list(ids)
    pad = EOS if rules.pad is None else rules.pad
    assert make_target(ids, rules) == make_target([*ids, *[pad] * padding], rules)
    assert ids == before


@given(ids=IDS, rules=RULES)
def test_a_demonstration_that_is_not_cut_is_its_own_target(ids, rules):
    found = make_target(ids, rules)
    if found is not None and not found.cut:
        assert make_target(found.ids, rules) == found


@given(ids=st.lists(st.integers(3, 9), max_size=9), limit=st.integers(1, 10))
def test_the_released_cut_is_ours_with_one_limit_and_plain_ids(ids, limit):
    ways = [make_target(ids, TargetRules(eos=EOS, pad=PAD, limit=limit, cut=cut)) for cut in ("truncate", "official")]
    assert ways[0] == ways[1]


@given(many=st.lists(IDS, max_size=6), rules=RULES)
def test_every_target_is_counted_once(many, rules):
    found, counts = make_targets(many, rules)
    assert found == [make_target(ids, rules) for ids in many]
    assert counts["targets"] + counts["targets_empty"] + counts["targets_dropped"] == len(many)
    assert counts["targets_cut"] <= counts["targets"]
