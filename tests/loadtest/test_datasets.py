"""Public sets of prompts: records in their true formats, files that are what they should be, or a line that says why.

The records' words are our own: nothing of the sets is copied here.
"""

import gzip
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.cli import main
from loadtest.errors import PromptsError
from loadtest.prompts import load
from loadtest.prompts.datasets import Dataset, catalog, prompt_lines

QUESTION = {"question_id": 81, "category": "writing", "turns": ["Describe a harbour.", "Shorter, please."]}
CODE = {
    "task_id": "HumanEval/0",
    "prompt": "def twice(x):\n",
    "entry_point": "twice",
    "canonical_solution": "",
    "test": "",
}
MATH = {"question": "Two boats carry 3 nets each. How many nets?", "answer": "2 * 3 = <<2*3=6>>6\n#### 6"}
PLAIN = {"instruction": "Name a colour.", "input": "", "output": "Red."}
WITH_INPUT = {"instruction": "Translate into French.", "input": "Good morning", "output": "Bonjour"}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def dataset(data, rows):
    return Dataset(url="http://127.0.0.1:1/x", sha256=hashlib.sha256(data).hexdigest(), rows=rows, licence="ours")


@pytest.mark.parametrize(
    ("rows", "data", "expected"),
    [
        (
            "questions",
            lines(QUESTION),
            {"id": "writing-81", "task": "name", "category": "writing", "turns": QUESTION["turns"]},
        ),
        (
            "code",
            gzip.compress(lines(CODE)),
            {"id": "HumanEval/0", "task": "name", "turns": ["Complete the code I provided.\n\ndef twice(x):\n"]},
        ),
        ("math", lines(MATH), {"id": "name-0", "task": "name", "turns": [MATH["question"]]}),
        ("instructions", json.dumps([PLAIN]).encode(), {"id": "name-0", "task": "name", "turns": ["Name a colour."]}),
        (
            "instructions",
            json.dumps([WITH_INPUT]).encode(),
            {"id": "name-0", "task": "name", "turns": ["Translate into French.\n\nGood morning"]},
        ),
    ],
)
def test_records_become_prompts(tmp_path, rows, data, expected):
    source, output = tmp_path / "source", tmp_path / "prompts.jsonl"
    source.write_bytes(data)
    (line,) = prompt_lines("name", dataset(data, rows), str(source), None)
    assert json.loads(line) == expected
    output.write_bytes(line)
    (prompt,) = load(output).prompts
    assert (prompt.task, list(prompt.turns), prompt.name) == ("name", expected["turns"], expected["id"])


def test_only_the_first_are_taken_where_so_many_are_asked_for(tmp_path):
    data = lines(*({"question": f"How many is {number}?", "answer": ""} for number in range(5)))
    (tmp_path / "source").write_bytes(data)
    found = prompt_lines("gsm8k", dataset(data, "math"), str(tmp_path / "source"), 2)
    assert [json.loads(line)["turns"] for line in found] == [["How many is 0?"], ["How many is 1?"]]


@pytest.mark.parametrize(
    ("rows", "data"),
    [
        ("math", lines({"instruction": "x"})),
        ("math", b"not JSON\n"),
        ("questions", lines([1])),
        ("code", gzip.compress(lines(CODE))[:-9]),
        ("instructions", b"[1]"),
    ],
)
def test_other_records_are_refused_in_one_line(tmp_path, rows, data):
    (tmp_path / "source").write_bytes(data)
    with pytest.raises(PromptsError, match="not records of name") as refused:
        prompt_lines("name", dataset(data, rows), str(tmp_path / "source"), None)
    assert "\n" not in str(refused.value)


def test_the_catalog_names_a_commit_a_checksum_and_a_licence_of_each():
    known = catalog()
    assert set(known) == {"mt_bench", "humaneval", "gsm8k", "alpaca", "cnn_dm"}
    for each in known.values():
        commits = [part for part in each.url.split("/") if len(part) == 40 and set(part) <= set("0123456789abcdef")]
        assert len(commits) == 1
        assert each.url.startswith("https://")


@contextmanager
def hosted(answers):
    """An HTTP server: path -> (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def gsm8k(monkeypatch):
    """The catalog with a set of ours in place of GSM8K."""
    data = lines(MATH)
    ours = dataset(data, "math")
    monkeypatch.setattr("loadtest.prompts.datasets.catalog", lambda: {"gsm8k": ours})
    return data


def test_a_set_is_fetched_checked_and_written_with_its_licence_named(tmp_path, capsys, gsm8k):
    output = tmp_path / "gsm8k.jsonl"
    with hosted({"/a": (302, {"location": "/b"}, b""), "/b": (200, {}, gsm8k)}) as url:
        assert main(["prompts", "gsm8k", "--output", str(output), "--source", f"{url}/a"]) == 0
    assert "1 prompts of gsm8k (licence: ours)" in capsys.readouterr().err
    assert [prompt.turns for prompt in load(output).prompts] == [(MATH["question"],)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [((200, {}, b"other words"), "not the file it should be"), ((404, {}, b""), "status 404")],
)
def test_what_is_not_the_set_leaves_no_file(tmp_path, capsys, gsm8k, answer, words):
    output = tmp_path / "gsm8k.jsonl"
    with hosted({"/a": answer}) as url:
        assert main(["prompts", "gsm8k", "--output", str(output), "--source", f"{url}/a"]) == 1
    assert words in capsys.readouterr().err
    assert not output.exists()


def test_a_host_that_cannot_be_reached_is_one_line_that_says_what_to_do(tmp_path, capsys, gsm8k):
    assert main(["prompts", "gsm8k", "--output", str(tmp_path / "gsm8k.jsonl")]) == 1
    assert "get it elsewhere and name it: --source FILE" in capsys.readouterr().err


def test_a_set_that_is_not_known_is_status_2(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["prompts", "other", "--output", str(tmp_path / "x")])
    assert ended.value.code == 2
