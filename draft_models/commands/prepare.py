# ruff: noqa: T201  it talks to a terminal
"""Generate training rows: the target's own answers. Interrupted, the same command goes on where it was."""

import argparse
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from pydantic import ValidationError

from draft_models.answers import AnswerFile, Identity
from draft_models.commands.options import positive
from draft_models.config import require_supported, sentences
from draft_models.endpoint import Endpoint
from draft_models.errors import ConfigError, DataError, EndpointError
from draft_models.generate import Batcher
from draft_models.prepare import Record, answer_here, answer_there
from draft_models.prompts import Source, distinct, read_source
from draft_models.provenance import file_sha256
from draft_models.selection import Prompt, Recipe, Screen, Skipped, overlap_with, select
from draft_models.selfprompt import SelfPrompts, self_prompt_keys
from draft_models.target import (
    Target,
    end_of_sequence,
    generation_config,
    load_tokenizer,
    target_config,
    target_digest,
    template_hash,
)
from draft_models.world import join

PROGRESS_EVERY_S = 15.0
OPENAI = "api.openai.com"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft prepare`."""
    parser.add_argument("--target", type=Path, required=True, metavar="DIR", help="Hugging Face format")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSONL; rows are appended")
    parser.add_argument(
        "--prompts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="JSONL: prompt, turns, messages or conversations; or a dataset: NAME[:SPLIT]",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N prompts (all)")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], metavar="FILE", help="evaluation prompts, JSONL")
    for name, settings in Recipe.model_fields.items():
        kind, text = type(settings.default), f"{settings.description or ''} ({settings.default})".strip()
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)
    here = parser.add_argument_group("the target in this process")
    here.add_argument(
        "--self-prompts", type=positive, default=0, metavar="N", help="the target writes N prompts too (0)"
    )
    here.add_argument("--batch-size", type=positive, default=64, metavar="N", help="answers at a time (64)")
    here.add_argument("--device", choices=("cpu", "cuda"), help="where to generate (cuda if torch sees one)")
    here.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    there = parser.add_argument_group(f"a running endpoint (its key in AERIE_API_KEY, {OPENAI}'s in OPENAI_API_KEY)")
    there.add_argument("--endpoint", metavar="URL", help="OpenAI's API, which serves the target")
    there.add_argument("--model", metavar="NAME", help="the endpoint's name of the target (the first it lists)")
    there.add_argument("--concurrency", type=positive, default=16, metavar="N", help="questions at a time (16)")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    _check(options)
    config = target_config(options.target)
    require_supported(config)
    recipe = _recipe(options, config.max_position_embeddings)
    screen = Screen(load_tokenizer(options.target), recipe, overlap_with(options.exclude))
    sources = [read_source(name) for name in options.prompts]
    prompts, skipped = select(distinct(sources), screen, options.limit)
    _print_skipped(skipped)
    if not prompts and not options.self_prompts:
        raise DataError("no prompts are left to answer")
    answer = _Here(options, screen) if options.endpoint is None else _There(options, screen)
    with AnswerFile(options.out, _identity(options, screen, sources, answer.name)) as file:
        left = [prompt for prompt in prompts if prompt.key not in file.answered]
        print(f"{len(prompts)} prompts, {len(prompts) - len(left)} of them answered already", flush=True)
        answer(left, file)
        if file.given_up:
            print(f"{len(file.given_up)} self-prompts were given up: no try was of use")
        print(f"{len(file.answered)} rows: {options.out}")
    return 0


class _Here:
    """The target in this process."""

    def __init__(self, options: argparse.Namespace, screen: Screen) -> None:
        """Raises ConfigError: there is no such device."""
        self.options, self.screen, self.device = options, screen, join(options.device).device
        self.name = f"the target in {options.dtype}"

    def __call__(self, prompts: list[Prompt], file: AnswerFile) -> None:
        options, screen, skipped = self.options, self.screen, Skipped()
        settled = file.answered | file.given_up
        keys = [key for key in self_prompt_keys(screen.recipe, options.self_prompts) if key not in settled]
        if not prompts and not keys:
            return
        target = Target.load(options.target, (), getattr(torch, options.dtype)).to(self.device)
        stop = end_of_sequence(target.model.generation_config)
        selves = SelfPrompts(screen, stop, skipped, file.give_up) if keys else None
        on_row = _Progress(file, len(prompts) + len(keys))
        answer_here(Batcher(target, options.batch_size), prompts, screen.recipe, stop, on_row, selves, keys)
        _print_skipped(skipped)


class _There:
    """A running endpoint."""

    def __init__(self, options: argparse.Namespace, screen: Screen) -> None:
        """Raises EndpointError: no model is named, and the endpoint does not list one."""
        self.endpoint = Endpoint(options.endpoint, api_key(options.endpoint), options.concurrency)
        self.model = options.model or self.endpoint.first_model()
        self.name, self.screen = f"an endpoint's {self.model}", screen
        self.stop = end_of_sequence(generation_config(options.target))

    def __call__(self, prompts: list[Prompt], file: AnswerFile) -> None:
        recipe, tokenizer = self.screen.recipe, self.screen.tokenizer
        on_row = _Progress(file, len(prompts))
        failures = answer_there(self.endpoint, self.model, prompts, recipe, tokenizer, self.stop, on_row)
        if failures.total:
            raise EndpointError(
                f"{failures.total} of {len(prompts)} prompts failed: {failures}; "
                f"{file.path} has the {len(file.answered)} others, the same command asks again"
            )


class _Progress:
    """Keeps every row, and prints a line every so often."""

    def __init__(self, file: AnswerFile, total: int) -> None:
        self.file, self.total, self.rows, self.tokens = file, total, 0, 0
        self.started = self.last = time.monotonic()

    def __call__(self, row: Record) -> None:
        self.file.append(row)
        self.rows, self.tokens = self.rows + 1, self.tokens + len(row["ids"]) - row["response_start"]
        now = time.monotonic()
        if now - self.last > PROGRESS_EVERY_S:
            self.last, seconds = now, now - self.started
            left_s = seconds / self.rows * (self.total - self.rows)
            print(
                f"row {self.rows}/{self.total}  {self.tokens / seconds:.0f} tokens/s  {left_s / 60:.0f} min left",
                flush=True,
            )


def _check(options: argparse.Namespace) -> None:
    if not options.prompts and not options.self_prompts:
        raise ConfigError("nothing to answer: name --prompts, or how many --self-prompts")
    if options.endpoint and options.self_prompts:
        raise ConfigError("--self-prompts needs the target in this process: leave --endpoint out")


def api_key(url: str) -> str:
    """OpenAI's key is nobody else's business."""
    return os.environ.get("OPENAI_API_KEY" if urlsplit(url).hostname == OPENAI else "AERIE_API_KEY", "")


def _recipe(options: argparse.Namespace, context: int) -> Recipe:
    given: dict[str, Any] = {name: getattr(options, name) for name in Recipe.model_fields}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        recipe = Recipe(**{"max_length": min(Recipe().max_length, context), **given})
    except ValidationError as error:
        raise ConfigError(sentences(error)) from error
    if recipe.max_length > context:
        raise ConfigError(f"max_length {recipe.max_length} exceeds the target's context of {context}")
    if recipe.room < 1:
        raise ConfigError(
            f"max_tokens {recipe.max_tokens} leaves no room for a prompt in max_length {recipe.max_length}"
        )
    return recipe


def _identity(options: argparse.Namespace, screen: Screen, sources: list[Source], answered_by: str) -> Identity:
    """What a file that is gone on with must have in common."""
    return {
        "target": target_digest(options.target),
        "chat_template_sha256": template_hash(screen.tokenizer),
        "answered_by": answered_by,
        **screen.recipe.model_dump(),
        "prompts_sha256": [source.sha256 for source in sources],
        "exclude_sha256": [file_sha256(path) for path in options.exclude],
    }


def _print_skipped(skipped: Skipped) -> None:
    for line in skipped.lines():
        print(f"left out: {line}", flush=True)
