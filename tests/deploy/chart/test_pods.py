"""What a cluster's policies and its operators ask of pods.

In place of kube-score, which no package index has, and checkov, which brings seventy packages: the checks that apply
here, each one a sentence; the first ones are Kubernetes' Pod Security Standard `restricted`, field by field. By hand,
checkov 3.3.30 (`checkov -d RENDERED --framework kubernetes`) objects to five things that are meant: no namespace in
manifests (CKV_K8S_21: Helm's --namespace says it), tags where values give no digest (43), pulling only what is missing
(15), no CPU limits, which would throttle decoding (11), and no NetworkPolicy for the test's pod, which serves nothing
(CKV2_K8S_6).
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import tools
from tests.deploy.chart.configuration import profile
from tests.deploy.chart.pods import GATEWAY, RUNTIME, Pod, environment, of_component, pods, selects
from tests.deploy.chart.render import CPU, H100, PROFILES, Objects, each_values, name, of_kind, rendered

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim"} | {
    "projected",
    "secret",
}
"""`image` since Kubernetes 1.33 (kubernetes/kubernetes#130394)."""
MARGIN_S = 5
"""Between the last thing that is waited for and SIGKILL."""
IMAGE = re.compile(r"([a-z0-9.\-]+(:\d+)?/)?[a-z0-9._\-/]+:(?P<tag>[\w][\w.\-]{0,127})(@sha256:[0-9a-f]{64})?")


@each_values
def test_pod_security_is_restricted(values: Path) -> None:
    found = rendered(values)
    for pod in pods(found):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in pod.spec.items() if value}
        assert pod.spec["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        for volume in pod.spec.get("volumes", []):
            assert volume.keys() - {"name"} <= VOLUMES | ({"hostPath"} if asked_for_host_path(values) else set())
        for container in pod.containers:
            check_restricted(pod, container)


def asked_for_host_path(values: Path) -> bool:
    return "type: hostPath" in values.read_text()


def check_restricted(pod: Pod, container: dict[str, Any]) -> None:
    context = {**pod.spec["securityContext"], **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["allowPrivilegeEscalation"] is False
    assert not context.get("privileged")
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", [])) <= {"NET_BIND_SERVICE"}
    assert context.get("procMount", "Default") == "Default"
    assert not {"seLinuxOptions", "sysctls", "windowsOptions"} & context.keys()
    assert not [port for port in container.get("ports", []) if "hostPort" in port]


@each_values
def test_root_file_systems_are_read_only_and_nobody_has_a_token(values: Path) -> None:
    found = rendered(values)
    for pod in pods(found):
        assert pod.spec["automountServiceAccountToken"] is False
        assert all(container["securityContext"]["readOnlyRootFilesystem"] is True for container in pod.containers)
    for account in of_kind(found, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert of_kind(found, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


@each_values
def test_every_container_says_what_it_takes_and_memory_is_bounded(values: Path) -> None:
    for pod in pods(rendered(values)):
        for container in pod.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), (str(pod), container["name"])
            assert "memory" in resources["limits"], (str(pod), container["name"])


@each_values
def test_an_empty_dir_has_a_limit(values: Path) -> None:
    for pod in pods(rendered(values)):
        for volume in pod.spec.get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], (str(pod), volume["name"])


@each_values
def test_images_have_a_tag_that_stays_or_a_digest(values: Path) -> None:
    for pod in pods(rendered(values)):
        for container in pod.containers:
            image = IMAGE.fullmatch(container["image"])
            assert image, container["image"]
            assert image["tag"] != "latest"


def test_a_digest_is_what_is_pulled() -> None:
    digest = f"sha256:{'a' * 64}"
    sets = tuple(f'{part}.image.digest="{digest}"' for part in ("gateway", "runtime", "fetch.s3"))
    images = [container["image"] for pod in pods(rendered(H100, sets=sets)) for container in pod.containers]
    assert images
    assert all(image.endswith(f"@{digest}") for image in images)


@each_values
def test_whatever_serves_is_probed(values: Path) -> None:
    for pod in pods(rendered(values)):
        assert not pod.long_lived or {"startupProbe", "livenessProbe", "readinessProbe"} <= pod.main.keys(), str(pod)


@each_values
def test_what_is_waited_for_at_the_end_fits_into_the_grace_period(values: Path) -> None:
    found = rendered(values)
    for pod in pods(found):
        if not pod.long_lived:
            continue
        hook = pod.main.get("lifecycle", {}).get("preStop", {})
        pre_stop = hook.get("sleep", {}).get("seconds", 0)
        env = environment(pod.main)
        waits = [float(env.get(one, 0)) for one in ("AERIE_DRAIN_NOTICE_S", "AERIE_DRAIN_TIMEOUT_S")]
        if pod.component == RUNTIME:
            waits.append(profile(found, pod).drain_timeout_s)
        assert pre_stop + sum(waits) + MARGIN_S <= pod.spec["terminationGracePeriodSeconds"], str(pod)
        if pod.component == GATEWAY:
            assert pre_stop + waits[0] >= MARGIN_S, "nobody would notice that it drains"


@each_values
def test_a_container_without_a_gpu_of_its_own_sees_none(values: Path) -> None:
    for pod in gpu_pods(rendered(values)):
        for container in pod.containers:
            if "nvidia.com/gpu" not in container["resources"]["limits"] and container["image"] == pod.main["image"]:
                assert environment(container)["NVIDIA_VISIBLE_DEVICES"] == "void", container["name"]


@pytest.mark.parametrize("major", tools.LAYERS)
def test_a_pods_security_context_can_be_changed_field_by_field(major: int, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    context = {"podSecurityContext": {"runAsUser": None, "fsGroup": 5}}
    values.write_text(yaml.safe_dump({"runtime": context, "gateway": context}))
    for pod in pods(rendered(CPU, values, major=major)):
        given = pod.spec["securityContext"]
        assert "runAsUser" not in given
        assert (given["fsGroup"], given["runAsNonRoot"], given["seccompProfile"]["type"]) == (5, True, "RuntimeDefault")


def test_containers_that_fetch_have_more_variables_and_volumes_where_values_say_so() -> None:
    (pod,) = of_component(
        rendered(
            H100,
            sets=(
                'fetch.extraEnv=[{"name": "HF_ENDPOINT", "value": "https://hub.example.com"}]',
                'fetch.extraVolumes=[{"name": "ca", "configMap": {"name": "ca"}}]',
                'fetch.extraVolumeMounts=[{"name": "ca", "mountPath": "/ca"}]',
            ),
        ),
        RUNTIME,
    )
    for container in pod.containers:
        fetches = container["name"].startswith("fetch-")
        assert ("HF_ENDPOINT" in environment(container)) is fetches
        assert ("/ca" in {mount["mountPath"] for mount in container["volumeMounts"]}) is fetches
    assert {"name": "ca", "configMap": {"name": "ca"}} in pod.spec["volumes"]


@each_values
def test_a_disruption_budget_is_of_one_workload_and_never_stops_a_node_from_draining(values: Path) -> None:
    found = rendered(values)
    for budget in of_kind(found, "PodDisruptionBudget"):
        spec = budget["spec"]
        chosen = [pod for pod in pods(found) if selects(spec["selector"]["matchLabels"], pod)]
        assert len({str(pod) for pod in chosen}) == 1, name(budget)
        assert chosen == [pod for pod in pods(found) if str(pod) == str(chosen[0])], "a part of its pods"
        assert "minAvailable" not in spec, "with one replica no node could be drained"
        assert spec["maxUnavailable"] in (1, "1") or str(spec["maxUnavailable"]).endswith("%")


@each_values
def test_replicas_are_spread(values: Path) -> None:
    for pod in pods(rendered(values)):
        if pod.long_lived:
            spread = pod.spec.get("topologySpreadConstraints", [])
            assert values not in PROFILES or "kubernetes.io/hostname" in {one["topologyKey"] for one in spread}
            assert all(selects(one["labelSelector"]["matchLabels"], pod) for one in spread)


@each_values
def test_a_pod_that_tests_ends_and_is_gone_before_the_next(values: Path) -> None:
    for pod in pods(rendered(values)):
        if not pod.long_lived:
            deadlines = [pod.spec.get("activeDeadlineSeconds"), pod.owner["spec"].get("activeDeadlineSeconds")]
            assert any(deadlines), str(pod)
            assert pod.spec["restartPolicy"] == "Never"
            assert "before-hook-creation" in pod.owner["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


def gpu_pods(found: Objects) -> list[Pod]:
    return [pod for pod in of_component(found, RUNTIME) if "nvidia.com/gpu" in pod.main["resources"]["limits"]]


@each_values
def test_a_gpu_profile_goes_to_its_gpu_only_and_a_cpu_profile_to_none(values: Path) -> None:
    found = rendered(values)
    for pod in gpu_pods(found):
        limits, requests = (pod.main["resources"][part].get("nvidia.com/gpu") for part in ("limits", "requests"))
        assert requests in (None, limits), "Kubernetes wants them equal"
        assert int(limits) >= 1
    wanted = {"values-h100": "H100", "values-h200": "H200", "values-b200": "B200"}.get(values.stem)
    if wanted is not None:
        assert gpu_pods(found) == of_component(found, RUNTIME) != []
        for pod in gpu_pods(found):
            products = gpu_products(pod)
            assert products, str(pod)
            assert all(wanted in product for product in products)
            assert "nvidia.com/gpu" in {one.get("key") for one in pod.spec["tolerations"]}
    elif values.stem == "values-cpu":
        assert gpu_pods(found) == []


def gpu_products(pod: Pod) -> list[str]:
    """By selector or affinity."""
    label = "nvidia.com/gpu.product"
    if label in pod.spec.get("nodeSelector", {}):
        return [pod.spec["nodeSelector"][label]]
    required = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [expression for term in required["nodeSelectorTerms"] for expression in term["matchExpressions"]]
    return [value for one in terms if one["key"] == label and one["operator"] == "In" for value in one["values"]]


@each_values
def test_a_runtime_on_gpus_has_shared_memory(values: Path) -> None:
    for pod in gpu_pods(rendered(values)):
        (mount,) = [one for one in pod.main["volumeMounts"] if one["mountPath"] == "/dev/shm"]
        (volume,) = [one for one in pod.spec["volumes"] if one["name"] == mount["name"]]
        assert volume["emptyDir"]["medium"] == "Memory"


@each_values
def test_a_replica_of_several_nodes_is_a_leader_worker_set_of_that_size(values: Path) -> None:
    found = rendered(values)
    for one in of_kind(found, "LeaderWorkerSet"):
        assert one["spec"]["leaderWorkerTemplate"]["size"] > 1, name(one)
