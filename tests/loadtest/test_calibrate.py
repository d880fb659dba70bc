"""`aerie-bench calibrate` against scripted runtimes on real ports."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import curve
from loadtest.cli import main
from tests.loadtest.scripted_runtime import CUT, HOLD, ScriptedRuntime, chunk, served, speculative, stream_of

ROOT = Path(__file__).parents[2]
QUICK = ["--batch-sizes", "1,3", "--rounds", "2", "--passes", "2", "--max-tokens", "8", "--allow-noise"]


def calibrate(output, baseline, drafting=None, *further, quick=QUICK):
    pair = ["--speculative", drafting.url] if drafting else []
    return main(["calibrate", "--baseline", baseline.url, *pair, *quick, "--output", str(output), *further])


def refused(capsys, *words):
    """One line on stderr after the progress, and it says this."""
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("aerie-bench: ")
    for word in words:
        assert word in last
    return last


def test_a_pair_becomes_a_curve(tmp_path, capsys):
    path = tmp_path / "curve.json"
    with served(ScriptedRuntime(), speculative()) as (plain, drafting):
        assert calibrate(path, plain, drafting) == 0
    made = curve.read(path)
    assert [point.batch_size for point in made.baseline] == [1, 3]
    assert made.speculative.tree == "3/4/8"
    for point, gain in zip(made.baseline, made.speculative.points, strict=True):
        assert gain.acceptance_length == 2.333
        assert gain.break_even_acceptance_length == pytest.approx(gain.cycle_s / point.step_s, rel=1e-2)
    assert made.valid_for.model == "smollm2-135m-instruct"
    assert made.workload.mean_prompt_tokens == 34
    assert made.workload.prompts == "bundled"
    assert "--allow-noise" in made.argv
    said = capsys.readouterr()
    assert "speedup" in said.out
    assert said.err.count(", speculative: ") >= 4
    assert said.err.splitlines()[-1] == f"aerie-bench: {path} is written"


def test_rounds_are_interleaved_and_ask_the_same_things(tmp_path):
    order = []
    with served(ScriptedRuntime(), speculative()) as (plain, drafting):
        for name, runtime in (("baseline", plain), ("speculative", drafting)):
            runtime.asked = Asked(name, order)
        assert calibrate(tmp_path / "curve.json", plain, drafting) == 0
    assert order == ["baseline", "speculative", "speculative", "baseline"] * 2  # two batch sizes, two rounds
    plainly, drafted = ([sorted(asked) for asked in runtime.asked.rounds] for runtime in (plain, drafting))
    assert plainly == drafted  # several at a time come in any order
    assert plainly[0] == plainly[1]
    assert len(plainly[2]) == 9
    assert plain.most == drafting.most == 3


class Asked(list):
    """What a runtime was asked, as a list of prompts for every flushed round; what warms up is left out."""

    def __init__(self, name, order):
        super().__init__()
        self.name, self.order, self.rounds = name, order, []

    def append(self, request):
        if request == "flush":
            self.order.append(self.name)
            self.rounds.append([])
        elif request["max_tokens"] == 8:
            self.rounds[-1].append(request["messages"][0]["content"])


def test_a_baseline_alone_is_a_curve_too(tmp_path, capsys):
    path = tmp_path / "curve.json"
    with served(ScriptedRuntime(flushes=False)) as plain:
        assert calibrate(path, plain, None, "--hardware", "A machine") == 0
    made = curve.read(path)
    assert made.speculative is None
    assert made.valid_for.hardware == "A machine"
    assert capsys.readouterr().err.count("does not flush its cache") == 1


def test_too_few_prompts_are_said(tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"turns": ["a"]}\n{"turns": ["b"]}\n')
    with served(ScriptedRuntime()) as plain:
        assert calibrate(tmp_path / "curve.json", plain, None, "--prompts", str(prompts)) == 0
    assert "batch size 3: a round asks 9 times and there are 2 prompts" in capsys.readouterr().err


def test_a_restless_machine_is_refused_unless_noise_is_allowed(tmp_path, capsys):
    path = tmp_path / "curve.json"
    restless = ["--batch-sizes", "1", "--rounds", "2", "--passes", "1"]
    with served(ScriptedRuntime(pauses_s=[0.001, 0.02, 0.001, 0.02])) as plain:
        assert calibrate(path, plain, quick=restless) == 1
        refused(capsys, "batch size 1, baseline: the rounds differ by", "5% at most", "--allow-noise")
        assert not path.exists()
        assert calibrate(path, plain, None, "--allow-noise", quick=restless) == 0
    assert "kept (--allow-noise)" in capsys.readouterr().err
    assert curve.read(path).argv[-1] == "--allow-noise"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"status": 500, "pieces": [b'{"error": {"message": "no memory"}}']}, ["refused: status 500, no memory"]),
        ({"pieces": [b"<html>\n"]}, ["1 of 1 requests failed at batch size 1: garbage"]),
        ({"pieces": [chunk("a"), CUT]}, ["broken"]),
        ({"pieces": [chunk("a"), HOLD]}, ["timeout"]),
        ({"pieces": [b"data: [DONE]\n\n"]}, ["told no usage"]),
        ({"models": ()}, ["serves no model"]),
    ],
)
def test_a_runtime_that_fails_is_one_line_and_no_file(tmp_path, capsys, script, words):
    with served(ScriptedRuntime(**script)) as plain:
        assert calibrate(tmp_path / "curve.json", plain, None, "--timeout", "1") == 1
    assert refused(capsys, *words).startswith(f"aerie-bench: {plain.url}: ")
    assert list(tmp_path.iterdir()) == []


def test_answers_of_one_token_are_refused(tmp_path, capsys):
    with served(ScriptedRuntime(pieces=stream_of([1]))) as plain:
        assert calibrate(tmp_path / "curve.json", plain) == 1
    refused(capsys, "too short to time decoding alone; raise --max-tokens")


def test_a_curve_that_would_be_invalid_is_refused(tmp_path, capsys):
    no_prompt = [piece.replace(b'"prompt_tokens": 34', b'"prompt_tokens": 0') for piece in ScriptedRuntime().pieces]
    with served(ScriptedRuntime(pieces=no_prompt)) as plain:
        assert calibrate(tmp_path / "curve.json", plain) == 1
    refused(capsys, "what was measured is not a baseline curve (mean_prompt_tokens: ")


def test_speculation_without_acceptance_figures_is_refused(tmp_path, capsys):
    with served(ScriptedRuntime(), speculative(pieces=ScriptedRuntime().pieces)) as (plain, drafting):
        assert calibrate(tmp_path / "curve.json", plain, drafting) == 1
    refused(capsys, drafting.url, "tells no acceptance figures")


def test_other_models_on_both_sides_are_refused(tmp_path, capsys):
    with served(ScriptedRuntime(), speculative(models=("other",))) as (plain, drafting):
        assert calibrate(tmp_path / "curve.json", plain, drafting) == 1
        refused(capsys, drafting.url, "serves other, not smollm2-135m-instruct")
        assert calibrate(tmp_path / "curve.json", plain, None, "--model", "other") == 1
        refused(capsys, plain.url, "serves smollm2-135m-instruct, not other")
    assert not plain.asked


def test_the_wrong_way_round_is_refused(tmp_path, capsys):
    with served(ScriptedRuntime(), speculative()) as (plain, drafting):
        assert calibrate(tmp_path / "curve.json", drafting, plain) == 1
    refused(capsys, "speculates (EAGLE3): a baseline is started without")


def test_an_endpoint_that_is_no_runtime_is_refused(tmp_path, capsys):
    with served(ScriptedRuntime()) as plain:
        plain.server_info.clear()
        assert calibrate(tmp_path / "curve.json", plain) == 1
    refused(capsys, "/server_info answers status 404", "valid for", "name a runtime, not a gateway")


def test_nobody_there_is_refused(tmp_path, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert main(["calibrate", "--baseline", url, "--output", str(tmp_path / "curve.json")]) == 1
    refused(capsys, f"{url}: unreachable")


def test_what_cannot_be_written_or_asked_is_found_out_before_anything_is_measured(tmp_path, capsys):
    with served(ScriptedRuntime()) as plain:
        assert calibrate(tmp_path / "missing" / "curve.json", plain) == 1
        refused(capsys, "cannot be written (No such file")
        empty = tmp_path / "empty.jsonl"
        empty.touch()
        assert calibrate(tmp_path / "curve.json", plain, None, "--prompts", str(empty)) == 1
        refused(capsys, "empty.jsonl: no prompt in it")
    assert not plain.asked


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--baseline", "http://h:1"],
        ["--baseline", "http://h:1", "--check", "f"],
        ["--check", "f", "--output", "g"],
        ["--baseline", "http://h:1", "--output", "f", "--rounds", "1"],
        ["--baseline", "http://h:1", "--output", "f", "--hardware", " "],
        ["--baseline", "http://h:1", "--output", "f", "--batch-sizes", "1,0"],
    ],
)
def test_wrong_arguments_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments])
    assert ended.value.code == 2


def test_an_interrupt_leaves_what_was_there_and_says_so(tmp_path):
    path = tmp_path / "curve.json"
    path.write_text("as before")
    with served(ScriptedRuntime(pieces=[chunk("a"), HOLD])) as plain:
        command = [sys.executable, "-m", "loadtest.cli", "calibrate", "--baseline", plain.url, "--output", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not plain.asked and process.poll() is None:
            pass_a_moment()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "aerie-bench: interrupted; nothing more was written"
    assert "Traceback" not in err
    assert out == ""
    assert path.read_text() == "as before"
    assert list(tmp_path.iterdir()) == [path]


def pass_a_moment():
    signal.sigtimedwait([], 0.02)


def test_a_file_is_checked_and_printed(tmp_path, capsys):
    path = tmp_path / "curve.json"
    with served(ScriptedRuntime()) as plain:
        assert calibrate(path, plain) == 0
    table = capsys.readouterr().out
    assert main(["calibrate", "--check", str(path)]) == 0
    assert capsys.readouterr().out == table
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"baseline": document["baseline"][::-1]}))
    assert main(["calibrate", "--check", str(path)]) == 1
    refused(capsys, "not a baseline curve", "not in ascending order")
