"""`aerie-bench load` against a scripted runtime on a real port."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.cli import main
from tests.loadtest.scripted_runtime import CUT, HOLD, MODEL, ScriptedRuntime, served, speculative, stream_of

QUICK = ["--rate", "200", "--requests", "12"]


def test_a_load_is_sent_and_told(tmp_path, capsys):
    output = tmp_path / "report.json"
    with served(speculative()) as runtime:
        assert (
            main(["load", runtime.url, *QUICK, "--ttft", "60000", "--tpot", "0.000001", "--output", str(output)]) == 0
        )
    printed, report = capsys.readouterr(), json.loads(output.read_text())
    assert "12 of 12 requests answered" in printed.out
    assert "acceptance length 2.33" in printed.out
    assert "goodput 0.00 requests/s: 0.0% kept their objectives" in printed.out
    assert "12 of 12 requests have ended" in printed.err
    summary = report["summary"]
    assert report["format"] == "aerie-load/1"
    assert (summary["requests"], summary["completion_tokens"], summary["failures"]) == (12, 96, {})
    assert set(summary["ttft_s"]["percentiles"]) == {"50", "90", "99"}
    assert report["workload"]["model"] == MODEL
    assert report["provenance"]["argv"][:2] == ["aerie-bench", "load"]
    assert not report["interrupted"]


def test_an_endpoint_that_knows_no_figures_is_asked_for_none(capsys):
    with served(ScriptedRuntime(server_info={"speculative_algorithm": None})) as runtime:
        assert main(["load", runtime.url, *QUICK]) == 0
    assert "acceptance length" not in capsys.readouterr().out


def test_a_load_without_any_answer_is_a_failure_and_says_of_which_kind(capsys):
    with served(ScriptedRuntime(pieces=[*stream_of([1])[:1], CUT])) as runtime:
        assert main(["load", runtime.url, *QUICK, "--warm-up", "0"]) == 1
    assert "0 of 12 requests answered" in capsys.readouterr().out


def test_a_warm_up_that_fails_is_one_line(capsys):
    with served(ScriptedRuntime(status=503, pieces=[b"{}"])) as runtime:
        assert main(["load", runtime.url, *QUICK]) == 1
    assert "does not answer: refused: status 503" in capsys.readouterr().err


def test_an_unknown_model_is_refused_with_those_that_are_served(capsys):
    with served(ScriptedRuntime()) as runtime:
        assert main(["load", runtime.url, *QUICK, "--model", "other"]) == 1
    assert f"serves {MODEL}, not other" in capsys.readouterr().err


def test_a_trace_says_when(tmp_path, capsys):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at_s": 0}\n{"at_s": 0.01}\n{"at_s": 0.02}\n')
    with served(ScriptedRuntime()) as runtime:
        assert main(["load", runtime.url, "--trace", str(trace)]) == 0
    assert "3 of 3 requests answered" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--rate", "1", "--trace", "x"],
        ["--rate", "1", "--ttft", "-1"],
        ["--rate", "1", "--warm-up", "-1"],
        ["--rate", "1", "--temperature", "nan"],
    ],
)
def test_wrong_arguments_are_status_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(["load", "http://127.0.0.1:1", *arguments])
    assert ended.value.code == 2


def test_an_interrupt_keeps_what_was_measured(tmp_path):
    output = tmp_path / "report.json"
    with served(ScriptedRuntime()) as runtime:
        command = [sys.executable, "-m", "loadtest.cli", "load", runtime.url, "--rate", "50", "--requests", "100000"]
        command += ["--time-limit", "600", "--output", str(output)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(runtime.asked) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert ", interrupted" in printed
    report = json.loads(output.read_text())
    assert report["interrupted"]
    assert report["summary"]["answered"] > 0


def test_a_runtime_that_holds_its_answers_is_a_timeout(capsys):
    with served(ScriptedRuntime(pieces=[HOLD])) as runtime:
        assert main(["load", runtime.url, *QUICK, "--warm-up", "0", "--timeout", "1"]) == 1
    assert "12 timeout" in capsys.readouterr().out
