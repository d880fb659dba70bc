"""`aerie-bench plan`: sizes that keep what was asked, and a line where nothing can."""

import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loadtest.cli import main
from loadtest.errors import PlanError
from loadtest.planning import geometry, hardware
from loadtest.planning.plan import Question, plan
from loadtest.planning.planned import Planned
from loadtest.planning.queueing import PLAIN, Decoding, Traffic
from loadtest.planning.roofline import Machine
from loadtest.planning.sizing import room
from loadtest.summary import Objectives
from loadtest.tree import Tree
from tests.loadtest.planning.test_fit import MEASURED, curve_of

ASKED = ["plan", "--model", "llama-3.1-8b", "--rate", "40", "--prompt-tokens", "1000", "--answer-tokens", "300"]
DRAFT = ["--acceptance", "0.77,0.77,0.73"]
MACHINE = Machine(geometry.read("llama-3.1-8b"), hardware.read("h100"))


def planned(tmp_path, *options):
    output = tmp_path / "plan.json"
    assert main([*ASKED, *options, "--output", str(output)]) == 0
    return Planned.model_validate_json(output.read_bytes())


def test_a_plan_keeps_its_objectives_and_says_where_it_comes_from(tmp_path, capsys):
    found = planned(tmp_path, "--gpu", "h100", "b200", "--ttft", "500", "--tpot", "12", *DRAFT)
    assert [(row.gpu, row.tree == "none") for row in found.rows] == [
        (gpu, is_plain) for gpu in ("h100", "b200") for is_plain in (True, False)
    ]
    assert all(row.ttft_ms.p99 <= 500 and row.tpot_ms.p99 <= 12 and row.utilisation <= 0.8 for row in found.rows)
    assert found.argv[:2] == ("aerie-bench", "plan")
    printed = capsys.readouterr().out
    assert "TPOT at most 12 ms (p99)" in printed
    assert "fastest by batch size" in printed
    assert "USD" in printed


def test_speculation_saves_gpus_where_tokens_must_be_fast(tmp_path):
    plain, tree = planned(tmp_path, "--gpu", "h100", "--tpot", "10", *DRAFT).rows
    assert tree.gpus < plain.gpus
    assert tree.gpu_hours_per_million < plain.gpu_hours_per_million


@pytest.mark.parametrize(
    ("traffic", "objectives", "gpus"),
    [
        (Traffic(1, 8000, 50), Objectives(0.5, 0.012), 4),
        (Traffic(5, 1000, 300), Objectives(0.045), 2),
        (Traffic(2, 4000, 100), Objectives(0.2), 2),
    ],
)
def test_where_the_simulation_refuses_the_smallest_size_on_paper_the_next_of_all_is_tried(traffic, objectives, gpus):
    """Of replicas of one GPU a few would do on paper, and many are needed until a prompt hardly meets another."""
    question = Question(MACHINE.target, {"h100": MACHINE.gpu}, traffic, objectives)
    (row,) = plan(question, ["aerie-bench"]).rows
    assert row.gpus == gpus
    (one_gpu_each,) = plan(replace(question, tps=(1,)), ["aerie-bench"]).rows
    assert one_gpu_each.gpus > row.gpus


def test_no_other_parallelism_or_tree_alone_does_with_fewer_gpus(tmp_path):
    asked = ["--gpu", "h100", "--ttft", "500", "--tpot", "12"]
    both = planned(tmp_path, *asked, *DRAFT).rows
    for tp in ("1", "2", "4"):
        alone = {row.tree == "none": row.gpus for row in planned(tmp_path, *asked, "--tp", tp, *DRAFT).rows}
        assert all(row.gpus <= alone.get(row.tree == "none", row.gpus) for row in both)


def test_a_draft_that_is_never_right_is_fastest_at_no_batch_size(tmp_path):
    (entry,) = planned(tmp_path, "--gpu", "h100", "--acceptance", "0,0,0").bands
    assert [band.tree for band in entry.bands] == ["none"]


def test_bands_cover_every_batch_size_once_and_are_worth_it(tmp_path):
    (entry,) = planned(tmp_path, "--gpu", "h100", *DRAFT).bands
    assert entry.bands[0].first == 1
    assert all(after.first == before.last + 1 for before, after in zip(entry.bands, entry.bands[1:], strict=False))
    assert all(band.speedup_first >= 1 and band.speedup_last >= 1 for band in entry.bands)


def test_prices_are_the_users_and_without_them_there_are_none(tmp_path, capsys):
    unpriced = planned(tmp_path, "--gpu", "h100", *DRAFT)
    assert all(row.usd_per_million is None for row in unpriced.rows)
    priced = planned(tmp_path, "--gpu", "h100", "b200", "--price", "h100=2", *DRAFT)
    rows = {(row.gpu, row.tree): row for row in priced.rows}
    assert all(row.usd_per_million is None for (gpu, _), row in rows.items() if gpu == "b200")
    for (gpu, _), row in rows.items():
        if gpu == "h100":
            assert row.usd_per_million == pytest.approx(2 * row.gpu_hours_per_million, rel=1e-3)
    assert "cheapest at these prices: h100" in capsys.readouterr().out


def test_twice_the_traffic_never_needs_fewer_gpus(tmp_path):
    one = planned(tmp_path, "--gpu", "h100", "--tpot", "15")
    two = planned(tmp_path, "--gpu", "h100", "--tpot", "15", "--rate", "80")
    assert one.rows[0].gpus <= two.rows[0].gpus


@given(st.integers(1, 100_000), st.integers(1, 10_000))
def test_longer_requests_never_find_more_room_and_a_draft_takes_some(prompt, answer):
    shorter, longer = Traffic(1, prompt, answer), Traffic(1, prompt + 1, answer)
    spare = 10**9
    assert room(MACHINE, longer, PLAIN, spare) <= room(MACHINE, shorter, PLAIN, spare)
    assert room(MACHINE, shorter, Decoding(Tree(3, 1, 4), 2), spare) <= room(MACHINE, shorter, PLAIN, spare)


def test_a_sizing_table_is_written_as_markdown(tmp_path):
    table = tmp_path / "sizing.md"
    planned(tmp_path, "--gpu", "h100", "--markdown", str(table), *DRAFT)
    lines = table.read_text().splitlines()
    assert "predicted, not measured" in lines[0]
    assert [line.count("|") for line in lines[2:]] == [9] * 4


def test_a_curve_makes_the_plan_the_users_own(tmp_path, capsys):
    curve, epyc = tmp_path / "curve.json", tmp_path / "epyc.yaml"
    curve.write_text(curve_of(MEASURED, dtype="float32").json_text())
    fields = {"name": "AMD EPYC", "memory_gb": 24, "bandwidth_gb_per_s": 50, "bf16_tflops": 0.5, "link_gb_per_s": 1}
    epyc.write_text(json.dumps(fields | {"source": "a bound"}))
    own = ["--model", "smollm2-135m", "--gpu", str(epyc), "--curve", str(curve), "--tp", "1", "--max-batch", "8"]
    found = planned(tmp_path, *own, "--rate", "0.2", "--prompt-tokens", "44", "--answer-tokens", "64")
    assert found.constants_from == "curve.json (smollm2 for --model smollm2-135m, AMD EPYC, 2 cores)"
    assert found.asked.acceptance == {"3/4/8": 2.6}
    assert found.rows[0].gpu == "epyc"
    assert "dtype float32" in found.notes[0]
    printed = capsys.readouterr()
    assert "cycle 3/4/8, batch 8: 205.3 ms, the fit" in printed.err
    assert "smollm2 for --model smollm2-135m" in printed.out
    assert "warning: the curve was measured with dtype float32" in printed.out


def test_an_slo_that_nothing_meets_is_a_line_that_says_what_is_nearest(capsys):
    assert main([*ASKED, "--gpu", "h100", "--tpot", "0.1", *DRAFT]) == 1
    said = capsys.readouterr().err
    assert "TPOT 0.1 ms was asked for, a request alone reaches" in said
    assert "a better draft" in said
    assert "TTFT" not in said


def test_an_slo_that_every_simulation_refuses_is_a_line_that_says_so(tmp_path, capsys):
    """On paper a single token after the first takes a quarter of a cycle; it takes a whole one."""
    tau = tmp_path / "tau.json"
    tau.write_text('{"3/1/4": 4}')
    options = ["--gpu", "h100", "--answer-tokens", "2", "--tpot", "2.5", "--rate", "1", "--acceptance", str(tau)]
    assert main([*ASKED, *options]) == 1
    assert "no size tried keeps them for 99 of 100 requests" in capsys.readouterr().err


@pytest.mark.parametrize("bandwidth", [0, -1, float("inf")])
def test_a_gpu_without_a_finite_bandwidth_above_0_is_refused(tmp_path, bandwidth):
    path = tmp_path / "gpu.yaml"
    path.write_text(yaml.safe_dump(MACHINE.gpu.model_dump() | {"bandwidth_gb_per_s": bandwidth}))
    with pytest.raises(PlanError, match="not a GPU's YAML"):
        hardware.read(str(path))


def test_a_gpu_that_cannot_is_a_note_beside_one_that_can(tmp_path):
    found = planned(tmp_path, "--gpu", "b200", "l40s", "--tp", "1", "--tpot", "12")
    assert [row.gpu for row in found.rows] == ["b200"]
    assert "l40s: TPOT 12 ms was asked for, a request alone reaches" in found.notes[0]


def test_a_plan_without_acceptance_says_that_it_is_of_plain_decoding_only(tmp_path):
    found = planned(tmp_path, "--gpu", "h100")
    assert [row.tree for row in found.rows] == ["none"]
    assert "plain decoding only" in found.notes[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpu", "nope"], "no such GPU: give one of h100"),
        (["--gpu", "pyproject.toml"], "not a GPU's YAML"),
        (["--gpu", "h100", "--model", "nope"], "give a config.json, or one of llama-3.1-8b"),
        (["--gpu", "rtx3090", "--model", "llama-3.3-70b", "--tp", "1"], "141 GB of weights and one request do not fit"),
        (["--gpu", "h100", "--tp", "3"], "32 attention heads"),
        (["--gpu", "h100", "--acceptance", "nowhere"], "nowhere: No such file"),
        (["--gpu", "h100", "--curve", "nowhere"], "nowhere: No such file"),
        (["--gpu", "h100", "--output", "/nowhere/plan.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_planned_is_one_line(options, said, capsys):
    assert main([*ASKED, *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--gpu", "h100", "--answer-tokens", "1"],
        ["--gpu", "h100", "--price", "b200=2"],
        ["--gpu", "h100", "--price", "h100"],
        ["--gpu", "h100", "--utilisation", "1"],
        ["--gpu", "h100", "--utilisation", "0"],
        ["--gpu", "h100", "b200", "--curve", "curve.json"],
    ],
)
def test_wrong_arguments_are_a_usage_error(options):
    with pytest.raises(SystemExit, match="2"):
        main([*ASKED, *options])


def test_the_check_against_published_figures_is_a_table(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--published", "--curve", "curve.json"])
    assert "leave out --curve" in capsys.readouterr().err
    assert main(["plan", "--published"]) == 0
    printed = capsys.readouterr().out
    assert "| sglang-docs | fit | llama-3.1-8b, h100 x1, batch 1 | tokens/s | 158.34 |" in printed
    assert printed.splitlines()[-1].startswith("test: ")
