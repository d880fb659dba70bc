"""The command line without a Prometheus: values, weights, and one line for whatever is wrong."""

import http.server
import re
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scripts import tools
from service import cli
from service.rollout import weights
from service.rollout.errors import RolloutError
from service.rollout.situation import Pair
from service.rollout.weights import Weights

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "aerie"
PAIR = Pair("next", "eagle")
POOLS = {"eagle": {}, "next": {"weight": 0.25}, "plain": {"kind": "baseline"}}


@pytest.fixture
def written(tmp_path):
    def write(name, document):
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        return path

    return write


def test_weights_are_read_as_helm_reads_them(written):
    first = written("a.yaml", {"model": {"name": "m"}, "pools": POOLS})
    assert weights.read([first], PAIR) == Weights(0.25, 1)
    assert weights.read([first, written("b.yaml", {"pools": {"next": {"weight": 0}}})], PAIR) == Weights(0, 1)
    assert weights.read([first, written("c.yaml", {"pools": {"plain": None}}), written("d.yaml", "")], PAIR).stable == 1


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"pools": {"eagle": {}}}, "there is no pool next; there are: eagle"),
        ({"pools": POOLS | {"next": None}}, "there is no pool next; there are: eagle, plain"),
        ({}, "there is no pool next; there are: none"),
        ({"pools": POOLS | {"next": {"kind": "baseline"}}}, "pool next is a baseline pool"),
        ({"pools": POOLS | {"next": {"weight": "x"}}}, "pools.next.weight: 'x' is no number from 0"),
        ({"pools": POOLS | {"next": {"weight": -1}}}, "pools.next.weight: -1 is no number from 0"),
        ({"pools": {"eagle": {"weight": 0}, "next": {"weight": 0}}}, "next and eagle both have weight 0"),
        ({"pools": [{"name": "eagle"}]}, "pools must be a mapping"),
        ("pools: [", "is not valid YAML"),
        ("- 1", "must be a mapping"),
    ],
)
def test_values_without_such_pools_are_refused(written, document, told):
    with pytest.raises(RolloutError, match=r"^--values: ") as refused:
        weights.read([written("values.yaml", document)], PAIR)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.floats(0, 1))
def test_a_share_leaves_the_sum_of_the_weights_as_it_is(canary, stable, share):
    moved = Weights(canary, stable).with_share(share)
    assert moved.canary + moved.stable == pytest.approx(canary + stable, abs=1e-5)
    assert moved.share == pytest.approx(share, abs=1e-3)
    assert min(moved.canary, moved.stable) >= 0


def test_what_is_written_is_read_back_and_weights_of_other_pools_stay(written):
    base, output = written("a.yaml", {"pools": POOLS}), written("w.yaml", {"pools": {"third": {"weight": 2}}})
    weights.write(output, PAIR, Weights(0.5, 0.75), "promote next:\nfast")
    assert weights.read([base, output], PAIR) == Weights(0.5, 0.75)
    assert yaml.safe_load(output.read_text())["pools"]["third"] == {"weight": 2}
    assert output.read_text().startswith("# aerie rollout step: promote next: fast\npools:\n")
    assert sorted(path.name for path in output.parent.iterdir()) == ["a.yaml", "w.yaml"]


@pytest.mark.parametrize(
    "document", [{"model": {}}, {"pools": POOLS}, {"pools": {"next": {"weight": 1}}, "model": {}}, {"pools": []}]
)
def test_a_file_that_holds_more_than_weights_is_not_written_over(written, document):
    path = written("values.yaml", document)
    before = path.read_text()
    with pytest.raises(RolloutError, match="holds more than pools' weights"):
        weights.write(path, PAIR, Weights(1, 1), "")
    assert path.read_text() == before


@contextmanager
def answering(status, body):
    """Something that is no Prometheus; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def judged(*options, prometheus="http://127.0.0.1:1", canary="next"):
    asked = ["--prometheus", prometheus, "--canary", canary, "--stable", "eagle", *options]
    return cli.main(["rollout", "judge", *asked])


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, b'{"status":"error","errorType":"bad_data","error":"parse error"}', "answers 400: parse error"),
        (401, b"Unauthorized\n", "answers 401: Unauthorized"),
        (503, b"", "answers 503: nothing more"),
        (200, b"<html>Grafana</html>", "does not answer as Prometheus does"),
        (200, b'{"data": {}}', "does not answer as Prometheus does"),
    ],
)
def test_what_answers_otherwise_than_prometheus_is_one_line(capsys, status, body, told):
    with answering(status, body) as url:
        assert judged(prometheus=url) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert url in line
    assert told in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "Prometheus at http://127.0.0.1:1 cannot be asked: [Errno 111] Connection refused"),
        (["--steps", "5,50,25"], "--steps: 5,50,25 must ascend from above 0 to 100 at most, like 5,25,50,100"),
        (["--steps", "0,50"], "--steps: 0,50 must ascend"),
        (["--steps", "50,101"], "--steps: 50,101 must ascend"),
        (["--steps", "nan"], "--steps: nan must ascend"),
        (["--steps", "five"], "--steps: five are no percentages"),
        (["--look-every", "5"], "--look-every: 5 minutes are too few to judge; give at least 30"),
        (["--confidence", "95"], "--confidence: 95.0 is not from 0.5 to below 1"),
        (["--confidence", "nan"], "--confidence: nan is not from 0.5"),
        (["--token-file", "/nowhere"], "--token-file: /nowhere cannot be read: No such file or directory"),
        (["--namespace", 'a"b'], "--namespace: 'a\"b' is no name"),
        (["--canary", "eagle"], "--canary and --stable are both eagle"),
        (["--prometheus", "prometheus:9090"], "--prometheus: prometheus:9090 is no URL"),
        (["--at-least", "nan"], "--at-least: nan is no number from 0"),
        (["--replicas-at-least", "-1"], "--replicas-at-least: -1.0 is no number from 0"),
        (["--errors-at-most", "-1"], "--errors-at-most: -1.0 is no number from 0"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, options, told):
    assert judged(*options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"aerie: {told}")


def test_a_token_is_sent_and_a_trailing_slash_is_no_other_url(tmp_path, capsys):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, self.headers["authorization"]))
            self.send_error(403)

        def log_message(self, *_):
            pass

    (tmp_path / "token").write_text("secret\n")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        judged("--token-file", str(tmp_path / "token"), prometheus=f"http://127.0.0.1:{server.server_port}/")
        thread.join()
    assert seen == [("/api/v1/query", "Bearer secret")]
    assert "secret" not in capsys.readouterr().err


def shares_with(*values, sets=()):
    """The weights that the gateway gets from the chart, with these files and `--set`s."""
    try:
        helm = tools.helm(4)
    except tools.ToolsError as error:
        pytest.skip(str(error))
    given = [word for path in values for word in ("-f", path)] + [word for one in sets for word in ("--set", one)]
    command = [helm, "template", "aerie", CHART, *given, "-s", "templates/gateway/configmap.yaml"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pools = yaml.safe_load(yaml.safe_load(rendered)["data"]["gateway.yaml"])["pools"]
    return {pool["name"]: pool["weight"] for pool in pools}


def test_the_chart_gives_the_gateway_the_weights_that_are_written(tmp_path):
    base = yaml.safe_load((CHART / "values-cpu.yaml").read_text())
    base["pools"]["next"] = base["pools"]["eagle"] | {"weight": 0.05}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(base))
    weights.write(tmp_path / "next.yaml", PAIR, weights.read([tmp_path / "values.yaml"], PAIR).with_share(0.25), "test")
    shares = shares_with(tmp_path / "values.yaml", tmp_path / "next.yaml")
    assert shares == {"eagle": pytest.approx(0.7875), "next": pytest.approx(0.2625), "plain": 1}


@pytest.fixture
def documented(written):
    """A file that docs/rollout.md shows."""

    def find(name):
        blocks = (ROOT / "docs" / "rollout.md").read_text().split("```yaml\n")[1:]
        (found,) = (text for block in blocks if (text := block.partition("```")[0]).startswith(f"# {name}:"))
        return written(name, found)

    return find


def test_the_documented_canary_can_be_installed_taken_back_and_be_all_there_is(documented):
    begun = CHART / "values-h100.yaml", documented("canary.yaml")
    (back,) = re.findall(r"--set (\S+weight=0)$", (ROOT / "docs" / "rollout.md").read_text(), re.MULTILINE)
    assert shares_with(*begun) == {"eagle": 0.95, "eagle-v2": 0.05}
    assert shares_with(*begun, sets=[back]) == {"eagle": 1, "eagle-v2": 0}
    assert shares_with(*begun, sets=["pools.eagle=null"]) == {"eagle-v2": 0.05}


def test_the_documented_file_of_weights_is_read_and_written_over(documented):
    pair, path = Pair("eagle-v2", "eagle"), documented("weights.yaml")
    before = weights.read([documented("canary.yaml"), path], pair)
    weights.write(path, pair, before.with_share(0.25), "test")
    assert (before, weights.read([path], pair)) == (Weights(0.05, 0.95), Weights(0.25, 0.75))
