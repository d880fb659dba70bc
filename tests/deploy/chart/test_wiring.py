"""Objects that name one another mean the same thing: selectors, ports, routes, references, host names."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from fastapi import FastAPI
from starlette.routing import Match

from service.gateway.app import create_app
from service.gateway.settings import Settings
from tests.deploy.chart.configuration import gateway_config
from tests.deploy.chart.pods import GATEWAY, RUNTIME, Pod, environment, of_component, option, pods, port_number, selects
from tests.deploy.chart.render import (
    NAMESPACE,
    Object,
    Objects,
    defaults,
    each_values,
    name,
    of_kind,
    rendered,
)

SGLANG_ROUTES = {"/health", "/health_generate", "/ready", "/metrics", "/server_info"}
"""docs/sglang.md, HTTP surface."""


@functools.cache
def gateway() -> FastAPI:
    return create_app(Settings())


def answers(component: str, path: str) -> bool:
    """Whether there is such a route."""
    request = {"type": "http", "method": "GET", "path": path, "headers": []}
    of_gateway = any(route.matches(request)[0] is Match.FULL for route in gateway().routes)
    return of_gateway if component == GATEWAY else path in SGLANG_ROUTES


def serving(found: Objects) -> list[Pod]:
    return [pod for pod in pods(found) if pod.long_lived]


@each_values
def test_a_workload_selects_its_own_pods_and_no_other(values: Path) -> None:
    found = rendered(values)
    for workload in of_kind(found, "Deployment", "StatefulSet"):
        selector = workload["spec"]["selector"]["matchLabels"]
        assert {str(pod) for pod in serving(found) if selects(selector, pod)} == {name(workload)}


@each_values
def test_a_selector_has_nothing_that_an_upgrade_changes(values: Path) -> None:
    for workload in of_kind(rendered(values), "Deployment", "StatefulSet"):
        selector = workload["spec"]["selector"]["matchLabels"]
        assert not {"app.kubernetes.io/version", "helm.sh/chart", "app.kubernetes.io/managed-by"} & set(selector)


@each_values
def test_a_service_selects_pods_of_one_workload_and_its_ports_are_theirs(values: Path) -> None:
    found = rendered(values)
    for service in of_kind(found, "Service"):
        chosen = [pod for pod in serving(found) if selects(service["spec"]["selector"], pod)]
        assert len({str(pod) for pod in chosen}) == 1, name(service)
        for port in service["spec"]["ports"]:
            wanted = port.get("targetPort", port["port"])
            numbers = {port_number(pod.main, wanted) for pod in chosen}
            assert numbers <= {one["containerPort"] for one in chosen[0].main["ports"]}


def probes(pod: Pod) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Containers, and the requests that a node sends them."""
    for container in pod.containers:
        given = [container.get(kind, {}) for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
        given += container.get("lifecycle", {}).values()
        yield from ((container, one["httpGet"]) for one in given if "httpGet" in one)


@each_values
def test_every_probe_asks_a_route_that_exists_at_a_port_that_is_open(values: Path) -> None:
    asked = [(pod, *probe) for pod in serving(rendered(values)) for probe in probes(pod)]
    assert {pod.component for pod, *_ in asked} >= {GATEWAY}
    for pod, container, request in asked:
        assert answers(pod.component, request["path"]), request["path"]
        assert port_number(container, request["port"]) in {one["containerPort"] for one in container["ports"]}


@each_values
def test_liveness_never_depends_on_generation_and_readiness_is_readyz(values: Path) -> None:
    for pod in of_component(rendered(values), GATEWAY):
        assert pod.main["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert pod.main["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for pod in of_component(rendered(values), RUNTIME):
        assert environment(pod.main)["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
        assert pod.main["livenessProbe"].get("httpGet", {}).get("path") in (None, "/health", "/ready")


def test_a_route_that_is_none_would_be_seen() -> None:
    assert answers(GATEWAY, "/readyz")
    assert not answers(GATEWAY, "/ready")
    assert not answers(RUNTIME, "/readyz")


@each_values
def test_whatever_goes_to_the_gateway_from_outside_goes_to_its_service(values: Path) -> None:
    found = rendered(values)
    services = {one["metadata"]["name"]: one for one in of_kind(found, "Service")}
    for backend in backends(found):
        ports = services[backend["name"]]["spec"]["ports"]
        assert backend["port"] in [key for port in ports for key in (port["port"], port["name"])]


def backends(found: Objects) -> Iterator[dict[str, Any]]:
    """Of Ingresses and HTTPRoutes: service and port."""
    for one in of_kind(found, "Ingress"):
        for rule in one["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                (port,) = path["backend"]["service"]["port"].values()
                yield {"name": path["backend"]["service"]["name"], "port": port}
    for route in of_kind(found, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            yield from rule["backendRefs"]


@each_values
def test_the_gateways_runtimes_are_headless_services_of_the_release(values: Path) -> None:
    found = rendered(values)
    services = {one["metadata"]["name"]: one for one in of_kind(found, "Service")}
    for pool in gateway_config(found).pools:
        for replica in pool.replicas:
            url = urlsplit(replica)
            host, namespace, *rest = (url.hostname or "").split(".")
            assert (namespace, rest) == (NAMESPACE, ["svc", *defaults()["clusterDomain"].split(".")])
            assert url.scheme == "dns+http"
            assert services[host]["spec"]["clusterIP"] == "None"
            assert url.port in {port["port"] for port in services[host]["spec"]["ports"]}


@each_values
def test_a_pool_of_the_gateway_is_a_workload_and_its_limits_fit(values: Path) -> None:
    found = rendered(values)
    pools = {pool.name for pool in gateway_config(found).pools}
    assert {pod.labels["aerie.dev/pool"] for pod in of_component(found, RUNTIME)} == pools


def referenced(found: Objects) -> Iterator[tuple[str, str, str]]:
    """Who names which object: the pod, the kind, the name."""
    for pod in pods(found):
        spec = pod.spec
        yield str(pod), "ServiceAccount", spec["serviceAccountName"]
        yield from ((str(pod), "Secret", one["name"]) for one in spec.get("imagePullSecrets", []))
        for volume in spec.get("volumes", []):
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                yield from ((str(pod), kind, named) for kind, named in _sources(source))
        for container in pod.containers:
            origins = [*container.get("envFrom", []), *(one.get("valueFrom", {}) for one in container.get("env", []))]
            yield from ((str(pod), kind, named) for origin in origins for kind, named in _origins(origin))


def _sources(volume: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "configMap" in volume:
        yield "ConfigMap", volume["configMap"]["name"]
    if "secret" in volume:
        yield "Secret", volume["secret"].get("secretName") or volume["secret"]["name"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def _origins(origin: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kinds = {
        "configMapRef": "ConfigMap",
        "configMapKeyRef": "ConfigMap",
        "secretRef": "Secret",
        "secretKeyRef": "Secret",
    }
    yield from ((kinds[key], source["name"]) for key, source in origin.items() if key in kinds)


def leaves(given: Any) -> Iterator[str]:
    """Every string among values."""
    if isinstance(given, dict):
        given = given.values()
    if isinstance(given, str):
        yield given
    elif not isinstance(given, int | float | None):
        yield from (leaf for one in given for leaf in leaves(one))


@each_values
def test_what_a_pod_names_is_in_the_release_or_named_in_the_values(values: Path) -> None:
    found = rendered(values)
    made = {(one["kind"], one["metadata"]["name"]) for one in found}
    given = set(leaves(yaml.safe_load(values.read_text())))
    for who, kind, named in referenced(found):
        assert (kind, named) in made or named in given, (who, kind, named)


@each_values
def test_the_chart_makes_no_secret(values: Path) -> None:
    assert of_kind(rendered(values), "Secret") == []


@each_values
def test_every_mount_is_of_a_volume_that_the_pod_has_and_every_volume_is_mounted(values: Path) -> None:
    for pod in pods(rendered(values)):
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.spec.get("volumes", [])}, str(pod)
        for container in pod.containers:
            places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(places) == len(set(places)), str(pod)


@each_values
def test_a_scaler_scales_a_workload_of_the_release_which_has_no_number_of_its_own(values: Path) -> None:
    found = rendered(values)
    workloads = {name(one): one for one in found}
    for scaler in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in workloads[f"{target.get('kind', 'Deployment')}/{target['name']}"]["spec"]


def ingress(found: Objects, pod: Pod) -> list[Object] | None:
    """The ingress rules that hold for a pod; None where no policy does."""
    policies = [one["spec"] for one in of_kind(found, "NetworkPolicy")]
    mine = [one for one in policies if selects(one["podSelector"].get("matchLabels", {}), pod)]
    mine = [one for one in mine if "Ingress" in one["policyTypes"]]
    return [rule for one in mine for rule in one.get("ingress", [])] if mine else None


def names_peer(rule: Object, peer: Pod) -> bool:
    selectors = [
        one.get("podSelector", {}).get("matchLabels", {}) for one in rule.get("from", []) if "podSelector" in one
    ]
    return any(selects(selector, peer) for selector in selectors)


def is_let_in(rules: list[Object] | None, peer: Pod) -> bool:
    """By a rule for everybody, or one for such pods."""
    return rules is None or any("from" not in rule or names_peer(rule, peer) for rule in rules)


@each_values
def test_the_network_lets_gateways_and_prometheus_reach_runtimes_and_nobody_else(values: Path) -> None:
    found = rendered(values)
    (gateway,) = of_component(found, GATEWAY)
    for runtime in of_component(found, RUNTIME):
        rules = ingress(found, runtime)
        assert is_let_in(rules, gateway), str(runtime)
        for rule in rules or []:
            assert rule.get("from"), "everybody may come in"
            assert {port_number(runtime.main, port["port"]) for port in rule.get("ports", [])} <= {30000}
        assert rules is None or any(is_elsewhere(rule) for rule in rules), "Prometheus may not"
        for peer in (peer for rule in rules or [] for peer in rule["from"] if "namespaceSelector" in peer):
            assert peer["podSelector"]["matchLabels"], "a whole namespace may come in"


def is_elsewhere(rule: Object) -> bool:
    """Whether it lets pods of another namespace in, as Prometheus is."""
    return any({"namespaceSelector", "ipBlock"} & peer.keys() for peer in rule["from"])


@each_values
def test_the_network_lets_the_test_and_prometheus_reach_gateways(values: Path) -> None:
    found = rendered(values)
    (gateway,) = of_component(found, GATEWAY)
    rules = ingress(found, gateway)
    for test in [pod for pod in pods(found) if not pod.long_lived]:
        assert is_let_in(rules, test), str(test)
    assert rules is None or any("from" not in rule or is_elsewhere(rule) for rule in rules)


@each_values
def test_the_test_asks_the_gateways_service(values: Path) -> None:
    found = rendered(values)
    services = {one["metadata"]["name"]: one for one in of_kind(found, "Service")}
    for test in [pod for pod in pods(found) if not pod.long_lived]:
        url = urlsplit(option(test.main, "--url") or "")
        service = services[url.hostname or ""]
        assert selects(service["spec"]["selector"], *of_component(found, GATEWAY))
        assert (url.port or 80) in {port["port"] for port in service["spec"]["ports"]}


@each_values
def test_who_may_send_is_let_in_and_names_can_be_looked_up(values: Path) -> None:
    found = rendered(values)
    for pod in serving(found):
        policies = [one["spec"] for one in of_kind(found, "NetworkPolicy")]
        mine = [one for one in policies if selects(one["podSelector"].get("matchLabels", {}), pod)]
        egress = [rule for one in mine if "Egress" in one["policyTypes"] for rule in one.get("egress", [])]
        if not any("Egress" in one["policyTypes"] for one in mine):
            continue
        open_ports = {(port.get("protocol", "TCP"), port["port"]) for rule in egress for port in rule.get("ports", [])}
        anywhere = any("ports" not in rule and "to" not in rule for rule in egress)
        assert anywhere or {("UDP", 53), ("TCP", 53)} <= open_ports, str(pod)
        if pod.component == GATEWAY:
            runtimes = of_component(found, RUNTIME)
            to = [{"from": rule.get("to", [])} for rule in egress]
            assert all(any(names_peer(rule, runtime) for rule in to) for runtime in runtimes)


@each_values
def test_monitors_select_services_and_scrape_metrics(values: Path) -> None:
    found = rendered(values)
    for monitor in of_kind(found, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        chosen = [one for one in of_kind(found, "Service") if selector.items() <= one["metadata"]["labels"].items()]
        assert chosen, name(monitor)
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint.get("path", "/metrics") == "/metrics"
            for service in chosen:
                assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}, name(service)
