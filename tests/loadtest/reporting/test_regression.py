"""`aerie-bench report BEFORE AFTER`: the verdicts, the exit status, and what is refused."""

import copy
import json

import pytest

from loadtest.cli import main
from loadtest.reporting.cells import cells
from tests.loadtest.reporting import documents
from tests.loadtest.reporting.documents import (
    comparison,
    comparison_of,
    load,
    load_of,
    paper,
    raw_lines,
    restless,
    write,
)
from tests.loadtest.test_curve import DOCUMENT as CURVE

SMALL = (("mt_bench", "gsm8k"), (1, 4))


@pytest.fixture
def report(tmp_path, capsys):
    """Hold one document against another; the exit status and what was said."""

    def run(before, after, *options):
        files = [str(write(each, tmp_path / f"{name}.json")) for name, each in (("before", before), ("after", after))]
        status = main(["report", *files, *options])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def changed(document, *way, value):
    copied = copy.deepcopy(document)
    *path, last = way
    place = copied
    for step in path:
        place = place[step]
    place[last] = value
    return copied


def test_the_same_run_is_no_regression(report):
    status, said = report(comparison(*SMALL), comparison(*SMALL))
    assert status == 0
    assert "no regression" in said
    assert "WORSE" not in said


def test_a_slower_run_fails(report):
    status, said = report(comparison(*SMALL), comparison(*SMALL, speed=0.9))
    assert status == 1
    row = next(line for line in said.splitlines() if line.strip().startswith("speedup, gsm8k, batch size 4"))
    assert row.split()[-2:] == ["-10.0%", "WORSE"]
    assert "REGRESSION" in said


def test_a_faster_run_passes_and_a_tolerance_forgives(report):
    assert report(comparison(*SMALL), comparison(*SMALL, speed=1.1))[0] == 0
    assert report(comparison(*SMALL), comparison(*SMALL, speed=0.9), "--tolerance", "12%")[0] == 0


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(restless(comparison(*SMALL)), id="noisy"),
        pytest.param(comparison(*SMALL) | {"partial": True}, id="partial"),
        pytest.param(changed(comparison(*SMALL), "cells", value=comparison(*SMALL)["cells"][:-1]), id="missing"),
    ],
)
def test_what_could_not_be_judged_is_no_pass(report, after):
    status, said = report(comparison(*SMALL), after)
    assert status == 3
    assert "NOT PROVEN" in said
    assert "Second run: " in said or "missing" in said


def test_a_regression_beside_a_noisy_cell_is_a_regression(report):
    assert report(comparison(*SMALL), restless(comparison(*SMALL, speed=0.8)))[0] == 1


@pytest.mark.parametrize(
    ("way", "value", "sentence"),
    [
        (("hardware",), "H100", "not the same hardware: AMD EPYC, 2 cores before, H100 after"),
        (("model",), "llama", "not the same model"),
        (("workload", "temperature"), 1.0, "not the same temperature: 0.0 before, 1.0 after"),
        (("workload", "max_tokens"), 32, "not the same max tokens: 64 before, 32 after"),
        (("workload", "tasks", 1, "sha256"), "f" * 64, "not the same digest of gsm8k"),
        (("b", "algorithm"), "NGRAM", "not the same reference (side b)"),
    ],
)
def test_runs_of_different_things_are_refused(report, way, value, sentence):
    other = changed(comparison(*SMALL), *way, value=value)
    status, said = report(comparison(*SMALL), other)
    assert status == 1
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert report(comparison(*SMALL), other, "--anyway")[0] == 0


def test_another_draft_and_another_commit_may_be_compared(report):
    other = changed(comparison(*SMALL), "a", "tree", value="5/8/32") | {"commit": "f" * 40}
    assert report(comparison(*SMALL), other)[0] == 0


def test_another_format_is_refused_even_so(report):
    status, said = report(comparison(*SMALL), load(), "--anyway")
    assert status == 1
    assert "no figure in common" in said


def test_a_task_that_only_the_second_run_has_is_refused(report):
    more = comparison(("mt_bench", "gsm8k", "alpaca"), (1, 4))
    assert "digest of alpaca: only the second has it" in report(comparison(*SMALL), more)[1]


def test_curves_loads_and_papers_are_compared_too(report):
    assert report(SIX_ROUNDS, SIX_ROUNDS)[0] == 0
    assert report(SIX_ROUNDS, slower(SIX_ROUNDS))[0] == 1
    assert report(paper(), paper())[0] == 0


def slower(curve):
    gain = curve["speculative"]["points"][0] | {"speedup": 1.2, "low": 1.1, "high": 1.3}
    return changed(curve, "speculative", "points", 0, value=gain)


SIX_ROUNDS = changed(CURVE, "workload", "rounds", value=6)


def test_few_rounds_on_either_side_leave_timings_unclear_and_are_told(report):
    assert CURVE["workload"]["rounds"] == 3
    few = changed(comparison(*SMALL, speed=0.5), "workload", "rounds", value=5)
    for before, after in ((CURVE, slower(SIX_ROUNDS)), (SIX_ROUNDS, slower(CURVE)), (comparison(*SMALL), few)):
        status, said = report(before, after)
        assert status == 0
        timings = [line for line in said.splitlines() if "speedup," in line or "tok/s," in line]
        assert all(line.endswith("unclear") for line in timings)
        assert "run: Only " in said
    assert "Second run: Only 5 rounds" in said
    assert "covers the median 93.8% of the time, not 95%" in said


def test_noise_that_was_allowed_in_a_curve_is_told(report):
    kept = SIX_ROUNDS | {"argv": [*CURVE["argv"], "--allow-noise"]}
    assert "Second run: Rounds that differ by more than 5% were kept (--allow-noise)." in report(SIX_ROUNDS, kept)[1]


def test_a_curves_tau_has_no_interval_and_no_say(report):
    gain = CURVE["speculative"]["points"][0] | {"acceptance_length": 1.3}
    status, said = report(SIX_ROUNDS, changed(SIX_ROUNDS, "speculative", "points", 0, value=gain))
    assert status == 0
    assert line_of(said, "tau, batch size 1").endswith("unclear")
    assert "Tau of a curve has no interval" in said


def line_of(said, start):
    return next(line for line in said.splitlines() if line.strip().startswith(start))


def test_a_load_with_fewer_good_requests_fails(report):
    status, said = report(load(), load(goods=(200, 196, 60)))
    assert status == 1
    assert "good %, 4/s" in next(line for line in said.splitlines() if line.endswith("WORSE"))


def test_other_arrivals_are_no_regression_while_all_requests_are_good(report):
    all_good = load(goods=(200, 200, 200))
    longer = changed(all_good, "stages", 0, "wall_s", value=all_good["stages"][0]["wall_s"] * 1.2)
    assert line_of(report(all_good, longer)[1], "good %, 1/s").endswith("same")


@pytest.mark.parametrize("change", [1.05, 2.0, 0.5])
def test_latencies_and_tau_without_raw_lines_are_told_and_not_judged(report, change):
    status, said = report(load(), load(slower=change))
    assert status == 3
    assert line_of(said, "TPOT p50 ms, 1/s").endswith(f"{change - 1:+.1%}  NOT JUDGED")
    assert line_of(said, "tau, 1/s").endswith("NOT JUDGED")
    assert "have no intervals without both runs' --raw" in said


def with_raw(report, folder, before, after):
    """Both with their raw lines, as a pipeline would."""
    raws = [folder / "before.jsonl", folder / "after.jsonl"]
    for path, document in zip(raws, (before, after), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in raw_lines(document)))
    return report(before, after, "--raw", *map(str, raws))


def test_raw_lines_let_a_load_pass_or_fail(report, tmp_path):
    assert with_raw(report, tmp_path, load(), load())[0] == 0
    assert with_raw(report, tmp_path, load(), load(slower=0.4))[0] == 0
    assert with_raw(report, tmp_path, load(), load(slower=2.5))[0] == 1


def test_a_partial_stage_is_not_judged(report):
    cut = changed(load(), "stages", 2, "partial", value=True) | {"partial": True}
    status, said = report(load(), cut)
    assert status == 3
    assert "Second run: partial" in said


def test_raw_lines_give_latencies_their_intervals(report, tmp_path):
    _, said = with_raw(report, tmp_path, load(), load(slower=1.1))
    row = line_of(said, "TPOT p50 ms, 1/s")
    assert " to " in row
    assert row.endswith("unclear")


def test_raw_lines_of_another_load_are_refused(report, tmp_path):
    path = tmp_path / "raw.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in raw_lines(load())))
    status, said = report(load(), load(slower=1.1), "--raw", str(path), str(path))
    assert status == 1
    assert "requests of stage 1/s are not those of the report" in said


def test_percentiles_that_few_requests_cannot_tell_are_not_judged(report):
    _, said = report(load(), load(slower=1.5))
    assert "TPOT p90 ms, 1/s" in said
    assert "TPOT p99 ms" not in said
    assert "Percentiles are judged where enough requests were answered: p99 of 368." in said


def test_tau_has_an_interval_where_passes_were_counted():
    found = cells(comparison_of(comparison(*SMALL)))["tau, mt_bench, batch size 1"].estimate
    assert found.low < found.value == 2.9 < found.high
    alone = cells(load_of(load()))["tau, 1/s"]
    assert alone.estimate.low == alone.estimate.value == alone.estimate.high
    assert alone.fault


def test_taus_interval_counts_answers_once_however_many_rounds_repeat_them():
    def width(**changes):
        document = comparison(*SMALL)
        found = cells(comparison_of(document | {"workload": document["workload"] | changes}))
        estimate = found["tau, mt_bench, batch size 1"].estimate
        return estimate.high - estimate.low

    once = width(rounds=1)
    assert width(rounds=9) == pytest.approx(3 * once)
    assert width(rounds=9, temperature=1.0) == pytest.approx(3 * once)  # drawn with one seed


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{}", "no result file"), ("nonsense", "no result file"), ('{"format": "aerie-load/1"}', "not a load report")],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, capsys, content, sentence):
    path = tmp_path / "broken.json"
    path.write_text(content)
    good = write(comparison(*SMALL), tmp_path / "good.json")
    assert main(["report", str(good), str(path)]) == 1
    assert sentence in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.json"), "--html", str(tmp_path / "out.html")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.json"],
        ["a.json", "b.json", "c.json"],
        ["a.json", "--html", "x", "--anyway"],
        ["a.json", "b.json", "--raw", "a.jsonl"],
        ["a.json", "b.json", "--tolerance", "100%"],
        ["a.json", "b.json", "--tolerance", "-1"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_the_made_up_documents_are_what_the_formats_allow():
    assert len(comparison_of(comparison()).cells) == 30
    assert len(load_of(load()).stages) == 3
    assert documents.paper()["experiments"]
