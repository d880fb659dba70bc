"""docker-compose.yml: of the specification's schema, hardened, and its files and commands used by what they are for."""

import contextlib
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtest.launch import free_port
from scripts import tools
from scripts.dashboards.prometheus import Prometheus
from service.gateway.config import GatewayConfig
from service.gateway.strict_yaml import parse
from service.runtime import profiles
from tests.deploy.queries import CHART
from tests.deploy.stages import ROOT
from tests.e2e.servers import Server, gateway

FILE = ROOT / "docker-compose.yml"
DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")
OURS = ("gateway", "runtime-cpu", "runtime-gpu")
RUNTIMES = {"runtime-cpu": "cpu", "runtime-gpu": "gpu"}
READY_S = 60


@cache
def services() -> dict[str, dict[str, Any]]:
    """As compose reads them where nothing is set in the environment."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(DEFAULT.sub(r"\1", FILE.read_text()))["services"]
    return content


def binds(service: str) -> dict[str, Path]:
    """What it is given of this repository, by the place where it finds that."""
    mounts = [one for one in services()[service]["volumes"] if isinstance(one, dict)]
    assert all(one["read_only"] for one in mounts)
    return {one["target"]: ROOT / one["source"] for one in mounts}


def names_of(service: str) -> dict[str, set[str]]:
    """What it is called, by network."""
    networks = services()[service]["networks"]
    aliases = networks if isinstance(networks, dict) else dict.fromkeys(networks)
    return {network: {service, *(given or {}).get("aliases", [])} for network, given in aliases.items()}


def test_the_file_is_of_the_compose_specification() -> None:
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", services())
def test_a_service_may_do_little_and_comes_back(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", services())
def test_an_image_is_built_here_or_pinned_by_digest(name: str) -> None:
    service = services()[name]
    assert ("build" in service) == (name in OURS)
    assert name in OURS or re.search(r":v?[\d.]+@sha256:[0-9a-f]{64}$", service["image"])


def test_our_images_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert all(services()[name]["image"].startswith(f"aerie:{version}-") for name in OURS)


@pytest.mark.parametrize("name", services())
def test_what_is_mounted_is_there(name: str) -> None:
    assert all(path.exists() for path in binds(name).values())


def test_rules_and_dashboards_are_the_charts_own() -> None:
    assert binds("prometheus")["/etc/prometheus/rules"].samefile(CHART / "rules")
    assert binds("grafana")["/etc/aerie/dashboards"].samefile(CHART / "dashboards")


def test_every_volume_and_network_that_is_used_is_declared() -> None:
    content = yaml.safe_load(FILE.read_text())
    named = {
        one.split(":")[0] for name in services() for one in services()[name].get("volumes", []) if isinstance(one, str)
    }
    assert named == content["volumes"].keys()
    assert {network for name in services() for network in names_of(name)} == content["networks"].keys()


def test_exactly_one_runtime_starts_and_the_gateway_waits_for_it() -> None:
    assert {name: services()[name]["profiles"] for name in RUNTIMES} == {name: [one] for name, one in RUNTIMES.items()}
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()
    waited_for = services()["gateway"]["depends_on"]
    assert waited_for == {name: {"condition": "service_healthy", "required": False} for name in RUNTIMES}


def targets() -> dict[str, list[str]]:
    """`host:port` by who asks them."""
    config = yaml.safe_load(binds("prometheus")["/etc/prometheus/prometheus.yml"].read_text())
    scraped = [one["targets"] for job in config["scrape_configs"] for one in job["static_configs"]]
    (source,) = yaml.safe_load((ROOT / "deploy/compose/grafana/datasources.yaml").read_text())["datasources"]
    pools = parse(binds("gateway")["/etc/aerie/gateway.yaml"].read_bytes(), GatewayConfig).pools
    return {
        "prometheus": [target for found in scraped for target in found],
        "gateway": [str(url).removeprefix("http://").rstrip("/") for pool in pools for url in pool.replicas],
        "grafana": [source["url"].removeprefix("http://")],
    }


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
@pytest.mark.parametrize("asking", targets())
def test_who_is_asked_answers_to_that_name_on_a_common_network(asking: str, profile: str) -> None:
    running = [name for name, service in services().items() if service.get("profiles", [profile]) == [profile]]
    for target in targets()[asking]:
        host, _, port = target.partition(":")
        common = [(one, network) for one in running for network in names_of(asking)]
        (asked,) = {one for one, network in common if host in names_of(one).get(network, ())}
        assert port in {"gateway": "8000", "prometheus": "9090"}.get(asked, "30000")


def test_nobody_can_log_in_to_grafana_and_everybody_may_look() -> None:
    settings = services()["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert not any("PASSWORD" in name for name in settings)


def test_grafana_finds_the_dashboards_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load((ROOT / "deploy/compose/grafana/dashboards.yaml").read_text())["providers"]
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    place = binds("grafana")[provider["options"]["path"]]
    assert (place / Path(home).name).is_file()


@pytest.mark.parametrize("profile", sorted({*profiles.names()} - {"cpu"}))
def test_the_gpu_runtimes_profile_may_be_any_for_one_gpu(profile: str) -> None:
    config = profiles.load(profile, {"host": "0.0.0.0"})
    assert config.tp_size == 1
    assert config.drain_timeout_s < float(services()["runtime-gpu"]["stop_grace_period"].removesuffix("s"))


def test_the_cpu_runtimes_command_is_one_that_could_start() -> None:
    _, *options = services()["runtime-cpu"]["command"]
    command = [sys.executable, "-m", "service.cli", "check", *options, "--runtime-port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert '"--host",\n    "0.0.0.0"' in done.stdout, done.stderr


@pytest.fixture
def prometheus_files(tmp_path: Path) -> Path:
    """What the container of Prometheus has at /etc/prometheus."""
    for target, source in binds("prometheus").items():
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / Path(target).name)
    return tmp_path


def test_promtool_accepts_the_configuration_and_finds_the_rules(prometheus_files: Path) -> None:
    try:
        promtool = tools.find().promtool
    except tools.ToolsError as error:
        pytest.skip(str(error))
    command = [promtool, "check", "config", prometheus_files / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 rule files found" in done.stdout


@contextlib.contextmanager
def scraping(folder: Path, addresses: dict[str, str]) -> Iterator[Prometheus]:
    """Prometheus with compose's own configuration; names become addresses, and seconds pass faster."""
    config = folder / "prometheus.yml"
    text = re.sub(r"\b(5|4|15)s", "1s", config.read_text())
    for name, address in addresses.items():
        text = text.replace(name, address)
    config.write_text(text)
    port = free_port()
    flags = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([tools.find().prometheus, *flags], stdout=log, stderr=log)
        try:
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(READY_S)


def asked_until(prometheus: Prometheus, expr: str, wanted: list[float]) -> list[float]:
    """What it has of an expression, as soon as that is what is wanted."""
    deadline, found = time.monotonic() + READY_S, list[float]()
    while found != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(httpx.TransportError):
            found = sorted(series.points[0][1] for series in prometheus.now(expr))
    return found


@pytest.mark.e2e
def test_the_gateway_serves_and_prometheus_sees_both_with_composes_own_files(
    server: Server, tmp_path: Path, prometheus_files: Path
) -> None:
    service = services()["gateway"]
    pools = tmp_path / "gateway.yaml"
    given = binds("gateway")[service["command"][2]].read_text()
    pools.write_text(given.replace("http://runtime:30000", server.runtime_url))
    variables = {name: str(value) for name, value in service["environment"].items()}
    with gateway(server, "--config", str(pools), **variables) as url:
        body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False).is_success
        addresses = {"gateway:8000": url, "runtime:30000": server.runtime_url}
        hosts = {name: address.removeprefix("http://") for name, address in addresses.items()}
        with scraping(prometheus_files, hosts) as prometheus:
            assert asked_until(prometheus, "up", [1, 1]) == [1, 1]
            assert asked_until(prometheus, "count(instance:sglang_running_requests:max)", [1]) == [1]
            assert asked_until(prometheus, 'count(pool:aerie_pool:info{pool="eagle"})', [1]) == [1]
            assert {rule["health"] for rule in prometheus.rules()} <= {"ok", "unknown"}
            assert prometheus.now('ALERTS{alertstate="firing"}') == []
