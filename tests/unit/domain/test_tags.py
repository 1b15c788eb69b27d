"""An order's tag: 20 characters that say everything about it (architecture §5.1)."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from domain.tags import LENGTH, TagParts, make_tag, parse_tag

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PARTS = st.builds(
    TagParts,
    st.text(DIGITS, min_size=4, max_size=4),
    st.integers(0, 36**7 - 1),
    st.integers(0, 36**5 - 1),
    st.integers(0, 36**2 - 1),
)


def tag_of(parts: TagParts) -> str:
    return make_tag(parts.log_id, parts.strategy_id, parts.run, parts.number)


def test_a_tag_reads_as_it_was_written():
    assert make_tag("LOG1", 42, 7, 3) == "LOG100000160000703JR"
    assert parse_tag("LOG100000160000703JR") == TagParts("LOG1", 42, 7, 3)


@given(PARTS)
def test_every_tag_reads_back_and_is_what_kite_takes(parts):
    tag = tag_of(parts)
    assert len(tag) == LENGTH <= 20
    assert set(tag) <= set(DIGITS)
    assert parse_tag(tag) == parts


@given(PARTS, PARTS)
def test_distinct_orders_have_distinct_tags(one, other):
    assert (tag_of(one) == tag_of(other)) == (one == other)


@settings(max_examples=300)
@given(PARTS, st.integers(0, LENGTH - 1), st.sampled_from(DIGITS))
def test_a_wrong_character_is_noticed(parts, at, character):
    tag = tag_of(parts)
    wrong = tag[:at] + character + tag[at + 1 :]
    assert wrong == tag or parse_tag(wrong) is None


@settings(max_examples=300)
@given(PARTS, st.integers(0, LENGTH - 2))
def test_two_swapped_characters_are_noticed(parts, at):
    tag = tag_of(parts)
    wrong = tag[:at] + tag[at + 1] + tag[at] + tag[at + 2 :]
    assert wrong == tag or parse_tag(wrong) is None


@pytest.mark.parametrize(
    "text", [None, "", "MYTAG", "LOG100000160000703JR ", "log100000160000703jr", "LOG100000160000703JS"]
)
def test_what_is_not_ours_is_none_of_ours(text):
    assert parse_tag(text) is None


def test_a_tag_of_another_log_is_told_apart():
    parts = parse_tag(make_tag("LOG2", 42, 7, 3))
    assert parts is not None
    assert parts.log_id != "LOG1"


@pytest.mark.parametrize(
    ("log_id", "strategy", "run", "number", "what"),
    [
        ("LOG", 1, 1, 1, "log id"),
        ("log1", 1, 1, 1, "log id"),
        ("LOG1", 36**7, 1, 1, "strategy"),
        ("LOG1", -1, 1, 1, "strategy"),
        ("LOG1", 1, 36**5, 1, "run"),
        ("LOG1", 1, 1, 36**2, "number"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(log_id, strategy, run, number, what):
    with pytest.raises(ValueError, match=what):
        make_tag(log_id, strategy, run, number)


def test_the_largest_parts_fit():
    tag = make_tag("ZZZZ", 36**7 - 1, 36**5 - 1, 36**2 - 1)
    assert parse_tag(tag) == TagParts("ZZZZ", 36**7 - 1, 36**5 - 1, 36**2 - 1)
