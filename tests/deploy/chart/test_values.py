"""Values are documented, each one, and an unknown one is refused."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
import yaml

from scripts import docs
from service.gateway.settings import PREFIX, Settings
from service.runtime.config import RuntimeConfig
from tests.deploy.chart.render import CHART, VALUES, defaults, schema


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """A schema's node, its references followed."""
    while "$ref" in node:
        found: dict[str, Any] = schema()
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = {**found, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def branches(node: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping whose fields the schema lists."""
    node = resolve(node)
    if "properties" in node:
        yield place, node
        for key, child in node["properties"].items():
            yield from branches(child, f"{place}.{key}".lstrip("."))
    if isinstance(node.get("additionalProperties"), dict):
        yield from branches(node["additionalProperties"], f"{place}.*")
    if isinstance(node.get("items"), dict):
        yield from branches(node["items"], f"{place}[]")


def test_the_schema_is_a_schema() -> None:
    jsonschema.validators.validator_for(schema()).check_schema(schema())


def test_every_mapping_refuses_fields_that_it_does_not_know() -> None:
    assert [place for place, node in branches(schema()) if node.get("additionalProperties") is not False] == []


def differences(values: Any, node: dict[str, Any], place: str = "") -> Iterator[str]:
    """Fields that only one of values.yaml and the schema has; an empty default leaves its fields to the reader."""
    fields = resolve(node).get("properties")
    if fields is None or not isinstance(values, dict) or not values:
        return
    yield from (f"{place}.{key}".lstrip(".") for key in fields.keys() ^ values.keys())
    for key in fields.keys() & values.keys():
        yield from differences(values[key], fields[key], f"{place}.{key}".lstrip("."))


def test_the_schema_and_the_defaults_have_the_same_fields() -> None:
    in_one_only = set(differences(defaults(), schema()))
    assert {field for field in in_one_only if not field.startswith("runtime.profile.")} == set()


def test_the_schemas_profile_is_the_runtimes_without_what_the_chart_adds() -> None:
    fields = resolve(resolve(schema()["properties"]["runtime"])["properties"]["profile"])["properties"]
    added = {"model", "served_model_name", "host", "port", "speculation", "startup_budget_s", "drain_timeout_s"}
    added |= {"nodes", "node_rank", "dist_init_addr"}
    assert set(fields) == set(RuntimeConfig.model_fields) - added


def test_the_schemas_settings_are_the_gateways_without_what_the_chart_sets() -> None:
    fields = resolve(resolve(schema()["properties"]["gateway"])["properties"]["settings"])["properties"]
    ours = {"host", "port", "workers", "upstream", "config", "keys", "calibration", "hardware"}
    ours |= {"drain_notice_s", "drain_timeout_s"}
    assert set(fields) == {f"{PREFIX}{name.upper()}" for name in set(Settings.model_fields) - ours}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_values_files_fit_the_schema(values: Any) -> None:
    jsonschema.validate(yaml.safe_load(values.read_text()), {**schema(), "required": []})


def undocumented(lines: list[str]) -> Iterator[str]:
    """Values that have no comment of their own (`# --`), nor has what they are in."""
    inside: list[tuple[int, bool]] = []
    for before, line in pairwise(["", *lines]):
        field = re.match(r"( *)[\w.-]+:(.*)", line)
        if field is None:
            continue
        indent = len(field[1])
        inside = [one for one in inside if one[0] < indent]
        documented = before.strip().startswith("# -- ") or any(of_parent for _, of_parent in inside)
        inside.append((indent, documented))
        if field[2] and not documented:
            yield line


def test_every_value_has_a_comment() -> None:
    assert list(undocumented((CHART / "values.yaml").read_text().splitlines())) == []


def test_a_value_without_a_comment_would_be_seen() -> None:
    assert list(undocumented(["a:", "  # -- Of b.", "  b: 1", "  c: 2", "# -- Of d.", "d:", "  e: 3"])) == ["  c: 2"]


def test_the_readme_lists_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["docs", "--check"])
    assert docs.main() == 0
    assert "<!-- values -->" in (CHART / "README.md").read_text()
