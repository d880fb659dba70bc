# ruff: noqa: T201  it talks to a terminal
"""Which GPU, how many and which tree for a traffic and an SLO: on paper and by simulation, not measured."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from loadtest import curve, files
from loadtest.commands.options import batch_sizes, positive, rate
from loadtest.commands.terminal import say
from loadtest.planning import fit, geometry, hardware, published
from loadtest.planning.acceptance import read_acceptance
from loadtest.planning.plan import Question, plan
from loadtest.planning.plan_text import markdown, published_table, render
from loadtest.planning.queueing import Traffic
from loadtest.planning.roofline import PUBLISHED, Constants, Machine
from loadtest.summary import Objectives
from loadtest.tree import Tree

_NEEDED = ("model", "gpu", "rate", "prompt_tokens", "answer_tokens")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench plan`."""
    add = parser.add_argument
    add("--published", action="store_true", help="check the model against published figures instead, as Markdown")
    add("--model", metavar="CONFIG", help=f"a config.json or its directory, or {', '.join(geometry.presets())}")
    add("--gpu", nargs="+", metavar="GPU", help=f"{', '.join(hardware.names())}, or a YAML file")
    add("--rate", type=rate, metavar="R", help="requests per second, all replicas together")
    add("--prompt-tokens", type=positive, metavar="N", help="of a request, on average; less what a prefix cache saves")
    add("--answer-tokens", type=positive, metavar="N", help="of a request, on average")
    add("--ttft", type=rate, metavar="MS", help="objective: time to first token, 99th percentile")
    add("--tpot", type=rate, metavar="MS", help="objective: time per output token, 99th percentile")
    add("--acceptance", metavar="A,A|FILE", help='n-alpha by position (0.77,0.76), or JSON: {"3/1/4": 2.8}')
    add("--draft", metavar="CONFIG", help="the EAGLE-3 draft's config.json or its directory, for its vocabulary")
    add("--precision", choices=("bf16", "fp8"), default="bf16", help="of the target's weights (bf16)")
    add("--curve", type=Path, metavar="FILE", help="a calibration of the same model, to fit the model to")
    add("--curve-gpu", metavar="GPU", help="what the curve was measured on (the only --gpu)")
    add("--tp", type=batch_sizes, default=Question.tps, metavar="N,N", help="GPUs of a replica to try (1,2,4,8)")
    add(
        "--max-batch",
        type=positive,
        default=Question.max_batch,
        metavar="N",
        help="requests of a replica at once (256)",
    )
    add(
        "--utilisation",
        type=_utilisation,
        default=Question.utilisation,
        metavar="X",
        help="of a replica, at most (0.8)",
    )
    add("--price", type=_price, action="append", default=[], metavar="GPU=USD", help="of an hour; once for each GPU")
    add("--seed", type=int, default=Question.seed, metavar="N", help="of the simulated arrivals (0)")
    add("--output", type=Path, metavar="FILE", help="the plan as JSON")
    add("--markdown", type=Path, metavar="FILE", help="the sizing table as Markdown")
    parser.set_defaults(check_options=partial(_check_options, parser))


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.published:
        if options.curve:
            parser.error("--published checks the constants that come with Aerie: leave out --curve")
        return
    missing = [name for name in _NEEDED if getattr(options, name) is None]
    if missing:
        parser.error("needs " + ", ".join(f"--{name.replace('_', '-')}" for name in missing))
    if options.curve and not options.curve_gpu and len(options.gpu) > 1:
        parser.error("--curve with several GPUs needs --curve-gpu: what it was measured on")
    if options.answer_tokens == 1:
        parser.error("--answer-tokens 1: nothing is decoded then; 2 at least")
    unknown = [name for name, _ in options.price if name not in map(_label, options.gpu)]
    if unknown:
        parser.error(f"--price {unknown[0]}: not among --gpu")


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0, or a BenchError."""
    if options.published:
        print(published_table(published.read(), PUBLISHED))
        return 0
    planned = plan(_question(options), argv)
    print(render(planned), flush=True)
    if options.output:
        planned.write(options.output)
        say(f"{options.output} is written")
    if options.markdown:
        files.write(markdown(planned), options.markdown)
        say(f"{options.markdown} is written")
    return 0


def _question(options: argparse.Namespace) -> Question:
    target = geometry.read(options.model, options.precision)
    draft_vocab = geometry.draft_vocab(options.draft) if options.draft else None
    acceptance = read_acceptance(options.acceptance) if options.acceptance else {}
    constants, constants_from, warnings = PUBLISHED, Question.constants_from, Question.warnings
    if options.curve:
        measured = curve.read(options.curve)
        machine = Machine(target, hardware.read(options.curve_gpu or options.gpu[0]), draft_vocab=draft_vocab)
        constants, constants_from = _fitted(measured, machine), _whose(measured, options)
        warnings = fit.misfits(measured, options.precision)
        acceptance = _measured_tau(measured) | acceptance
    return Question(
        target=target,
        gpus={_label(name): hardware.read(name) for name in options.gpu},
        traffic=Traffic(options.rate, options.prompt_tokens, options.answer_tokens),
        objectives=Objectives(*(None if most is None else most / 1000 for most in (options.ttft, options.tpot))),
        acceptance=acceptance,
        constants=constants,
        constants_from=constants_from,
        warnings=warnings,
        draft_vocab=draft_vocab,
        tps=options.tp,
        max_batch=options.max_batch,
        utilisation=options.utilisation,
        prices=dict(options.price),
        seed=options.seed,
    )


def _fitted(measured: curve.Curve, machine: Machine) -> Constants:
    """Its errors are told: in the fit, and of each point when left out of it."""
    points = fit.of_curve(measured, machine)
    constants = fit.fit(points, PUBLISHED)
    if len(points) > 1:
        for point, left_out in zip(points, fit.leave_one_out(points, PUBLISHED), strict=True):
            errors = f"the fit {point.error(constants):+.1%}, left out {left_out:+.1%}"
            say(f"{point.name}: {1000 * point.value:.1f} ms, {errors}")
    return constants


def _whose(measured: curve.Curve, options: argparse.Namespace) -> str:
    """Both models by name: whether they are the same one, only a person can tell."""
    valid = measured.valid_for
    return f"{options.curve.name} ({valid.model} for --model {options.model}, {valid.hardware})"


def _measured_tau(measured: curve.Curve) -> dict[Tree, float]:
    if not measured.speculative:
        return {}
    points = measured.speculative.points
    tau = sum(point.acceptance_length for point in points) / len(points)
    return {Tree.parse(measured.speculative.tree): tau}


def _label(gpu: str) -> str:
    """Of a GPU on the command line: its name, or that of its file."""
    return Path(gpu).stem.lower()


def _utilisation(text: str) -> float:
    """Neither 0, which no number of replicas reaches, nor 1, at which queues have no end."""
    if rate(text) >= 1:
        raise argparse.ArgumentTypeError("a share of the limit, below 1")
    return float(text)


def _price(text: str) -> tuple[str, float]:
    gpu, equals, usd = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write GPU=USD, as h100=2.5")
    return gpu, rate(usd)
