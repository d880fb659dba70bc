"""Rules and alerts by promtool, and their runbook."""

import subprocess
from pathlib import Path

import pytest
import yaml

from scripts import tools
from tests.deploy.queries import ALERTS, DASHBOARDS, RULES, RUNBOOK, alert_id, recorded, rules, sections

CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))


@pytest.fixture(scope="module")
def promtool() -> Path:
    return tools.find().promtool


def alerts() -> list[dict]:
    return rules(ALERTS)


def test_promtool_finds_nothing_wrong_with_the_rules(promtool: Path) -> None:
    checked = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES, ALERTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_promtool_has_every_expectation_met(promtool: Path, case: Path) -> None:
    tested = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def expected(case: dict) -> list[tuple[str, set[str]]]:
    """The alerts that a case looks for, in the order of the times, and the ids of those that it wants to see."""
    tests = case.get("alert_rule_test", [])
    return [
        (test["alertname"], {alert_id(one["exp_labels"], test["alertname"]) for one in test["exp_alerts"]})
        for test in tests
    ]


def cases() -> list[dict]:
    return [case for file in CASES for case in yaml.safe_load(file.read_text())["tests"]]


def test_every_alert_is_seen_firing() -> None:
    firing = {alert for case in cases() for _, at_once in expected(case) for alert in at_once}
    assert firing == {alert_id(alert["labels"], alert["alert"]) for alert in alerts()}


def test_every_alert_is_seen_silent_where_it_fires_later() -> None:
    silent = set()
    for looks in map(expected, cases()):
        for number, (name, firing) in enumerate(looks):
            silent |= firing if (name, set()) in looks[:number] else set()
    assert silent == {alert_id(alert["labels"], alert["alert"]) for alert in alerts()}


def test_the_cases_evaluate_recording_rules_before_alerts() -> None:
    groups = [group["name"] for path in (RULES, ALERTS) for group in yaml.safe_load(path.read_text())["groups"]]
    orders = [yaml.safe_load(case.read_text()).get("group_eval_order") for case in CASES if case.stem != "recording"]
    assert all(order == groups for order in orders)


def test_names_of_recording_rules_say_level_metric_and_operation_and_are_given_once() -> None:
    names = [rule["record"] for rule in rules(RULES)]
    assert len(names) == len(set(names))
    assert all(name.count(":") == 2 and all(name.split(":")) for name in names)


def test_every_recorded_series_is_used() -> None:
    text = "\n".join(path.read_text() for path in (RULES, ALERTS, RUNBOOK, *DASHBOARDS))
    assert [name for name in sorted(recorded()) if text.count(name) < 2] == []


def test_every_alert_has_a_severity_a_summary_a_description_and_its_runbook() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    assert set(sections()) == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("name", sections())
def test_a_runbook_section_says_what_it_means_how_to_check_and_what_to_do(name: str) -> None:
    text = sections()[name]
    places = [text.find(part) for part in ("**Means**", "**Check**", "```promql\n", "```sh\n", "**Do**")]
    assert -1 not in places
    assert places == sorted(places)
