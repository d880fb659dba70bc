"""The report: every task and every prompt length with its uncertainty, and where the figures come from."""

import json

import pytest

from draft_models import cli
from draft_models.acceptance import Acceptance
from draft_models.checkpoint import WEIGHTS, save_draft
from draft_models.errors import ConfigError
from draft_models.evaluate import PROMPT_TOKEN_EDGES, Measured, Report, Setting
from draft_models.provenance import file_sha256
from draft_models.tree import TreeShape
from tests.draft_models import tiny


@pytest.fixture(scope="module")
def evaluate(home, tmp_path_factory):
    """The command, on an untrained draft and two tasks of two prompts, one of them long."""
    place = tmp_path_factory.mktemp("evaluate")
    save_draft(tiny.draft(tiny.target()), place / "draft")
    long = {"prompt": " ".join(["t8"] * 150)}
    (place / "math.jsonl").write_text('{"turns": ["t3 t4 t5"]}\n{"turns": ["t6 t7"]}\n')
    (place / "code.jsonl").write_text(json.dumps(long) + '\n{"prompt": "t9"}\n')

    def run(*more, prompts=None):
        files = prompts or [place / "math.jsonl", place / "code.jsonl"]
        arguments = ["evaluate", home / "target", place / "draft", "--dtype", "float32", "--max-tokens", 6]
        return cli.main([str(part) for part in (*arguments, "--prompts", *files, *more)])

    run.place = place
    return run


@pytest.fixture(scope="module")
def report(evaluate, tmp_path_factory):
    """Of a tree and the chain of six."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    assert evaluate("--tree", "3/2/6", "--alphas", "--json", path) == 0
    return json.loads(path.read_text())


def test_every_tree_is_reported_by_task_by_prompt_length_and_together(report):
    for tree in ("3/2/6", "6/1/7"):
        rows = [row for row in report["rows"] if row["tree"] == tree]
        assert [(row["task"], row["prompt_tokens"]) for row in rows] == [
            ("math", "all"),
            ("code", "all"),
            ("all", "<128"),
            ("all", "128-255"),
            ("all", "all"),
            ("mean", "all"),
        ]
        assert [row.get("prompts") for row in rows] == [2, 2, 3, 1, 4, None]
        assert rows[-1]["tau"] == pytest.approx((rows[0]["tau"] + rows[1]["tau"]) / 2)
        assert rows[-1]["tau_interval"][0] <= rows[-1]["tau"] <= rows[-1]["tau_interval"][1]
        together = rows[-2]
        assert together["tau"] == 1 + together["correct_drafts"] / together["verify_passes"]
        assert together["tau_interval"][0] <= together["tau"] <= together["tau_interval"][1]
        assert rows[3]["tau_interval"] is None  # one prompt says nothing about others


def test_only_chains_have_n_alpha_each_with_its_interval(report):
    chains = [row for row in report["rows"] if "n_alpha" in row]
    assert {row["tree"] for row in chains} == {"6/1/7"}
    for row in chains:
        assert len(row["n_alpha"]) == len(row["n_alpha_intervals"]) == 6


def test_a_report_says_where_it_comes_from_and_nothing_about_the_machines_paths(evaluate, report):
    assert {"argv", "commit", "versions", "hardware", "utc"} == set(report["provenance"])
    assert report["draft_sha256"] == file_sha256(evaluate.place / "draft" / WEIGHTS)
    assert report["prompts_sha256"][".../math.jsonl"] == file_sha256(evaluate.place / "math.jsonl")
    assert report["setting"]["rule"] == "target-draw"
    assert str(evaluate.place.parent) not in json.dumps(report)


@pytest.mark.parametrize("rule", ["target-draw", "rejection"])
def test_sampled_acceptance_is_measured_with_either_rule(evaluate, rule, capsys):
    assert evaluate("--temperature", "0.8", "--rule", rule, "--tree", "3/1/4", "--limit", 1) == 0
    output = capsys.readouterr().out
    assert output.startswith("tree 3/1/4\n")
    assert "n-alpha" in output


@pytest.mark.parametrize(
    ("tokens", "name"), [(1, "<128"), (127, "<128"), (128, "128-255"), (1023, "512-1023"), (1024, "1024+")]
)
def test_a_bucket_begins_at_its_edge(tokens, name):
    assert PROMPT_TOKEN_EDGES == (128, 256, 512, 1024)
    assert Measured("math", tokens, Acceptance()).bucket == name


def test_buckets_are_in_the_order_of_length_whatever_the_order_of_prompts():
    measured = [Measured("math", tokens, Acceptance.of([1])) for tokens in (2000, 5, 300, 7)]
    rows = Report(Setting(TreeShape.chain(1)), measured).rows()
    assert [row["prompt_tokens"] for row in rows[1:-2]] == ["<128", "256-511", "1024+"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("--max-tokens", "254"), "does not fit the target's context"),
        (("--max-tokens", "1"), "an answer needs at least 2 tokens"),
        (("--temperature", "-1"), "temperature -1.0 is negative"),
    ],
)
def test_a_bad_setting_is_one_clear_line(evaluate, capsys, change, reason):
    assert evaluate(*change) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"turns": []}', '{"turns": [3]}', "{}"])
def test_a_bad_line_of_prompts_is_named(evaluate, capsys, line, tmp_path):
    (tmp_path / "math.jsonl").write_text('{"prompt": "t2"}\n' + line + "\n")
    assert evaluate(prompts=[tmp_path / "math.jsonl"]) == 1
    assert "math.jsonl:2: " in capsys.readouterr().err


def test_a_tree_that_cannot_be_and_no_prompts_at_all_are_wrong_arguments(evaluate, capsys):
    for change, reason in ((("--tree", "3/4"), "3/4"), (("--limit", "0"), "'0' is not a whole number above 0")):
        with pytest.raises(SystemExit):
            evaluate(*change)
        assert reason in capsys.readouterr().err


def test_what_is_measured_is_checked_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="max_tokens 1"):
        Setting(TreeShape.chain(2), max_tokens=1)
