"""What is asked of Prometheus is what a gateway tells."""

import re

import pytest

from scripts import tools
from scripts.dashboards.prometheus import running
from service import cli
from service.gateway.metrics import Metrics
from service.rollout import evidence, situation
from service.rollout.evidence import ACCEPTANCE, FIRST_TOKEN, OUTPUT_TOKEN, SPEED
from service.rollout.prometheus import Prometheus
from service.rollout.situation import Pair
from tests.service.gateway.conftest import until
from tests.service.gateway.scripted_upstream import ScriptedUpstream, served
from tests.service.gateway.test_drain import process
from tests.service.gateway.test_fleet import eagle, pool, written

PAIR = Pair("next", "eagle")
POOLS = ["--canary", "next", "--stable", "eagle"]


def labels(name):
    """Of a series that a gateway has, beside those that Prometheus adds."""
    metrics = vars(Metrics()).values()
    found = {one._name: set(one._labelnames) for one in metrics if hasattr(one, "_labelnames")}
    return found[re.sub(r"_(total|sum|count)$", "", name)]


@pytest.mark.parametrize("rate", [SPEED, ACCEPTANCE, FIRST_TOKEN, OUTPUT_TOKEN], ids=lambda rate: rate.events)
def test_every_rate_has_its_strata_in_both_counters(rate):
    wanted = {"pool", *rate.strata.split(", ")}
    assert wanted <= labels(rate.events)
    assert wanted <= labels(rate.exposure)


@pytest.mark.parametrize("module", [evidence, situation], ids=lambda module: module.__name__)
def test_every_other_query_names_series_by_labels_that_they_have(module):
    queries = " ".join(value for value in vars(module).values() if isinstance(value, str) and "aerie_" in value)
    assert {"pool"} <= set.intersection(*map(labels, re.findall(r"aerie_\w+", queries)))
    assert {"outcome"} <= labels("aerie_pool_requests_total")
    assert {"result"} <= labels("aerie_losslessness_checks_total")
    assert {"version", "kind"} <= labels("aerie_pool_info")


def test_a_gateways_pools_are_found_with_their_versions_and_shares(tmp_path, capsys):
    runtime = ScriptedUpstream()
    with served(runtime) as runtime.url:
        canary = pool("next", runtime, version="v2", weight=0.25)
        config = written(tmp_path, eagle(runtime, version="v1", weight=0.75), canary)
        with process(config=config, log_level="error") as (_, client):
            try:
                scraping = running(tmp_path, {"aerie": [str(client.base_url).removeprefix("http://")]})
                with scraping as prometheus:
                    asked = Prometheus(prometheus.url)
                    found = until(lambda: asked.at(situation.STATES % {"of": PAIR.matchers}, asked.now_s()), "a scrape")
                    assert cli.main(["rollout", "judge", "--prometheus", prometheus.url, *POOLS]) == 3
            except tools.ToolsError as error:
                pytest.skip(str(error))
    told = {tuple(one.labels[label] for label in ("pool", "version", "weight")) for one in found}
    assert told == {("eagle", "v1", "0.75"), ("next", "v2", "0.25")}
    assert capsys.readouterr().out.splitlines()[-1].startswith("hold next: ")
