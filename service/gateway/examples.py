"""One request and one answer of every kind, for the OpenAPI document. Tests send the requests.

Owns the examples. Refuses to own what is allowed (protocol.py and its like).
"""

from typing import Any

MODEL = "smollm2-135m-instruct"

_HEAD = {"created": 1795326394, "model": MODEL}
_QUESTION = [{"role": "user", "content": "Name two colours."}]
_USAGE = {"prompt_tokens": 34, "completion_tokens": 4, "total_tokens": 38}
_SPECULATION = {
    "acceptance_length": 1.667,
    "verify_passes": 6,
    "proposed_drafts": 42,
    "accepted_drafts": 4,
    "accepted_by_position": [3, 1],
}
_SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
_WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

_CHAT: dict[str, Any] = {
    "a question": {"model": MODEL, "messages": _QUESTION, "max_tokens": 32},
    "a stream with its usage": {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Answer in one sentence."}, *_QUESTION],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "JSON of a schema": {
        "model": MODEL,
        "messages": _QUESTION,
        "response_format": {"type": "json_schema", "json_schema": {"name": "colour", "schema": _SCHEMA}},
    },
    "a tool": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": _WEATHER}],
        "tool_choice": "auto",
    },
    "sampling": {"model": MODEL, "messages": _QUESTION, "temperature": 0.7, "top_p": 0.9, "seed": 7, "stop": ["\n"]},
}
_COMPLETION: dict[str, Any] = {
    "a text": {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
    "several texts": {"model": MODEL, "prompt": ["Red, green,", "One, two,"], "max_tokens": 4, "logprobs": 2},
}
_RESPONSE: dict[str, Any] = {
    "a question": {"model": MODEL, "input": "Name two colours.", "max_output_tokens": 32},
    "a conversation": {
        "model": MODEL,
        "instructions": "Answer in one sentence.",
        "input": [{"role": "user", "content": "Name two colours."}],
        "stream": True,
    },
}
_TOKENIZE: dict[str, Any] = {
    "a text": {"model": MODEL, "prompt": "Name two colours."},
    "a conversation": {"model": MODEL, "messages": _QUESTION, "add_generation_prompt": True},
}
_DETOKENIZE: dict[str, Any] = {"a text": {"model": MODEL, "tokens": [6330, 827, 9783, 30]}}

REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETION,
    "/v1/responses": _RESPONSE,
    "/v1/tokenize": _TOKENIZE,
    "/v1/detokenize": _DETOKENIZE,
}

_CARD = {"id": MODEL, "object": "model", "created": 1795326394, "owned_by": "aerie", "max_model_len": 8192}

ANSWERS: dict[str, Any] = {
    "/v1/chat/completions": {
        "id": "chatcmpl-0f8fad5bd9cb469fa16570867728950e",
        "object": "chat.completion",
        **_HEAD,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Red and blue."},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {**_USAGE, "speculation": _SPECULATION},
    },
    "/v1/completions": {
        "id": "cmpl-0f8fad5bd9cb469fa16570867728950e",
        "object": "text_completion",
        **_HEAD,
        "choices": [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
    },
    "/v1/responses": {
        "id": "resp-0f8fad5bd9cb469fa16570867728950e",
        "object": "response",
        "created_at": 1795326394,
        "status": "completed",
        "model": MODEL,
        "output": [
            {
                "type": "message",
                "id": "msg-0f8fad5bd9cb469fa16570867728950e_0",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Red and blue.", "annotations": [], "logprobs": []}],
            }
        ],
        "usage": {"input_tokens": 34, "output_tokens": 4, "total_tokens": 38},
    },
    "/v1/tokenize": {"tokens": [6330, 827, 9783, 30], "count": 4, "max_model_len": 8192},
    "/v1/detokenize": {"text": "Name two colours."},
    "/v1/models": {"object": "list", "data": [_CARD]},
    "/v1/models/{model}": _CARD,
    "/healthz": {"status": "ok"},
    "/readyz": {"status": "ok", "not_ready": {"10.0.0.6:30000": "The runtime cannot be reached."}},
}

STREAMS: dict[str, str] = {
    "/v1/chat/completions": (
        'data: {"id":"chatcmpl-0f8fad5bd9cb469fa16570867728950e","object":"chat.completion.chunk","created":1795326394,'
        f'"model":"{MODEL}","choices":[{{"index":0,"delta":{{"content":"Red"}},"finish_reason":null}}]}}\n\n'
        "data: [DONE]\n\n"
    ),
    "/v1/completions": (
        'data: {"id":"cmpl-0f8fad5bd9cb469fa16570867728950e","object":"text_completion","created":1795326394,'
        f'"model":"{MODEL}","choices":[{{"index":0,"text":" Paris","finish_reason":null}}]}}\n\n'
        "data: [DONE]\n\n"
    ),
    "/v1/responses": (
        "event: response.output_text.delta\n"
        'data: {"type":"response.output_text.delta","sequence_number":4,'
        '"item_id":"msg-0f8fad5bd9cb469fa16570867728950e_0","output_index":0,"content_index":0,"logprobs":[],'
        '"delta":"Red"}\n\n'
    ),
}
