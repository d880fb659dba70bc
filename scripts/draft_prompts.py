"""More prompts out of those there are, for `aerie-draft prepare`: what the shipped draft is trained on answers of.

    python -m scripts.draft_prompts ../shared/data/train/prompts.jsonl prompts.jsonl

Passages get other instructions, word problems other numbers, programming tasks other languages: a target answers each
of them anew, and a draft learns more from new answers than from more epochs over old ones (docs/log.md). The result is
shuffled, the same every time, and of its sources' licences.
"""

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from draft_models.data import read_records

PASSAGE = (
    "Summarize: {}",
    "Summarize the following text.\n\n{}",
    "Summarize this passage in three sentences.\n\n{}",
    "{}\n\nWhat is this text about?",
    "Explain the main idea of this text in simple words.\n\n{}",
    "Rewrite the following in your own words:\n\n{}",
    "List the most important facts in this passage.\n\n{}",
    "What are the key takeaways?\n\n{}",
)
LANGUAGES = ("Python", "JavaScript", "Java", "C++", "Go")
COMPLETE = ("Complete the code I provided.\n\n{}", "Finish this function and explain how it works.\n\n{}")
NUMBERED = {"gsm8k_train": 5, "math_train": 2}
"""Variants of each with other numbers."""

Record = dict[str, str]


def variants(record: Record) -> Iterator[str]:
    """Other prompts of the same kind."""
    source, prompt = record["source"].partition("/")[0], record["prompt"]
    if source == "openstax_passages":
        passage = max(prompt.split("\n\n"), key=len).removeprefix("Summarize: ")
        yield from (template.format(passage) for template in PASSAGE)
    for variant in range(NUMBERED.get(source, 0)):
        yield _renumbered(prompt, random.Random(f"{record['id']}/{variant}"))  # noqa: S311  not cryptography
    if source in ("gpteacher_codegen", "mbpp_train_val", "exercism"):
        task = re.sub(r" (in|using|Use) (Python|JavaScript|Java|C\+\+|Go)\b\.?", "", prompt)
        yield from (f"{task}\n\nUse {language}." for language in LANGUAGES)
    if source == "mbxp_train_ids":
        code = re.sub(r"\A[^\n]*[.:]\n\n+", "", prompt)
        yield from (template.format(code) for template in COMPLETE)


def _renumbered(prompt: str, chance: random.Random) -> str:
    """Every number replaced by one of as many digits."""

    def other(found: re.Match[str]) -> str:
        digits = len(found[0])
        return str(chance.randrange(2 if digits == 1 else 10 ** (digits - 1), 10**digits))

    return re.sub(r"(?<![\d.,/^{])\d{1,4}(?![\d.,/^}]*\d)", other, prompt)


def main(source: Path, out: Path) -> None:
    """Write the prompts of `source` and their variants, shuffled."""
    records: dict[str, Record] = {}
    for _, record in read_records(source):
        for number, prompt in enumerate([record["prompt"], *variants(record)]):
            records.setdefault(prompt, {"id": f"{record['id']}/{number}", "prompt": prompt})
    shuffled = sorted(records.values(), key=lambda record: hashlib.sha256(record["id"].encode()).digest())
    out.write_text("".join(json.dumps(record) + "\n" for record in shuffled), encoding="utf-8")
    print(f"{len(shuffled)} prompts: {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
