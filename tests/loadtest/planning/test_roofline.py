"""Laws of step and cycle times, whatever the model and the machine."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from loadtest.planning import geometry, hardware
from loadtest.planning.roofline import Machine
from loadtest.tree import Tree

MODELS = st.sampled_from(list(geometry.presets().values()))
GPUS = st.sampled_from([hardware.read(name) for name in hardware.names()])
BATCHES, CONTEXTS, TPS = st.integers(1, 512), st.floats(0, 1e5), st.sampled_from([1, 2, 4, 8])
MACHINES = st.builds(Machine, MODELS, GPUS, TPS)
CHAINS = st.integers(1, 8).map(lambda steps: Tree(steps, 1, steps + 1))
TREES = st.sampled_from([Tree.parse(text) for text in ("3/1/4", "3/4/8", "5/4/16", "8/8/64")])


def speedup(machine, tree, tau, batch, context):
    return tau * machine.step_s(batch, context) / machine.cycle_s(tree, batch, context)


@given(MACHINES, TREES, BATCHES, CONTEXTS, st.floats(1, 10))
def test_more_bandwidth_or_more_operations_are_never_slower(machine, tree, batch, context, times):
    for rate in ("bandwidth_gb_per_s", "bf16_tflops", "link_gb_per_s"):
        faster = replace(machine, gpu=machine.gpu.model_copy(update={rate: times * getattr(machine.gpu, rate)}))
        assert faster.step_s(batch, context) <= machine.step_s(batch, context)
        assert faster.cycle_s(tree, batch, context) <= machine.cycle_s(tree, batch, context)
        assert faster.prefill_s(batch) <= machine.prefill_s(batch)


@given(MACHINES, TREES, BATCHES, CONTEXTS)
def test_a_larger_batch_and_a_longer_context_are_never_faster(machine, tree, batch, context):
    assert (
        machine.step_s(batch, context) <= machine.step_s(batch + 1, context) <= machine.step_s(batch + 1, context + 1)
    )
    assert machine.cycle_s(tree, batch, context) <= machine.cycle_s(tree, batch + 1, context + 1)


@given(MACHINES, TREES, BATCHES, CONTEXTS)
def test_a_draft_that_is_never_right_never_pays(machine, tree, batch, context):
    assert speedup(machine, tree, 1, batch, context) < 1


@given(MACHINES, CHAINS, BATCHES, CONTEXTS)
def test_a_longer_chain_takes_longer(machine, chain, batch, context):
    longer = Tree(chain.num_steps + 1, 1, chain.num_draft_tokens + 1)
    assert machine.cycle_s(chain, batch, context) < machine.cycle_s(longer, batch, context)


def test_on_a_dense_model_speedup_falls_once_verifying_is_bound_by_operations():
    machine = Machine(geometry.read("llama-3.1-8b"), hardware.read("h100"))
    gains = [speedup(machine, Tree(3, 4, 8), 3.0, batch, 500) for batch in (16, 32, 64, 128, 256)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 1.5
    assert gains[-1] < 1.1


def test_a_model_on_more_gpus_reads_less_on_each_and_pays_for_it_in_all_reduces():
    target, gpu = geometry.read("llama-3.3-70b"), hardware.read("h100")
    times = [Machine(target, gpu, tp).step_s(1, 500) for tp in (2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[1] > times[0] / 2
    free = replace(Machine(target, gpu, 8), gpu=gpu.model_copy(update={"link_gb_per_s": 1e9}))
    assert free.step_s(256, 500) < Machine(target, gpu, 8).step_s(256, 500)


def test_weights_in_eight_bits_are_read_faster():
    gpu = hardware.read("h100")
    sixteen, eight = (Machine(geometry.read("qwen3-8b", precision), gpu) for precision in ("bf16", "fp8"))
    assert eight.step_s(1, 500) < 0.75 * sixteen.step_s(1, 500)
