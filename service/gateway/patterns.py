"""Which stop_regex patterns may run in the scheduler's process.

SGLang searches them with Python's `re` between two steps of the whole batch: a pattern that backtracks exponentially
stops every request of the runtime. Owns that one check; refuses to own grammars, which xgrammar compiles to automata.
"""

import re
import warnings
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_FORKS = (*_REPEATS, sre.BRANCH)


def check_stop_regex(value: Any) -> Any:  # noqa: ANN401 - a validator sees any JSON value
    """Pass the pattern on if it compiles and no repeat holds another repeat or an alternative.

    What Python's next versions will read differently (`[[a]` as a set in a set) is refused: the runtime's Python need
    not be ours.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(value, str) or len(value) > 256:
        return value  # the field's type and length say so better
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            tree = sre_parser.parse(value)
    except FutureWarning as warning:
        raise ValueError(f"ambiguous: {warning}; put a backslash before the character") from warning
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression of Python's re: {error}") from error
    if _backtracks(tree, inside_repeat=False):
        raise ValueError("a repeat inside a repeat, or an alternative inside a repeat, can stall the runtime")
    return value


def _backtracks(node: Any, *, inside_repeat: bool) -> bool:  # noqa: ANN401 - re's parse tree is untyped
    if isinstance(node, sre_parser.SubPattern):
        return any(_forks(op, arguments, inside_repeat=inside_repeat) for op, arguments in node)
    if isinstance(node, tuple | list):
        return any(_backtracks(child, inside_repeat=inside_repeat) for child in node)
    return False


def _forks(op: Any, arguments: Any, *, inside_repeat: bool) -> bool:  # noqa: ANN401
    if inside_repeat and op in _FORKS:
        return True
    unbounded = op in _REPEATS and arguments[1] > 1
    return _backtracks(arguments, inside_repeat=inside_repeat or unbounded)
