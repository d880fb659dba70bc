# ruff: noqa: T201  it talks to a terminal
"""`helm test`: a chat completion, its stream, acceptance above 1 and /metrics, asked of the gateway.

Exit status 0 if all are well; else 1 and one line that says what was not. Standard library only.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ASKED_S = 120
PROMPT = "Count from 1 to 20."


class NotWellError(Exception):
    """What was found, in one line."""


def main() -> int:
    """Run every check in turn."""
    options = _options()
    headers = {"content-type": "application/json", "x-aerie-include": "speculation"}
    if options.speculation:
        headers["x-aerie-speculation"] = "on"  # or a share of requests goes to the baseline
    if options.key_file is not None:
        headers["authorization"] = f"Bearer {options.key_file.read_text().strip()}"
    try:
        wait_until_ready(options.url, options.timeout_s)
        answer = ask(options.url, options.model, headers)
        print(f"completion: {answer['usage']['completion_tokens']} tokens")
        print(f"stream: {stream(options.url, options.model, headers)} events")
        if options.speculation:
            print(f"acceptance length: {acceptance_length(answer)}")
        print(f"metrics: {metrics(options.url)} series of aerie")
    except NotWellError as error:
        print(f"aerie test: {error}", file=sys.stderr)
        return 1
    return 0


def wait_until_ready(url: str, timeout_s: float) -> None:
    """Until the gateway has a runtime. Raises NotWellError when it has none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _open(url, "/readyz", {}).close()
        except NotWellError as error:
            if time.monotonic() > deadline:
                raise NotWellError(f"not ready within {timeout_s:.0f} s: {error}") from None
            time.sleep(2)
        else:
            return


def ask(url: str, model: str, headers: dict[str, str]) -> dict[str, Any]:
    """A whole answer. Raises NotWellError if it is none."""
    with _open(url, "/v1/chat/completions", headers, _body(model, stream=False)) as response:
        answer: dict[str, Any] = json.load(response)
    if not answer["choices"][0]["message"]["content"]:
        raise NotWellError(f"the answer is empty: {answer}")
    return answer


def stream(url: str, model: str, headers: dict[str, str]) -> int:
    """How many events a streamed answer had. Raises NotWellError if it did not end as streams do."""
    with _open(url, "/v1/chat/completions", headers, _body(model, stream=True)) as response:
        events = list(_events(response))
    if not events or events[-1] != "[DONE]":
        raise NotWellError(f"the stream ended without [DONE]: {events[-1:]}")
    text = "".join(
        choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"]
    )
    if not text:
        raise NotWellError("the stream held no text")
    return len(events)


def acceptance_length(answer: dict[str, Any]) -> float:
    """Tau of this answer. Raises NotWellError where nothing was accepted."""
    figures = answer["usage"].get("speculation")
    if figures is None:
        raise NotWellError("the answer was not drafted: no figures of speculation came with it")
    tau = figures["acceptance_length"]
    if tau is None or tau <= 1:
        raise NotWellError(f"no draft was accepted: acceptance length {tau}")
    return float(tau)


def metrics(url: str) -> int:
    """How many series of Aerie there are. Raises NotWellError without a runtime that is up.

    Not by the requests that were just sent: another gateway may have had them.
    """
    with _open(url, "/metrics", {}) as response:
        lines = [line for line in response.read().decode().splitlines() if line.startswith("aerie_")]
    if not any(line.startswith("aerie_upstream_up{") and float(line.split()[-1]) == 1 for line in lines):
        raise NotWellError("/metrics knows no runtime that is up")
    return len(lines)


def _body(model: str, *, stream: bool) -> bytes:
    message = {"role": "user", "content": PROMPT}
    body = {"model": model, "messages": [message], "max_tokens": 64, "temperature": 0, "stream": stream}
    return json.dumps(body).encode()


def _open(url: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:  # noqa: ANN401 - no public name
    request = urllib.request.Request(url + path, data=body, headers=headers)  # noqa: S310 - the chart's own URL
    try:
        return urllib.request.urlopen(request, timeout=ASKED_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        hint = "; name a secret with a key in tests.secretName" if error.code == 401 else ""
        raise NotWellError(
            f"{path} answered {error.code}: {error.read().decode(errors='replace')[:500]}{hint}"
        ) from None
    except OSError as error:
        raise NotWellError(f"{path} did not answer: {error}") from None


def _events(response: Any) -> Iterator[str]:  # noqa: ANN401
    for line in response:
        text = line.decode().strip()
        if text.startswith("data: "):
            yield text.removeprefix("data: ")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="the gateway's")
    parser.add_argument("--model", required=True, help="to ask for")
    parser.add_argument("--timeout-s", type=float, default=600, help="how long to wait for a runtime")
    parser.add_argument("--speculation", action="store_true", help="answers must have accepted drafts")
    parser.add_argument("--key-file", type=Path, help="holds an API key")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
