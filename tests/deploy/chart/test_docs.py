"""Values that the documentation shows are values of the chart."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.chart.render import CHART, H100, VALUES, of_kind, rendered, schema, template
from tests.deploy.chart.test_manifests import complaint
from tests.deploy.queries import ROOT

FENCED = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
EVERYTHING = CHART / "ci/everything-values.yaml"


def shown() -> Iterator[tuple[str, list[str]]]:
    """Blocks with a value of the chart, each after those before it on its page; other files are shown too."""
    for page in ("deploy.md", "rollout.md"):
        blocks: list[str] = []
        for block in FENCED.findall((ROOT / "docs" / page).read_text()):
            content = yaml.safe_load(block)
            if isinstance(content, dict) and schema()["properties"].keys() & content.keys():
                blocks = [*blocks, block]
                yield f"{page}: {block.splitlines()[0]}", blocks


BLOCKS = dict(shown())


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_values_in_the_documentation_render_on_top_of_a_profile(blocks: list[str], tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.yaml" for number in range(len(blocks))]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(block)
    done = template(H100, *files)
    assert done.returncode == 0, done.stderr


def test_both_pages_show_values() -> None:
    assert {title.partition(":")[0] for title in BLOCKS} == {"deploy.md", "rollout.md"}


def test_egress_rules_in_the_comments_of_the_values_are_rules(tmp_path: Path) -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    rules = [yaml.safe_load(line.strip("# "))[0] for line in lines if line.startswith("  #   - {to:")]
    assert len(rules) == 4
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"networkPolicy": {"gatewayEgress": rules, "runtimeEgress": rules}}))
    for policy in of_kind(rendered(H100, values), "NetworkPolicy"):
        assert [rule for rule in rules if rule not in policy["spec"]["egress"]] == []
        assert complaint(policy, "1.30") is None


def test_what_values_add_to_workloads_service_and_scalers_is_there() -> None:
    assert EVERYTHING in VALUES
    found = rendered(EVERYTHING)
    for workload in of_kind(found, "Deployment"):
        assert workload["metadata"]["annotations"] == {"example.com/note": "1"}
    (service,) = [one for one in of_kind(found, "Service") if one["spec"].get("type") == "LoadBalancer"]
    wanted = {"externalTrafficPolicy": "Local", "loadBalancerClass": "example.com/lb"}
    assert wanted.items() <= service["spec"].items()
    assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    for scaler in of_kind(found, "ScaledObject"):
        assert scaler["spec"]["triggers"][0]["authenticationRef"] == {"name": "prometheus"}
