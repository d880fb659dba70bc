"""From prompts to training rows: the target's own answers, as tokens, each appended to a file when it is finished.

Two ways to the same rows: the target in this process (`answer_here`, which can prompt itself too), or a running
endpoint (`answer_there`), whose text is tokenised again.

Owns the way from a prompt to a row. Refuses to own how tokens are chosen (generate.py), asked for (endpoint.py) and
kept (answers.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from draft_models.endpoint import Endpoint, Failures, Question, Reply
from draft_models.generate import Batcher, Generated, Request
from draft_models.overlap import Overlap
from draft_models.selection import Prompt, Recipe
from draft_models.selfprompt import TURN, SelfPrompts
from draft_models.template import UserTurn

Row = dict[str, Any]
"""As `data.read_rows` reads it."""

SORTED_TOGETHER = 512
"""Prompts sorted by length before they are answered: rows of like length share a batch, and little of it is masked."""

PROMPT, SELF = "prompt", "self"


def answer_here(
    batcher: Batcher,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    stop: set[int],
    on_row: Callable[[Row], None],
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
    on_row: Callable[[Row], None],
) -> Failures:
    """Answer the prompts; `on_row` hears each row as it is finished, the rest is among the failures."""
    by_key = {prompt.key: prompt for prompt in prompts}
    questions = [
        Question(prompt.key, prompt.messages, recipe.max_tokens, recipe.temperature_of(prompt.key))
        for prompt in prompts
    ]

    def on_reply(reply: Reply) -> None:
        ids = tokenizer.encode(reply.text, add_special_tokens=False)
        end = [tokenizer.eos_token_id] if reply.ended and tokenizer.eos_token_id is not None else []
        asked = reply.question
        request = Request(asked.key, by_key[asked.key].ids, asked.max_tokens, temperature=asked.temperature)
        # text can be tokenised into more tokens than were generated
        on_row(_row(Generated(request, tuple([*ids, *end][: asked.max_tokens]), reply.ended)))

    return endpoint.ask(questions, model, on_reply)


def overlapping(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, overlap: Overlap) -> list[int]:
    """Which rows' prompts overlap evaluation prompts: for rows that were generated before anyone looked."""
    turn = UserTurn.of(tokenizer)
    prompts = (str(tokenizer.decode(row["ids"][: row["response_start"]])) for row in rows)
    return [index for index, prompt in enumerate(prompts) if overlap.find(turn.text(prompt))]


def _request(prompt: Prompt, kind: str, recipe: Recipe, stop: set[int]) -> Request:
    temperature, seed = recipe.temperature_of(prompt.key), recipe.seed_of(prompt.key)
    return Request(prompt.key, prompt.ids, recipe.max_tokens, frozenset(stop), temperature, seed, kind)


def _row(generated: Generated) -> Row:
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
