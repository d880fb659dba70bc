"""Answers of a running OpenAI endpoint, asked through the OpenAI SDK, several at a time.

The SDK retries what is worth it. A question that fails all the same is counted by what happened, and the others go on;
what would fail for every question (a wrong key, an unknown model, nobody there, answers that are not the target's own)
ends it.

Owns the asking. Refuses to own tokens and files.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from draft_models.errors import EndpointError
from draft_models.generate import TOP_P
from draft_models.template import Message

if TYPE_CHECKING:
    import openai
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionMessage

GIVE_UP_AFTER = 16
"""Failures in a row, at least: it takes three of every question that is asked at a time."""

RETRIES = 6
"""By the SDK, over some 20 s: a server that is restarted is no failure."""

REMEDIES = {
    "APIConnectionError": "start the server that --endpoint names, or name another",
    "AuthenticationError": "the key is that of AERIE_API_KEY, for api.openai.com of OPENAI_API_KEY",
    "NotFoundError": "--endpoint is the URL that /chat/completions follows on, --model one of the models it lists",
}


@dataclass(frozen=True)
class Question:
    """A conversation to be answered, and how."""

    key: str
    messages: tuple[Message, ...]
    prompt_tokens: int
    """As rendered here."""
    max_tokens: int
    temperature: float


@dataclass(frozen=True)
class Reply:
    """The answer's text, which may be empty if it ended; `ended` is False where `max_tokens` cut it."""

    question: Question
    text: str
    ended: bool


@dataclass
class Failures:
    """What went wrong, how often, and the first case in words."""

    kinds: Counter[str] = field(default_factory=Counter)
    first: str = ""
    in_a_row: int = 0

    @property
    def total(self) -> int:
        """Of all kinds."""
        return self.kinds.total()

    def add(self, key: str, kind: str, reason: str) -> None:
        """One more."""
        self.first = self.first or f"{key}: {reason}"
        self.kinds[kind] += 1
        self.in_a_row += 1

    def __str__(self) -> str:
        return f"{', '.join(f'{count} {kind}' for kind, count in self.kinds.most_common())}; first {self.first}"


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how many questions at a time."""

    url: str
    api_key: str = field(repr=False)
    concurrency: int = 16

    @property
    def base_url(self) -> str:
        """What `/chat/completions` follows on."""
        url = self.url.rstrip("/")
        return url if urlsplit(url).path else f"{url}/v1"

    def first_model(self) -> str:
        """The name of the first model that it lists.

        Raises:
            EndpointError: nobody is there, or lists none.
        """
        return asyncio.run(self._first_model())

    def ask(self, questions: Sequence[Question], model: str, on_reply: Callable[[Reply], None]) -> Failures:
        """All questions, in no order.

        Raises:
            EndpointError: every question would fail; the replies so far have been heard.
        """
        failures = Failures()
        asyncio.run(self._ask(iter(questions), model, on_reply, failures))
        return failures

    async def _first_model(self) -> str:
        sdk = _sdk()
        async with self._client() as client:
            try:
                # nobody has waited for anything yet: what is not there is said at once
                models = [model.id async for model in client.with_options(max_retries=1).models.list()]
            except sdk.OpenAIError as error:
                raise self._failure(error) from error
        if not models:
            raise EndpointError(f"{self.url}: lists no model; name one with --model")
        return models[0]

    async def _ask(
        self, questions: Iterator[Question], model: str, on_reply: Callable[[Reply], None], failures: Failures
    ) -> None:
        give_up_after = max(GIVE_UP_AFTER, 3 * self.concurrency)
        async with self._client() as client:

            async def worker() -> None:
                for question in questions:
                    reply = await self._reply(client, question, model, failures)
                    if reply:
                        failures.in_a_row = 0
                        on_reply(reply)
                    elif failures.in_a_row >= give_up_after:
                        raise EndpointError(
                            f"{self.url}: {failures.in_a_row} failures in a row: {failures}; finished rows are kept: "
                            "once the endpoint is well, the same command goes on"
                        )

            workers = [asyncio.create_task(worker()) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:  # the first error ends all of them, before their client is closed
                for one in workers:
                    one.cancel()
                await asyncio.wait(workers)

    async def _reply(
        self, client: "openai.AsyncOpenAI", question: Question, model: str, failures: Failures
    ) -> Reply | None:
        sdk = _sdk()
        messages: Any = list(question.messages)
        sampling: dict[str, Any] = {"top_p": TOP_P} if question.temperature > 0 else {}
        try:
            completion = await client.chat.completions.create(
                model=model,
                messages=messages,
                max_tokens=question.max_tokens,
                temperature=question.temperature,
                **sampling,
            )
        except (sdk.AuthenticationError, sdk.PermissionDeniedError, sdk.NotFoundError) as error:
            raise self._failure(error) from error
        except sdk.OpenAIError as error:
            failures.add(question.key, type(error).__name__, _one_line(error))
            return None
        choice = completion.choices[0] if completion.choices else None
        if choice:
            self._require_own(choice.message, completion.usage, question)
        reason = choice.finish_reason if choice else "no choice"
        if choice is None or not (reason == "stop" or (reason == "length" and choice.message.content)):
            failures.add(question.key, "without an answer", f"no text (finish_reason {reason})")
            return None
        return Reply(question, choice.message.content or "", reason == "stop")

    def _require_own(
        self, message: "ChatCompletionMessage", usage: "CompletionUsage | None", question: Question
    ) -> None:
        """Refuse text that the target would not have written as a whole, after these very tokens."""
        # SGLang's and vLLM's name, and vLLM's newer one
        if getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None):
            raise EndpointError(
                f"{self.url}: answers come without what the target thought; serve it without a reasoning parser"
            )
        if usage and usage.prompt_tokens != question.prompt_tokens:
            raise EndpointError(
                f"{self.url}: the endpoint renders another chat template: "
                f"{usage.prompt_tokens} prompt tokens there, {question.prompt_tokens} here ({question.key}); "
                "serve --target with its own template"
            )

    def _failure(self, error: Exception) -> EndpointError:
        remedy = REMEDIES.get(type(error).__name__)
        return EndpointError(f"{self.base_url}: {_one_line(error)}{f' ({remedy})' if remedy else ''}")

    def _client(self) -> "openai.AsyncOpenAI":
        key = self.api_key or "none"  # the SDK wants one
        client: openai.AsyncOpenAI = _sdk().AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=RETRIES)
        return client


def _sdk() -> Any:  # noqa: ANN401  a module
    try:
        import openai  # noqa: PLC0415  optional
    except ImportError as error:
        raise EndpointError("--endpoint needs the OpenAI SDK: pip install openai") from error
    return openai


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
