"""Dashboards: behind nothing, valid for Grafana, and readable."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from scripts.dashboards.__main__ import main
from tests.deploy.queries import DASHBOARDS, RUNBOOK, panels

register_default_plugins()
each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def unknown(given: Any, understood: Any, place: str = "") -> Iterator[str]:
    """What Grafana's models did not take over from what they were given; defaults they add are fine."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key in understood:
                yield from unknown(value, understood[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}"
    elif isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        for number, pair in enumerate(zip(given, understood, strict=True)):
            yield from unknown(*pair, f"{place}/{number}")
    elif given != understood:
        yield f"{place}: {given!r} became {understood!r}"


def through_grafanas_models(content: dict[str, Any]) -> dict[str, Any]:
    understood: dict[str, Any] = json.loads(JSONEncoder().encode(Dashboard.from_json(content)))
    return understood


def test_the_files_are_what_the_code_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dashboards", "--check"])
    assert main() == 0
    assert [path.stem for path in DASHBOARDS] == ["draft-quality", "fleet", "service", "speculation"]


@each_dashboard
def test_grafanas_own_models_know_every_field(path: Path) -> None:
    content = json.loads(path.read_text())
    assert list(unknown(content, through_grafanas_models(content))) == []


def test_a_field_that_grafana_does_not_know_would_be_seen() -> None:
    content = json.loads(DASHBOARDS[0].read_text())
    content["panels"][0]["fieldConfig"]["defaults"]["custom"]["lineWeight"] = 2
    content["panels"][0]["targets"][0]["expression"] = "up"
    content["panels"][0]["titel"] = "?"
    assert len(list(unknown(content, through_grafanas_models(content)))) == 3


@each_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(path: Path) -> None:
    assert len({panel["id"] for panel in panels(path)}) == len(panels(path))
    places = [panel["gridPos"] for panel in panels(path)]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


@each_dashboard
def test_a_panel_asks_a_question_and_says_what_to_do(path: Path) -> None:
    for panel in panels(path):
        assert panel["title"].endswith("?")
        assert len(panel["description"]) > 60
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_an_alert_that_a_description_names_is_in_the_runbook() -> None:
    named = {name for path in DASHBOARDS for name in re.findall(r"\bAerie[A-Z]\w+", path.read_text())}
    assert named
    assert named <= set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE))


def test_titles_are_asked_once_and_uids_differ() -> None:
    titles = [panel["title"] for path in DASHBOARDS for panel in panels(path)]
    assert len(titles) == len(set(titles))
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


@each_dashboard
def test_the_reader_chooses_data_source_namespace_and_pools_and_every_query_heeds_it(path: Path) -> None:
    content = json.loads(path.read_text())
    assert [variable["name"] for variable in content["templating"]["list"]] == ["datasource", "namespace", "pool"]
    for panel in panels(path):
        assert all(one["datasource"]["uid"] == "${datasource}" for one in [panel, *panel["targets"]])
        for target in panel["targets"]:
            selectors = re.findall(r"\{([^{}]*)\}", target["expr"])
            assert selectors
            assert all('namespace=~"$namespace"' in selector for selector in selectors)


def test_the_page_shows_a_picture_of_every_dashboard() -> None:
    page = RUNBOOK.with_name("dashboards.md")
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())
    assert sorted(Path(picture).stem for picture in shown) == [path.stem for path in DASHBOARDS]
    assert all((page.parent / picture).is_file() for picture in shown)
