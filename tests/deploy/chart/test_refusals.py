"""Bad values end at `helm template`, with a sentence that says what to change."""

import itertools
import json
from typing import Any

import pytest
from pydantic import ValidationError

from service.runtime.config import RuntimeConfig
from tests.deploy.chart.render import AUTOSCALING, CHART, CPU, H100, template

TREE = "pools.eagle.speculation"
EAGLE3 = '{"algorithm": "EAGLE3", "num_steps": 3, "eagle_topk": %s, "num_draft_tokens": %s}'
SOURCE = '{"type": "hub", "location": "a/b"}'
REFUSED = {
    "an unknown key": ('gatway={"replicas": 2}', "gatway"),
    "an unknown key within": ("gateway.replica=2", "replica"),
    "an unknown key of a pool": ("pools.eagle.draftVersion=2", "draftVersion"),
    "an unknown setting of the gateway": ("gateway.settings.AERIE_DRIAN_TIMEOUT_S=2", "AERIE_DRIAN_TIMEOUT_S"),
    "an unknown field of the profile": ("runtime.profile.tensor_parallel=2", "tensor_parallel"),
    "a setting that the chart makes itself": ("gateway.settings.AERIE_DRAIN_TIMEOUT_S=2", "AERIE_DRAIN_TIMEOUT_S"),
    "a wrong type": ('gateway.replicas="two"', "/gateway/replicas"),
    "no pool": ('pools={"eagle": null, "plain": null}', "values-cpu.yaml"),
    "no model": ('model.name=""', "model.name: name"),
    "no size": ("model.sizeGiB=null", "model.sizeGiB: say"),
    "a chain of another length": (f"{TREE}={EAGLE3 % (1, 8)}", f"{TREE}.num_draft_tokens: a chain"),
    "a tree without depth": (f"{TREE}={EAGLE3 % (4, 2)}", "use num_draft_tokens=4"),
    "a tree larger than it can be": (f"{TREE}={EAGLE3 % (2, 64)}", "at most 11 nodes"),
    "a tree of changing length": (f'{TREE}={EAGLE3[:-1] % (4, 8)}, "adaptive": {{"1": [3]}}}}', "adaptive=null"),
    "trees of changing size, not EAGLE3's": (f'{TREE}.algorithm="STANDALONE"', "draft_p_min=null"),
    "probabilities for some batches only": (f'{TREE}.draft_p_min={{"4": 0.1}}', "a row for batch size 1"),
    "lengths that are none": (f'{TREE}.adaptive={{"one": [3]}}', "'one' does not match"),
    "a tree half given": (TREE + '={"algorithm": "EAGLE3", "num_steps": 3}', "all three"),
    "EAGLE3 without a draft": ("pools.eagle.draft={}", "pools.eagle.draft.source: EAGLE3 needs a draft"),
    "a draft of a baseline": (
        f'pools.plain.draft={{"source": {SOURCE}}}',
        "pools.plain: a baseline pool drafts nothing",
    ),
    "replicas 0 with a budget": ("pools.eagle.replicas=0", "pools.eagle.replicas: 0 with a PodDisruptionBudget"),
    "gateways 0 with a budget": ("gateway.replicas=0", "gateway.replicas: 0 with a PodDisruptionBudget"),
    "pipeline parallelism": ("pools.eagle.runtime.profile.pp_size=2", "pp_size"),
    "a speculative flag past us": (
        'pools.eagle.runtime.profile.extra_args=["--speculative-num-steps=3"]',
        "pools.eagle.runtime.profile.extra_args: --speculative-num-steps=3",
    ),
    "a flag of ours past us": ('runtime.profile.extra_args=["--tp-size=2"]', "--tp-size"),
    "several engines in a replica": (
        'runtime.profile.extra_args=["--dp-size=2"]',
        "--dp-size=2: a replica is one SGLang",
    ),
    "several GPUs on a CPU": ("runtime.profile.tp_size=2", "the CPU runtime is one process"),
    "several nodes without the operator": (
        'pools.eagle.runtime={"nodes": 2, "profile": {"device": "cuda", "tp_size": 2, "attention_backend": "fa3"}}',
        "leaderWorkerSet.enabled=true",
    ),
    "autoscaling without Prometheus": ('pools.eagle.autoscaling={"enabled": true}', "keda.prometheusAddress"),
    "autoscaling without metrics": (
        f"{','.join(AUTOSCALING)},monitoring.serviceMonitor.enabled=false",
        "monitoring.serviceMonitor.enabled=true",
    ),
    "autoscaling by a calibration without rules": (
        f'{",".join(AUTOSCALING)},pools.eagle.calibration.configMap="curve"',
        "monitoring.rules.enabled=true",
    ),
    "fewer at most than at least": (
        'pools.eagle.autoscaling={"minReplicas": 5, "maxReplicas": 2}',
        "is more than maxReplicas=2",
    ),
    "weights that are all 0": ('pools={"eagle": {"weight": 0}, "plain": {"weight": 0}}', "every weight is 0"),
    "a policy for a baseline that is not there": (
        'pools={"plain": null},gateway.policy={"grammar": "baseline"}',
        "gateway.policy.grammar",
    ),
    "losslessness without a baseline": (
        'pools={"plain": null},gateway.losslessness={"share": 1}',
        "no pool is a baseline",
    ),
    "a traffic policy of nothing outside": (
        'gateway.service.externalTrafficPolicy="Local"',
        "gateway.service.externalTrafficPolicy: is of",
    ),
    "sources of a load balancer that is none": (
        'gateway.service.loadBalancerSourceRanges=["10.0.0.0/8"]',
        "gateway.service.type: loadBalancerClass",
    ),
    "an Ingress for nobody": ("gateway.ingress.enabled=true", "gateway.ingress.hosts: name"),
    "a route without a Gateway": ("gateway.httpRoute.enabled=true", "gateway.httpRoute.parentRefs"),
    "a secret of ours in plain view": ('gateway.extraEnv=[{"name": "AERIE_KEYS"}]', "goes into gateway.settings"),
    "keys, and none for the test": ('gateway.keys.secretName="keys"', "tests.secretName"),
    "a source that is not named": ('model.source.location=""', "model.source.location: name"),
    "a bucket that is none": ('model.source={"type": "s3", "location": "bucket"}', "is no s3://BUCKET/PREFIX"),
    "a path out of the volume": ('model.source.path="../a"', "path"),
    "a digest that is none": ('gateway.image.digest="sha256:12"', "digest"),
    "a name too long": (f'fullnameOverride="{"a" * 39}"', "fullnameOverride"),
    "a pool's name too long": (f'pools={{"{"a" * 25}": {{}}}}', "a" * 25),
    "a pool that takes the gateway's names": ('pools={"gateway": {"kind": "baseline"}}', "gateway"),
    "a pool that takes the scripts' name": ('pools={"scripts": {"kind": "baseline"}}', "scripts"),
    "a pool that takes the test's name": ('pools={"test": {"kind": "baseline"}}', "test"),
    "an update that cannot move": (
        'runtime.strategy={"maxSurge": 0, "maxUnavailable": 0}',
        "maxSurge or maxUnavailable",
    ),
}


@pytest.mark.parametrize(("setting", "says"), REFUSED.values(), ids=REFUSED)
def test_bad_values_are_refused_with_a_sentence(setting: str, says: str) -> None:
    done = template(CPU, sets=(setting,))
    assert done.returncode != 0, "accepted"
    assert says in done.stderr
    assert "nil pointer" not in done.stderr
    assert "wrong type" not in done.stderr


REFUSED_ON_GPUS = {
    "a tree with a backend for chains": (f"{TREE}={EAGLE3 % (4, 8)}", "trtllm_mha", "verifies chains only"),
    "a tree over pages": (f"{TREE}={EAGLE3 % (4, 8)},runtime.profile.page_size=64", "flashmla", "page_size=1"),
    "no backend": (f"{TREE}={EAGLE3 % (1, 4)}", None, "attention_backend: pin one"),
    "a backend of another GPU": ('runtime.gpuProducts=["NVIDIA-B200"]', "fa3", "not NVIDIA-B200"),
}


@pytest.mark.parametrize(("setting", "backend", "says"), REFUSED_ON_GPUS.values(), ids=REFUSED_ON_GPUS)
def test_a_profile_that_does_not_fit_the_gpu_is_refused(setting: str, backend: str | None, says: str) -> None:
    done = template(H100, sets=(f"runtime.profile.attention_backend={json.dumps(backend)}", setting))
    assert done.returncode != 0, "accepted"
    assert says in done.stderr


ONE_NODE = 'cache={"type": "pvc", "accessModes": ["ReadWriteOnce"]}'
PINNED = 'runtime.nodeSelector={"kubernetes.io/hostname": "node-1"}'


def test_a_volume_of_one_node_is_refused_unless_every_pool_is_pinned_to_it() -> None:
    done = template(H100, sets=(ONE_NODE, f"pools.eagle.{PINNED}", 'pools.plain={"kind": "baseline"}'))
    assert done.returncode != 0, "accepted"
    assert "cache.accessModes" in done.stderr
    assert "pools.plain.runtime.nodeSelector" in done.stderr
    assert "pools.eagle" not in done.stderr
    for allowed in (PINNED, 'cache.claimName="models"', 'cache.accessModes=["ReadWriteMany"]'):
        assert template(H100, sets=(ONE_NODE, allowed)).returncode == 0, allowed


def test_nodes_of_one_replica_do_not_each_fetch_for_themselves() -> None:
    nodes = CHART / "ci/multi-node-values.yaml"
    fetched = 'model.source={"type": "hub", "location": "a/b"}'
    done = template(nodes, sets=(fetched, 'model.source.path=""'))
    assert done.returncode != 0, "accepted"
    assert "cache.type: with emptyDir" in done.stderr
    assert template(nodes, sets=(fetched, 'model.source.path=""', 'cache.type="pvc"')).returncode == 0


def test_autoscaling_may_be_fed_from_elsewhere() -> None:
    sets = (*AUTOSCALING, "monitoring.serviceMonitor.enabled=false", "keda.externalMonitoring=true")
    assert template(CPU, sets=sets).returncode == 0


TREES = [
    {"algorithm": "EAGLE3", "num_steps": steps, "eagle_topk": topk, "num_draft_tokens": tokens}
    for steps, topk, tokens in itertools.product((1, 3), (1, 2, 4), (2, 3, 4, 5, 8, 12, 36, 37, 64))
]
MACHINES = [
    {"device": "cuda", "attention_backend": backend, "page_size": page_size}
    for backend, page_size in itertools.product(("fa3", "flashinfer", "trtllm_mha", "flashmla"), (1, 64))
]


def settings(tree: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    speculation = {**tree, "draft": "a/b"}
    fields = {"model": "a/b", "served_model_name": "m", "max_running_requests": 8}
    return {**fields, **machine, "speculation": speculation}


def is_refused_by_the_runtime(tree: dict[str, Any], machine: dict[str, Any]) -> bool:
    try:
        RuntimeConfig.model_validate(settings(tree, machine))
    except ValidationError:
        return True
    return False


def test_the_chart_refuses_exactly_the_trees_that_the_runtime_refuses() -> None:
    """Every rule is written twice, in Python and in a template: this is what holds them together."""
    pairs = dict(zip((f"p{number}" for number in itertools.count()), itertools.product(TREES, MACHINES), strict=False))
    pools = {
        name: {
            "draft": {"source": {"type": "hub", "location": "a/b"}},
            "speculation": tree,
            "runtime": {"profile": machine},
        }
        for name, (tree, machine) in pairs.items()
    }
    refused = {name for name, (tree, machine) in pairs.items() if is_refused_by_the_runtime(tree, machine)}
    done = template(H100, sets=(f"pools={json.dumps(pools)}", "runtime.gpuProducts=[]"))
    said = {line.split(".")[1].rstrip(":") for line in done.stderr.splitlines() if line.startswith("pools.p")}
    assert 0 < len(refused) < len(pairs)
    assert said == refused
