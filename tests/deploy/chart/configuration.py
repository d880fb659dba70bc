"""What the containers of a release read, with the models that read it: the gateway's file, the runtimes' profiles.

Owns finding these files in rendered pods. Refuses to own what is in them (service/).
"""

import tempfile
from pathlib import Path

from service.gateway import strict_yaml
from service.gateway.config import GatewayConfig
from service.runtime import profiles
from service.runtime.config import RuntimeConfig
from tests.deploy.chart.pods import GATEWAY, Pod, environment, of_component, option, text_at
from tests.deploy.chart.render import Objects


def gateway_text(found: Objects) -> str:
    """The gateway's file as its container reads it."""
    (pod,) = of_component(found, GATEWAY)
    path = option(pod.main, "--config") or environment(pod.main)["AERIE_CONFIG"]
    return text_at(found, pod, pod.main, path)


def gateway_config(found: Objects) -> GatewayConfig:
    return strict_yaml.parse(gateway_text(found).encode(), GatewayConfig)


def profile_path(pod: Pod) -> str:
    """Where a runtime's container has its profile."""
    return option(pod.main, "--profile") or environment(pod.main)["AERIE_PROFILE"]


def profile(found: Objects, pod: Pod) -> RuntimeConfig:
    """A runtime's settings, as `aerie runtime` would read them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.yaml"
        path.write_text(text_at(found, pod, pod.main, profile_path(pod)))
        return profiles.load(str(path), {})
