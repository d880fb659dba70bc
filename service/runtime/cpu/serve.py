# ruff: noqa: PLC0415  imports wait until the process is prepared for them
"""`python -m service.runtime.cpu.serve <sglang flags>`: SGLang's HTTP server on a machine without a GPU.

Takes the flags of `python -m sglang.launch_server` and needs AERIE_CPU_OPS (see sgl_kernel/library.py); with
AERIE_DRAFT_P_MIN trees follow the draft's confidence (cycle.py). SGLang's scheduler and detokenizer are forked, or
spawned: a spawned child imports this module again as `__mp_main__`, which is how `prepare_process` reaches every
process before SGLang's modules are loaded there.

Owns what must be true of a process before SGLang is imported, and refuses flags this runtime cannot honour: one line on
stderr and status 2, before a model is loaded.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent

ENVIRONMENT = {
    # is_cpu() and the CPU platform depend on it.
    "SGLANG_USE_CPU_ENGINE": "1",
    # libgomp's threads spin by default: with anything else on the same cores each parallel region then waits out a
    # scheduler time slice (8 ms measured instead of 0.13). Read when torch is first imported.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Some 40 us of spinning: a decoding step has 200 regions, microseconds apart, and asleep each costs a wake-up more.
    "GOMP_SPINCOUNT": "3000",
    # Its threads would have nothing to do, torch having its own, and would be in the way of fork_children.
    "OPENBLAS_NUM_THREADS": "1",
    # Compiling costs 20 s at the first EAGLE request, and inductor wants triton.
    "TORCHDYNAMO_DISABLE": "1",
    # The copies of a batch's tensors are for CUDA graphs to find them where they were.
    "SGLANG_EAGER_INPUT_NO_COPY": "1",
    # /health must not wait for a generated token behind a long prefill.
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
}

DEFAULT_FLAGS = {
    "--device": "cpu",
    "--attention-backend": "intel_amx",
    "--sampling-backend": "pytorch",
    # There are none; --speculative-adaptive would try to capture them for every chain length, and fail.
    "--cuda-graph-backend-decode": "disabled",
}

LIMITS = "Aerie's CPU runtime serves dense float32 or bfloat16 models with tp_size=1; use a GPU profile"


class UnsupportedFlagError(ValueError):
    """A flag the CPU runtime cannot honour."""


def prepare_process() -> None:
    """Make this process one that can import SGLang. Idempotent; the first thing in every process."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))  # where `import sgl_kernel` finds ours
    from service.runtime.cpu import coupling, cycle, decoder, door, head, sampling, stubs

    stubs.install()
    import torch

    # SGLang takes its CPU fast path (and the only attention backend that can draft) on machines with AMX; the official
    # kernels need it. Ours do not, so the answer is yes wherever this runs.
    torch.cpu._is_amx_tile_supported = lambda: True
    sampling.register()
    door.register()
    head.register()
    coupling.register()
    decoder.register()
    cycle.register()


# Flags of which only some values can be served, with all their spellings.
ALLOWED: dict[tuple[str, ...], frozenset[str]] = {
    ("--tp-size", "--tensor-parallel-size", "--tp"): frozenset({"1"}),
    ("--pp-size", "--pipeline-parallel-size", "--pp"): frozenset({"1"}),
    ("--dp-size", "--data-parallel-size", "--dp"): frozenset({"1"}),
    ("--ep-size", "--expert-parallel-size", "--ep"): frozenset({"1"}),
    ("--nnodes",): frozenset({"1"}),
    ("--device",): frozenset({"cpu"}),
    ("--attention-backend",): frozenset({"intel_amx"}),
    ("--sampling-backend",): frozenset({"pytorch"}),
    ("--kv-cache-dtype",): frozenset({"auto"}),
    ("--quantization",): frozenset(),
    # Lossy acceptance; verification here always keeps the target's distribution.
    ("--speculative-accept-threshold-single",): frozenset({"1", "1.0"}),
    ("--speculative-accept-threshold-acc",): frozenset({"1", "1.0"}),
}

# Flags that would start and then fail, or quietly mean something else.
REFUSED = {
    "--speculative-use-rejection-sampling": "verification on CPU is exact without it",
    "--speculative-token-map": "it would cut the draft's head out of packed weights",
    "--enable-torch-compile": "it needs a GPU toolchain",
    "--enable-lora": "it needs GPU kernels",
    "--enable-deterministic-inference": "a request's seed is always honoured on CPU",
}


def check_flags(flags: Sequence[str]) -> None:
    """Raise UnsupportedFlagError for what only a GPU profile can serve."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in ALLOWED:
        parser.add_argument(*names, dest=names[0])
    for flag in REFUSED:
        parser.add_argument(flag, action="store_true", dest=flag)
    given = vars(parser.parse_known_args(list(flags))[0])
    for names, values in ALLOWED.items():
        value = given[names[0]]
        if value is not None and value not in values:
            raise UnsupportedFlagError(f"{names[0]} {value}: {LIMITS}")
    for flag, reason in REFUSED.items():
        if given[flag]:
            raise UnsupportedFlagError(f"{flag}: {reason}; leave it out")


def with_defaults(flags: Sequence[str]) -> list[str]:
    """The flags, with the ones every CPU start needs."""
    given = {flag.split("=", 1)[0] for flag in flags}
    return [*flags, *(part for flag, value in DEFAULT_FLAGS.items() if flag not in given for part in (flag, value))]


def fork_children(_result: object, *_args: object) -> None:
    """After SGLang decides to spawn its processes: fork them instead, if no thread of this one can hold a lock.

    What a spawned one takes longest for is importing what this one has imported: 8 s of a start.
    """
    threads = Path("/proc/self/task")
    if threads.is_dir() and len(list(threads.iterdir())) == 1:
        multiprocessing.set_start_method("fork", force=True)


def main(flags: Sequence[str]) -> int:
    """Serve until stopped."""
    try:
        check_flags(flags)
        prepare_process()
        importlib.import_module("sgl_kernel")  # a missing or foreign library should fail here, in one line
    except (UnsupportedFlagError, RuntimeError, OSError) as error:
        sys.stderr.write(f"service.runtime.cpu.serve: {error}\n")
        return 2
    launch_server = importlib.import_module("sglang.launch_server")
    server_args = importlib.import_module("sglang.srt.server_args")
    hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
    engine = "sglang.srt.entrypoints.engine"
    hooks.HookRegistry.register(f"{engine}._set_envs_and_config", fork_children, hooks.HookType.AFTER)
    importlib.import_module("sglang.srt.plugins").load_plugins()
    try:
        launch_server.run_server(server_args.prepare_server_args(with_defaults(flags)))
    finally:
        launch_server.kill_process_tree(os.getpid(), include_parent=False)
    return 0


if __name__ == "__mp_main__":
    prepare_process()
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
