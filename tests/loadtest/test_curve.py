"""The curve file: strict, whole or not at all, and the same after a round trip."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loadtest import curve, files
from loadtest.curve import Curve
from loadtest.errors import CurveError, OutputError
from loadtest.table import render

POINT = {"batch_size": 1, "tokens_per_s": 24.1, "low": 23.8, "high": 24.4, "step_s": 0.0415}
GAIN = {
    "batch_size": 1,
    "tokens_per_s": 38.0,
    "cycle_s": 0.066,
    "acceptance_length": 2.6,
    "speedup": 1.58,
    "low": 1.5,
    "high": 1.66,
    "break_even_acceptance_length": 1.6,
}
DOCUMENT = {
    "format": "aerie-baseline-curve/1",
    "created": "2026-11-22T20:00:00+00:00",
    "commit": "abc1234",
    "argv": ["aerie-bench", "calibrate"],
    "versions": {"aerie": "0.1.0", "python": "3.11.9"},
    "valid_for": {
        "model": "smollm2",
        "sglang_version": "0.5.23",
        "device": "cpu",
        "hardware": "AMD EPYC, 2 cores",
        "flags": {
            "dtype": "bfloat16",
            "quantization": None,
            "kv_cache_dtype": "auto",
            "tp_size": 1,
            "dp_size": 1,
            "pp_size": 1,
            "ep_size": 1,
        },
    },
    "workload": {
        "prompts": "bundled",
        "prompts_sha256": "0" * 64,
        "max_tokens": 64,
        "temperature": 0.0,
        "mean_prompt_tokens": 43.1,
        "rounds": 3,
    },
    "baseline": [POINT, POINT | {"batch_size": 2}, POINT | {"batch_size": 8}],
    "speculative": {"algorithm": "EAGLE3", "tree": "3/4/8", "points": [GAIN, GAIN | {"batch_size": 8}]},
}
POSITIVE = st.floats(1e-6, 1e6)


def changed(path, value):
    document = copy.deepcopy(DOCUMENT)
    *way, last = path
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    return document


def parse(document):
    return Curve.model_validate_json(json.dumps(document))


def test_the_file_of_the_specification_is_read_and_written_as_it_is(tmp_path):
    path = tmp_path / "curve.json"
    parse(DOCUMENT).write(path)
    written = json.loads(path.read_text())
    assert written | {"created": DOCUMENT["created"]} == DOCUMENT
    assert written["created"] in ("2026-11-22T20:00:00Z", DOCUMENT["created"])
    assert curve.read(path) == parse(DOCUMENT)
    assert list(tmp_path.iterdir()) == [path]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True), POSITIVE, POSITIVE, POSITIVE)
def test_a_round_trip_changes_no_figure(batch_sizes, tokens_per_s, step_s, spread):
    point = {"tokens_per_s": tokens_per_s, "low": tokens_per_s / (1 + spread), "high": tokens_per_s + spread}
    points = [{"batch_size": size, "step_s": step_s, **point} for size in sorted(batch_sizes)]
    first = parse(DOCUMENT | {"baseline": points, "speculative": None})
    assert Curve.model_validate_json(first.json_text()) == first


@pytest.mark.parametrize(
    "place", [(), ("valid_for",), ("valid_for", "flags"), ("workload",), ("baseline", 0), ("speculative",)]
)
def test_an_unknown_key_is_refused_everywhere(place):
    with pytest.raises(ValidationError, match="Extra inputs"):
        parse(changed((*place, "more"), 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "aerie-baseline-curve/2"),
        (("created",), "2026-11-22T20:00:00"),
        (("created",), "today"),
        (("baseline",), []),
        (("baseline",), [POINT, POINT]),
        (("baseline",), [POINT | {"batch_size": 2}, POINT]),
        (("baseline", 0, "batch_size"), 0),
        (("baseline", 0, "batch_size"), 1.5),
        (("baseline", 0, "tokens_per_s"), 0),
        (("baseline", 0, "tokens_per_s"), "24.1"),
        (("baseline", 0, "step_s"), -0.1),
        (("baseline", 0, "low"), 24.2),
        (("baseline", 0, "high"), 24.0),
        (("speculative", "points"), []),
        (("speculative", "points"), [GAIN | {"batch_size": 3}]),
        (("speculative", "points"), [GAIN, GAIN]),
        (("speculative", "points", 0, "acceptance_length"), 0.9),
        (("speculative", "points", 0, "low"), 1.6),
        (("valid_for", "model"), ""),
        (("valid_for", "hardware"), " "),
        (("valid_for", "flags", "tp_size"), 0),
        (("workload", "prompts_sha256"), "abc"),
        (("workload", "temperature"), -1),
    ],
)
def test_a_wrong_value_is_refused(path, value):
    with pytest.raises(ValidationError):
        parse(changed(path, value))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(ValidationError):
        parse(changed(("baseline", 0, "step_s"), value))


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps(changed(("baseline", 1, "step_s"), 0))])
def test_a_broken_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(CurveError, match="not a baseline curve") as refused:
        curve.read(path)
    assert "\n" not in str(refused.value)


def test_the_sentence_names_the_field(tmp_path):
    path = tmp_path / "curve.json"
    path.write_text(json.dumps(changed(("baseline", 1, "step_s"), 0)))
    with pytest.raises(CurveError, match=r"baseline\.1\.step_s"):
        curve.read(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from loadtest import curve
from loadtest.errors import OutputError
measured = curve.read(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    measured.write(Path(sys.argv[2]))
except OutputError as error:
    print(error)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    whole, target = tmp_path / "whole.json", tmp_path / "target.json"
    parse(DOCUMENT).write(whole)
    target.write_text("as before")
    command = [sys.executable, "-c", FULL_DISK, str(whole), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "target.json: cannot be written (File too large); nothing was left there" in done.stdout
    assert target.read_text() == "as before"
    assert sorted(tmp_path.iterdir()) == [target, whole]


def test_where_no_file_can_be_is_found_out_before_and_after(tmp_path):
    missing = tmp_path / "missing" / "curve.json"
    for attempt in (files.require_writable, lambda path: parse(DOCUMENT).write(path)):
        with pytest.raises(OutputError, match=r"cannot be written \(No such file"):
            attempt(missing)
    with pytest.raises(OutputError, match="not a file"):
        files.require_writable(tmp_path)


def test_finding_out_leaves_nothing(tmp_path):
    path = tmp_path / "curve.json"
    files.require_writable(path)
    assert list(tmp_path.iterdir()) == []


def test_the_table_says_what_pays():
    low, high = GAIN | {"low": 0.7, "speedup": 0.8, "high": 0.9}, GAIN | {"batch_size": 8, "low": 0.9}
    table = render(parse(changed(("speculative", "points"), [low, high])))
    rows = {line.split()[0]: line.split() for line in table.splitlines()[4:]}
    assert rows["1"][-1] == "no"
    assert rows["2"][-1] == "-"
    assert rows["8"][-1] == "unclear"
    assert render(parse(DOCUMENT)).count("yes") == 2
    assert "speedup" not in render(parse(DOCUMENT | {"speculative": None}))
