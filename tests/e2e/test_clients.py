"""LangChain's client and tools in front of real SGLang with EAGLE-3: a runtime that has a tool call parser."""

import json
from collections.abc import Iterator

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.e2e.servers import Server, aerie

MODEL = "smollm2-135m-instruct"
ASKING = "What is the weather in Paris?"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "strict": True,  # else SGLang's hermes parser leaves the arguments to the model
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with aerie("up", "--sglang-arg=--tool-call-parser=hermes") as started:
        yield started


@pytest.fixture
def model(server: Server) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="unused", model=MODEL, temperature=0, max_tokens=64, max_retries=0
    )


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


def test_langchain_asks_and_is_told_the_usage(model: ChatOpenAI) -> None:
    answer = model.invoke([SystemMessage("Answer in one sentence."), HumanMessage("What is the capital of France?")])
    assert "Paris" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def test_langchain_streams_the_same(model: ChatOpenAI) -> None:
    chunks = list(model.stream("What is the capital of France?", stream_usage=True))
    assert len(chunks) > 2
    assert "".join(str(chunk.content) for chunk in chunks) == model.invoke("What is the capital of France?").content
    assert [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]


def test_langchain_binds_a_tool_calls_it_and_hands_back_what_it_said(model: ChatOpenAI) -> None:
    asked: list[BaseMessage] = [HumanMessage(ASKING)]
    call = model.bind_tools([get_weather], tool_choice="get_weather", strict=True).invoke(asked)
    assert isinstance(call, AIMessage)
    assert [called["name"] for called in call.tool_calls] == ["get_weather"]
    said = get_weather.invoke(call.tool_calls[0])
    assert isinstance(said, ToolMessage)
    answer = model.bind_tools([get_weather]).invoke([*asked, call, said])
    assert answer.content


def test_langchain_streams_a_tool_call(model: ChatOpenAI) -> None:
    whole = None
    for chunk in model.bind_tools([get_weather], tool_choice="get_weather", strict=True).stream(ASKING):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert [called["name"] for called in whole.tool_calls] == ["get_weather"]
    assert set(whole.tool_calls[0]["args"]) == {"city"}


def test_langchain_gets_structured_output(model: ChatOpenAI) -> None:
    class City(BaseModel):
        capital: bool

    answer = model.with_structured_output(City, method="json_schema").invoke("Is Paris the capital of France?")
    assert isinstance(answer, City)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_is_called_with_arguments_of_its_schema(sdk: openai.OpenAI, choice: object, stream: bool) -> None:
    given = {"model": MODEL, "messages": [{"role": "user", "content": ASKING}], "temperature": 0, "max_tokens": 64}
    given |= {"tools": [WEATHER], "tool_choice": choice, "stream": stream}
    answer = sdk.chat.completions.create(**given)  # type: ignore[call-overload]
    if stream:
        deltas = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or []]
        name = "".join(delta.function.name or "" for delta in deltas)
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
    else:
        (call,) = answer.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_tool_that_need_not_be_called_leaves_room_for_words(sdk: openai.OpenAI, choice: str) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        tools=[WEATHER, TIME],  # type: ignore[list-item]
        tool_choice=choice,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=32,
    )
    message = answer.choices[0].message
    assert message.content or (choice == "auto" and message.tool_calls)


def test_responses_call_functions_too(sdk: openai.OpenAI) -> None:
    function = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
    answer = sdk.responses.create(
        model=MODEL,
        input=ASKING,
        tools=[function],  # type: ignore[list-item]
        tool_choice={"type": "function", "name": "get_weather"},
        temperature=0,
        max_output_tokens=64,
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert (call.name, set(json.loads(call.arguments))) == ("get_weather", {"city"})


def test_tools_are_counted_as_the_chat_counts_them(server: Server, sdk: openai.OpenAI) -> None:
    conversation = {"model": MODEL, "messages": [{"role": "user", "content": ASKING}], "tools": [WEATHER]}
    count = server.client.post(f"{server.url}/v1/tokenize", json=conversation).json()["count"]
    answer = sdk.chat.completions.create(**conversation, max_tokens=1)  # type: ignore[call-overload]
    assert answer.usage.prompt_tokens == count
