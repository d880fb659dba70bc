"""Prompts kept for training: which, in what form, redacted by whom, in files that are whole, private and bounded."""

import asyncio
import json
import os
import stat
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from draft_models.prompts import distinct, read_source
from service.gateway import capture as capture_module
from service.gateway import strict_yaml
from service.gateway.capture import Capture, Result, conversation
from service.gateway.config import CaptureConfig, GatewayConfig
from service.gateway.metrics import Metrics
from service.gateway.record import RequestRecord
from service.gateway.segments import Segments
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import DEADLINE_S

CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "Name two colours."}]


@dataclass
class Asked:
    """What the capture reads of an exchange."""

    body: bytes
    rid: str = "chatcmpl-" + "0" * 32
    path: str = CHAT
    stream: bool = False
    translation: object = None


def exchange(messages=ASKED, **fields):
    of_exchange = {name: fields.pop(name) for name in ("rid", "path", "stream", "translation") if name in fields}
    return Asked(json.dumps({"model": "m", "messages": messages, **fields}).encode(), **of_exchange)


def recorded(task="other"):
    return RequestRecord("req-1", "POST", CHAT, status=200, task=task)


def run(work):
    """A coroutine, bounded."""

    async def bounded():
        async with asyncio.timeout(DEADLINE_S):
            return await work

    return asyncio.run(bounded())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prompts"


@pytest.fixture
def captured(folder):
    """`captured(exchanges, answers, **config)`: the records that are written, and what was counted."""

    def all_of(exchanges, answer=None, **config):
        metrics = Metrics()

        async def offered():
            async with Capture(CaptureConfig(**{"share": 1.0, "folder": folder} | config), metrics) as capture:
                for one in exchanges:
                    capture.offer(one, recorded(), answer)

        run(offered())
        return records(folder), counted(metrics)

    return all_of


def records(folder):
    return [json.loads(line) for path in files(folder) for line in path.read_bytes().splitlines()]


def files(folder):
    """In the order of their writing."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)


def counted(metrics):
    found = {result: metrics.captured_prompts.labels(result)._value.get() for result in Result}
    return Counter({result: int(times) for result, times in found.items() if times})


def test_what_is_written_is_what_aerie_draft_prepare_reads(captured, folder):
    talk = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi \u2028\n"}, {"type": "text", "text": "there \U0001f389"}],
        },
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Name two colours."},
    ]
    found, counts = captured([exchange(), exchange(talk), exchange()])
    assert counts == {Result.WRITTEN: 3}
    [path] = files(folder)
    conversations = distinct([read_source(str(path))])
    assert [conversation.messages for conversation in conversations] == [
        tuple(ASKED),
        (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi \u2028\nthere \U0001f389"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Name two colours."},
        ),
    ]
    assert found[0].keys() == {"messages", "task", "time"}


def test_a_prompt_has_its_task_and_time(folder):
    async def one():
        async with Capture(CaptureConfig(share=1.0, folder=folder), Metrics()) as capture:
            capture.offer(exchange(), recorded(task="code"), None)

    run(one())
    [record] = records(folder)
    assert record["task"] == "code"
    assert record["time"].endswith("+00:00")


@pytest.mark.parametrize(
    "messages",
    [
        [*ASKED, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "x"}],
        [{"role": "system", "content": " "}, *ASKED],
        [{"role": "system", "content": "Be brief."}],
        [*ASKED, {"role": "system", "content": "Be brief."}],
        [{"role": "user", "content": "\n"}],
    ],
)
def test_what_a_draft_is_not_trained_on_is_dropped_and_spoils_no_file(captured, folder, messages):
    found, counts = captured([exchange(messages), exchange()])
    assert counts == {Result.WRITTEN: 1, Result.DROPPED: 1}
    assert len(found) == len(read_source(str(files(folder)[0])).conversations) == 1


def test_a_conversation_with_tools_is_dropped_since_the_trainers_template_would_not_show_them(captured):
    assert captured([exchange(tools=[{"type": "function"}])])[1] == {Result.DROPPED: 1}


def test_a_bare_completion_is_not_sampled(captured):
    assert captured([exchange(path="/v1/completions")]) == ([], {})


def test_nothing_is_kept_unless_it_is_asked_for(captured, folder):
    assert captured([exchange()], share=0.0) == ([], {})
    assert CaptureConfig().share == 0
    assert not folder.exists()


def test_answers_are_kept_only_where_that_is_asked_for(captured):
    answer = wire.whole("r")
    assert captured([exchange()], answer)[0][0]["messages"] == ASKED
    kept = captured([exchange()], answer, answers=True)[0][-1]
    assert kept["messages"] == [*ASKED, {"role": "assistant", "content": "Red and blue"}]


def test_an_answer_that_is_no_plain_text_or_of_another_api_is_left_out(captured):
    assert captured([exchange()], b"{}", answers=True)[0][0]["messages"] == ASKED
    assert captured([exchange(translation="Responses")], wire.whole("r"), answers=True)[0][0]["messages"] == ASKED


def test_the_reader_drops_kept_answers_for_the_target_answers_anew(captured, folder):
    captured([exchange()], wire.whole("r"), answers=True)
    [conversation] = read_source(str(files(folder)[0])).conversations
    assert conversation.messages == tuple(ASKED)


def test_an_answer_is_asked_of_the_relay_only_where_it_will_be_kept(folder):
    def wants(one, **config):
        async def asked():
            return Capture(CaptureConfig(**{"share": 1.0, "folder": folder} | config), Metrics()).wants(one)

        return run(asked())

    assert wants(exchange(), answers=True)
    assert not wants(exchange())
    assert not wants(exchange(), answers=True, share=0.0)
    assert not wants(exchange(translation="Responses"), answers=True)
    assert not wants(exchange(path="/v1/completions"), answers=True)


def test_a_share_is_drawn_by_the_requests_ids(captured):
    drawn = [exchange(rid=f"chatcmpl-{'0' * 16}{draw:02x}ffffff{'0' * 8}") for draw in range(256)]
    assert captured(drawn, share=0.25)[1] == {Result.WRITTEN: 64}


def no_digits(text):
    return "".join("#" if character.isdigit() else character for character in text)


def fails_on_seven(text):
    if "7" in text:
        raise LookupError(text)
    return text


def forgets(text):
    return None


def blanks(text):
    return " "


def surrogate(text):
    return "\ud800"


HERE = "tests.service.gateway.test_capture"


def test_every_text_is_redacted_before_it_is_written(captured, folder):
    talk = [{"role": "system", "content": "Call 1"}, {"role": "user", "content": "Call 2"}]
    found, _ = captured(
        [exchange(talk)], wire.whole("r").replace(b"blue", b"b1ue"), redact=f"{HERE}:no_digits", answers=True
    )
    assert [message["content"] for message in found[0]["messages"]] == ["Call #", "Call #", "Red and b#ue"]


def test_a_redaction_that_fails_drops_the_prompt_and_tells_no_text(captured, folder, caplog):
    bad = exchange([{"role": "system", "content": "ok"}, {"role": "user", "content": "my number is 7"}])
    found, counts = captured([bad, exchange()], redact=f"{HERE}:fails_on_seven")
    assert counts == {Result.WRITTEN: 1, Result.FAILED: 1}
    assert [record["messages"] for record in found] == [ASKED]
    [line] = [line for line in caplog.records if line.name == "aerie.capture"]
    assert line.fields == {"errors": ["LookupError"], "prompts": 1}
    assert "number" not in caplog.text


@pytest.mark.parametrize(
    ("function", "result"), [("forgets", "failed"), ("surrogate", "failed"), ("blanks", "dropped")]
)
def test_a_redaction_that_gives_no_text_back_writes_nothing(captured, function, result):
    assert captured([exchange()], redact=f"{HERE}:{function}") == ([], {result: 1})


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        ("{share: 0.1}", "capture: folder: a share of prompts is to be kept, but not where"),
        (
            "{redact: 'missing:hide'}",
            "capture.redact: cannot import missing:hide (ModuleNotFoundError: No module named 'missing')",
        ),
        (
            f"{{redact: '{HERE}:hide'}}",
            f"capture.redact: cannot import {HERE}:hide (AttributeError: module '{HERE}' has no attribute 'hide')",
        ),
        (f"{{redact: '{HERE}:HERE'}}", f"capture.redact: {HERE}:HERE cannot be called"),
        ("{redact: 7}", "capture.redact: cannot import 7 (ModuleNotFoundError: No module named '7')"),
        ("{max_age_days: 0}", "capture.max_age_days: input should be greater than 0"),
    ],
)
def test_a_wrong_file_refuses_to_start_in_a_sentence(capture, message):
    text = f"pools: [{{name: eagle, replicas: ['http://127.0.0.1:1']}}]\ncapture: {capture}\n"
    with pytest.raises(strict_yaml.FileError) as refused:
        strict_yaml.parse(text.encode(), GatewayConfig)
    assert str(refused.value) == message


def test_a_folder_and_a_function_are_named_in_the_file(folder):
    wanted = f"{{share: 0.5, folder: {folder}, redact: '{HERE}:no_digits'}}"
    text = f"pools: [{{name: a, replicas: ['http://127.0.0.1:1']}}]\ncapture: {wanted}"
    config = strict_yaml.parse(text.encode(), GatewayConfig).share(2).capture
    assert (config.folder, config.redact) == (folder, no_digits)


def test_files_and_folder_are_the_gateways_alone_whatever_the_umask(captured, folder):
    mask = os.umask(0)
    try:
        captured([exchange()])
    finally:
        os.umask(mask)
    [path] = files(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(os.getpid()) in path.name


def test_a_file_is_seen_whole_or_not_at_all(folder, monkeypatch):
    """At the moment of its renaming everything is written, under a name that no reader looks for."""
    seen = []
    rename = Path.replace

    def spy(self, target):
        seen.append((self.read_bytes(), files(folder)))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    Segments(folder, 1e6, 60).write(b"line\n", time.time())
    assert seen == [(b"line\n", [])]
    assert [path.read_bytes() for path in files(folder)] == [b"line\n"]


def test_processes_that_write_at_once_do_not_collide(folder):
    segments = Segments(folder, 1e6, 60)
    threads = [threading.Thread(target=segments.write, args=(b"x\n", 1e9)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files(folder)) == 20


def aged(path, seconds):
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))
    return path


def test_the_oldest_files_make_room_and_there_is_never_too_much(folder):
    segments = Segments(folder, max_bytes=100, max_age_s=1e9)
    for age in (300, 200, 100):
        assert segments.write(b"x" * 40, time.time())
        aged(max(files(folder), key=lambda path: path.stat().st_mtime), age)
        assert sum(path.stat().st_size for path in files(folder)) <= 100
    assert len(files(folder)) == 2
    assert not segments.write(b"x" * 101, time.time())
    assert len(files(folder)) == 2


def test_old_files_and_torn_ones_go_even_if_nothing_new_comes(captured, folder):
    captured([exchange()])
    old, young = aged(files(folder)[0], 3 * 86400), folder / "prompts-young.jsonl"
    young.write_text("{}\n")
    torn, being_written, foreign = folder / ".prompts-a.tmp", folder / ".prompts-b.tmp", aged_new(folder / "notes.txt")
    torn.write_text("half")
    being_written.write_text("half")
    aged(torn, 7200)
    captured([], share=0.0, max_age_days=2.0)
    assert not old.exists()
    assert not torn.exists()
    assert young.exists()
    assert being_written.exists()
    assert foreign.exists()


def aged_new(path):
    path.write_text("mine")
    return aged(path, 1e8)


def test_a_disk_that_takes_nothing_is_counted_and_stops_nobody(captured, folder, caplog):
    folder.write_text("a file where the folder should be")
    metrics = Metrics()

    async def offered():
        async with Capture(CaptureConfig(share=1.0, folder=folder), metrics) as capture:
            capture.offer(exchange(), recorded(), None)

    run(offered())
    assert counted(metrics) == {Result.FAILED: 1}
    assert "prompts are not kept" in caplog.text


def test_what_waits_is_bounded_in_number_and_bytes(folder, monkeypatch):
    monkeypatch.setattr(capture_module, "HELD_PROMPTS", 3)
    metrics = Metrics()

    async def offered():
        async with Capture(CaptureConfig(share=1.0, folder=folder), metrics) as capture:
            for _ in range(5):
                capture.offer(exchange(), recorded(), None)
            monkeypatch.setattr(capture_module, "HELD_PROMPTS", 100)
            monkeypatch.setattr(capture_module, "HELD_BYTES", 3 * len(exchange().body))
            capture.offer(exchange(), recorded(), None)

    run(offered())
    assert counted(metrics) == {Result.WRITTEN: 3, Result.DROPPED: 3}


def test_a_file_is_written_when_enough_wait_or_enough_time_has_passed_and_the_rest_at_the_end(folder, monkeypatch):
    monkeypatch.setattr(capture_module, "SEGMENT_PROMPTS", 2)

    async def offered():
        async with Capture(CaptureConfig(share=1.0, folder=folder), Metrics()) as capture:
            for _ in range(2):
                capture.offer(exchange(), recorded(), None)
            await until(lambda: len(records(folder)) == 2)
            capture.offer(exchange(), recorded(), None)
        assert len(records(folder)) == 3
        monkeypatch.setattr(capture_module, "SEGMENT_S", 0.01)
        async with Capture(CaptureConfig(share=1.0, folder=folder), Metrics()) as capture:
            capture.offer(exchange(), recorded(), None)
            await until(lambda: len(records(folder)) == 4)

    run(offered())


async def until(condition):
    while not condition():  # noqa: ASYNC110 - `run` bounds it
        await asyncio.sleep(0.01)


def test_a_slow_redaction_holds_up_nobody(folder, monkeypatch):
    monkeypatch.setattr(capture_module, "SEGMENT_PROMPTS", 1)
    entered, go_on = threading.Event(), threading.Event()

    def slow(text):
        entered.set()
        assert go_on.wait(DEADLINE_S)
        return text

    async def offered():
        config = CaptureConfig(share=1.0, folder=folder).model_copy(update={"redact": slow})
        async with Capture(config, Metrics()) as capture:
            capture.offer(exchange(), recorded(), None)
            await until(entered.is_set)  # the loop goes on while the thread waits
            capture.offer(exchange([{"role": "user", "content": "Meanwhile."}]), recorded(), None)
            go_on.set()
        assert len(records(folder)) == 2

    run(offered())


def test_a_change_of_the_file_counts_for_what_waits_too(folder):
    metrics = Metrics()

    async def offered():
        async with Capture(CaptureConfig(share=1.0, folder=folder), metrics) as capture:
            capture.offer(exchange(), recorded(), None)
            capture.adopt(CaptureConfig())
            capture.offer(exchange(), recorded(), None)

    run(offered())
    assert counted(metrics) == {Result.DROPPED: 1}
    assert not folder.exists()


def test_a_conversation_is_texts_of_three_roles_or_nothing():
    assert conversation({"messages": ASKED}) == [("user", "Name two colours.")]
    assert conversation({"messages": [{"role": "assistant", "content": None}]}) is None
