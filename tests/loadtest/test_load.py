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
from loadtest.load_report import LoadReport
from tests.loadtest.scripted_runtime import CUT, HOLD, MODEL, ScriptedRuntime, chunk, served, speculative, stream_of

ROOT = Path(__file__).parents[2]
QUICK = ["--rate", "200", "--requests", "12"]
PROBES = 2
"""Requests that find out in which words the endpoint tells acceptance."""


def load(runtime, *arguments):
    return main(["load", runtime.url, *map(str, arguments)])


def read(path):
    return LoadReport.read(path, "a load's report")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_load_is_sent_and_told(tmp_path, capsys):
    output = tmp_path / "report.json"
    with served(speculative()) as runtime:
        assert load(runtime, *QUICK, "--ttft", 60000, "--tpot", 0.000001, "--output", output) == 0
    printed, report = capsys.readouterr(), read(output)
    assert "200/s: 12 of 12 requests answered" in printed.out
    assert "acceptance length 2.33" in printed.out
    assert "goodput 0.00 requests/s: 0.0% kept their objectives" in printed.out
    assert "s: 12 ended (" in printed.err
    (stage,) = report.stages
    assert (stage.summary.requests, stage.summary.completion_tokens, stage.summary.failures) == (12, 96, {})
    assert set(stage.summary.ttft_s.percentiles) == {50, 90, 99}
    assert report.workload.model == MODEL
    assert report.argv[:2] == ("aerie-bench", "load")
    assert not report.partial


def test_every_task_has_its_figures(tmp_path):
    files = tmp_path / "chat.jsonl", tmp_path / "code.jsonl"
    for path in files:
        path.write_text(json.dumps({"turns": [f"About {path.stem}."]}))
    output = tmp_path / "report.json"
    with served(speculative()) as runtime:
        assert load(runtime, *QUICK, "--prompts", *files, "--output", output) == 0
    tasks = read(output).stages[0].tasks
    assert {task: summary.answered for task, summary in tasks.items()} == {"chat": 6, "code": 6}
    assert tasks["chat"].acceptance_length == pytest.approx(1 + 4 / 3)


def test_workers_have_a_steady_window_beside_their_requests(tmp_path, capsys):
    output = tmp_path / "report.json"
    with served(speculative()) as runtime:
        assert load(runtime, "--concurrency", 3, "--requests", 12, "--output", output) == 0
    (stage,) = read(output).stages
    assert runtime.most == 3
    assert (stage.summary.answered, stage.concurrency, stage.late_s) == (12, 3, None)
    assert stage.steady.tokens_per_s > 0
    assert "all workers busy: " in capsys.readouterr().out


def test_a_sweep_has_a_row_for_each_stage_and_asks_the_same(tmp_path, capsys):
    output = tmp_path / "report.json"
    with served(speculative()) as runtime:
        assert load(runtime, "--concurrency", "4,1", "--requests", 8, "--warm-up", 0, "--output", output) == 0
    stages = read(output).stages
    assert [stage.label for stage in stages] == ["concurrency 1", "concurrency 4"]
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in table[1:3]] == ["8", "8"]
    assert runtime.asked.count("flush") == 2
    first, second = (runtime.asked.index("flush") + 1, len(runtime.asked) - 8)
    asked = [[json.dumps(body) for body in runtime.asked[at : at + 8]] for at in (first, second)]
    assert sorted(asked[0]) == sorted(asked[1])


def test_an_endpoint_that_remembers_is_said(capsys):
    with served(ScriptedRuntime(flushes=False)) as runtime:
        assert load(runtime, "--rate", "100,200", "--requests", 2) == 0
    assert capsys.readouterr().err.count("does not flush its cache") == 1


def test_what_is_due_in_a_ramp_is_not_counted(tmp_path):
    output, raw = tmp_path / "report.json", tmp_path / "raw.jsonl"
    with served(ScriptedRuntime()) as runtime:
        assert load(runtime, "--rate", 50, "--ramp", 0.4, "--stage", 0.4, "--output", output, "--raw", raw) == 0
    (stage,) = read(output).stages
    assert stage.ramp_requests > 0
    assert stage.ramp_requests + stage.summary.requests == len(lines_of(raw))


def test_a_ramp_that_takes_all_is_said(capsys):
    with served(ScriptedRuntime()) as runtime:
        assert load(runtime, "--rate", 5000, "--ramp", 100, "--requests", 2) == 1
    assert "nothing was due after the ramp" in capsys.readouterr().out


def test_clients_that_leave_are_no_failures_and_the_endpoint_sees_them_go(tmp_path, capsys):
    """The runtime holds every answer after its fourth token until its client has gone: else this would not end."""
    output, raw = tmp_path / "report.json", tmp_path / "raw.jsonl"
    held = [*stream_of([1, 2, 3, 4])[:5], HOLD]
    with served(ScriptedRuntime(pieces=stream_of(range(1, 5)))) as runtime:

        class Holding(list):
            def append(self, body):
                super().append(body)
                if len(self) > PROBES:
                    runtime.pieces = held

        runtime.asked = Holding()
        options = ["--warm-up", 0, "--max-tokens", 4, "--leave", 1, "--output", output, "--raw", raw]
        assert load(runtime, *QUICK, *options) == 1  # nothing was answered
        deadline = time.monotonic() + 20
        while runtime._running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert runtime._running == 0
    summary = read(output).stages[0].summary
    assert (summary.left, summary.answered, summary.failures) == (12, 0, {})
    assert ", 12 left" in capsys.readouterr().out
    assert all(1 <= line["left_after_tokens"] <= 4 for line in lines_of(raw))


def test_a_conversation_goes_on_with_the_answers_it_got(tmp_path):
    prompts, output = tmp_path / "talks.jsonl", tmp_path / "report.json"
    prompts.write_text(json.dumps({"turns": ["Hello", "And then?", "Bye"]}))
    with served(ScriptedRuntime(pieces=[chunk("Good "), *stream_of([2])])) as runtime:
        options = ["--prompts", prompts, "--multi-turn", "--system", "Be brief.", "--warm-up", 0]
        assert load(runtime, "--rate", 100, "--requests", 1, *options, "--output", output) == 0
    *_, first, second, third = runtime.asked
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "Good ha "},
        {"role": "user", "content": "And then?"},
    ]
    assert [message["role"] for message in third["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert read(output).stages[0].summary.answered == 3


def test_lengths_are_asked_for_to_the_token():
    with served(ScriptedRuntime()) as runtime:
        assert load(runtime, *QUICK, "--synthetic", "30:5", "--warm-up", 0) == 0
    bodies = runtime.asked[-12:]
    assert {(body["max_tokens"], body["ignore_eos"]) for body in bodies} == {(5, True)}
    assert {len(body["messages"][0]["content"].split()) for body in bodies} == {30}


def test_an_endpoint_that_knows_no_figures_is_asked_for_none(capsys):
    with served(ScriptedRuntime(server_info={"speculative_algorithm": None})) as runtime:
        assert load(runtime, *QUICK) == 0
    assert "acceptance length" not in capsys.readouterr().out


def test_a_load_without_any_answer_is_a_failure_and_says_of_which_kind(capsys):
    with served(ScriptedRuntime(pieces=[*stream_of([1])[:1], CUT])) as runtime:
        assert load(runtime, *QUICK, "--warm-up", 0) == 1
    assert "0 of 12 requests answered" in capsys.readouterr().out


def test_workers_whose_requests_fail_have_no_steady_window(capsys):
    with served(ScriptedRuntime(pieces=[*stream_of([1])[:1], CUT])) as runtime:
        assert load(runtime, "--concurrency", 2, "--requests", 6, "--warm-up", 0) == 1
    assert "no steady window: requests failed or were left" in capsys.readouterr().out


def test_a_warm_up_that_fails_is_one_line(capsys):
    with served(ScriptedRuntime(status=503, pieces=[b"{}"])) as runtime:
        assert load(runtime, *QUICK) == 1
    assert "does not answer: refused: status 503" in capsys.readouterr().err


def test_an_unknown_model_is_refused_with_those_that_are_served(capsys):
    with served(ScriptedRuntime()) as runtime:
        assert load(runtime, *QUICK, "--model", "other") == 1
    assert f"serves {MODEL}, not other" in capsys.readouterr().err


def test_a_trace_says_when(tmp_path, capsys):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at_s": 0}\n{"at_s": 0.01}\n{"at_s": 0.02}\n')
    with served(ScriptedRuntime()) as runtime:
        assert load(runtime, "--trace", trace) == 0
    said = capsys.readouterr()
    assert "trace: 3 of 3 requests answered" in said.out
    assert "would last" not in said.err


def test_a_trace_is_sent_whole_and_what_a_limit_cuts_is_said(tmp_path, capsys):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"at_s": {at / 1000}}}\n' for at in range(120)) + '{"at_s": 90}\n')
    with served(ScriptedRuntime()) as runtime:
        assert load(runtime, "--trace", trace, "--time-limit", "1") == 0
    said = capsys.readouterr()
    assert "trace: 120 of 120 requests answered" in said.out
    assert "trace: would last about 90 s, and nothing is sent after 1 s" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--rate", "1,,2"],
        ["--rate", "1", "--trace", "x"],
        ["--rate", "1", "--concurrency", "2"],
        ["--concurrency", "0"],
        ["--rate", "1", "--ttft", "-1"],
        ["--rate", "1", "--warm-up", "-1"],
        ["--rate", "1", "--temperature", "nan"],
        ["--rate", "1", "--leave", "1.1"],
        ["--rate", "1", "--synthetic", "5"],
        ["--rate", "1", "--synthetic", "5:5", "--mix", "x"],
        ["--rate", "1", "--ramp", "120"],
        ["--trace", "x", "--stage", "5"],
    ],
)
def test_wrong_arguments_are_status_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(["load", "http://127.0.0.1:1", *arguments])
    assert ended.value.code == 2


@pytest.mark.parametrize("shape", [["--rate", "50"], ["--concurrency", "2"]])
def test_an_interrupt_keeps_what_was_measured_and_marks_it_partial(tmp_path, shape):
    output, raw = tmp_path / "report.json", tmp_path / "raw.jsonl"
    with served(ScriptedRuntime()) as runtime:
        command = [sys.executable, "-m", "loadtest.cli", "load", runtime.url, *shape, "--requests", "100000"]
        command += ["--time-limit", "600", "--output", str(output), "--raw", str(raw)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(runtime.asked) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "partial: it was cut short" in printed
    report = read(output)
    assert report.partial
    assert len(lines_of(raw)) == report.stages[0].summary.answered > 0


FULL_DISK = """
import resource, sys
from loadtest.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_ends_the_load_with_whole_lines_and_what_was_measured(tmp_path):
    raw = tmp_path / "raw.jsonl"
    with served(ScriptedRuntime()) as runtime:
        command = [sys.executable, "-c", FULL_DISK, "load", runtime.url, "--rate", "100", "--requests", "100000"]
        command += ["--raw", str(raw)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert f"{raw}: cannot be written (File too large); what is there stays" in done.stderr
    assert "partial: it was cut short" in done.stdout
    kept = lines_of(raw)
    assert f"{len(kept)} of {len(kept)} requests answered" in done.stdout
    assert 0 < raw.stat().st_size <= 2000


def test_a_runtime_that_holds_its_answers_is_a_timeout(capsys):
    with served(ScriptedRuntime(pieces=[HOLD])) as runtime:
        assert load(runtime, *QUICK, "--warm-up", 0, "--timeout", 1) == 1
    assert "12 timeout" in capsys.readouterr().out
