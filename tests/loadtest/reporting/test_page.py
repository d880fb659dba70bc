"""The page: whole, self-contained, and honest about what is no result."""

import json
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import reporting
from loadtest.cli import main
from loadtest.comparison import QUANTILES
from loadtest.curve import Curve
from loadtest.errors import DocumentError
from loadtest.reporting import comparison_view, page, view
from tests.loadtest.reporting.documents import (
    comparison,
    comparison_of,
    interval,
    load,
    load_of,
    paper,
    restless,
    write,
)
from tests.loadtest.test_curve import DOCUMENT as CURVE

SMALL = (("mt_bench", "gsm8k"), (1, 4))
EXCHANGE = "latency-against-throughput"
VOID = {"meta", "link", "br", "img", "input"}


class Tags(HTMLParser):
    """Checks that elements close in order, and remembers them."""

    def __init__(self, text):
        super().__init__()
        self.found, self._open = [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def drawn(document):
    return {plot.name: plot for plot in comparison_view.content(comparison_of(document)).plots}


def places(plot):
    return {(series.name, point.x) for series in plot.series for point in series.points}


@pytest.fixture(scope="module")
def html():
    document = restless(comparison(*SMALL)) | {"model": '<b>model</b> & "co"'}
    return page.page(view.contents(comparison_of(document)))


def test_a_page_needs_nothing_else_and_runs_nothing(html):
    tags = Tags(html)
    assert not tags.named("script")
    assert not re.findall(r"(?:src|href)=\"(?!data:,|#)[^\"]*\"", html)
    assert "style=" not in html
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]


def test_its_policy_allows_its_own_style_and_nothing_more(html):
    style = re.search("<style>(.*)</style>", html, re.DOTALL)[1]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = next(meta["content"] for meta in Tags(html).named("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_text_cannot_become_markup(html):
    assert "<b>" not in html
    assert "&lt;b&gt;model&lt;/b&gt; &amp;" in html


def test_every_plot_has_its_numbers_beneath_it(html):
    tags = Tags(html)
    assert len(tags.named("figure")) == len(tags.named("details")) >= 8
    assert len(tags.named("table")) == len(tags.named("figure")) + 1
    assert all(svg["aria-label"] for svg in tags.named("svg"))


def test_identifiers_are_unique_with_several_reports_on_a_page():
    (content,) = view.contents(comparison_of(comparison(*SMALL)))
    few = replace(content, plots=content.plots[:2])
    identifiers = re.findall(r' id="([^"]+)"', page.page([few, few]))
    assert len(identifiers) == len(set(identifiers))


def test_provenance_is_told(html):
    for words in ("aerie-bench compare", "0123456789abcdef", "AMD EPYC, 2 cores", f"SHA-256 {1:064x}", "aerie 0.1.0"):
        assert words in html


def test_a_noisy_cell_is_in_no_plot_of_time_and_its_ratio_nowhere():
    document = restless(comparison(*SMALL))
    noisy = document["cells"][-1]
    plots = drawn(document)
    assert (noisy["task"], 4) not in places(plots["speedup"])
    assert ("mt_bench", 4) in places(plots["speedup"])
    assert all(x != 4 for name in ("throughput",) for _, x in places(plots[name]))
    assert ("geometric mean", 4) not in places(plots["speedup"])
    ratio = f"{noisy['speedup']['value']:.2f} ("
    content = comparison_view.content(comparison_of(document))
    tables = [content.table, *(plot.table for plot in plots.values())]
    assert not [row for table in tables for row in table.rows if row[1] == noisy["task"] and ratio in str(row)]
    assert any("too noisy" in str(row) for row in content.table.rows)
    assert any("Too noisy, no result: gsm8k at batch size 4" in warning for warning in content.warnings)


def test_partial_results_and_kept_noise_and_differing_texts_are_warned_of():
    document = comparison(*SMALL) | {"partial": True, "differences": ["dtype: bfloat16 and float16"]}
    document["cells"][0] |= {"noise": 0.2}
    document["same_text"] |= {"different": 3, "example": "first differs here"}
    warnings = " ".join(comparison_view.content(comparison_of(document)).warnings)
    for words in ("Partial", "in spite of noise", "dtype: bfloat16 and float16", "3 greedy answers differ"):
        assert words in warnings


def test_a_task_that_lacks_at_a_batch_size_leaves_no_figure_over_all():
    document = comparison(*SMALL)
    document |= {"cells": document["cells"][:-1], "overall": document["overall"][:-1], "partial": True}
    content = comparison_view.content(comparison_of(document))
    assert content.table.rows[-1][:2] == ("4", "not every task was measured")


def test_a_chain_is_drawn_as_n_alpha_and_a_tree_by_position():
    document = comparison(*SMALL)
    assert "accepted-by-position" in drawn(document)
    document["a"] |= {"tree": "3/1/4"}
    chain = drawn(document)["n-alpha"]
    first, second, third = (point.y for point in chain.series[0].points)
    counts = document["cells"][0]["a"]["accepted_by_position"]
    assert first == counts[0] / 400
    assert (second, third) == pytest.approx((counts[1] / counts[0], counts[2] / counts[1]))


def test_raw_lines_take_the_place_of_quantiles(tmp_path):
    document, path = comparison(*SMALL), tmp_path / "raw.jsonl"
    lines = [
        {"side": side, "task": task, "batch_size": size, "ttft_s": 0.5, "tpot_s": 0.01 * number, "e2e_s": 2.0}
        for side in "ab"
        for task in SMALL[0]
        for size in SMALL[1]
        for number in range(1, 21)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"side": "a", "failure": "broken"}\n')
    (content,) = view.contents(comparison_of(document), path)
    tpot = next(plot for plot in content.plots if plot.name == "tpot")
    assert tpot.table.heads[-2] == "p99"
    assert tpot.table.rows[0][2:4] == ("10.00", "100.0")
    assert "From all 160 raw requests." in tpot.notes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no answer of side a"),
        ("nonsense\n", "raw.jsonl:1: not a line of raw figures"),
        ('{"ttft_s": -1}\n', "raw.jsonl:1: not a line of raw figures"),
    ],
)
def test_raw_lines_of_something_else_are_refused(tmp_path, text, sentence):
    path = tmp_path / "raw.jsonl"
    path.write_text(text)
    with pytest.raises(DocumentError, match=sentence):
        view.contents(comparison_of(comparison(*SMALL)), path)
    with pytest.raises(DocumentError, match=r"are not those of the report|not a line"):
        view.contents(load_of(load()), path)


def test_a_curve_has_no_raw_lines(tmp_path):
    with pytest.raises(DocumentError, match="this is neither"):
        view.contents(Curve.model_validate_json(json.dumps(CURVE)), tmp_path / "raw.jsonl")


extremes = st.floats(5e-324, allow_infinity=False, exclude_min=False) | st.sampled_from([5e-324, 1.7e308, 1.0])


@st.composite
def comparisons(draw):
    tasks = draw(
        st.lists(st.text(min_size=1, max_size=9).filter(str.strip).map(str.strip), min_size=1, max_size=3, unique=True)
    )
    sizes = draw(st.sampled_from([(1,), (1, 2, 64), (3, 5000)]))
    document = comparison(tuple(tasks), sizes)
    for each in document["cells"]:
        each["a"] |= {"tokens_per_s": draw(extremes), "token_s": draw(extremes)}
        each |= {"speedup": interval(draw(extremes), 0.0), "noise": draw(extremes), "quiet": draw(st.booleans())}
        if draw(st.booleans()):
            each["a"] |= {"acceptance_length": None, "verify_passes": None, "accepted_by_position": []}
        if draw(st.booleans()):
            each["b"] |= {"rounds": [], "tpot_s": None, "e2e_s": [draw(extremes)] * QUANTILES}
    return comparison_of(document | {"overall": document["overall"] if draw(st.booleans()) else []})


@settings(max_examples=15)
@given(comparisons())
def test_any_comparison_has_a_report(any_comparison):
    (content,) = view.contents(any_comparison)
    for table in (content.table, *(plot.table for plot in content.plots)):
        assert all(len(row) == len(table.heads) for row in table.rows)
        assert all(len(text) < 300 for row in table.rows for text in row)


@pytest.mark.parametrize(("sizes", "drawn"), [((1,), 7), (tuple(range(1, 65)), 8)], ids=["one", "many"])
def test_one_batch_size_and_many_make_a_page(sizes, drawn):
    document = comparison(('<i>"quoted" & $1$</i>',), sizes)
    document["cells"][0] |= {"speedup": interval(1.7e308, 0.0)}
    document["cells"][0]["a"] |= {"tokens_per_s": 5e-324, "tpot_s": [5e-324] * QUANTILES}
    html = page.page(view.contents(comparison_of(document)))
    assert "<i>" not in html
    assert len(Tags(html).named("svg")) == drawn
    assert html.count("There is no result to draw.") == 8 - drawn
    assert "not drawn: too small or too large" in html


def test_curves_loads_and_papers_have_pages_and_pictures(tmp_path, capsys):
    for name, document, count in (("curve", CURVE, 5), ("load", load(), 6), ("paper", paper(), 16)):
        source, target = write(document, tmp_path / f"{name}.json"), tmp_path / f"{name}.html"
        assert main(["report", str(source), "--html", str(target)]) == 0
        assert len(Tags(target.read_text()).named("figure")) == count
        assert "is written" in capsys.readouterr().err


def test_pictures_are_files_named_for_what_they_show(tmp_path):
    folder = tmp_path / "pictures"
    assert main(["report", str(write(CURVE, tmp_path / "curve.json")), "--png", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{name}.png" for name in ("speedup", "acceptance-length", "throughput", "time", EXCHANGE)}


def test_two_results_share_a_page_that_begins_with_the_verdict(tmp_path, capsys):
    files = [write(load(goods=(200, 196, good)), tmp_path / f"{good}.json") for good in (120, 60)]
    assert main(["report", *map(str, files), "--html", str(tmp_path / "both.html")]) == 1
    html = (tmp_path / "both.html").read_text()
    assert re.findall("<h1[^>]*>([^<:]*)", html) == ["Before and after", "Before", "After"]
    assert "REGRESSION" in html
    assert "WORSE" in capsys.readouterr().out


def test_without_matplotlib_a_page_says_what_to_install(tmp_path, capsys, monkeypatch):
    source = write(CURVE, tmp_path / "curve.json")
    for name in ("drawing", "page", "inline_svg"):
        monkeypatch.delitem(sys.modules, f"loadtest.reporting.{name}", raising=False)
        monkeypatch.delattr(reporting, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(source), "--html", str(tmp_path / "out.html")]) == 1
    assert capsys.readouterr().err == "aerie-bench: a page needs matplotlib: pip install 'aerie[bench]'\n"


def test_a_verdict_needs_neither_matplotlib_nor_jinja():
    code = "import sys, loadtest.cli; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_page_that_cannot_be_written_is_one_line(tmp_path, capsys):
    source = write(comparison(("t",), (1,)), tmp_path / "a.json")
    assert main(["report", str(source), "--html", str(tmp_path / "none" / "out.html")]) == 1
    assert main(["report", str(source), "--png", str(source)]) == 1
    assert "no folder can be made there" in capsys.readouterr().err
