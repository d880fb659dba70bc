"""Stop patterns run in the scheduler's process: those that can backtrack exponentially are refused."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.gateway.patterns import check_stop_regex


@pytest.mark.parametrize(
    "pattern", [r"\d{3}", "a+b*", "(abc)+", "(?i)end|fin", "[a-z]+\n", "^x$", "(a|b)c", "(ab?)", "a{2,5}"]
)
def test_ordinary_patterns_pass(pattern):
    assert check_stop_regex(pattern) == pattern


@pytest.mark.parametrize("pattern", ["(a+)+", "(a*)*b", "(a|a)*", "((ab)*c)+", "(?:x+y)*", "(a?){40}", "(?:(a)|b){2,}"])
def test_a_repeat_or_an_alternative_inside_a_repeat_is_refused(pattern):
    with pytest.raises(ValueError, match="stall"):
        check_stop_regex(pattern)


@pytest.mark.parametrize("pattern", ["[[", "[[a]", "[a&&b]", "[a||b]", "[a~~b]", "[a--b]"])
def test_a_set_that_a_later_python_reads_differently_is_refused(pattern):
    with pytest.raises(ValueError, match=r"ambiguous: Possible .* put a backslash"):
        check_stop_regex(pattern)


@pytest.mark.parametrize("pattern", [r"[\[a]", r"[a&\&b]", r"[\[\]]"])
def test_a_set_with_that_character_escaped_passes(pattern):
    assert check_stop_regex(pattern) == pattern


@given(st.text(alphabet="ab()[]{}|*+?^$\\.,0123456789(?:=!<P>#", max_size=40))
@example("[[")
def test_any_text_is_a_pattern_or_a_value_error(text):
    with suppress(ValueError):
        assert check_stop_regex(text) == text
