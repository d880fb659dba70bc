"""Against a real Prometheus with hours of two pools in it: what the queries find, and what becomes of it."""

import json
import math
import subprocess
import time
from dataclasses import dataclass, field

import pytest
import yaml

from scripts import tools
from scripts.dashboards.prometheus import running
from service import cli
from tests.service.rollout.simulated import Traffic

SAMPLE_S = 60
BEFORE_S = 3600
"""The canary had another weight then, and was far too slow."""
BEGAN_S = 130 * 60
"""Ago: the weights as they are. Four looks."""
BUSY = 20.0


@dataclass(frozen=True)
class Case:
    """A namespace: two pools for three hours."""

    traffic: Traffic = field(default_factory=lambda: Traffic(drift=0, requests_per_s=BUSY))
    began_s: int = BEGAN_S
    ended_s: int = 0
    """Ago: the last scrape."""
    idle: bool = False
    wrong: tuple[int, int] = (0, 0)
    """Of 300 checked answers of the last hour: the canary's, and the stable pool's."""
    replicas: int = 1
    """Of the canary, beside four; two gateways know each."""
    reloading: bool = False
    """When the weights changed, workers of an instance had two versions for a while."""
    models: tuple[str, str] = ("m", "m")
    gateways_differ: bool = False


BETTER = Traffic(speed=1.1, tau=1.1, drift=0, requests_per_s=BUSY)
CASES = {
    "better": Case(BETTER),
    "same": Case(),
    "uncertain": Case(Traffic(drift=0, requests_per_s=0.8)),
    "worse": Case(Traffic(speed=0.93, tau=0.9, drift=0, requests_per_s=BUSY)),
    "failing": Case(Traffic(errors=0.1, drift=0, requests_per_s=BUSY)),
    "absent": Case(idle=True),
    "lossy": Case(wrong=(90, 1)),
    "alike": Case(BETTER, wrong=(3, 3)),
    "doubtful": Case(BETTER, wrong=(4, 3)),
    "reloading": Case(BETTER, reloading=True),
    "roomy": Case(BETTER, replicas=3),
    "fresh": Case(began_s=600),
    "stale": Case(ended_s=1800),
    "around": Case(gateways_differ=True),
    "unlike": Case(models=("m", "o")),
}


def counters(block, case):
    """A block's growth of every counter, by name and labels."""
    for place, pool in ((0, "next"), (2, "eagle")):
        if pool == "next" and case.idle:
            continue
        for size, counts in block["speed"].items():
            yield (
                "aerie_batch_completion_tokens_total",
                {"pool": pool, "replica": "a", "batch_size": size},
                counts[place],
            )
            yield (
                "aerie_batch_busy_seconds_total",
                {"pool": pool, "replica": "a", "batch_size": size},
                counts[place + 1],
            )
        kind = {"pool": pool, "task": "other", "prompt_length": "128", "key_class": "none"}
        tokens, passes = block["acceptance"][""][place : place + 2]
        yield "aerie_spec_verify_passes_total", kind, passes
        yield "aerie_spec_correct_drafts_total", kind, tokens - passes
        route = {"pool": pool, "route": "/v1/chat/completions"}
        seconds, streams = block["first_token"][""][place : place + 2]
        yield "aerie_time_to_first_token_seconds_sum", route, seconds
        yield "aerie_time_to_first_token_seconds_count", route, streams
        failed, requests = block["errors"][""][place : place + 2]
        yield "aerie_pool_requests_total", {"pool": pool, "outcome": "error"}, failed
        yield "aerie_pool_requests_total", {"pool": pool, "outcome": "ok"}, requests - failed


def gauges(case, ago_s):
    for pool, version, model in (("next", "v2", case.models[0]), ("eagle", "v1", case.models[1])):
        weight = (0.05 if ago_s <= case.began_s else 0.01) if pool == "next" else 0.95
        yield "aerie_pool_info", {"pool": pool, "kind": "speculative", "version": version}, 1
        yield "aerie_pool_weight", {"pool": pool}, weight
        for number in range(case.replicas if pool == "next" else 4):
            up = int(pool != "next" or not case.idle)
            yield "aerie_upstream_up", {"pool": pool, "replica": str(number)}, up
            yield "aerie_upstream_up", {"pool": pool, "replica": str(number), "instance": "two"}, up
        yield (
            "aerie_upstream_info",
            {"pool": pool, "replica": pool, "model": model, "version": "0.5.23", "tree": "3/4/8"},
            1,
        )
    yield "aerie_pool_info", {"pool": "plain", "kind": "baseline", "version": ""}, 1
    if case.reloading and case.began_s - 180 <= ago_s <= case.began_s:
        yield "aerie_pool_info", {"pool": "next", "kind": "speculative", "version": "v1"}, 1
    if case.gateways_differ:
        yield "aerie_pool_weight", {"pool": "next", "instance": "two"}, 0.25
        yield "aerie_pool_info", {"pool": "next", "kind": "speculative", "version": "v2", "instance": "two"}, 1


def history(case, seed):
    """Every sample of a namespace: name, labels, seconds ago, value."""
    ends = range(BEGAN_S + BEFORE_S, case.ended_s - 1, -SAMPLE_S)
    slow = Traffic(speed=0.4, tau=0.5, errors=0.5, drift=0, requests_per_s=BUSY).blocks(BEFORE_S // 300, seed)
    blocks = slow + case.traffic.blocks(math.ceil(BEGAN_S / 300), seed + 1)
    sums = {}
    for number, ago_s in enumerate(ends):
        for name, labels, value in counters(blocks[min(number // 5, len(blocks) - 1)], case):
            key = name, tuple(labels.items())
            sums[key] = sums.get(key, 0) + value / 5
            yield name, labels, ago_s, sums[key]
        for pool, wrong in zip(("next", "eagle"), case.wrong, strict=True):
            part = max(0.0, 1 - ago_s / 3600)
            for result, count in (("same", 300 - wrong), ("mismatch", wrong), ("failed", 300)):
                yield "aerie_losslessness_checks_total", {"pool": pool, "result": result}, ago_s, part * count
        for name, labels, value in gauges(case, ago_s):
            yield name, labels, ago_s, value


def open_metrics(now_s):
    """All cases, a family after the other."""
    families = {}
    for seed, (namespace, case) in enumerate(CASES.items()):
        for name, labels, ago_s, value in history(case, 10 * seed):
            whole = {"namespace": namespace, "job": "aerie", "instance": "one"} | labels
            written = ",".join(f'{key}="{its}"' for key, its in sorted(whole.items()))
            families.setdefault((name, written), []).append(f"{name}{{{written}}} {value} {now_s - ago_s}")
    for name in sorted({name for name, _ in families}):
        yield f"# TYPE {name} unknown"
        for key, lines in families.items():
            if key[0] == name:
                yield from lines
    yield "# EOF\n"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    try:
        promtool = tools.find().promtool
    except tools.ToolsError as error:
        pytest.skip(str(error))
    (folder / "history.txt").write_text("\n".join(open_metrics(int(time.time()))))
    command = [
        promtool,
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--quiet",
        folder / "history.txt",
        folder / "data",
    ]
    subprocess.run(command, check=True, capture_output=True)
    with running(folder, {}) as started:
        yield started.url


@pytest.fixture
def judge(prometheus, capsys):
    """The verdict's document, and that the exit status says the same."""

    def judged(namespace, *options, canary="next"):
        pools = ["--canary", canary, "--stable", "eagle", "--namespace", namespace]
        status = cli.main(["rollout", "judge", "--prometheus", prometheus, *pools, "--json", *options])
        found = json.loads(capsys.readouterr().out)
        assert status == {"promote": 0, "hold": 3, "roll back": 4, "idle": 5}[found["verdict"]]
        return found

    return judged


@pytest.mark.parametrize(
    ("namespace", "verdict", "why"),
    [
        ("better", "promote", "its speed is 1."),
        ("same", "promote", "its speed is "),
        ("uncertain", "hold", "not yet certain of its "),
        ("worse", "roll back", "its speed is 0.9"),
        ("failing", "roll back", "its error rate is "),
        ("absent", "hold", "no replica of next answers; next finished 0 requests, fewer than 200"),
        ("lossy", "roll back", "its mismatch rate is "),
        ("alike", "promote", "its speed is "),
        ("doubtful", "hold", "checked answers that were not the target's: 4 of "),
        ("reloading", "promote", "its speed is "),
        ("fresh", "hold", "the first look at these weights is at "),
        ("stale", "hold", "series are stale: nothing of the gateways for 2"),
        ("around", "hold", "gateways differ in the pools' weights or versions: a change is going round"),
    ],
)
def test_a_canary_is_judged_by_what_it_did_since_it_has_its_weight(judge, namespace, verdict, why):
    found = judge(namespace)
    assert found["verdict"] == verdict, found["sentence"]
    assert found["sentence"].startswith(f"{verdict} next: {why}")


def test_the_figures_are_what_the_pools_were_given(judge):
    found = judge("better")
    assert found["canary"] == {"pool": "next", "version": "v2"}
    assert found["share"] == pytest.approx(0.05)
    assert found["window"]["look"] == 4
    assert found["window"]["blocks"] == 24
    tau = found["measures"]["acceptance_length"]
    assert (tau["canary"], tau["stable"]) == pytest.approx((2.86, 2.6), rel=0.03)
    assert tau["low"] < 1.1 < tau["high"]
    requests = found["requests"]
    assert requests["canary"] == pytest.approx(0.05 * BUSY * 7200, rel=0.05)
    assert requests["canary"] / requests["stable"] == pytest.approx(0.05 / 0.95, rel=0.05)
    assert found["measures"]["error_rate"]["canary"] < 0.01
    assert found["measures"]["time_per_output_token"]["finding"] == "not measured"
    assert found["replicas"] == {"canary": 1, "stable": 4}


def test_more_is_asked_of_a_canary_that_is_to_be_better(judge):
    assert judge("same", "--at-least", "1.05")["verdict"] == "hold"
    assert judge("better", "--at-least", "1.05")["verdict"] == "promote"


def test_the_table_shows_every_measure_and_ends_with_the_verdict(prometheus, capsys):
    where = ["--prometheus", prometheus, "--namespace", "better"]
    assert cli.main(["rollout", "judge", *where, "--canary", "next", "--stable", "eagle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "next v2 has 5.0% of its and eagle v1's requests"
    assert lines[-1].startswith("promote next: its speed is ")
    shown = [line.split("  ")[0] for line in lines]
    assert {"speed (tokens/s)", "acceptance length", "error rate", "time to first token (s)"} <= set(shown)
    assert any(line.startswith("time per output token (s)") and line.endswith("not measured") for line in lines)


@pytest.fixture
def step(prometheus, tmp_path):
    def stepped(namespace, weight, *options):
        pools = {
            "eagle": {"weight": round(1 - weight, 2), "replicas": 3},
            "next": {"weight": weight},
            "plain": {"kind": "baseline"},
        }
        (tmp_path / "values.yaml").write_text(yaml.safe_dump({"model": {"name": "m"}, "pools": pools}))
        where = ["--prometheus", prometheus, "--namespace", namespace, "--canary", "next", "--stable", "eagle"]
        files = ["--values", str(tmp_path / "values.yaml"), "--output", str(tmp_path / "next.yaml")]
        status = cli.main(["rollout", "step", *where, *files, *options])
        return status, yaml.safe_load((tmp_path / "next.yaml").read_text())["pools"]

    return stepped


@pytest.mark.parametrize(
    ("namespace", "status", "canary", "options"),
    [
        ("better", 0, 0.25, []),
        ("better", 3, 0.05, ["--steps", "5,50,100"]),
        ("better", 0, 0.5, ["--steps", "5,50,100", "--replicas-at-least", "0.3"]),
        ("roomy", 0, 0.5, ["--steps", "5,50,100"]),
        ("better", 0, 1.0, ["--steps", "5,100", "--replicas-at-least", "0"]),
        ("uncertain", 3, 0.05, []),
        ("worse", 4, 0.0, []),
    ],
)
def test_a_step_writes_the_weights_that_follow_and_nothing_else(step, namespace, status, canary, options):
    assert step(namespace, 0.05, *options) == (status, {"eagle": {"weight": 1 - canary}, "next": {"weight": canary}})


def test_replicas_that_the_next_share_lacks_are_told(step, judge, capsys):
    assert step("better", 0.05, "--steps", "5,50,100")[0] == 3
    told = "50% of the requests want 3 replicas beside the stable pool's 4, and 1 answer: 2 missing"
    assert f"hold next: {told} (--replicas-at-least); its speed is 1." in capsys.readouterr().out
    assert any(told in note for note in judge("uncertain", "--steps", "5,50,100")["notes"])


def test_values_that_were_not_installed_are_not_stepped_on(step, capsys):
    assert step("better", 0.25)[0] == 3
    assert "values give it 25.0% of the requests, the gateways 5.0%: installed?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("canary", "namespace", "told"),
    [
        ("nextt", "better", "Prometheus has no pool nextt in namespace better; it has eagle, next, plain"),
        ("plain", "better", "pool plain is a baseline pool; a roll-out is of drafts, of speculative pools"),
        (
            "next",
            "nowhere",
            "Prometheus has no pools in namespace nowhere of the last day: does it scrape the gateways",
        ),
        ("next", "unlike", "next serves m and eagle o: different models cannot be compared"),
        ("next", None, "the pools are in namespaces absent, alike, around, better, "),
    ],
)
def test_pools_that_cannot_be_judged_are_one_line(prometheus, capsys, canary, namespace, told):
    where = [] if namespace is None else ["--namespace", namespace]
    options = ["--prometheus", prometheus, "--canary", canary, "--stable", "eagle", *where]
    assert cli.main(["rollout", "judge", *options]) == 1
    assert capsys.readouterr().err.startswith(f"aerie: {told}")
