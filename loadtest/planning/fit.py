"""The model's constants from measurements: published points, or a user's own calibration.

Owns the search and its honesty (leave-one-out). Refuses to own the model (roofline.py) and the points (published.py).

The error of a prediction is the logarithm of its ratio to the measurement. Minimised is the sum of squares plus a weak
pull of every constant towards where it started, so that one the measurements say nothing about stays there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loadtest.curve import Curve, Flags
from loadtest.errors import PlanError
from loadtest.planning.published import Point
from loadtest.planning.roofline import Constants, Machine
from loadtest.tree import ADAPTIVE, Tree

PULL = 1e-3
"""Weight of the pull: a factor of e away costs as much as one prediction that is 3% off."""
CEILING = 0.92
"""Of efficiencies: no kernel streams memory faster; without it the search takes a layer's overhead for bandwidth."""
START = Constants(
    memory_efficiency=0.8,
    compute_efficiency=0.6,
    layer_s=20e-6,
    request_s=30e-6,
    draft_s=100e-6,
    cycle_s=2e-3,
    cycle_request_s=30e-6,
    all_reduce_s=10e-6,
)
"""Round guesses, where the fit to the published points starts."""
_SIXTEEN_BITS = ("bfloat16", "float16", "half")
_FIRST_STEP, _LAST_STEP = 0.5, 1e-3
"""Of the pattern search, in logarithms."""

Prediction = Callable[[Constants], float]


@dataclass(frozen=True)
class Measurement:
    """A value above 0, and what the model says of it."""

    name: str
    value: float
    predict: Prediction

    def log_error(self, constants: Constants) -> float:
        """0 where they agree."""
        return math.log(self.predict(constants) / self.value)

    def error(self, constants: Constants) -> float:
        """Of the prediction, as a share of the measurement."""
        return self.predict(constants) / self.value - 1


def fit(measurements: Sequence[Measurement], start: Constants, pull: float = PULL) -> Constants:
    """The constants that fit best; efficiencies stay at or below CEILING."""
    names = list(start.as_dict())
    origin = [math.log(value) for value in start.as_dict().values()]
    ceiling = [math.log(CEILING) if name.endswith("efficiency") else math.inf for name in names]

    def cost(logs: Sequence[float]) -> float:
        constants = _constants(names, logs)
        errors = sum(measurement.log_error(constants) ** 2 for measurement in measurements)
        return errors + pull * sum((now - then) ** 2 for now, then in zip(logs, origin, strict=True))

    return _constants(names, _pattern_search(cost, origin, ceiling))


def leave_one_out(measurements: Sequence[Measurement], start: Constants) -> list[float]:
    """Of each measurement the error of a fit to the others, as a share of it."""
    errors = []
    for index, left_out in enumerate(measurements):
        others = [*measurements[:index], *measurements[index + 1 :]]
        errors.append(math.expm1(left_out.log_error(fit(others, start))))
    return errors


def of_points(points: Sequence[Point]) -> list[Measurement]:
    """Published ones."""
    return [Measurement(f"{point.source} {point.batch:g}", point.value, point.predicted) for point in points]


def of_curve(curve: Curve, machine: Machine) -> list[Measurement]:
    """A calibration's step and cycle times, on a machine like this one with the curve's parallelism.

    Raises:
        PlanError: the curve's speculation has no EAGLE draft, which is all that the model knows, or many trees.
    """
    machine = replace(machine, tp=curve.valid_for.flags.tp_size)
    context = curve.workload.mean_prompt_tokens + curve.workload.max_tokens / 2
    measured = [_timed(machine, None, point.batch_size, context, point.step_s) for point in curve.baseline]
    if curve.speculative:
        if not curve.speculative.algorithm.startswith("EAGLE"):
            raise PlanError(
                f"the curve's speculation is {curve.speculative.algorithm}: only an EAGLE draft can be planned"
            )
        if curve.speculative.tree.endswith(ADAPTIVE):
            raise PlanError("the curve's chains change their length with the batch size: calibrate a tree of one size")
        tree = Tree.parse(curve.speculative.tree)
        points = curve.speculative.points
        measured += [_timed(machine, tree, point.batch_size, context, point.cycle_s) for point in points]
    return measured


def misfits(curve: Curve, precision: str) -> tuple[str, ...]:
    """A line if the curve's weights are not in the precision that is counted: the fit would hide that."""
    flags = curve.valid_for.flags
    if _fits(flags, precision):
        return ()
    measured = f"dtype {flags.dtype}, quantization {flags.quantization or 'none'}"
    return (f"warning: the curve was measured with {measured}, the plan is for {precision}: calibrate such a runtime",)


def _fits(flags: Flags, precision: str) -> bool:
    """As far as the flags tell: `auto` does not."""
    if flags.quantization:
        return precision == "fp8" and "fp8" in flags.quantization
    return flags.dtype == "auto" or (precision == "bf16" and flags.dtype in _SIXTEEN_BITS)


def _timed(machine: Machine, tree: Tree | None, batch: int, context: float, measured_s: float) -> Measurement:
    def predict(constants: Constants) -> float:
        own = replace(machine, constants=constants)
        return own.cycle_s(tree, batch, context) if tree else own.step_s(batch, context)

    return Measurement(f"cycle {tree}, batch {batch}" if tree else f"step, batch {batch}", measured_s, predict)


def _constants(names: Sequence[str], logs: Sequence[float]) -> Constants:
    return Constants(**{name: math.exp(log) for name, log in zip(names, logs, strict=True)})


def _pattern_search(
    cost: Callable[[Sequence[float]], float], origin: Sequence[float], ceiling: Sequence[float]
) -> list[float]:
    """Hooke and Jeeves: each coordinate up and down, on in a direction that helped, half the step where none did."""
    best, least, step = list(origin), cost(origin), _FIRST_STEP
    while step > _LAST_STEP:
        moved, value = _explore(cost, best, least, step, ceiling)
        if value >= least:
            step /= 2
            continue
        while value < least:
            ahead = [min(2 * new - old, top) for new, old, top in zip(moved, best, ceiling, strict=True)]
            best, least = moved, value
            moved, value = _explore(cost, ahead, cost(ahead), step, ceiling)
    return best


def _explore(
    cost: Callable[[Sequence[float]], float],
    origin: Sequence[float],
    value: float,
    step: float,
    ceiling: Sequence[float],
) -> tuple[list[float], float]:
    place = list(origin)
    for index in range(len(place)):
        for move in (step, -step):
            trial = [*place[:index], min(place[index] + move, ceiling[index]), *place[index + 1 :]]
            trial_value = cost(trial)
            if trial_value < value:
                place, value = trial, trial_value
                break
    return place, value
