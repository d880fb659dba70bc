"""A values file for a machine and the runtime's profile for it say the same."""

import pytest

from service.runtime import profiles
from service.runtime.config import RuntimeConfig
from tests.deploy.chart.configuration import profile
from tests.deploy.chart.pods import RUNTIME, of_component
from tests.deploy.chart.render import CHART, rendered

THE_CHARTS_OWN = {"model", "host", "startup_budget_s", "drain_timeout_s", "speculation"}
"""Where a pod finds its model, its address and budgets; the tree is compared, the draft's place is not."""


@pytest.mark.parametrize("name", profiles.names())
def test_a_values_file_has_the_profile_of_its_machine(name: str) -> None:
    found = rendered(CHART / f"values-{name}.yaml")
    (pod,) = (pod for pod in of_component(found, RUNTIME) if pod.labels["aerie.dev/pool"] == "eagle")
    ours, theirs = profile(found, pod), profiles.load(name, {})
    assert settings(ours) == settings(theirs)
    assert ours.speculation.algorithm is theirs.speculation.algorithm
    assert ours.speculation.tree == theirs.speculation.tree


def settings(config: RuntimeConfig) -> dict[str, object]:
    return config.model_dump(exclude=THE_CHARTS_OWN)
