"""Result files as a run would leave them, made up: no figure in them was measured."""

import json
import math
from pathlib import Path
from typing import Any

from loadtest.comparison import QUANTILES, Comparison
from loadtest.load_report import LoadReport

TASKS = ("mt_bench", "humaneval", "gsm8k", "alpaca", "cnn_dm")
PROVENANCE: dict[str, Any] = {
    "created": "2026-11-22T20:00:00Z",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "argv": ["aerie-bench", "compare"],
    "versions": {"aerie": "0.1.0", "python": "3.11.9"},
}
SIDE = {"sglang_version": "0.5.23", "device": "cpu", "algorithm": None, "tree": None}


def quantiles(middle: float) -> list[float]:
    return [middle * math.exp((index - 10) / 18) for index in range(QUANTILES)]


def measured(tokens_per_s: float, token_s: float, *, tau: float | None = None, rounds: int = 6) -> dict[str, Any]:
    passes = 400
    return {
        "tokens_per_s": tokens_per_s,
        "rounds": [tokens_per_s * (1 + 0.01 * (index - rounds // 2)) for index in range(rounds)],
        "token_s": token_s,
        "acceptance_length": tau,
        "verify_passes": passes if tau else None,
        "accepted_by_position": [round(passes * (tau - 1) * share) for share in (0.5, 0.3, 0.2)] if tau else [],
        "ttft_s": quantiles(0.1),
        "tpot_s": quantiles(token_s),
        "e2e_s": quantiles(0.1 + 64 * token_s),
    }


def cell(task: str, batch_size: int, ratio: float, tau: float) -> dict[str, Any]:
    plain_s = 0.05 * (1 + batch_size / 40)
    return {
        "task": task,
        "batch_size": batch_size,
        "a": measured(ratio * batch_size / plain_s, plain_s / ratio, tau=tau),
        "b": measured(batch_size / plain_s, plain_s),
        "speedup": interval(ratio),
        "noise": 0.03,
        "quiet": True,
    }


def interval(value: float, share: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value * (1 - share), "high": value * (1 + share)}


def comparison(
    tasks: tuple[str, ...] = TASKS, batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32), speed: float = 1.0
) -> dict[str, Any]:
    def ratio(place: int, size: int) -> float:
        return speed * (1.9 - 0.15 * place) * max(0.1, 1 - 0.09 * math.log2(size))

    def mean(size: int) -> float:
        return math.prod(ratio(place, size) for place in range(len(tasks))) ** (1 / len(tasks))

    return PROVENANCE | {
        "format": "aerie-comparison/1",
        "partial": False,
        "hardware": "AMD EPYC, 2 cores",
        "model": "smollm2-135m-instruct",
        "a": SIDE | {"endpoint": "speculation", "algorithm": "EAGLE3", "tree": "3/4/8"},
        "b": SIDE | {"endpoint": "baseline"},
        "differences": [],
        "workload": {
            "tasks": [{"name": task, "sha256": f"{place:064x}"} for place, task in enumerate(tasks)],
            "max_tokens": 64,
            "temperature": 0.0,
            "rounds": 6,
            "passes": 2,
        },
        "cells": [
            cell(task, size, ratio(place, size), 2.9 - 0.2 * place)
            for size in batch_sizes
            for place, task in enumerate(tasks)
        ],
        "overall": [{"batch_size": size, "speedup": interval(mean(size))} for size in batch_sizes],
        "same_text": {"compared": 40, "same": 38, "alike": 2, "different": 0, "epsilon": 0.25, "example": None},
    }


def restless(document: dict[str, Any]) -> dict[str, Any]:
    """With one cell that is no result."""
    *others, last = document["cells"]
    return document | {"cells": [*others, last | {"quiet": False, "noise": 0.31}]}


def distribution(middle: float) -> dict[str, Any]:
    return {"mean": middle, "percentiles": {"50": middle, "90": middle * 1.6, "99": middle * 2.4}}


def summary(rate_per_s: float, token_s: float, good: int) -> dict[str, Any]:
    return {
        "requests": 200,
        "answered": 200,
        "left": 0,
        "failures": {},
        "good": good,
        "requests_per_s": rate_per_s,
        "good_per_s": rate_per_s * good / 200,
        "prompt_tokens": 9000,
        "completion_tokens": 12800,
        "completion_tokens_per_s": rate_per_s * 64,
        "ttft_s": distribution(token_s * 3),
        "tpot_s": distribution(token_s),
        "itl_s": distribution(token_s),
        "e2e_s": distribution(token_s * 66),
        "acceptance_length": 2.4,
    }


def load(slower: float = 1.0, goods: tuple[int, ...] = (200, 196, 120)) -> dict[str, Any]:
    stages = [
        {
            "label": f"{rate:g}/s",
            "partial": False,
            "rate_per_s": rate,
            "concurrency": None,
            "ramp_s": 0.0,
            "ramp_requests": 0,
            "wall_s": 200 / rate,
            "summary": summary(rate, slower * 0.03 * (1 + rate / 4), good),
            "tasks": {},
            "steady": None,
            "late_s": distribution(0.0002),
            "client_cpu_share": 0.04,
            "warnings": [],
        }
        for rate, good in zip((1.0, 2.0, 4.0), goods, strict=True)
    ]
    return PROVENANCE | {
        "format": "aerie-load/1",
        "partial": False,
        "workload": {
            "model": "smollm2-135m-instruct",
            "prompts": "bundled",
            "prompts_sha256": "0" * 64,
            "system": None,
            "multi_turn": False,
            "max_tokens": 64,
            "temperature": 0.0,
            "seed": 0,
            "burstiness": 1.0,
            "trace": None,
            "leave": 0.0,
            "objectives": {"ttft_s": 0.5, "tpot_s": 0.05, "e2e_s": None},
        },
        "stages": stages,
    }


def raw_lines(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Requests with the percentiles of a load report."""
    lines = []
    for stage in document["stages"]:
        told = stage["summary"]
        for number in range(1, 201):
            percent = "50" if number <= 100 else "90" if number <= 180 else "99"
            latencies = {name: told[name]["percentiles"][percent] for name in ("ttft_s", "tpot_s", "e2e_s")}
            counts = {"correct_drafts": 10 + number % 9, "verify_passes": 10}
            lines.append({"stage": stage["label"], "sent_s": float(number)} | latencies | counts)
    return lines


def paper() -> dict[str, Any]:
    names = (("table_1", "EAGLE-3", 0.0), ("figure_7", "EAGLE-3", 0.0))
    experiments = [
        {"name": name, "method": method, "temperature": temperature, "comparison": comparison(TASKS[:2], (1,))}
        for name, method, temperature in names
    ]
    return PROVENANCE | {"format": "aerie-paper/1", "partial": False, "not_measured": {}, "experiments": experiments}


def comparison_of(document: dict[str, Any]) -> Comparison:
    return Comparison.model_validate_json(json.dumps(document))


def load_of(document: dict[str, Any]) -> LoadReport:
    return LoadReport.model_validate_json(json.dumps(document))


def write(document: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path
