# ruff: noqa: T201  it talks to a terminal
"""Generate training rows: the target's own answers to prompts, its own prompts too; the same command goes on with OUT."""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from draft_models.answers import AnswerFile, Identity
from draft_models.config import sentences
from draft_models.endpoint import Endpoint
from draft_models.errors import ConfigError, DataError, EndpointError
from draft_models.evaluate import end_of_sequence
from draft_models.generate import Batcher
from draft_models.overlap import Overlap
from draft_models.prepare import Row, answer_here, answer_there
from draft_models.prompts import Source, distinct, read_source, turns
from draft_models.provenance import file_sha256
from draft_models.selection import Prompt, Recipe, Screen, Skipped, select
from draft_models.selfprompt import SelfPrompts
from draft_models.target import Target, load_tokenizer, target_config, template_hash

PROGRESS_EVERY_S = 15.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft prepare`."""
    parser.add_argument("--target", type=Path, required=True, metavar="DIR", help="Hugging Face format")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSONL; rows are appended")
    parser.add_argument(
        "--prompts", nargs="+", default=[], metavar="FILE", help="JSONL: prompt, turns or messages; or a dataset's name"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="the first N prompts (all)")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], metavar="FILE", help="evaluation prompts, JSONL")
    for name, settings in Recipe.model_fields.items():
        kind, text = type(settings.default), f"{settings.description or ''} ({settings.default})".strip()
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)
    here = parser.add_argument_group("the target in this process")
    here.add_argument("--self-prompts", type=_count, default=0, metavar="N", help="the target writes N prompts too (0)")
    here.add_argument("--batch-size", type=_count, default=64, metavar="N", help="answers at a time (64)")
    here.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    there = parser.add_argument_group("a running endpoint (its key in AERIE_API_KEY or OPENAI_API_KEY)")
    there.add_argument("--endpoint", metavar="URL", help="OpenAI's API, which serves the target")
    there.add_argument("--model", metavar="NAME", help="the endpoint's name of the target (the first it lists)")
    there.add_argument("--concurrency", type=_count, default=16, metavar="N", help="questions at a time (16)")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    if not options.prompts and not options.self_prompts:
        raise ConfigError("nothing to answer: name --prompts, or how many --self-prompts")
    if options.endpoint and options.self_prompts:
        raise ConfigError("--self-prompts needs the target in this process: leave --endpoint out")
    recipe, tokenizer = _recipe(options), load_tokenizer(options.target)
    sources = [read_source(name) for name in options.prompts]
    overlap = Overlap({place: texts for path in options.exclude for place, texts in turns(path).items()})
    screen = Screen(tokenizer, recipe, overlap)
    prompts, skipped = select(distinct(sources), screen, options.limit)
    if not prompts and not options.self_prompts:
        raise DataError(f"no prompts are left: {'; '.join(skipped.lines())}")
    endpoint, answered_by = _endpoint(options)
    identity = _identity(options, screen, sources, answered_by)
    with AnswerFile(options.out, identity) as file:
        left = [prompt for prompt in prompts if prompt.key not in file.answered]
        print(f"{len(prompts)} prompts, {len(prompts) - len(left)} of them answered already", flush=True)
        if endpoint:
            _answer_there(endpoint, options.model or answered_by, left, screen, file)
        else:
            _answer_here(options, left, screen, skipped, file)
        print(f"{len(file.answered)} rows: {options.out}")
    print("\n".join(f"left out: {line}" for line in skipped.lines()))
    return 0
