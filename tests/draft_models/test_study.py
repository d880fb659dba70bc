"""Studies: each variant is a run of its own, measured alike, and a study that was interrupted goes on."""

import json

import pytest
import torch

from draft_models import cli
from draft_models.config import TrainConfig
from draft_models.experiment import Experiment, open_run
from draft_models.plot import draw
from draft_models.study import SCALING, TABLE_2
from draft_models.world import World
from tests.draft_models import tiny

NUMBERS = ("--draft-vocab-size", 40, "--held-out", 2, "--batch-tokens", 64, "--epochs", 1, "--num-steps", 2)


def study(name, target, home, out):
    arguments = ["study", name, "--target", target, "--data", home / "rows.jsonl", "--out", out, *NUMBERS]
    return cli.main([str(part) for part in arguments])


@pytest.fixture(scope="module")
def target(home, tmp_path_factory):
    """Eight layers: enough for taps by default."""
    directory = tmp_path_factory.mktemp("target")
    tiny.target(num_hidden_layers=8).model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (home / "target" / name).exists():
            (directory / name).write_bytes((home / "target" / name).read_bytes())
    return directory


@pytest.fixture(scope="module")
def table(home, target, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    assert study("table2", target, home, out) == 0
    return out


def test_table_2_trains_and_measures_every_variant(table):
    found = json.loads((table / "study.json").read_text())
    assert [row["variant"] for row in found["rows"]] == [variant.name for variant in TABLE_2]
    assert {len(row["n_alpha"]) for row in found["rows"]} == {5}  # measured alike, whatever they were trained for
    assert found["provenance"]["argv"][0]


def test_the_variants_are_those_of_the_paper(home, target, tmp_path):
    base = Experiment(target, (home / "rows.jsonl",), tmp_path, TrainConfig(position_survival=1))
    eagle, hass, unconstrained, fused = (variant.of(base, 8) for variant in TABLE_2)
    assert [run.taps for run in (eagle, hass, unconstrained, fused)] == [(8,), (8,), (8,), None]
    assert [run.recipe.feature_weight for run in (eagle, hass, unconstrained, fused)] == [10, 10, 0, 0]
    assert [run.recipe.num_steps for run in (eagle, hass, unconstrained, fused)] == [1, 3, 5, 5]


def test_an_interrupted_study_goes_on_where_it_was(home, target, table, tmp_path):
    recipe = TrainConfig(num_steps=2, batch_tokens=64, epochs=1)
    base = Experiment(target, (home / "rows.jsonl",), tmp_path, recipe, draft_vocab_size=40, held_out=2)
    interrupted, _ = open_run(TABLE_2[0].of(base, 8), World(torch.device("cpu")))
    interrupted.run(until=1)
    interrupted.save()
    assert study("table2", target, home, tmp_path) == 0
    rows, whole = (json.loads((out / "study.json").read_text())["rows"] for out in (tmp_path, table))
    assert [{**row, "hours": 0} for row in rows] == [{**row, "hours": 0} for row in whole]


def test_scaling_trains_on_nested_parts_and_measures_on_the_same_answers(home, target, tmp_path):
    assert study("scaling", target, home, tmp_path) == 0
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert [row["share"] for row in rows] == [variant.share for variant in SCALING]
    tokens = [row["training_tokens"] for row in rows]
    assert tokens == sorted(tokens)
    assert tokens[0] < tokens[-1]


def test_curves_are_drawn_for_runs_and_for_studies_and_the_same_twice(table, tmp_path):
    for number, sources in enumerate(([table / "eagle", table / "hass"], [table])):
        draw(sources, tmp_path / f"{number}.svg")
        draw(sources, tmp_path / "again.svg")
        picture = (tmp_path / f"{number}.svg").read_text()
        assert picture == (tmp_path / "again.svg").read_text()
        assert "held-out acceptance length" in picture


def test_a_directory_without_a_log_is_one_clear_line(tmp_path, capsys):
    assert cli.main(["plot", str(tmp_path), "--out", str(tmp_path / "x.svg")]) == 1
    assert "log.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "x.svg").exists()


def test_a_target_that_is_too_small_for_taps_is_an_error(home, tmp_path, capsys):
    assert study("scaling", home / "target", home, tmp_path) == 1
    assert "no default taps" in capsys.readouterr().err
