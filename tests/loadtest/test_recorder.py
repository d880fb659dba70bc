"""What a stage hears: raw lines that are whole, and a line of progress that says how it goes."""

import json

import pytest

from loadtest.asking import Asked
from loadtest.errors import OutputError
from loadtest.prompts import Prompt
from loadtest.raw import raw_file
from loadtest.record import Acceptance, Answer, Arrival, Failure, Left, Request
from loadtest.recorder import Recorder

PROMPT = Prompt(("Hello",), task="chat", name="chat-1")


def answered(ttft_s):
    arrivals = (Arrival(ttft_s, 1), Arrival(1.0, 8))
    return Request(0.0, 1.0, Answer(arrivals, 34, 8, Acceptance(4, 3, (2, 1, 1))))


FAILED, LEFT = Request(0.0, 0.5, Failure("timeout", "scripted")), Request(0.0, 0.5, Left(5))


def test_every_request_is_a_raw_line_as_it_ends(tmp_path):
    path = tmp_path / "raw.jsonl"
    with raw_file(path) as raw:
        recorder = Recorder("2/s", raw, began_s=0.0)
        for request in (answered(0.1), FAILED, LEFT):
            recorder.told(Asked(PROMPT, request, late_s=0.001))
            assert path.read_bytes().endswith(b"\n")
    told, failed, left = map(json.loads, path.read_text().splitlines())
    assert {"stage": "2/s", "task": "chat", "prompt": "chat-1", "turn": 1, "late_s": 0.001}.items() <= told.items()
    assert (told["ttft_s"], told["completion_tokens"], told["accepted_by_position"]) == (0.1, 8, [2, 1, 1])
    assert (failed["failure"], left["left_after_tokens"]) == ("timeout", 5)


def test_a_disk_that_takes_no_more_stops_the_stage_once_and_keeps_what_was_heard():
    class Full:
        def add(self, request, **labels):
            if request is FAILED:
                raise OutputError("full")

    stops = []
    recorder = Recorder("2/s", Full(), stop=lambda: stops.append("now"))
    for request in (LEFT, FAILED, LEFT):
        recorder.told(Asked(PROMPT, request))
    assert [asked.request for asked in recorder.asked] == [LEFT]
    assert stops == ["now"]
    assert str(recorder.failure) == "full"


def test_progress_counts_from_the_beginning_and_paces_from_the_last_line():
    with raw_file(None) as raw:
        recorder = Recorder("2/s", raw, began_s=100.0)
    for request in (answered(0.2), answered(0.1), answered(0.3), FAILED, LEFT):
        recorder.told(Asked(PROMPT, request))
    recorder.running = 3
    assert recorder.line(110.0) == "2/s, 10 s: 5 ended (0.50/s), TTFT p50 200 ms, 3 running, 1 failed, 1 left"
    recorder.told(Asked(PROMPT, answered(0.4)))
    assert recorder.line(112.0) == "2/s, 12 s: 6 ended (0.50/s), TTFT p50 400 ms, 3 running, 1 failed, 1 left"
    assert recorder.line(117.0) == "2/s, 17 s: 6 ended (0.00/s), 3 running, 1 failed, 1 left"


@pytest.mark.parametrize("place", ["missing/raw.jsonl", "."])
def test_a_raw_file_that_cannot_be_made_is_refused(tmp_path, place):
    with pytest.raises(OutputError, match="cannot be written"), raw_file(tmp_path / place):
        pass
