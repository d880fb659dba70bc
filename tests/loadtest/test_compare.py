"""`aerie-bench compare` against scripted runtimes on real ports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.cli import main
from loadtest.comparison import Comparison
from loadtest.errors import DocumentError
from tests.loadtest.scripted_runtime import HOLD, ScriptedRuntime, chunk, served, speculative, stream_of, whole_answer

ROOT = Path(__file__).parents[2]
QUICK = ["--batch-sizes", "1,2", "--rounds", "2", "--passes", "1", "--max-tokens", "8", "--same-text", "1"]
IN_THE_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""As a shell without job control starts a command: Ctrl-C is not for it."""
QUICK += ["--hardware", "A machine", "--allow-noise"]


@pytest.fixture
def tasks(tmp_path):
    paths = [tmp_path / "chat.jsonl", tmp_path / "code.jsonl"]
    for path in paths:
        path.write_text("".join(json.dumps({"turns": [f"{path.stem} {number}"]}) + "\n" for number in range(20)))
    return paths


def compare(a, b, *further, quick=QUICK):
    return main(["compare", "--a", a.url, "--b", b.url, *quick, *map(str, further)])


def read(path):
    return Comparison.read(path, "a comparison")


def test_a_pair_becomes_a_comparison_by_task_and_batch_size(tmp_path, capsys, tasks):
    path = tmp_path / "comparison.json"
    with served(speculative(), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, "--prompts", *tasks, "--output", path) == 0
    made = read(path)
    assert [(cell.batch_size, cell.task) for cell in made.cells] == [(1, "chat"), (1, "code"), (2, "chat"), (2, "code")]
    for cell in made.cells:
        assert cell.a.acceptance_length == 2.333
        assert cell.a.accepted_by_position[0] > cell.a.accepted_by_position[1] > 0
        assert cell.b.acceptance_length is None
        assert cell.speedup.value == pytest.approx(cell.a.tokens_per_s / cell.b.tokens_per_s, rel=0.5)
        assert cell.a.ttft_s == tuple(sorted(cell.a.ttft_s))
    assert [each.batch_size for each in made.overall] == [1, 2]
    for each in made.overall:
        two = [cell.speedup for cell in made.cells if cell.batch_size == each.batch_size]
        assert min(one.low for one in two) * 0.999 <= each.speedup.value <= max(one.high for one in two) * 1.001
    assert (made.a.tree, made.b.tree, made.differences, made.partial) == ("3/4/8", None, (), False)
    assert made.same_text.same == 2
    shown = capsys.readouterr().out
    assert "greedy answers: 2 of 2 the same" in shown
    assert "EAGLE3 3/4/8" in shown
    assert "all" in shown


def test_sides_take_turns_and_neither_is_always_first(tmp_path, tasks):
    order = []

    class Told(list):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def append(self, request):
            if request == "flush":
                order.append(self.name)
            super().append(request)

    with served(speculative(), ScriptedRuntime()) as (drafting, plain):
        drafting.asked, plain.asked = Told("a"), Told("b")
        assert compare(drafting, plain, "--prompts", tasks[0], "--batch-sizes", "1") == 0
    assert order == ["a", "b", "b", "a"]


def test_every_request_is_a_raw_line(tmp_path, tasks):
    raw = tmp_path / "raw.jsonl"
    with served(speculative(), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, "--prompts", tasks[0], "--raw", raw) == 0
    lines = [json.loads(line) for line in raw.read_text().splitlines()]
    assert len(lines) == 2 * 2 * (2 + 4)  # sides, rounds, requests at both batch sizes
    assert {(line["side"], line["task"], line["round"]) for line in lines} == {
        (side, "chat", number) for side in "ab" for number in (1, 2)
    }
    assert all(line["verify_passes"] == 3 for line in lines if line["side"] == "a")
    assert all("verify_passes" not in line for line in lines if line["side"] == "b")


def test_a_restless_machine_gives_no_result_but_keeps_what_was_measured(tmp_path, capsys):
    path = tmp_path / "comparison.json"
    quick = ["--batch-sizes", "1", "--rounds", "2", "--passes", "2", "--same-text", "0", "--hardware", "A machine"]
    with served(speculative(pauses_s=[0.002, 0.03]), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, "--output", path, quick=quick) == 1
    said = capsys.readouterr()
    assert "too noisy" in said.out
    assert said.err.splitlines()[-1].startswith("aerie-bench: the machine was not quiet")
    made = read(path)
    (cell,) = made.cells
    assert not cell.quiet
    assert not made.overall
    assert cell.noise > 0.1


class Later(list):
    """Whole answers, until so many were given; then what is said to come."""

    def __init__(self, pieces, after, then):
        super().__init__(pieces)
        self.left, self.then = after, then

    def __iter__(self):
        self.left -= 1
        return super().__iter__() if self.left >= 0 else iter(self.then)


def test_a_failure_on_the_way_keeps_the_whole_cells_and_marks_them_partial(tmp_path, capsys):
    path = tmp_path / "comparison.json"
    plain = ScriptedRuntime(pieces=Later(stream_of(range(1, 9)), 7, [b"<html>\n"]))
    with served(speculative(), plain) as (drafting, _):
        assert compare(drafting, plain, "--output", path) == 1
    assert "garbage" in capsys.readouterr().err.splitlines()[-1]
    made = read(path)
    assert made.partial
    assert [cell.batch_size for cell in made.cells] == [1]


def test_an_interrupt_keeps_the_whole_cells_and_marks_them_partial(tmp_path):
    path = tmp_path / "comparison.json"
    plain = ScriptedRuntime(pieces=Later(stream_of(range(1, 9)), 7, [chunk("a"), HOLD]))
    with served(speculative(), plain) as (drafting, _):
        command = [sys.executable, "-m", "loadtest.cli", "compare", "--a", drafting.url, "--b", plain.url, *QUICK]
        process = subprocess.Popen([*command, "--output", str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while "batch size 2" not in process.stderr.readline():
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    made = read(path)
    assert made.partial
    assert [cell.batch_size for cell in made.cells] == [1]


def test_different_texts_are_shouted(capsys):
    with served(speculative(answer=whole_answer(["no"])), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain) == 0
    assert "1 DIFFERENT" in capsys.readouterr().out


def test_sides_that_differ_in_more_than_speculation_are_told(tmp_path, capsys):
    path = tmp_path / "comparison.json"
    with served(speculative(server_info={"dtype": "float16"}), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, "--output", path) == 0
    assert "the sides differ in more than speculation: dtype: float16 and bfloat16" in capsys.readouterr().err
    assert read(path).differences == ("dtype: float16 and bfloat16",)


def test_an_endpoint_of_another_kind_can_be_a_side(tmp_path):
    path = tmp_path / "comparison.json"
    other = ScriptedRuntime(flushes=False)
    other.server_info = {}
    with served(other, ScriptedRuntime()) as (stranger, plain):
        assert compare(stranger, plain, "--output", path) == 0
    made = read(path)
    assert made.a.sglang_version is None
    assert made.differences == ("not told: a side does not describe itself",)


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (["--model", "other"], "serves smollm2-135m-instruct, not other"),
        (["--prompts", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["--a", "nothing"], "nothing: write a URL, or speculation or baseline"),
        (["--a", "'speculation"], "No closing quotation"),
        (["--b", "http://127.0.0.1:9"], "unreachable"),
        (["--output", "missing/file.json"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(capsys, further, words):
    with served(speculative(), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, *further) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("aerie-bench: ")
    assert words in last


def test_a_batch_that_would_wait_is_refused(capsys):
    with served(speculative(server_info={"max_running_requests": 1}), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain) == 1
    assert "runs 1 requests at a time" in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"format": "aerie-baseline-curve/1"}')
    with pytest.raises(DocumentError, match=r"not a comparison \("):
        read(path)


def test_two_files_of_one_name_are_refused(tmp_path, capsys):
    paths = [tmp_path / folder / "chat.jsonl" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text('{"turns": ["Hello"]}\n')
    with served(speculative(), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, "--prompts", *paths) == 1
    assert "two files are the task chat" in capsys.readouterr().err


def test_a_turn_that_the_time_limit_cuts_is_no_measurement(capsys):
    slow = ScriptedRuntime(pieces=stream_of(range(1, 300)))
    with served(slow, ScriptedRuntime()) as (a, b):
        assert compare(a, b, "--time-limit", "1", "--hardware", "A machine") == 1
    assert "the time limit ended a turn" in capsys.readouterr().err.splitlines()[-1]


def test_both_sides_sample_with_one_seed(tmp_path):
    with served(speculative(), ScriptedRuntime()) as (drafting, plain):
        assert compare(drafting, plain, "--temperature", "1", "--batch-sizes", "1") == 0
    for side in (drafting, plain):
        assert {body["seed"] for body in side.asked if body != "flush"} == {7}


def test_an_interrupt_before_the_first_cell_leaves_an_earlier_file(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text("as before")
    plain = ScriptedRuntime(pieces=[chunk("a"), HOLD])
    with served(speculative(), plain) as (drafting, _):
        command = [sys.executable, "-m", "loadtest.cli", "compare", "--a", drafting.url, "--b", plain.url, *QUICK]
        command = [*IN_THE_BACKGROUND, *command, "--output", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not any(isinstance(body, dict) and body.get("stream") for body in plain.asked):
            assert process.poll() is None
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert path.read_text() == "as before"
