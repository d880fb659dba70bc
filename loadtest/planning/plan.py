"""Which GPU, how many of them, and which tree, for a traffic and its objectives.

Owns the choice among sizes, and the words where nothing fits or is fast enough. Refuses to own sizes (sizing.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import merge
from itertools import groupby

from loadtest import provenance
from loadtest.errors import PlanError
from loadtest.planning.geometry import Geometry
from loadtest.planning.hardware import Gpu
from loadtest.planning.planned import Asked, Band, Bands, Milliseconds, Planned, Row
from loadtest.planning.queueing import PLAIN, Decoding, Replica, Traffic
from loadtest.planning.roofline import PUBLISHED, Constants, Machine
from loadtest.planning.sizing import Checked, Size, alone, growing, on_paper, room, simulated
from loadtest.stats import rounded
from loadtest.summary import Distribution, Objectives
from loadtest.tree import Tree


@dataclass(frozen=True)
class Question:
    """What is asked for."""

    target: Geometry
    gpus: Mapping[str, Gpu]
    traffic: Traffic
    objectives: Objectives = field(default_factory=Objectives)
    acceptance: Mapping[Tree, float] = field(default_factory=dict)
    constants: Constants = PUBLISHED
    constants_from: str = "published measurements (docs/plan.md)"
    warnings: Sequence[str] = ()
    """Why the constants may not be this model's, in words; they go into the plan's notes."""
    draft_vocab: int | None = None
    tps: Sequence[int] = (1, 2, 4, 8)
    max_batch: int = 256
    utilisation: float = 0.8
    prices: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def decodings(self) -> list[Decoding]:
        """Plain, and every tree."""
        return [PLAIN, *(Decoding(tree, tau) for tree, tau in sorted(self.acceptance.items()))]


def plan(question: Question, argv: Sequence[str]) -> Planned:
    """The best size of every GPU, with speculation and without.

    Raises:
        PlanError: the model fits none of the GPUs, or none keeps the objectives; the line says what is nearest.
    """
    fitting = {name: list(_replicas(question, gpu)) for name, gpu in question.gpus.items()}
    if not any(fitting.values()):
        raise PlanError(_nothing_fits(question))
    sizes = {name: _best(question, replicas) for name, replicas in fitting.items()}
    if not any(sizes.values()):
        raise PlanError(_nothing_is_fast_enough(question, [one for replicas in fitting.values() for one in replicas]))
    return Planned(
        created=datetime.now(UTC).replace(microsecond=0),
        commit=provenance.commit(),
        argv=provenance.arguments(argv),
        versions=provenance.versions(),
        asked=_asked(question),
        constants={name: rounded(value) for name, value in question.constants.as_dict().items()},
        constants_from=question.constants_from,
        rows=tuple(_row(question, name, checked) for name, found in sizes.items() for checked in found),
        bands=tuple(bands(name, found[-1].size.replica, question.decodings) for name, found in sizes.items() if found),
        notes=tuple(_notes(question, fitting, sizes)),
    )


def bands(gpu: str, replica: Replica, decodings: Sequence[Decoding]) -> Bands:
    """Which way of decoding is fastest, by batch size, up to a replica's room."""
    machine, context = replica.machine, replica.traffic.context

    def fastest(batch: int) -> Decoding:
        return min(decodings, key=lambda one: one.pass_s(machine, batch, context) / one.tau)

    def speedup(decoding: Decoding, batch: int) -> float:
        return rounded(machine.step_s(batch, context) * decoding.tau / decoding.pass_s(machine, batch, context))

    found = []
    for decoding, group in groupby(range(1, replica.most + 1), key=fastest):
        sizes = list(group)
        first, last = sizes[0], sizes[-1]
        ends = {"speedup_first": speedup(decoding, first), "speedup_last": speedup(decoding, last)}
        found.append(Band(first=first, last=last, tree=decoding.name, **ends))
    return Bands(gpu=gpu, tp=machine.tp, bands=tuple(found))


def _replicas(question: Question, gpu: Gpu) -> Iterator[Replica]:
    """Of every parallelism and way of decoding that the memory has room for."""
    for tp in question.tps:
        if question.target.heads % tp:
            continue
        machine = Machine(question.target, gpu, tp, question.draft_vocab, question.constants)
        for decoding in question.decodings:
            most = room(machine, question.traffic, decoding, question.max_batch)
            if most:
                yield Replica(machine, decoding, question.traffic, most)


def _best(question: Question, replicas: Sequence[Replica]) -> list[Checked]:
    """Of plain decoding and of speculation the size with the fewest GPUs, then the fastest; none where none will do."""
    sizes = [on_paper(replica, question.objectives, question.utilisation) for replica in replicas]
    of_kind = ([size for size in sizes if size and bool(size.replica.decoding.tree) == kind] for kind in (False, True))
    return [checked for checked in (_smallest(question, kind) for kind in of_kind) if checked]


def _smallest(question: Question, sizes: Sequence[Size]) -> Checked | None:
    """The first that the simulation confirms, of these and larger ones together, fewest GPUs first."""
    candidates = merge(*map(growing, sizes), key=lambda size: (size.gpus, size.steady.tpot_s))
    checked = (simulated(size, question.objectives, question.seed) for size in candidates)
    return next(filter(None, checked), None)


def _row(question: Question, gpu: str, checked: Checked) -> Row:
    size, outcome = checked.size, checked.outcome
    replica, steady, traffic = size.replica, size.steady, question.traffic
    gpu_hours = size.gpus * 1e6 / (traffic.rate_per_s * traffic.answer_tokens * 3600)
    price = question.prices.get(gpu)
    return Row(
        gpu=gpu,
        tp=replica.machine.tp,
        tree=replica.decoding.name,
        tau=rounded(replica.decoding.tau),
        replicas=size.replicas,
        gpus=size.gpus,
        room=replica.most,
        batch=rounded(steady.batch),
        utilisation=rounded(steady.utilisation),
        limit_per_s=rounded(replica.limit_per_s),
        tokens_per_s=rounded(traffic.rate_per_s * traffic.answer_tokens),
        ttft_ms=_milliseconds(steady.ttft_s, outcome.ttft_s),
        tpot_ms=_milliseconds(steady.tpot_s, outcome.tpot_s),
        gpu_hours_per_million=rounded(gpu_hours),
        usd_per_million=None if price is None else rounded(gpu_hours * price),
    )


def _milliseconds(mean_s: float, simulated_s: Distribution) -> Milliseconds:
    p50_s, p99_s = simulated_s.percentiles[50], simulated_s.percentiles[99]
    return Milliseconds(mean=rounded(1000 * mean_s), p50=rounded(1000 * p50_s), p99=rounded(1000 * p99_s))


def _asked(question: Question) -> Asked:
    traffic, objectives = question.traffic, question.objectives
    return Asked(
        model=question.target.name,
        precision="fp8" if question.target.weight_bytes == 1 else "bf16",
        rate_per_s=traffic.rate_per_s,
        prompt_tokens=traffic.prompt_tokens,
        answer_tokens=traffic.answer_tokens,
        ttft_ms=None if objectives.ttft_s is None else objectives.ttft_s * 1000,
        tpot_ms=None if objectives.tpot_s is None else objectives.tpot_s * 1000,
        utilisation=question.utilisation,
        acceptance={str(tree): rounded(tau) for tree, tau in sorted(question.acceptance.items())},
        prices_usd_per_hour=dict(question.prices),
        seed=question.seed,
    )


def _notes(
    question: Question, fitting: Mapping[str, Sequence[Replica]], sizes: Mapping[str, Sequence[Checked]]
) -> Iterator[str]:
    yield from question.warnings
    for name, found in sizes.items():
        if not fitting[name]:
            yield f"{name}: the model and one request do not fit {max(question.tps)} of them"
        elif not found:
            yield f"{name}: {_nearest(fitting[name], question.objectives)}"
    if question.acceptance and question.constants == PUBLISHED:
        yield "not measured here: speedups that others published are met within 8% at the median, 26% at worst"
    if not question.acceptance:
        yield "no acceptance was given (--acceptance, or a curve with speculation): plain decoding only"


def _nothing_fits(question: Question) -> str:
    target = question.target
    if all(target.heads % tp for tp in question.tps):
        return f"--tp: the {target.heads} attention heads of {target.name} cannot be shared by any number given"
    weights_gb = target.parameters * target.weight_bytes / 1e9
    return (
        f"{target.name}: {weights_gb:.0f} GB of weights and one request do not fit any of the GPUs given, up to tp "
        f"{max(question.tps)}: give a larger GPU, a larger --tp, --precision fp8, or shorter prompts"
    )


def _nothing_is_fast_enough(question: Question, replicas: Sequence[Replica]) -> str:
    return (
        f"no size was found that keeps the objectives: {_nearest(replicas, question.objectives)}. Faster would be: "
        "more memory bandwidth, a larger --tp, --precision fp8; tokens by a better draft, the first one by shorter "
        "prompts"
    )


def _nearest(replicas: Sequence[Replica], objectives: Objectives) -> str:
    """What was asked for that not even a request alone reaches, and the best it can."""
    first = min(replicas, key=lambda replica: alone(replica).ttft_s)
    token = min(replicas, key=lambda replica: alone(replica).tpot_s)
    asked = (
        ("TTFT", objectives.ttft_s, alone(first).ttft_s, first),
        ("TPOT", objectives.tpot_s, alone(token).tpot_s, token),
    )
    parts = [
        f"{what} {1000 * wanted_s:g} ms was asked for, a request alone reaches {1000 * reached_s:.3g} ms "
        f"({best.machine.gpu.name}, tp {best.machine.tp}, tree {best.decoding.name})"
        for what, wanted_s, reached_s, best in asked
        if wanted_s is not None and reached_s > wanted_s
    ]
    within = "each is within reach of a request alone, but no size tried keeps them for 99 of 100 requests"
    return "; ".join(parts) or within
