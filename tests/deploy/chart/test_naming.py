"""Awkward names give valid ones."""

import json

import pytest

from tests.deploy.chart.configuration import gateway_config
from tests.deploy.chart.render import CPU, NAMESPACE, name, objects, of_kind, rendered, template
from tests.deploy.chart.test_manifests import check_names

LONG = "r" * 53
LONG_POOL = "p" * 24
BASELINE = {"kind": "baseline"}
AWKWARD = {
    "a release of 53 characters": (LONG, ()),
    "one that ends in a hyphen where it is cut": ("a" * 37 + "-" + "b" * 10, ()),
    "a long pool beside it": (LONG, (f"pools={json.dumps({LONG_POOL: BASELINE})}",)),
    "the chart's own name": ("aerie", ()),
    "another name of the chart": ("demo", ('nameOverride="eagles"',)),
    "a long one": ("demo", (f'nameOverride="{"n" * 60}"',)),
    "a name in place of all": ("demo", ('fullnameOverride="nest"',)),
    "one of one letter": ("a", ()),
    "a long one with all that is watched": (
        LONG,
        tuple(f"monitoring.{part}.enabled=true" for part in ("serviceMonitor", "rules", "dashboards")),
    ),
}


@pytest.mark.parametrize(("release", "sets"), AWKWARD.values(), ids=AWKWARD)
def test_names_are_valid_and_differ(release: str, sets: tuple[str, ...]) -> None:
    found = rendered(CPU, release=release, sets=sets)
    assert len({name(one) for one in found}) == len(found)
    for one in found:
        check_names(one)
    services = {one["metadata"]["name"] for one in of_kind(found, "Service")}
    assert len(gateway_config(found).pools) == len(services) - 1


def test_two_releases_in_one_namespace_share_no_name_and_select_none_of_each_others_pods() -> None:
    one, other = rendered(CPU, release="one"), rendered(CPU, release="other")
    assert not {name(found) for found in one} & {name(found) for found in other}
    selectors = [json.dumps(found["spec"]["selector"]) for found in (*one, *other) if found["kind"] == "Deployment"]
    assert len(selectors) == len(set(selectors))


def test_a_namespace_is_in_the_runtimes_host_names() -> None:
    found = objects(template(CPU, namespace="elsewhere").stdout)
    assert all(".elsewhere.svc." in replica for pool in gateway_config(found).pools for replica in pool.replicas)
    assert NAMESPACE not in json.dumps(found)
