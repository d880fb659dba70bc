"""`aerie rollout judge` and `aerie rollout step`.

Owns their options, what they print and their exit status. `judge` changes nothing; `step` writes the weights that ought
to be, and leaves it to the caller to install them.
"""

import argparse
import json
import re
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from service.rollout import report, weights
from service.rollout.assess import Judgement, Terms, assess, next_share
from service.rollout.errors import RolloutError
from service.rollout.estimate import MIN_BLOCKS
from service.rollout.judge import Verdict
from service.rollout.prometheus import Prometheus
from service.rollout.situation import BLOCK_S, Pair

STATUS = {Verdict.PROMOTE: 0, Verdict.HOLD: 3, Verdict.ROLL_BACK: 4, Verdict.IDLE: 5}
"""1 and 2 are failures, as of every command."""
_STEPS = "5,25,50,100"
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_SHORTEST_LOOK_MIN = BLOCK_S * MIN_BLOCKS // 60


def judge(options: argparse.Namespace) -> int:
    """Compare a canary draft with the stable one, and say whether to promote it."""
    judgement = assess(_prometheus(options), _pair(options), _terms(options), _steps(options))
    return _told(options, judgement, None)


def step(options: argparse.Namespace) -> int:
    """Judge, and write the weights that follow as Helm values: the next step's, none for the canary, or the same."""
    pair, steps = _pair(options), _steps(options)
    weights.check_output(options.output)
    before = weights.read(options.values, pair)
    judgement = assess(_prometheus(options), pair, _terms(options), steps, before.share)
    after = before.with_share(_next(judgement.verdict, before.share, steps))
    weights.write(options.output, pair, after, judgement.sentence)
    return _told(options, judgement, {pair.canary: after.canary, pair.stable: after.stable})


def _next(verdict: Verdict, share: float, steps: list[float]) -> float:
    if verdict is Verdict.ROLL_BACK:
        return 0.0
    if verdict is Verdict.PROMOTE:
        return next_share(share, steps)
    return share


def _told(options: argparse.Namespace, judgement: Judgement, written: dict[str, float] | None) -> int:
    if options.json:
        print(json.dumps(report.document(judgement, written), indent=2))
    else:
        print(report.table(judgement))
        if written is not None:
            print(
                f"weights in {options.output}: " + ", ".join(f"{name} {weight:g}" for name, weight in written.items())
            )
    return STATUS[judgement.verdict]


def _prometheus(options: argparse.Namespace) -> Prometheus:
    try:
        token = options.token_file.read_text().strip() if options.token_file else None
    except OSError as error:
        raise RolloutError(f"--token-file: {options.token_file} cannot be read: {error.strerror}") from None
    return Prometheus(options.prometheus, token)


def _pair(options: argparse.Namespace) -> Pair:
    for option in ("canary", "stable", "namespace"):
        value = getattr(options, option)
        if value is not None and not _NAME.fullmatch(value):
            raise RolloutError(f"--{option}: {value!r} is no name: a-z, 0-9, _ and -, 64 at most")
    if options.canary == options.stable:
        raise RolloutError(f"--canary and --stable are both {options.canary}; a canary draft is a pool of its own")
    return Pair(options.canary, options.stable, options.namespace)


def _steps(options: argparse.Namespace) -> list[float]:
    try:
        steps = [float(part) for part in options.steps.split(",")]
    except ValueError:
        raise RolloutError(f"--steps: {options.steps} are no percentages; give them like {_STEPS}") from None
    if not all(low < high for low, high in pairwise([0, *steps])) or not steps[-1] <= 100:
        raise RolloutError(f"--steps: {options.steps} must ascend from above 0 to 100 at most, like {_STEPS}")
    return [one / 100 for one in steps]


def _terms(options: argparse.Namespace) -> Terms:
    if options.look_every < _SHORTEST_LOOK_MIN:
        raise RolloutError(
            f"--look-every: {options.look_every} minutes are too few to judge; give at least {_SHORTEST_LOOK_MIN}"
        )
    if not 0.5 <= options.confidence < 1:
        raise RolloutError(f"--confidence: {options.confidence} is not from 0.5 to below 1")
    for option in ("at_least", "tau_at_least", "latency_at_most", "errors_at_most", "replicas_at_least"):
        value = getattr(options, option)
        if value is not None and not 0 <= value < inf:
            raise RolloutError(f"--{option.replace('_', '-')}: {value} is no number from 0")
    return Terms(
        at_least=options.at_least,
        tau_at_least=options.at_least if options.tau_at_least is None else options.tau_at_least,
        latency_at_most=options.latency_at_most,
        errors_at_most=options.errors_at_most,
        replicas_at_least=options.replicas_at_least,
        confidence=options.confidence,
        min_requests=options.min_requests,
        look_s=options.look_every * 60,
    )


def add_to(commands: Any) -> None:  # noqa: ANN401 - argparse does not name the type
    """`rollout` and its two commands."""
    about = "Judge a canary draft by what Prometheus has, and move its share of the requests."
    parser = commands.add_parser("rollout", help=about, description=about)
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (judge, step):
        subparser = inner.add_parser(
            command.__name__, parents=[_options()], help=command.__doc__, description=command.__doc__,
            epilog="Exit status: 0 promote, 3 hold, 4 roll back, 5 nothing to judge; 1 and 2 are failures.",
        )  # fmt: skip
        subparser.set_defaults(command=command)
        if command is step:
            subparser.add_argument(
                "--values", type=Path, action="append", required=True, metavar="FILE",
                help="Helm values with the pools as they are; a later one over an earlier one",
            )  # fmt: skip
            subparser.add_argument(
                "--output", type=Path, required=True, metavar="FILE", help="where the weights go, for `helm upgrade -f`"
            )


def _options() -> argparse.ArgumentParser:
    terms = Terms()
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--prometheus", required=True, metavar="URL", help="its base URL")
    options.add_argument("--token-file", type=Path, metavar="FILE", help="a bearer token for it")
    options.add_argument("--namespace", metavar="NAME", help="of the pools, where others have pools of these names too")
    options.add_argument("--canary", required=True, metavar="POOL", help="the pool of the draft to judge")
    options.add_argument("--stable", required=True, metavar="POOL", help="the pool to judge it by")
    options.add_argument(
        "--steps", default=_STEPS, metavar="PERCENT,...", help=f"the canary's shares, in turn ({_STEPS})"
    )
    options.add_argument(
        "--tau-at-least", type=float, metavar="RATIO", help="its acceptance length by the stable pool's (--at-least)"
    )
    for option, value, metavar, what in (
        ("--at-least", terms.at_least, "RATIO", "its speed at equal batch sizes, by the stable pool's"),
        ("--latency-at-most", terms.latency_at_most, "RATIO", "its times to and per token, by the stable pool's"),
        ("--errors-at-most", terms.errors_at_most, "SHARE", "its error rate minus the stable pool's"),
        (
            "--replicas-at-least",
            terms.replicas_at_least,
            "PART",
            "its replicas for the next share, by the stable's",
        ),
        ("--confidence", terms.confidence, "P", "of the whole roll-out"),
        ("--min-requests", terms.min_requests, "N", "of each pool, before a promotion"),
        ("--look-every", terms.look_s // 60, "MINUTES", "between two looks at a step"),
    ):
        options.add_argument(option, type=type(value), default=value, metavar=metavar, help=f"{what} ({value})")
    options.add_argument("--json", action="store_true", help="print the judgement as JSON")
    return options
