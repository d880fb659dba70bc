"""`aerie-bench tune` with scripted runtimes, and the files it leaves.

Only order and files matter here: the decision is tested on known costs (test_search.py).
"""

import json
import shlex
import sys
from contextlib import asynccontextmanager

import pytest
import yaml

from loadtest.cli import main
from loadtest.errors import EndpointError
from loadtest.tuning import export, runs
from loadtest.tuning.evidence import Evidence, Traffic, candidates
from loadtest.tuning.recording import Recording
from loadtest.tuning.result import Tuning, Workload
from loadtest.tuning.search import Found, Search
from loadtest.tuning.tune import Place, tuning_of
from service.gateway.policy import BatchSizeLimits
from service.runtime import profiles
from tests.loadtest.scripted_runtime import ScriptedRuntime, served, speculative, stream_of
from tests.loadtest.tuning import made

QUICK = ["--batch-sizes", "1=3,2", "--rounds", "2", "--passes", "1", "--max-tokens", "8", "--runs", "2"]
QUICK += ["--hardware", "A machine"]
"""Of batch sizes 1 and 2 the first has three quarters of the time."""
DETAILS = {"spec_num_correct_drafts": 8, "spec_num_proposed_drafts": 16, "spec_verify_ct": 8}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A recording, a directory for results, and runtimes by the words they are started with."""
    made.growing(tmp_path / "record.jsonl", widest="5/4/16")
    started = []

    @asynccontextmanager
    async def start(endpoint, profile, say):
        words = shlex.split(endpoint.text)
        started.append(endpoint.text)
        if words[0] == "baseline":
            runtime = ScriptedRuntime(pieces=stream_of(range(1, 17)))
        else:
            numbers = dict(zip(words[1::2], map(int, words[2::2]), strict=True))
            tree = {f"speculative_{name[2:].replace('-', '_')}": number for name, number in numbers.items()}
            runtime = speculative(server_info=tree, pieces=stream_of(range(1, 17, 2), details=DETAILS))
        with served(runtime) as running:
            yield running.url
        started.append(f"end of {endpoint.text}")

    monkeypatch.setattr(runs, "started", start)
    settings = profiles.load("cpu", {}).model_dump(mode="json")
    monkeypatch.setattr(export, "settings", lambda profile: settings)
    return tmp_path, started


def tune(place, *more, record=None):
    arguments = ["tune", "--record", record or place / "record.jsonl", "--output", place / "tuned", *QUICK, *more]
    return main([str(part) for part in arguments])


def test_a_tuning_leaves_four_files_that_its_readers_accept(place, capsys):
    path, started = place
    assert tune(path) == 0
    tuning = Tuning.load(path / "tuned" / "tuning.json")
    assert [round(band.share, 2) for band in tuning.bands] == [0.75, 0.25]
    assert 1 <= len(tuning.runs) <= 2
    assert not tuning.partial
    assert started[0] == "baseline"
    assert started[1] == "speculation --num-steps 2 --eagle-topk 1 --num-draft-tokens 3"
    assert started[2] == f"end of {started[1]}"
    assert started[-1] == "end of baseline"
    shown = capsys.readouterr().out
    assert "speedup of the traffic" in shown
    config = profiles.load(str(path / "tuned" / "profile.yaml"), {})
    values = yaml.safe_load((path / "tuned" / "values.yaml").read_text())["pools"]["eagle"]
    if tuning.chosen:
        assert config.speculation.tree == tuning.chosen
        assert values["kind"] == "speculative"
        assert "{num_steps}/{eagle_topk}/{num_draft_tokens}".format(**values["speculation"]) == tuning.chosen
    else:
        assert not config.speculation.enabled
        assert values["kind"] == "baseline"
    tiers = json.loads((path / "tuned" / "adaptive.json").read_text())
    assert all(isinstance(tier["candidate_steps"][0], int) for tier in tiers.values())
    assert list(tiers) == ["1", "2"]


def decided(recording, costs_s, batch_sizes=(1, 4, 8)):
    """What a tuning on known costs comes to."""
    evidence = Evidence.of(
        recording, Traffic.of(recording, {}, dict.fromkeys(batch_sizes, 1.0)), [made.run("2/1/3", costs_s)]
    )
    search = Search(recording, evidence.traffic, candidates(recording.widest), 1)
    workload = Workload(prompts="bundled", prompts_sha256="c" * 64, max_tokens=8, rounds=3, passes=1)
    return tuning_of(["aerie-bench"], search, Found(evidence), Place("A machine", "a-model", "0.5.23", workload))


@pytest.fixture
def recording(tmp_path):
    return Recording.read(made.growing(tmp_path / "record.jsonl", widest="4/2/8"))


def test_where_it_pays_the_profile_is_the_tuned_one_with_another_tree(recording, tmp_path):
    tuning, before = decided(recording, (0.001, 0.001, 0, 0.0001)), profiles.load("b200", {})
    (tmp_path / "profile.yaml").write_text(export.profile_yaml(tuning, before.model_dump(mode="json")))
    after = profiles.load(str(tmp_path / "profile.yaml"), {})
    assert after.speculation.tree == tuning.chosen == "2/1/3"
    assert after.model_copy(update={"speculation": before.speculation}) == before


def test_where_it_does_not_pay_there_is_no_speculation_in_any_file(recording, tmp_path):
    tuning = decided(recording, (0.3, 0.1, 0.01, 0.1))
    settings = profiles.load("h100", {}).model_dump(mode="json")
    (tmp_path / "profile.yaml").write_text(export.profile_yaml(tuning, settings))
    assert not profiles.load(str(tmp_path / "profile.yaml"), {}).speculation.enabled
    values = yaml.safe_load(export.values_yaml(tuning, "eagle", "EAGLE3"))
    assert values == {"pools": {"eagle": {"kind": "baseline", "draft": None, "speculation": None}}}
    assert {tier["candidate_steps"][0] for tier in json.loads(export.tiers_json(tuning)).values()} == {0}
    assert tuning.text().startswith("no speculation: the best measured tree, 2/1/3, gives")


def test_the_thresholds_are_ones_that_the_gateway_takes(recording):
    tuning = decided(recording, (0.005, 0.001, 0, 0.0025))
    values = yaml.safe_load(export.values_yaml(tuning, "eagle", "EAGLE3"))
    limits = BatchSizeLimits.model_validate(values["gateway"]["policy"]["batch_size"])
    assert 4 <= limits.off_above < 8


def test_speculation_that_pays_for_small_batches_only_is_said_to(recording):
    tuning = decided(recording, (0.005, 0.001, 0, 0.004))
    assert tuning.chosen is None
    assert "it pays up to batch size" in tuning.text()
    assert "gateway" not in yaml.safe_load(export.values_yaml(tuning, "eagle", "EAGLE3"))


def test_runs_that_were_measured_decide_anew_for_another_traffic(place, recording):
    path, started = place
    (path / "known.json").write_text(decided(recording, made.COSTS_S).json_text())
    assert tune(path, "--reuse", path / "known.json", "--batch-sizes", "8", "--tasks", "code=1") == 0
    assert started == []
    tuning = Tuning.load(path / "tuned" / "tuning.json")
    assert tuning.tasks == {"code": 1.0}
    assert [band.batch_size for band in tuning.bands] == [8]
    assert tune(path, "--reuse", path / "known.json", "--batch-sizes", "8", "--chains") == 0
    assert tune(path, "--reuse", path / "known.json", "--batch-sizes", "16") == 1


def test_alone_the_baseline_is_ended_before_a_tree_is_started(place):
    path, started = place
    assert tune(path, "--alone", "--batch-sizes", "1") == 0
    assert started[:3] == [
        "baseline",
        "end of baseline",
        "speculation --num-steps 2 --eagle-topk 1 --num-draft-tokens 3",
    ]


def test_with_chains_only_chains_are_measured(place):
    path, _ = place
    assert tune(path, "--chains", "--batch-sizes", "1") == 0
    assert all(run.tree.split("/")[1] == "1" for run in Tuning.load(path / "tuned" / "tuning.json").runs)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--tasks", "poetry=1"], "has no such task"),
        (["--reuse", "none.json"], "none.json: No such file"),
        (["--prompts", "none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_started(place, capsys, more, reason):
    path, started = place
    assert tune(path, *more) == 1
    error = capsys.readouterr().err.strip()
    assert reason in error
    assert len(error.splitlines()) == 1
    assert started == []


def test_an_output_that_cannot_be_a_directory_is_refused_first(place, capsys):
    path, started = place
    (path / "tuned").write_text("a file")
    assert tune(path) == 1
    assert "cannot be made" in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize("text", ["0=1", "x=1", "1=0", "1=-2", "1="])
def test_weights_are_numbers_above_zero(place, capsys, text):
    path, _ = place
    with pytest.raises(SystemExit):
        tune(path, "--batch-sizes", text)


def test_what_a_profile_holds_is_asked_of_the_command(tmp_path, monkeypatch):
    aerie = tmp_path / "aerie"
    script = 'import json, sys\nif sys.argv[-1] == "bad": sys.exit("aerie: no profile")\n'
    aerie.write_text(f"#!{sys.executable}\n{script}print(json.dumps({{'settings': sys.argv[1:]}}))\n")
    aerie.chmod(0o755)
    monkeypatch.setattr(export, "program", lambda: str(aerie))
    assert export.settings("h100") == ["check", "--profile", "h100"]
    assert export.settings(None) == ["check"]
    with pytest.raises(EndpointError, match="aerie: no profile"):
        export.settings("bad")
