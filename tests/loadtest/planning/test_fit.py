"""Constants found again from times that they made, and a real calibration."""

import pytest

from loadtest.curve import Curve
from loadtest.errors import PlanError
from loadtest.planning import fit, geometry, hardware
from loadtest.planning.roofline import PUBLISHED, Machine
from loadtest.tree import Tree
from tests.loadtest.test_curve import DOCUMENT

MACHINE = Machine(geometry.read("llama-3.1-8b"), hardware.read("h100"))
SLOWER = {name: value * (1 if name.endswith("efficiency") else 1.5) for name, value in PUBLISHED.as_dict().items()}
EPYC = hardware.Gpu(
    name="AMD EPYC, 2 cores", memory_gb=24, bandwidth_gb_per_s=50, bf16_tflops=0.5, link_gb_per_s=1, source="a bound"
)
MEASURED = {1: (0.07146, 0.1003), 2: (0.06526, 0.111), 4: (0.07748, 0.1511), 8: (0.08236, 0.2053)}
"""Of docs/calibrate.md: batch size, step and cycle."""


def curve_of(steps_and_cycles, tp=1, **flags):
    baseline, gains = DOCUMENT["baseline"][0], DOCUMENT["speculative"]["points"][0]
    valid_for = DOCUMENT["valid_for"] | {"flags": DOCUMENT["valid_for"]["flags"] | {"tp_size": tp} | flags}
    points = [gains | {"batch_size": batch, "cycle_s": cycle_s} for batch, (_, cycle_s) in steps_and_cycles.items()]
    content = {
        "valid_for": valid_for,
        "baseline": [
            baseline | {"batch_size": batch, "step_s": step_s} for batch, (step_s, _) in steps_and_cycles.items()
        ],
        "speculative": DOCUMENT["speculative"] | {"points": points},
    }
    return Curve.model_validate(DOCUMENT | content, strict=False)


def test_times_that_a_slower_server_would_take_are_met_by_the_fit():
    slower = Machine(MACHINE.target, MACHINE.gpu, constants=type(PUBLISHED)(**SLOWER))
    context = 43.1 + 64 / 2
    times = {
        batch: (slower.step_s(batch, context), slower.cycle_s(Tree(3, 4, 8), batch, context))
        for batch in (1, 4, 16, 64, 128)
    }
    measured = fit.of_curve(curve_of(times), MACHINE)
    assert len(measured) == 10
    fitted = fit.fit(measured, PUBLISHED, pull=1e-6)
    assert max(abs(one.error(fitted)) for one in measured) < 0.03
    assert fitted.all_reduce_s == pytest.approx(PUBLISHED.all_reduce_s)  # one GPU says nothing about it


def test_the_documented_calibration_is_met_and_predicted_as_stated():
    machine = Machine(geometry.read("smollm2-135m"), EPYC, draft_vocab=8192)
    measured = fit.of_curve(curve_of(MEASURED), machine)
    fitted = fit.fit(measured, PUBLISHED)
    assert max(abs(one.error(fitted)) for one in measured) < 0.10
    assert max(map(abs, fit.leave_one_out(measured, PUBLISHED))) < 0.17


def test_efficiencies_stay_below_what_any_kernel_reaches():
    times = dict.fromkeys((1, 2), (1e-06, 2e-06))
    fitted = fit.fit(fit.of_curve(curve_of(times), MACHINE), PUBLISHED)
    assert fitted.memory_efficiency <= fit.CEILING + 1e-9
    assert fitted.compute_efficiency <= fit.CEILING + 1e-9


def test_a_curve_is_fitted_at_its_own_parallelism():
    (two, *_), (one, *_) = (fit.of_curve(curve_of(MEASURED, tp=tp), MACHINE) for tp in (2, 1))
    assert two.predict(PUBLISHED) == Machine(MACHINE.target, MACHINE.gpu, tp=2).step_s(1, 43.1 + 32)
    assert two.predict(PUBLISHED) < one.predict(PUBLISHED)


@pytest.mark.parametrize(
    ("dtype", "quantization", "fitting"),
    [
        ("bfloat16", None, {"bf16"}),
        ("float16", None, {"bf16"}),
        ("float32", None, set()),
        ("auto", None, {"bf16", "fp8"}),
        ("bfloat16", "w8a8_fp8", {"fp8"}),
        ("auto", "awq", set()),
    ],
)
def test_a_curve_of_another_precision_is_told(dtype, quantization, fitting):
    curve = curve_of(MEASURED, dtype=dtype, quantization=quantization)
    for precision in ("bf16", "fp8"):
        told = fit.misfits(curve, precision)
        assert (not told) == (precision in fitting)
        assert all(f"dtype {dtype}" in line and precision in line for line in told)


@pytest.mark.parametrize(
    ("other", "says"), [({"algorithm": "NGRAM"}, "NGRAM"), ({"tree": "3/1/4, adaptive"}, "change their length")]
)
def test_a_curve_whose_speculation_is_not_one_eagle_tree_is_refused(other, says):
    curve = curve_of(MEASURED)
    speculative = curve.speculative.model_copy(update=other)
    with pytest.raises(PlanError, match=says):
        fit.of_curve(curve.model_copy(update={"speculative": speculative}), MACHINE)
