"""Recordings and runs with known answers."""

import json

from loadtest.tree import Tree
from loadtest.tuning.evidence import Cell, Run

STEP_S = {1: 0.070, 4: 0.076, 8: 0.084}
"""A baseline's, by batch size."""
COSTS_S = (0.008, 0.004, 0.0001, 0.0012)
"""What a cycle costs more: the surface's four."""


def head(widest="3/2/8", **changes):
    return {
        "format": "aerie-acceptance-record/1",
        "widest": widest,
        "provenance": {"commit": None},
        "draft": "drafts/tiny",
        "draft_sha256": "a" * 64,
        "prompts_sha256": {"math.jsonl": "b" * 64},
        "setting": {"dtype": "float32", "max_tokens": 8, "temperature": 0.0, "rule": "target-draw", "seed": 0},
        **changes,
    }


def answer(paths, task="math", growths=("1/1", "1/2", "2/1", "2/2", "3/1", "3/2")):
    """One whose every growth needs the same; deeper drafts than a growth has steps are left out."""
    needed = {growth: [path[: int(growth[0])] for path in paths] for growth in growths}
    return {"task": task, "prompt_tokens": 5, "answer_tokens": len(paths) + 1, "needed": needed}


def write(path, *answers, **changes):
    path.write_text("".join(json.dumps(line) + "\n" for line in (head(**changes), *answers)))
    return path


def growing(path, widest="6/4/32", tasks=("math", "code")):
    """A recording in which every step and every branch helps, the first ones most; of several answers a task."""
    steps, topk, _ = map(int, widest.split("/"))
    answers = []
    for index in range(6 * len(tasks)):
        needed = {
            f"{s}/{k}": [_path(position + index, s, k) for position in range(60)]
            for s in range(1, steps + 1)
            for k in range(1, topk + 1)
        }
        answers.append({"task": tasks[index % len(tasks)], "prompt_tokens": 9, "answer_tokens": 61, "needed": needed})
    return write(path, *answers, widest=widest)


def _path(place, steps, topk):
    """Of ten positions six hold the likeliest draft, one more each the next ones; then the same again, deeper."""
    path = []
    for depth in range(steps):
        branch = (place * 7 + depth * 3) % 10 - 5
        if branch >= topk:
            break
        path.append(2 + depth * 2 + max(branch, 0) * 3)
    return sorted(set(path))


def ratio(tree, batch_size, costs_s=COSTS_S):
    """Cycle time over step time."""
    steps, topk, tokens = tree.num_steps - 1, tree.eagle_topk, tree.num_draft_tokens - 1
    amounts = (1, steps, steps * topk * batch_size, tokens * batch_size)
    return 1 + sum(cost * amount for cost, amount in zip(costs_s, amounts, strict=True)) / STEP_S[batch_size]


def run(tree, costs_s=COSTS_S, tau=2.0, noise=(0.99, 1.0, 1.01)):
    """Measured at every batch size."""
    found = Tree.parse(tree) if isinstance(tree, str) else tree
    cells = [
        Cell(
            batch_size=batch_size,
            step_s=step_s,
            ratios=tuple(ratio(found, batch_size, costs_s) * off for off in noise),
            speedups=tuple(tau / ratio(found, batch_size, costs_s) / off for off in noise),
            acceptance_length=tau,
        )
        for batch_size, step_s in STEP_S.items()
    ]
    return Run(tree=str(found), cells=tuple(cells))
