"""`aerie-bench paper` against scripted runtimes on real ports."""

import json
from contextlib import asynccontextmanager

import pytest

from loadtest.cli import main
from loadtest.launch import Endpoint
from loadtest.paper.experiment import Plan, steps
from loadtest.paper.methods import Methods, methods, published
from loadtest.paper.results import Paper
from loadtest.paper.text import render
from tests.loadtest.reporting import documents
from tests.loadtest.scripted_runtime import ScriptedRuntime, served, speculative

QUICK = ["--rounds", "2", "--passes", "1", "--max-tokens", "8", "--batch-sizes", "1", "--allow-noise"]
QUICK += ["--hardware", "A machine"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    paths = [tmp_path_factory.mktemp("tasks") / name for name in ("mt_bench.jsonl", "gsm8k.jsonl")]
    for path in paths:
        path.write_text("".join(json.dumps({"turns": [f"{path.stem} {number}"]}) + "\n" for number in range(20)))
    return paths


@pytest.fixture(scope="module")
def started_sides():
    """Scripted runtimes in place of those that would be started; what was started, in order."""
    asked = []
    with served(speculative(), ScriptedRuntime()) as (drafting, plain), pytest.MonkeyPatch.context() as patch:

        @asynccontextmanager
        async def started(endpoint, profile, say):
            asked.append(endpoint.text)
            yield plain.url if endpoint.text in ("baseline", plain.url) else drafting.url

        for module in ("loadtest.paper.experiment", "loadtest.compare"):
            patch.setattr(f"{module}.started", started)
        yield asked


@pytest.fixture
def runtimes(started_sides):
    started_sides.clear()
    return started_sides


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tasks, started_sides):
    """A whole paper of one method, and what was started for it."""
    path = tmp_path_factory.mktemp("measured") / "paper.json"
    started_sides.clear()
    assert paper(path, tasks, "--only", "EAGLE-3") == 0
    return path, tuple(started_sides)


def paper(path, tasks, *further):
    return main(["paper", "--output", str(path), "--prompts", *map(str, tasks), *QUICK, *further])


def read(path):
    return Paper.read(path, "a file of `aerie-bench paper`")


def test_every_table_and_figure_is_filled(tmp_path, tasks, runtimes, capsys):
    path = tmp_path / "paper.json"
    assert paper(path, tasks) == 0
    made = read(path)
    assert [(each.name, each.method, each.temperature) for each in made.experiments] == [
        ("table_1", "EAGLE-3", 0.0),
        ("table_1", "EAGLE-3", 1.0),
        ("table_1", "PLD", 0.0),
        ("table_1", "PLD", 1.0),
        ("table_3", "EAGLE-3", 0.0),
        ("figure_7", "EAGLE-3", 0.0),
    ]
    assert not made.partial
    shown = capsys.readouterr().out
    assert "**Table 1**" in shown
    assert "*5.58*" in shown
    assert "**Table 3**" in shown
    assert "| *EAGLE-3, the paper* |" in shown
    assert "0-alpha | 1-alpha |" in shown
    assert "- SpS: no smaller model" in shown
    assert "- Medusa: " in shown


def test_one_baseline_serves_all_experiments(measured):
    _, runtimes = measured
    assert runtimes.count("baseline") == 1
    assert any("--num-steps 3 --eagle-topk 1 --num-draft-tokens 4" in text for text in runtimes)
    assert any("--num-steps 7 --eagle-topk 1 --num-draft-tokens 8" in text for text in runtimes)


def test_a_run_that_stopped_goes_on_where_it_was(tmp_path, tasks, measured, runtimes):
    path, whole = tmp_path / "paper.json", read(measured[0])
    whole.model_copy(update={"experiments": whole.experiments[:3], "partial": True}).write(path)
    assert paper(path, tasks, "--only", "EAGLE-3", "--resume") == 0
    assert len(runtimes) == 1 + 2  # the baseline; then both sides of the one that was left
    again = read(path)
    assert not again.partial
    assert again.experiments[:3] == whole.experiments[:3]
    assert len(again.experiments) == 4


def test_another_workload_is_not_resumed(tasks, measured, runtimes, capsys):
    assert paper(measured[0], tasks, "--resume", "--max-tokens", "9") == 1
    assert "other --max-tokens" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_is_printed_without_measuring(measured, runtimes, capsys):
    assert main(["paper", "--check", "--output", str(measured[0])]) == 0
    assert "**Table 1**" in capsys.readouterr().out
    assert not runtimes


def test_a_users_draft_is_one_more_method(tasks):
    chosen = methods(None, {"EAGLE-2": "speculation --algorithm EAGLE --draft DIR"})
    assert "EAGLE-2" in chosen.sides
    assert "EAGLE-2" not in chosen.not_measured
    assert "EAGLE" in chosen.not_measured


def test_an_endpoint_that_runs_fills_table_1_alone(tasks):
    plan = Plan(output=None, prompts=tuple(tasks))
    made = list(steps(plan, Methods({"EAGLE-3": "http://127.0.0.1:1"}, {})))
    assert {step.name for step in made} == {"table_1"}


@pytest.mark.parametrize("profile", ["cpu", "h100", "b200", None])
def test_every_method_is_a_side_or_has_a_reason(profile):
    chosen = methods(profile, {})
    assert not chosen.sides.keys() & chosen.not_measured.keys()
    assert {"EAGLE-3", "PLD", "SpS", "EAGLE-2", "HASS", "Medusa", "Hydra", "Lookahead"} <= {
        *chosen.sides,
        *chosen.not_measured,
    }
    for side in chosen.sides.values():
        assert Endpoint.parse(side).options is not None


def test_the_papers_rows_have_every_task():
    for row in published()["table_1"]:
        assert {"mt_bench", "humaneval", "gsm8k", "alpaca", "cnn_dm"} <= row.keys()
    table = published()["table_3"]
    assert len(table["EAGLE-3"]) == len(table["EAGLE"]) == len(table["batch_sizes"])


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (["--only", "EAGEL"], "unknown method EAGEL: there are EAGLE-3, PLD"),
        (["--method", "X=nothing"], "nothing: write a URL"),
        (["--profile", "h100", "--method", "EAGLE-3=speculation 'x"], "No closing quotation"),
    ],
)
def test_bad_methods_are_one_line(tmp_path, tasks, capsys, further, words):
    assert paper(tmp_path / "paper.json", tasks, *further) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]


def rendered(**comparison):
    document = documents.paper()
    for each in document["experiments"]:
        each["comparison"] |= comparison
    return render(Paper.model_validate_json(json.dumps(document)))


def row(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).strip("| ").split(" | ")


def test_a_mean_is_the_same_one_of_the_same_tasks_in_our_rows_and_the_papers():
    text = rendered()
    ours, theirs = row(text, "| smollm2"), row(text, "| *Vicuna 13B* | *EAGLE-3*")
    assert ours[-1] == "1.82, 2.80"  # of 1.90 and 1.75; 2.9 and 2.7
    assert theirs[-1] == "*6.03*"  # of 5.58 and 6.47
    assert "at temperature 0 only" in text


def test_a_mean_over_a_noisy_task_is_none():
    noisy = documents.restless(documents.comparison(documents.TASKS[:2], (1,)))
    assert row(rendered(cells=noisy["cells"]), "| smollm2")[-1] == "-, 2.80"


def test_texts_that_differ_are_shouted_below_every_table_they_are_in():
    same = documents.comparison()["same_text"]
    assert "TEXTS DIFFER" not in rendered()
    shouts = [
        line
        for line in rendered(same_text=same | {"different": 3, "example": "after 9 characters"}).splitlines()
        if "TEXTS DIFFER" in line
    ]
    told = "3 of 40 greedy answers are not those of plain decoding (after 9 characters)"
    assert shouts == [f"**TEXTS DIFFER**: EAGLE-3, temperature 0: {told}."] * 2


def test_rounds_that_repeat_the_same_answers_narrow_no_interval():
    work = documents.comparison(documents.TASKS[:2], (1,))["workload"]

    def alpha(**changes):
        return row(rendered(workload=work | changes), "| mt_bench")[1]

    assert alpha(rounds=6) == alpha(rounds=6, temperature=1.0) != alpha(rounds=1)  # drawn with one seed
