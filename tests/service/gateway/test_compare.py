"""When is an answer the baseline's? A table of what can happen, and laws over random token sequences."""

import random

import pytest

from service.gateway.compare import Answer, Choice, Result, Token, compare

EPSILON = 0.1
END = "<|im_end|>"


def token(text, *others, logprob=-0.1):
    """A token that the baseline chose; others as (text, how much less likely)."""
    alternatives = [choice(text, logprob), *(choice(other, logprob - gap) for other, gap in others)]
    return Token(alternatives[0], tuple(alternatives))


def choice(text, logprob):
    return Choice((text if isinstance(text, bytes) else text.encode(),), logprob)


def stopped(text, tail=END):
    return Answer(text, tail, cut=False)


def cut(text):
    return Answer(text, "", cut=True)


PARIS = [token("It"), token(" is", (" was", 0.05), (" may", 3.0)), token(" Paris", (" Lyon", 4.0)), token(".")]
CUT, WHOLE = cut("It is Paris."), stopped("It is Paris.")
ENDED = [*PARIS, token(END, (" Yes", 0.06), ("\n", 3.0))]


@pytest.mark.parametrize(
    ("answer", "baseline", "tokens", "result", "position"),
    [
        (WHOLE, WHOLE, ENDED, Result.SAME, None),
        (CUT, CUT, PARIS, Result.SAME, None),
        (stopped("It was Rome."), WHOLE, ENDED, Result.WITHIN_EPSILON, 1),
        (stopped("It may be."), WHOLE, ENDED, Result.MISMATCH, 1),
        (stopped("It is Lyon."), WHOLE, ENDED, Result.MISMATCH, 2),
        (stopped("It is Pisa."), WHOLE, ENDED, Result.MISMATCH, 2),
        (stopped("It is Paris. Yes, it is."), WHOLE, ENDED, Result.WITHIN_EPSILON, 4),
        (stopped("It is Paris.\nOr not."), WHOLE, ENDED, Result.MISMATCH, 4),
        (stopped("It is"), WHOLE, ENDED, Result.MISMATCH, 2),
        (stopped(""), WHOLE, ENDED, Result.MISMATCH, 0),
        (cut("It is"), WHOLE, ENDED, Result.MISMATCH, 2),
        (cut("It is Paris."), WHOLE, ENDED, Result.MISMATCH, 4),
        (WHOLE, cut("It is Paris. No"), [*PARIS, token(" No", (END, 0.02))], Result.WITHIN_EPSILON, 4),
        (WHOLE, cut("It is Paris. No"), [*PARIS, token(" No", (END, 2.0))], Result.MISMATCH, 4),
        (cut("It is Paris. So"), CUT, PARIS, Result.MISMATCH, 4),
    ],
)
def test_an_answer_beside_the_baselines(answer, baseline, tokens, result, position):
    verdict = compare(answer, baseline, tokens, EPSILON)
    assert (verdict.result, verdict.position) == (result, position)


def test_a_mismatch_tells_how_sure_the_baseline_was():
    known = compare(stopped("It is Lyon."), WHOLE, ENDED, EPSILON)
    assert (known.gap, known.at_least) == (pytest.approx(4.0), False)
    unknown = compare(stopped("It is Pisa."), WHOLE, ENDED, EPSILON)
    assert (unknown.gap, unknown.at_least) == (pytest.approx(4.0), True)


def test_what_a_near_tie_began_is_not_judged_further():
    assert compare(stopped("It was said that nothing is like Rome"), WHOLE, ENDED, EPSILON).position == 1


def test_a_near_tie_between_two_spellings_of_one_text_explains_what_follows():
    """` Par` and `is` say what ` Paris` says: after them the target may go on otherwise."""
    tokens = [*PARIS[:2], token(" Paris", (" Par", 0.01)), token(".", ("!", 5.0))]
    verdict = compare(cut("It is Paris!"), CUT, tokens, EPSILON)
    assert (verdict.result, verdict.position) == (Result.WITHIN_EPSILON, 2)


def test_a_stop_ends_both_answers_where_it_stands_and_a_token_may_reach_beyond_it():
    tokens = [token("Red"), token(", and", (" and", 0.01))]
    assert compare(stopped("Red", ", "), stopped("Red", ","), tokens, EPSILON).result is Result.SAME
    assert compare(stopped("Red and", ","), stopped("Red", ","), tokens, EPSILON).result is Result.WITHIN_EPSILON


def test_a_character_of_several_tokens_is_compared_by_its_bytes():
    """U+1F389 is four bytes, its neighbour U+1F388 differs in the last."""
    first, third = b"\xf0\x9f", b"\x89"
    tokens = [token(first), token(b"\x8e"), token(third, (b"\x88", 0.05), (b"\x87", 3.0)), token(END)]
    answers = {"\U0001f389": Result.SAME, "\U0001f388": Result.WITHIN_EPSILON, "\U0001f387": Result.MISMATCH}
    for text, result in answers.items():
        assert compare(stopped(text), stopped("\U0001f389"), tokens, EPSILON).result is result


def test_an_answer_cut_within_a_character_is_compared_as_far_as_it_can_be_read():
    tokens = [token("A"), token(" b", (b" \xf0\x9f", 0.02))]
    assert compare(cut("A \ufffd"), cut("A b"), tokens, EPSILON).result is Result.WITHIN_EPSILON
    assert compare(cut("A \ufffd"), cut("A b"), tokens, 0.01).result is Result.MISMATCH
    broken = [token("A"), token(b" \xf0\x9f", (" b", 0.02))]
    assert compare(cut("A \ufffd"), cut("A \ufffd"), broken, EPSILON).result is Result.SAME
    assert compare(cut("A b"), cut("A \ufffd"), broken, EPSILON).result is Result.WITHIN_EPSILON
    assert compare(cut("A c"), cut("A \ufffd"), broken, EPSILON).result is Result.MISMATCH


def test_tokens_that_do_not_spell_the_baselines_own_text_decide_nothing():
    tokens = [token("It"), token("is"), token("Paris")]  # as a SentencePiece tokenizer's, without their spaces
    assert compare(stopped("It was"), stopped("It is Paris"), tokens, EPSILON).result is Result.FAILED
    assert compare(stopped("It is Paris"), stopped("It is Paris"), tokens, EPSILON).result is Result.SAME


def test_a_token_that_may_be_spelled_in_two_ways_is_either():
    """The byte E6, which U+65E5 and U+65E4 begin with, or the letter that Latin-1 has there."""
    either = Token(Choice(("æ".encode(), b"\xe6"), -0.1), ())
    tokens = [either, token(b"\x97\xa5", (b"\x97\xa4", 0.01))]
    assert compare(cut("\u65e4"), cut("\u65e5"), tokens, EPSILON).result is Result.WITHIN_EPSILON
    assert compare(cut("\u65e3"), cut("\u65e5"), tokens, EPSILON).result is Result.MISMATCH
    assert compare(cut("æon"), cut("æther"), [either, token("ther", ("on", 0.05))], EPSILON).position == 1


VOCABULARY = [f" {letter}{number}" for letter in "abcdefgh" for number in range(10, 40)]
"""No word begins another: a text is tokens in one way only."""


@pytest.fixture(params=range(40))
def spoken(request):
    """A random answer of the baseline: its words, and a random source for the rest."""
    rng = random.Random(request.param)
    return [rng.choice(VOCABULARY) for _ in range(rng.randint(1, 30))], rng


def told(words, rng, gap):
    """Tokens of these words; beside each the same far and near alternatives, the near one `gap` away."""
    return [
        token(word, *((other, gap + index) for index, other in enumerate(others(word, rng))), logprob=-rng.random())
        for word in words
    ]


def others(word, rng):
    return rng.sample([other for other in VOCABULARY if other != word], 4)


def text(*words):
    return "".join(words)


def test_law_the_baselines_own_text_is_the_same_however_it_ends(spoken):
    words, rng = spoken
    tokens = told(words, rng, gap=0.0)
    assert compare(cut(text(*words)), cut(text(*words)), tokens, EPSILON).result is Result.SAME
    ended = [*tokens, token(END, logprob=-0.2)]
    assert compare(stopped(text(*words)), stopped(text(*words)), ended, EPSILON).result is Result.SAME


@pytest.mark.parametrize(("gap", "result"), [(0.09, Result.WITHIN_EPSILON), (0.11, Result.MISMATCH)])
def test_law_one_flipped_token_is_judged_by_the_baselines_logprobs_alone(spoken, gap, result):
    words, rng = spoken
    tokens, place = told(words, rng, gap), rng.randrange(len(words))
    near = tokens[place].alternatives[1].spellings[0].decode()
    what_follows = [rng.choice(VOCABULARY) for _ in range(rng.randint(0, 9))]
    flipped = compare(cut(text(*words[:place], near, *what_follows)), cut(text(*words)), tokens, EPSILON)
    assert (flipped.result, flipped.position) == (result, place)
    assert flipped.gap == pytest.approx(gap)


def test_law_a_token_the_baseline_did_not_think_of_is_a_mismatch(spoken):
    words, rng = spoken
    tokens, place = told(words, rng, gap=0.0), rng.randrange(len(words))
    verdict = compare(cut(text(*words[:place], " never", *words[place:])), cut(text(*words)), tokens, EPSILON)
    assert (verdict.result, verdict.position, verdict.at_least) == (Result.MISMATCH, place, True)


def test_law_a_shorter_answer_is_a_mismatch_unless_the_end_was_likely(spoken):
    words, rng = spoken
    place = rng.randrange(len(words))
    for gap, result in ((5.0, Result.MISMATCH), (0.01, Result.WITHIN_EPSILON)):
        tokens = told(words, rng, gap=1.0)
        tokens[place] = token(words[place], (END, gap))
        assert compare(stopped(text(*words[:place])), cut(text(*words)), tokens, EPSILON).result is result
