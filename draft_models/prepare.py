"""From prompts to training rows: the target's own answers, as tokens, each appended to a file when it is finished.

Two ways to the same rows: the target in this process (`answer_here`, which can prompt itself too), or a running
endpoint (`answer_there`), whose text is tokenised again.

Owns the way from a prompt to a row. Refuses to own how tokens are chosen (generate.py), asked for (endpoint.py) and
kept (answers.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from draft_models.endpoint import Endpoint, Failures, Question, Reply
from draft_models.generate import Batcher, Generated, Request
from draft_models.selection import Prompt, Recipe
from draft_models.selfprompt import TURN, SelfPrompts

Record = dict[str, Any]
"""A row as `data.read_rows` reads it."""

SORTED_TOGETHER = 512
"""Prompts sorted by length before they are answered: rows of like length share a batch, and little of it is masked."""

PROMPT, SELF = "prompt", "self"


def answer_here(
    batcher: Batcher,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    stop: set[int],
    on_row: Callable[[Record], None],
    selves: SelfPrompts | None = None,
    keys: Iterable[str] = (),
) -> None:
    """Answer the prompts, then the self-prompts of these keys; `on_row` hears each row as it is finished."""
    requests = deque(_request(prompt, PROMPT, recipe, stop) for prompt in _by_length(prompts))
    if selves:
        requests.extend(map(selves.request, keys))
    for generated in batcher.run(requests):
        if selves and generated.request.kind == TURN:
            prompt = selves.prompt(generated)
            following = _request(prompt, SELF, recipe, stop) if prompt else selves.again(generated)
            if following:
                requests.appendleft(following)  # first, so that rows are finished all along
        else:
            on_row(_row(generated))


def answer_there(
    endpoint: Endpoint,
    model: str,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    stop: set[int],
    on_row: Callable[[Record], None],
) -> Failures:
    """Answer the prompts; `on_row` hears each row as it is finished, the rest is among the failures."""
    by_key = {prompt.key: prompt for prompt in prompts}
    questions = [
        Question(prompt.key, prompt.messages, len(prompt.ids), recipe.max_tokens, recipe.temperature_of(prompt.key))
        for prompt in prompts
    ]
    end = _end(tokenizer, stop)

    def on_reply(reply: Reply) -> None:
        ids = [*tokenizer.encode(reply.text, add_special_tokens=False), *(end if reply.ended else ())]
        asked = reply.question
        request = Request(asked.key, by_key[asked.key].ids, asked.max_tokens, temperature=asked.temperature)
        # text can be tokenised into more tokens than were generated
        on_row(_row(Generated(request, tuple(ids[: asked.max_tokens]), reply.ended)))

    return endpoint.ask(questions, model, on_reply)


def _end(tokenizer: PreTrainedTokenizerBase, stop: set[int]) -> list[int]:
    """The token that text does not show: of those that end an answer the tokenizer's own, if it is one."""
    own = tokenizer.eos_token_id
    return [own] if own in stop else sorted(stop)[:1]


def _request(prompt: Prompt, kind: str, recipe: Recipe, stop: set[int]) -> Request:
    temperature, seed = recipe.temperature_of(prompt.key), recipe.seed_of(prompt.key)
    return Request(prompt.key, prompt.ids, recipe.max_tokens, frozenset(stop), temperature, seed, kind)


def _row(generated: Generated) -> Record:
    request = generated.request
    return {
        "prompt_id": request.key,
        "kind": request.kind,
        "temperature": request.temperature,
        "response_start": len(request.ids),
        "ids": [*request.ids, *generated.ids],
    }


def _by_length(prompts: Sequence[Prompt]) -> Iterable[Prompt]:
    for start in range(0, len(prompts), SORTED_TOGETHER):
        yield from sorted(prompts[start : start + SORTED_TOGETHER], key=lambda prompt: len(prompt.ids))
