# ruff: noqa: T201  it talks to a terminal
"""The `aerie-draft` command: `train`, `evaluate`, `check`.

Owns the command line and the exit status: 0 done, 1 a failure (one line says which), 2 wrong arguments, 130
interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import ValidationError

from draft_models import vocab
from draft_models.check import check as findings_of
from draft_models.checkpoint import load_draft, write_whole
from draft_models.config import DraftConfig, TrainConfig, sentences
from draft_models.data import digest, hold_out, read_prompts, read_rows
from draft_models.errors import ConfigError, DraftError
from draft_models.evaluate import Report, Setting
from draft_models.evaluate import evaluate as measure
from draft_models.model import DraftModel
from draft_models.target import FeatureCache, Target, load_tokenizer, target_config, template_hash
from draft_models.trainer import STATE, Progress, Trainer, Validation, count_tokens
from draft_models.tree import TreeShape

PROGRESS_EVERY_S = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except DraftError as failure:
        print(f"aerie-draft: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aerie-draft: interrupted (train --resume goes on from the last saved state)", file=sys.stderr)
        return 130


def train(options: argparse.Namespace) -> int:
    """Train a draft on the target's own answers; the best by measured tau is OUT/draft, in SGLang's format."""
    out: Path = options.out
    if not options.resume and (out / STATE).exists():
        raise ConfigError(f"{out}: holds a run; --resume goes on with it, another --out starts a new one")
    recipe = _recipe(options)
    config = DraftConfig.from_target(target_config(options.target), options.draft_vocab_size, options.taps)
    rows, held = hold_out(read_rows(options.data, config.vocab_size, config.max_position_embeddings), options.held_out)
    every = [*rows, *held]
    count_V = count_tokens(rows, config.vocab_size)  # noqa: N806
    t2d_V = vocab.most_frequent(count_V, config.draft_vocab_size)  # noqa: N806
    coverage = vocab.coverage(count_V, t2d_V)
    tokens = sum(map(len, rows))
    print(f"{len(rows)} rows, {tokens} tokens; {len(held)} held out; the draft's vocabulary covers {coverage:.1%}")
    target = Target.load(options.target, config.taps)
    features = FeatureCache(target, every, options.cache or out / "features", digest(every))
    provenance = {
        "target": str(options.target),
        "chat_template_sha256": template_hash(load_tokenizer(options.target)),
        "data": [str(path) for path in options.data],
        "rows_sha256": digest(every),
        "vocab_coverage": coverage,
        "recipe": recipe.model_dump(),
        "argv": sys.argv[1:],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    draft = DraftModel(config, vocab.offsets(t2d_V), t2d_V)
    trainer = Trainer(draft, target, recipe, every, len(held), features, out, provenance)
    if options.resume:
        trainer.resume()
    else:
        trainer.initialise()
    trainer.run(_Printer())
    print(f"best held-out tau {trainer.run_state.best_tau:.3f} (chain of {recipe.num_steps}): {out / 'draft'}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a draft: tau of a tree by task; for a chain (topk 1) n-alpha too."""
    draft = load_draft(options.draft, target_config(options.target).num_hidden_layers)
    dtype = getattr(torch, options.dtype)
    target, tokenizer = Target.load(options.target, draft.config.taps, dtype), load_tokenizer(options.target)
    prompts = [prompt for path in options.prompts for prompt in read_prompts(path)[: options.limit]]
    setting = Setting(options.tree, options.max_tokens, options.temperature, options.seed)
    started = time.monotonic()

    def progress(done: int, _: object) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{len(prompts)} {time.monotonic() - started:.0f} s", end="", file=sys.stderr)

    report = measure(target, draft.to(dtype), tokenizer, prompts, setting, progress)
    _print_report(report)
    if options.json:
        record = {"argv": sys.argv[1:], "tree": str(setting.shape), "seconds": time.monotonic() - started}
        text = json.dumps(record | {"rows": report.rows()}, indent=2) + "\n"
        write_whole(options.json, lambda path: _write(path, text))
    return 0


def check(options: argparse.Namespace) -> int:
    """What is wrong with a draft for a target, without loading weights; exit status 1 if it would not work."""
    template = template_hash(load_tokenizer(options.target))
    findings = findings_of(target_config(options.target), template, options.draft)
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print("\n".join(map(str, findings)) or f"{options.draft}: nothing to find fault with")
    return int(any(finding.level == "error" for finding in findings))


class _Printer:
    """A line every so often, and one for every validation."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, line: Progress | Validation) -> None:
        if isinstance(line, Validation):
            print(f"held out: tau {line.tau:.3f}, n-alpha {_numbers(line.n_alpha)}", flush=True)
        elif time.monotonic() - self.last > PROGRESS_EVERY_S:
            self.last = time.monotonic()
            print(
                f"batch {line.batch}/{line.batches}  loss {line.loss:.3f}  hits {_numbers(line.alphas)}  "
                f"{line.tokens_per_s:.0f} tokens/s  {line.eta_s / 60:.0f} min left",
                flush=True,
            )


def _print_report(report: Report) -> None:
    for row in report.rows():
        low_high = "{:.2f}..{:.2f}".format(*row["tau_interval"]) if "tau_interval" in row else ""
        alphas = f"  n-alpha {_numbers(row['n_alpha'])}" if "n_alpha" in row else ""
        passes = f"  {row['prompts']} prompts, {row['verify_passes']} passes" if "prompts" in row else ""
        print(f"{row['task']:12} tau {row['tau']:.3f}  {low_high}{passes}{alphas}")


def _numbers(values: Sequence[float | None]) -> str:
    return " ".join("-" if value is None else f"{value:.2f}".removeprefix("0") for value in values)


def _recipe(options: argparse.Namespace) -> TrainConfig:
    given: dict[str, Any] = {name: getattr(options, name) for name in TrainConfig.model_fields if name in options}
    try:
        return TrainConfig(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(sentences(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aerie-draft", description="EAGLE-3 drafts: train and measure them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, add_options in ((train, _train_options), (evaluate, _evaluate_options), (check, _check_options)):
        subparser = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        subparser.add_argument("--threads", type=int, metavar="N", help="CPU threads (torch's choice)")
        add_options(subparser)
        subparser.set_defaults(command=command)
    return parser


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", type=Path, required=True, metavar="DIR", help="Hugging Face format")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL of answers")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run: state, log, best draft")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="the target's features (OUT/features)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's last saved state")
    parser.add_argument("--draft-vocab-size", type=int, default=8192, metavar="N", help="tokens the draft can propose")
    parser.add_argument("--taps", type=_taps, metavar="L,M,H", help="hidden_states indices (2, n/2, n-3)")
    parser.add_argument("--held-out", type=int, default=64, metavar="N", help="greedy answers to measure tau on (64)")
    for name, settings in TrainConfig.model_fields.items():
        if name in ("betas", "compute_dtype"):
            continue
        kind = type(settings.default)
        text = f"{settings.description or 'see TrainConfig'} ({settings.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=Path, help="the target's directory")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL, one file a task")
    parser.add_argument("--tree", type=_tree, default="3/4/8", help="num_steps/eagle_topk/num_draft_tokens (3/4/8)")
    parser.add_argument("--limit", type=int, metavar="N", help="prompts per file (all)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="answers end here (128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=Path, help="the target's directory")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def _tree(text: str) -> TreeShape:
    try:
        return TreeShape.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _taps(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
