"""The entry point's flags: refused in one line before anything is loaded, completed where the CPU needs them."""

import os
import subprocess
import sys

import pytest

from service.runtime.cpu import serve
from service.runtime.profiles import ROOT


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tp-size", "2"], "--tp-size 2"),
        (["--tp=4"], "--tp-size 4"),
        (["--tensor-parallel-size", "2"], "--tp-size 2"),
        (["--pp-size", "2"], "--pp-size 2"),
        (["--dp", "2"], "--dp-size 2"),
        (["--device", "cuda"], "--device cuda"),
        (["--attention-backend", "triton"], "--attention-backend triton"),
        (["--quantization", "fp8"], "--quantization fp8"),
        (["--kv-cache-dtype", "fp8_e4m3"], "--kv-cache-dtype fp8_e4m3"),
        (["--speculative-token-map", "map.pt"], "--speculative-token-map"),
        (["--speculative-accept-threshold-single", "0.5"], "--speculative-accept-threshold-single 0.5"),
        (["--enable-lora"], "--enable-lora"),
    ],
)
def test_what_needs_a_gpu_is_refused_by_name(flags, named):
    with pytest.raises(serve.UnsupportedFlagError, match=named):
        serve.check_flags(["--model-path", "m", *flags])


def test_what_the_cpu_can_do_passes():
    serve.check_flags(["--model-path", "m", "--tp-size", "1", "--device", "cpu", "--speculative-algorithm", "EAGLE3"])


def test_defaults_are_added_unless_given():
    assert serve.with_defaults(["--port", "1"])[2:] == [part for pair in serve.DEFAULT_FLAGS.items() for part in pair]
    assert serve.with_defaults(["--device=cpu", "--attention-backend", "intel_amx"]).count("--device") == 0


START_METHOD = """
import multiprocessing, sys, threading
from service.runtime.cpu import serve
multiprocessing.set_start_method("spawn")
done = threading.Event()
if sys.argv[1:] == ["threaded"]:
    threading.Thread(target=done.wait).start()
serve.fork_children(None)
print(multiprocessing.get_start_method())
done.set()
"""


@pytest.mark.parametrize(("arguments", "method"), [([], "fork"), (["threaded"], "spawn")])
def test_children_are_forked_from_a_process_without_threads(arguments, method):
    command = [sys.executable, "-c", START_METHOD, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == method


def run(*flags, **environment):
    command = [sys.executable, "-m", "service.runtime.cpu.serve", *flags]
    variables = {k: v for k, v in os.environ.items() if k != "AERIE_CPU_OPS"} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_a_refused_flag_exits_with_status_2_and_one_line():
    result = run("--model-path", "m", "--tp-size", "2", AERIE_CPU_OPS="torch")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "service.runtime.cpu.serve: --tp-size 2: Aerie's CPU runtime serves"
    )


def test_missing_ops_exit_with_status_2_and_one_line():
    result = run("--model-path", "m")
    assert result.returncode == 2
    assert "AERIE_CPU_OPS is not set" in result.stderr.splitlines()[-1]
