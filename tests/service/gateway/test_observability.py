"""What operators see: metrics that are right, logs without prompts, ids, health, the OpenAPI document."""

import asyncio
import io
import json
import logging
import sys

import pytest

from service.gateway import log
from service.gateway.app import create_app
from service.gateway.drain import Drain
from service.gateway.metrics import Metrics
from service.gateway.middleware import Observe
from service.gateway.observe import CLASSES, POSITIONS, PROMPT_LENGTHS, Recorder, prompt_length
from service.gateway.record import RequestRecord, Speculation, Usage
from service.gateway.settings import Settings
from service.gateway.sglang import RuntimeInfo
from service.gateway.status_errors import RecentErrors
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import gateway_before, until
from tests.service.gateway.scripted_upstream import MODEL, Script

CHAT = "/v1/chat/completions"
USAGE = Usage(34, 11)
FIGURES = Speculation(6, 4, 42, (3, 2, 1))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_counted_once_with_its_tokens_and_drafts(gateway, chat, growth, stream):
    gateway.post(CHAT, json=chat | {"stream": stream})
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="ok", status="2xx") == 1)
    assert growth("aerie_prompt_tokens_total") == 34
    assert growth("aerie_completion_tokens_total") == 11
    assert growth("aerie_spec_verify_passes_total") == 6
    assert growth("aerie_spec_proposed_drafts_total") == 42
    assert growth("aerie_spec_correct_drafts_total") == 4
    assert [growth("aerie_spec_accepted_drafts_total", position=str(k)) for k in (1, 2, 3)] == [3, 1, 0]
    assert growth("aerie_spec_acceptance_length_sum") == pytest.approx(1 + 4 / 6)
    assert growth("aerie_request_duration_seconds_count", route=CHAT) == 1
    assert growth("aerie_time_to_first_token_seconds_count", route=CHAT) == int(stream)
    assert growth("aerie_time_per_output_token_seconds_count", route=CHAT) == int(stream)
    assert growth("aerie_requests_in_flight") == 0


def test_chunks_that_arrive_together_are_one_arrival(gateway, upstream, chat, growth):
    pause, chunk = wire.Release(), wire.chunk("a", "Red")
    upstream.script = Script(steps=[chunk + chunk, pause, chunk + wire.DONE])
    with gateway.stream("POST", CHAT, json=chat | {"stream": True}) as response:
        received = response.iter_raw()
        assert next(received) == chunk + chunk
        pause.now.set()
        assert b"".join(received) == chunk + wire.DONE
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="ok", status="2xx") == 1)
    assert growth("aerie_inter_chunk_seconds_count", route=CHAT) == 1


def test_the_figures_of_several_choices_are_summed(gateway, upstream, chat, growth):
    upstream.script = Script(body=wire.whole("a", details=[wire.DETAILS, wire.DETAILS], n=2))
    gateway.post(CHAT, json=chat | {"n": 2})
    until(lambda: growth("aerie_spec_verify_passes_total") == 12)
    assert growth("aerie_spec_accepted_drafts_total", position="1") == 6
    assert growth("aerie_spec_acceptance_length_count") == 1


def test_a_runtime_without_speculation_leaves_its_metrics_alone(gateway, upstream, chat, growth):
    body = json.loads(wire.whole("a"))
    del body["sglext"]
    upstream.script = Script(body=json.dumps(body).encode())
    gateway.post(CHAT, json=chat)
    until(lambda: growth("aerie_completion_tokens_total") == 11)
    assert growth("aerie_spec_acceptance_length_count") == 0


def test_rejections_are_counted_by_route_and_never_by_path(gateway, growth):
    gateway.post(CHAT, json={})
    for name in ("a", "b"):
        gateway.get(f"/nothing/{name}")
    until(lambda: growth("aerie_requests_total", route="unmatched", outcome="rejected", status="4xx") == 2)
    assert growth("aerie_requests_total", route=CHAT, outcome="rejected", status="4xx") == 1


def test_positions_deeper_than_the_labels_share_one():
    metrics = Metrics()
    deep = Speculation(1, POSITIONS + 3, 40, (*[0] * (POSITIONS + 3), 1))
    Recorder(metrics).observe(RequestRecord("id", "POST", CHAT, status=200, pool="a", usage=USAGE, speculation=deep))
    text = metrics.exposition().decode()
    assert f'aerie_spec_accepted_drafts_total{{pool="a",position="{POSITIONS}"}} 1.0' in text
    assert f'aerie_spec_accepted_drafts_total{{pool="a",position="{POSITIONS + 1}+"}} 3.0' in text


def test_acceptance_is_told_apart_by_task_prompt_length_and_key_class():
    metrics = Metrics()
    recorder = Recorder(metrics)
    for task, tokens, key_class in (("code", 100, "gold"), ("code", 100, "gold"), ("other", 10**6, None)):
        of = {"task": task, "key_class": key_class, "usage": Usage(tokens, 11), "speculation": FIGURES}
        recorder.observe(RequestRecord("id", "POST", CHAT, status=200, pool="a", **of))
    counted = {
        tuple(s.labels.values()): s.value for s in metrics.verify_passes.collect()[0].samples if "total" in s.name
    }
    assert counted == {("a", "code", "128", "gold"): 12, ("a", "other", "+Inf", "none"): 6}


def test_prompt_lengths_are_upper_bounds():
    assert [prompt_length(tokens) for tokens in (0, 128, 129, 32769)] == ["128", "128", "512", "+Inf"]
    assert list(PROMPT_LENGTHS) == sorted(PROMPT_LENGTHS)


def test_however_many_classes_clients_make_their_series_are_bounded():
    metrics = Metrics()
    recorder = Recorder(metrics)
    for number in range(CLASSES + 50):
        of = {"task": f"task{number}", "usage": USAGE, "speculation": FIGURES}
        recorder.observe(RequestRecord("id", "POST", CHAT, status=200, pool="a", **of))
    series = [s for s in metrics.verify_passes.collect()[0].samples if "total" in s.name]
    assert len(series) == CLASSES + 1
    assert sum(s.value for s in series) == 6 * (CLASSES + 50)
    assert next(s.value for s in series if s.labels["key_class"] == "other") == 6 * 50


def test_the_sum_over_positions_is_the_number_of_correct_drafts():
    speculation = Speculation(10, 2 * 1 + 3 * 2 + 1 * 4, 70, (4, 2, 3, 0, 1))
    assert speculation.accepted_at() == [6, 4, 1, 1]
    assert sum(speculation.accepted_at()) == speculation.correct_drafts


def test_time_per_output_token_comes_from_usage_not_from_chunks():
    record = RequestRecord("id", "POST", CHAT, first_chunk_s=10.0, last_chunk_s=11.0, usage=Usage(3, 11))
    assert record.time_per_output_token_s == pytest.approx(0.1)


@pytest.fixture
def lines(gateway):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.JsonFormatter())
    logger = logging.getLogger(log.ACCESS)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_request_is_one_line_that_says_how_it_went(gateway, chat, lines):
    gateway.post(CHAT, json=chat | {"stream": True}, headers={"x-request-id": "abc-1"})
    (line,) = until(lines)
    expected = {"method": "POST", "path": CHAT, "status": 200, "outcome": "ok", "model": MODEL, "request_id": "abc-1"}
    assert expected.items() <= line.items()
    assert (line["prompt_tokens"], line["completion_tokens"], line["acceptance_length"]) == (34, 11, 1.667)
    assert line["ttft_ms"] <= line["duration_ms"]


def test_logs_hold_no_prompt_no_answer_and_no_key(gateway, upstream, chat, lines):
    secret = {"authorization": "Bearer sk-secret"}
    gateway.post(CHAT, json=chat, headers=secret)
    gateway.post(f"{CHAT}?token=sk-secret", json=chat | {"temperature": 9}, headers=secret)
    upstream.script = Script(status=500, body=b'{"message": "Name two colours."}')
    gateway.post(CHAT, json=chat, headers=secret)
    text = json.dumps(until(lambda: len(lines()) == 3 and lines()))
    assert not [word for word in ("colours", "Red", "sk-secret", "Bearer") if word in text]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3_x", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("é", False), ("", False)],
)
def test_a_sane_request_id_is_kept_and_any_other_replaced(gateway, given, kept):
    returned = gateway.get("/healthz", headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert (returned == given) is kept
    assert returned


def test_errors_carry_the_request_id_too(gateway):
    assert gateway.post(CHAT, json={}, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_health_and_readiness(gateway):
    assert gateway.get("/healthz").json() == {"status": "ok"}
    assert gateway.get("/readyz").json() == {"status": "ok"}


def test_readiness_says_why_not(session_upstream):
    session_upstream.reset()
    with gateway_before(session_upstream.url) as client:
        del session_upstream.server_info["version"]
        session_upstream.ready_status = 503
        until(lambda: "503" in client.get("/readyz").json().get("reason", ""))
        session_upstream.ready_status = 200
        until(lambda: "unknown words" in client.get("/readyz").json().get("reason", ""))
    session_upstream.reset()


def test_a_bug_is_a_500_in_the_same_format_and_is_logged(caplog):
    async def broken(scope, receive, send):
        raise ZeroDivisionError("a bug")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Observe(broken, Metrics(), RecentErrors(), Drain())(scope, None, send))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text


def test_the_openapi_document_describes_bodies_and_errors():
    document = create_app(Settings()).openapi()
    post = document["paths"][CHAT]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert schema == "#/components/schemas/ChatCompletionRequest"
    assert {"200", "400", "404", "413", "429", "503"} <= set(post["responses"])
    assert "422" not in post["responses"]
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


def test_each_app_has_its_own_registry():
    first, second = Metrics(), Metrics()
    first.prompt_tokens.labels("a").inc(3)
    assert b"aerie_prompt_tokens_total{" not in second.exposition()


def test_a_json_line_holds_the_request_id_and_the_traceback():
    token = log.request_id.set("abc")
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "went %s", ("wrong",), sys.exc_info())
    record.fields = {"status": 500}
    line = json.loads(log.JsonFormatter().format(record))
    log.request_id.reset(token)
    assert (line["message"], line["request_id"], line["status"]) == ("went wrong", "abc", 500)
    assert "ValueError" in line["exception"]
    assert log.TextFormatter().format(record).splitlines()[0].endswith("went wrong")


@pytest.fixture
def configured(monkeypatch):
    """`configured(style)`: logs as a process has them, to a stream of the test."""

    def one(style, level="info"):
        monkeypatch.setattr(sys, "stderr", stream)  # not earlier: pytest's own is put there when the test begins
        log.configure(level=level, style=style)
        return stream

    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    yield one
    root.handlers[:] = before
    root.setLevel(level)


def written(stream):
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def access(level, fields):
    """In an event loop, at the end of whose turn it is written."""

    async def run():
        log.access(level, fields)

    asyncio.run(run())


FIELDS = {"request_id": "abc", "status": 200, "path": "/\n\u00e9", "code": None}


def test_the_short_way_of_a_requests_line_writes_what_logging_would(configured):
    stream = configured("json")
    access(logging.WARNING, FIELDS)
    logging.getLogger(log.ACCESS).warning("request", extra={"fields": FIELDS})
    short, long = written(stream)
    assert short == long == {"level": "warning", "logger": "aerie.access", "message": "request"} | FIELDS


def test_lines_of_one_turn_are_written_at_once_and_before_what_is_logged_later(configured):
    stream = configured("json")

    async def run():
        log.access(logging.INFO, {"request_id": "1"})
        log.access(logging.INFO, {"request_id": "2"})
        assert stream.getvalue() == ""
        logging.getLogger("other").info("3")
        log.access(logging.INFO, {"request_id": "4"})
        await asyncio.sleep(0)
        assert len(written(stream)) == 4

    asyncio.run(run())
    assert [line.get("request_id", line["message"]) for line in written(stream)] == ["1", "2", "3", "4"]


def test_a_requests_line_reaches_every_handler_there_is(configured, caplog):
    stream = configured("json")
    logging.getLogger().addHandler(caplog.handler)
    access(logging.INFO, FIELDS)
    assert [record.fields for record in caplog.records if record.name == log.ACCESS] == [FIELDS]
    assert len(written(stream)) == 1


def test_a_requests_line_is_text_where_lines_are(configured):
    stream = configured("text")
    access(logging.INFO, {"status": 200, "code": None})
    assert stream.getvalue().endswith("INFO    aerie.access: request status=200\n")


def test_a_requests_line_below_the_level_is_not_written(configured):
    stream = configured("json", "warning")
    access(logging.INFO, FIELDS)
    assert stream.getvalue() == ""


def test_a_log_that_nobody_reads_any_more_costs_no_request(configured):
    configured("json").close()
    access(logging.INFO, FIELDS)


@pytest.mark.parametrize(("adaptive", "told"), [(True, "3/1/4, adaptive"), (False, "3/1/4"), (None, "3/1/4")])
def test_a_chain_whose_length_follows_the_batch_size_is_told_as_that(adaptive, told):
    tree = {"speculative_num_steps": 3, "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4}
    server = {"version": "0.5.23", "speculative_algorithm": "EAGLE3", "speculative_adaptive": adaptive, **tree}
    assert RuntimeInfo.parse(server, {}, {"data": [{"id": "m"}]}).tree == told


def test_a_tree_whose_size_follows_the_batch_size_is_told_as_that():
    tree = {"speculative_num_steps": 5, "speculative_eagle_topk": 3, "speculative_num_draft_tokens": 8}
    states = [{"speculative_draft_p_min": {"1": 0.05}}]
    server = {"version": "0.5.23", "speculative_algorithm": "EAGLE3", "internal_states": states, **tree}
    assert RuntimeInfo.parse(server, {}, {"data": [{"id": "m"}]}).tree == "5/3/8, adaptive"
