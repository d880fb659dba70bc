"""`aerie up` as a user has it: real SGLang with EAGLE-3 behind the gateway, the real OpenAI SDK in front."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx
import jsonschema
import openai
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loadtest.launch import free_port
from service.runtime.cache import cache_dir
from service.runtime.model_source import EMBEDDED
from service.runtime.profiles import ROOT
from tests.e2e.servers import Server, aerie, chatml, prompts

Capture = pytest.CaptureFixture[str]
BF16_EPSILON = 0.5  # in logits; float32 gaps of up to 0.12 were seen to flip in bf16
MODEL = "smollm2-135m-instruct"
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 24}, "sure": {"type": "boolean"}},
    "required": ["city", "sure"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        yield sdk


def chat(client: openai.OpenAI, **fields: object) -> openai.types.chat.ChatCompletion:
    given = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 48, **fields}
    answer: openai.types.chat.ChatCompletion = client.chat.completions.create(**given)  # type: ignore[call-overload]
    return answer


def streamed(client: openai.OpenAI, **fields: object) -> list[openai.types.chat.ChatCompletionChunk]:
    return list(chat(client, stream=True, **fields))  # type: ignore[arg-type]


def test_a_chat_completion_has_an_answer_usage_an_id_and_a_finish_reason(client: openai.OpenAI) -> None:
    answer = chat(client)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", answer.id)
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens < 48


def test_a_stream_says_the_same_as_the_whole_and_tells_its_usage_only_when_asked(client: openai.OpenAI) -> None:
    whole = chat(client)
    chunks = streamed(client, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.choices for chunk in streamed(client))


def test_an_application_that_asks_gets_the_acceptance_figures_of_its_request(client: openai.OpenAI) -> None:
    asked = {"return_spec_tokens_details": True}
    whole = chat(client, extra_body=asked).model_extra
    last = [chunk.model_extra for chunk in streamed(client, extra_body=asked) if not chunk.choices]
    assert whole is not None
    details = whole["sglext"]["spec_tokens_details"]
    assert details["spec_verify_ct"] > 0
    assert sum(details["spec_correct_drafts_histogram"]) == details["spec_verify_ct"]
    assert [extra["sglext"]["spec_tokens_details"] for extra in last if extra and "sglext" in extra] == [details]
    assert "sglext" not in (chat(client).model_extra or {})


def test_a_conversation_remembers_and_obeys_its_system_prompt(client: openai.OpenAI) -> None:
    turns = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "My dog is called Bello."},
        {"role": "assistant", "content": "What a lovely name!"},
        {"role": "user", "content": "What is my dog called? Answer with the name."},
    ]
    assert "Bello" in (chat(client, messages=turns).choices[0].message.content or "")


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    answer = chat(client, stop=["Paris"])
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" not in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_is_kept_to_the_token_whatever_was_accepted(client: openai.OpenAI, field: str) -> None:
    limits = {"max_tokens": openai.omit, field: 5}
    answer = chat(client, **limits)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_a_seed_repeats_an_answer_and_another_seed_gives_another(client: openai.OpenAI) -> None:
    story = [{"role": "user", "content": "Tell me a story about the sea."}]
    answers = [chat(client, messages=story, temperature=1, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    story = [{"role": "user", "content": "Tell me a story about the sea."}]
    choices = chat(client, messages=story, temperature=1, n=4).choices
    assert len({choice.message.content for choice in choices}) == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True, "top_logprobs": 3},
        {"presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"logit_bias": {"18": -100}},
        {"temperature": 0.7, "top_p": 0.9},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER_SCHEMA}}},
        {"extra_body": {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.1}, "temperature": 1, "seed": 3},
        {"extra_body": {"regex": "[a-z]{3} [0-9]{2}"}},
    ],
    ids=["logprobs", "penalties", "logit_bias", "top_p", "json_object", "json_schema", "sglang_sampling", "regex"],
)
def test_what_the_table_supports_works_under_speculation(client: openai.OpenAI, fields: dict[str, object]) -> None:
    answer = chat(client, **fields)
    content = answer.choices[0].message.content
    assert content
    if "response_format" in fields:
        assert isinstance(json.loads(content), dict)
    if "json_schema" in str(fields):
        jsonschema.validate(json.loads(content), ANSWER_SCHEMA)
    if "logprobs" in fields:
        assert answer.choices[0].logprobs is not None
        tokens = answer.choices[0].logprobs.content or []
        assert answer.usage is not None
        assert len(tokens) in (answer.usage.completion_tokens, answer.usage.completion_tokens - 1)  # end of turn
        assert all(len(token.top_logprobs) == 3 for token in tokens)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["Paris"]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER_SCHEMA}}},
        {"temperature": 1, "seed": 11},
        {"logit_bias": {"7042": -100, "3681": -100}},
    ],
    ids=["stop", "json_schema", "seed", "logit_bias"],
)
def test_streams_say_the_same_whatever_is_asked_for(client: openai.OpenAI, fields: dict[str, object]) -> None:
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed(client, **fields) if chunk.choices)
    assert text == chat(client, **fields).choices[0].message.content


def test_a_stream_of_logprobs_has_one_for_every_token_of_its_text(client: openai.OpenAI) -> None:
    chunks = [chunk.choices[0] for chunk in streamed(client, logprobs=True, top_logprobs=2) if chunk.choices]
    tokens = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content or []]
    text = "".join(choice.delta.content or "" for choice in chunks)
    assert "".join(token.token for token in tokens).removesuffix("<|im_end|>") == text
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def test_a_stream_of_several_choices_tells_them_apart(client: openai.OpenAI) -> None:
    chunks = streamed(client, n=3, temperature=1, max_tokens=12)
    texts = dict.fromkeys(range(3), "")
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert all(texts.values())
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_banned_token_is_not_said(server: Server, client: openai.OpenAI) -> None:
    url = f"{server.url}/v1/tokenize"
    banned = [
        server.client.post(url, json={"model": MODEL, "prompt": text}).json()["tokens"] for text in ("Paris", " Paris")
    ]
    assert all(len(tokens) == 1 for tokens in banned)
    answer = chat(client, logit_bias={str(tokens[0]): -100 for tokens in banned}).choices[0].message.content
    assert answer
    assert "Paris" not in answer


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 2},
        {"n": 2, "temperature": 1},
        {"stop": ["."]},
        {"seed": 5, "temperature": 1},
        {"logit_bias": {"18": -100}},
        {"echo": True},
    ],
    ids=str,
)
def test_completions_take_the_same(client: openai.OpenAI, fields: dict[str, object]) -> None:
    given = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0, **fields}
    answer = client.completions.create(**given)  # type: ignore[call-overload]
    assert len(answer.choices) == fields.get("n", 1)
    assert all(choice.text for choice in answer.choices)
    if "logprobs" in fields:
        assert len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens
    if "seed" in fields:
        assert client.completions.create(**given).choices[0].text == answer.choices[0].text  # type: ignore[call-overload]
    if "echo" in fields:
        assert answer.choices[0].text.startswith("The capital of France is")
    if "stop" in fields:
        assert "." not in answer.choices[0].text


def test_usage_tells_of_speculation_when_asked_the_same_in_a_stream(client: openai.OpenAI) -> None:
    asking = {"extra_headers": {"x-aerie-include": "speculation"}, "extra_body": {"return_spec_tokens_details": True}}
    whole = chat(client, **asking)
    details = (whole.model_extra or {})["sglext"]["spec_tokens_details"]
    assert whole.usage is not None
    block = (whole.usage.model_extra or {})["speculation"]
    assert block["verify_passes"] == details["spec_verify_ct"] > 0
    assert block["accepted_drafts"] == details["spec_num_correct_drafts"] == sum(block["accepted_by_position"])
    assert block["proposed_drafts"] == sum(
        (n - 1) * count for n, count in enumerate(details["spec_cap_lens_histogram"])
    )
    assert block["acceptance_length"] == 1 + block["accepted_drafts"] / block["verify_passes"]
    last = streamed(client, extra_headers=asking["extra_headers"])[-1]
    assert last.usage is not None
    assert (last.usage.model_extra or {})["speculation"] == block
    plain = chat(client).usage
    assert plain is not None
    assert "speculation" not in (plain.model_extra or {})


def test_tokens_are_those_of_the_models_tokenizer_and_of_usage(server: Server, client: openai.OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(cache_dir() / "models" / EMBEDDED)
    texts = ["The capital of France is", "", "Grüße, 世界"]

    def ask(path: str, **fields: object) -> httpx.Response:
        return server.client.post(f"{server.url}{path}", json={"model": MODEL, **fields})

    answer = ask("/v1/tokenize", prompt=texts).json()
    assert answer["tokens"] == [tokenizer(text)["input_ids"] for text in texts]
    assert answer["count"] == [len(tokens) for tokens in answer["tokens"]]
    assert ask("/detokenize", tokens=answer["tokens"]).json() == {"text": texts}
    asked = ask("/tokenize", messages=QUESTION).json()
    usage = chat(client).usage
    assert usage is not None
    assert asked["count"] == usage.prompt_tokens
    strange = ask("/v1/detokenize", tokens=[2**31 - 1, 0])
    assert strange.status_code < 500, "an id that there is not"
    assert chat(client).choices[0].message.content, "and the runtime lives on"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": 1, "n": 2}, "seed"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pirate", "content": "ahoy"}]}, "messages.0.role"),
        ({"temperature": 7}, "temperature"),
        ({"extra_body": {"flavour": "salt"}}, "flavour"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field_and_never_reaches_the_scheduler(
    server: Server, client: openai.OpenAI, fields: dict[str, object], param: str
) -> None:
    before = server.metric("sglang:num_requests_total")
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, **fields)
    assert refusal.value.param == param
    assert server.metric("sglang:num_requests_total") == before


def test_a_prompt_longer_than_the_context_is_the_clients_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, messages=[{"role": "user", "content": "nest " * 12_000}])
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.param == "messages"


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        chat(client, model="gpt-9")


def test_completions_continue_a_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in answer.choices[0].text
    assert answer.id.startswith("cmpl-")
    chunks = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_models_lists_what_is_served(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_acceptance_shows_in_the_metrics_and_agrees_with_sglangs_own_count(
    server: Server, client: openai.OpenAI
) -> None:
    names = ("aerie_spec_verify_passes_total", "aerie_completion_tokens_total")
    before = [server.metric(name, server.url) for name in names]
    theirs = server.metric("sglang:spec_verify_calls_total")
    answer = chat(client, max_tokens=64, messages=[{"role": "user", "content": "Count from 1 to 20."}])
    passes, tokens = (server.metric(name, server.url) - was for name, was in zip(names, before, strict=True))
    assert answer.usage is not None
    assert tokens == answer.usage.completion_tokens
    assert 0 < passes < tokens, "speculation must save verify passes"
    assert passes == server.metric("sglang:spec_verify_calls_total") - theirs
    assert server.metric("aerie_spec_accepted_drafts_total", server.url) > 0
    assert server.metric("aerie_upstream_up", server.url) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_runtime(server: Server, stream: bool) -> None:
    """Left alone, the answer would fill the context: minutes of work for nobody (sgl-project/sglang#36333)."""
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 8000, "ignore_eos": True, "stream": stream}
    url = f"{server.url}/v1/chat/completions"
    with httpx.Client(timeout=httpx.Timeout(30, read=3 if not stream else 30), trust_env=False) as leaver:
        if stream:
            with leaver.stream("POST", url, json=body) as answer:
                lines = answer.iter_lines()
                assert until(lambda: next(lines) is not None and running(server) == 1)
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaver.post(url, json=body)
    assert until(lambda: running(server) == 0)
    assert 'outcome="cancelled"' in server.client.get(f"{server.url}/metrics").text


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def running(server: Server) -> float:
    """Requests SGLang is working on, from its own mouth."""
    loads = server.client.get(f"{server.runtime_url}/v1/loads").json()["loads"]
    return float(loads[0]["num_running_reqs"])


def test_readiness_tells_of_the_runtime_and_liveness_does_not(server: Server) -> None:
    assert server.client.get(f"{server.url}/healthz").status_code == httpx.codes.OK
    assert server.client.get(f"{server.url}/readyz").status_code == httpx.codes.OK


def test_every_bfloat16_token_is_within_rounding_of_the_independent_best(server: Server, capsys: Capture) -> None:
    """bf16 logits tie or nearly tie now and then, so equality with another forward cannot be asked for."""
    texts = [chatml(prompt) for prompt in prompts()]
    answers = server.generate_all(texts, at_once=8, max_new_tokens=32)
    directory = cache_dir() / "models" / EMBEDDED
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    shortfalls = []
    for text, answer in zip(texts, answers, strict=True):
        prompt = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]  # [answer, vocab]
        shortfalls += (logits.amax(-1) - logits[range(len(answer)), answer]).tolist()
    identical = sum(shortfall == 0 for shortfall in shortfalls) / len(shortfalls)
    with capsys.disabled():
        print(
            f"\nbf16: {identical:.2%} of {len(shortfalls)} tokens are the float32 argmax, worst -{max(shortfalls):.3f}"
        )
    assert max(shortfalls) < BF16_EPSILON
    assert identical > 0.9


def test_the_whole_system_stops_on_a_signal_and_leaves_no_process(server: Server) -> None:
    """The last test with this server."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert len(family) >= 3, "gateway, SGLang and its scheduler"
    assert server.stop(signal.SIGINT) == 0
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert "stopped" in server.log.read_text()


def test_a_runtime_that_dies_takes_the_command_down_with_its_last_words() -> None:
    with aerie("up") as started:
        schedulers = [
            process
            for process in psutil.Process(started.process.pid).children(recursive=True)
            if "sglang::scheduler" in " ".join(process.cmdline())
        ]
        assert len(schedulers) == 1
        schedulers[0].kill()
        assert started.process.wait(60) == 1
        log = started.log.read_text()
    assert "aerie: the runtime ended" in log
    assert "runtime | " in log


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--draft", "/nowhere"], "draft: there is no directory /nowhere"),
        (["--model", "/nowhere"], "model: there is no directory /nowhere"),
        (["--profile", "h900"], "profile: no profile 'h900'"),
        (["--eagle-topk", "1"], "num_draft_tokens: a chain"),
        (["--algorithm", "EAGLE"], "num_steps: EAGLE needs all three tree numbers|draft: EAGLE needs a draft"),
        (["--no-speculation", "--draft", "x"], "no-speculation: plain decoding drafts nothing"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(arguments: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "service.cli", "up", "--port", str(free_port()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_compiler_that_is_missing_is_named_with_the_way_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    command = [sys.executable, "-m", "service.cli", "up", "--model", str(cache_dir() / "models" / EMBEDDED)]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("AERIE_CACHE_DIR", f"{tmp_path}/cache")
    done = subprocess.run([*command, "--port", str(free_port())], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "g++" in done.stderr.splitlines()[-1]
    assert "AERIE_CPU_OPS=torch" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "environment",
    [
        {"AERIE_CPU_ISA": "baseline", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"AERIE_CPU_OPS": "torch"},
    ],
    ids=["no AMX, no AVX-512, no AVX2", "no compiler: PyTorch's operators"],
)
def test_a_lesser_machine_serves_with_speculation_too(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with aerie("runtime") as server:
        answer = server.generate("The capital of France is", max_new_tokens=12)
        assert "Paris" in answer["text"]
        assert answer["meta_info"]["spec_verify_ct"] < answer["meta_info"]["completion_tokens"]
