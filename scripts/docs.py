"""Write the tables in docs/ that say what the code says: metrics, settings, capabilities, values (`make docs`).

A page holds a table between `<!-- NAME -->` and `<!-- /NAME -->`. With `--check` nothing is written: exit
status 1 says that a page is behind the code.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from scripts import chart_values
from service.capabilities import TABLE, Support
from service.gateway.config import GatewayConfig
from service.gateway.metrics import Metrics
from service.gateway.settings import PREFIX, Settings

GEN_AI = {
    "aerie_request_duration_seconds": "gen_ai.server.request.duration",
    "aerie_time_to_first_token_seconds": "gen_ai.server.time_to_first_token",
    "aerie_time_per_output_token_seconds": "gen_ai.server.time_per_output_token",
    "aerie_prompt_tokens_total": "gen_ai.client.token.usage, gen_ai.token.type=input (there a histogram per request)",
    "aerie_completion_tokens_total": "gen_ai.client.token.usage, gen_ai.token.type=output",
}
"""What OpenTelemetry's semantic conventions for generative AI call the same."""

DOCS = Path(__file__).resolve().parent.parent / "docs"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def metrics() -> str:
    """Every time series of the gateway."""
    rows = []
    for collector in vars(Metrics()).values():
        if not isinstance(collector, MetricWrapperBase):
            continue
        kind, labels = collector._type, collector._labelnames
        name = collector._name + ("_total" if kind == "counter" else "")
        words = collector._documentation + (f" OpenTelemetry: `{GEN_AI[name]}`." if name in GEN_AI else "")
        labelled = ", ".join(f"`{label}`" for label in labels) or "-"
        rows.append((f"`{name}`", kind, unit(name), labelled, words, f"`{query(name, collector)}`"))
    return table(("name", "type", "unit", "labels", "meaning", "PromQL to read it"), rows)


def query(name: str, collector: MetricWrapperBase) -> str:
    """What asks Prometheus for it, of all gateways together."""
    labels = collector._labelnames
    by = f" by ({', '.join(labels)}) " if labels else ""
    if isinstance(collector, Counter):
        return f"sum{by}(rate({name}[5m]))"
    if isinstance(collector, Histogram):
        return f"histogram_quantile(0.95, sum by ({', '.join(('le', *labels))}) (rate({name}_bucket[5m])))"
    assert isinstance(collector, Gauge)
    if name.endswith("_info"):
        return f"group{by}({name})"
    together = f"{collector._multiprocess_mode.removeprefix('live')}{by}({name})"
    return f"time() - {together}" if "_time" in name else together


def unit(name: str) -> str:
    """As its name says it; counts have none."""
    return next((word for word in ("seconds", "tokens") if f"_{word}" in name.removeprefix("aerie_time_per")), "1")


def settings() -> str:
    """Every environment variable of the gateway."""
    rows = [
        (f"`{PREFIX}{name.upper()}`", f"`{_plain(field.default)}`", " ".join((field.description or "").split()))
        for name, field in Settings.model_fields.items()
    ]
    return table(("variable", "default", "meaning"), rows)


def _plain(value: Any) -> str:  # noqa: ANN401 - a field's default
    return str(value) if not isinstance(value, bool) else str(value).lower()


def config() -> str:
    """Every field of the gateway's file."""
    return table(("field", "default", "meaning"), list(_fields(GatewayConfig, "")))


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))  # a section, or a tuple of them
        if section := next((kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)), None):
            yield from _fields(section, f"{prefix}{name}{'' if section is field.annotation else '[]'}.")
        else:
            default = "required" if field.is_required() else f"`{_plain(field.default)}`"
            yield f"`{prefix}{name}`", default, " ".join((field.description or "").split())


def capabilities() -> str:
    """What is refused or relaxed, when, and where that was read or measured."""
    words = {Support.REFUSED: "refused", Support.RELAXED: "relaxed", Support.SUPPORTED: "supported"}
    rows = [(f"`{rule.feature.value}`", words[rule.support], rule.sentence or "-", rule.source) for rule in TABLE]
    return table(("feature", "", "what the caller is told", "source"), rows)


def values() -> str:
    """Every value of the chart."""
    return table(("value", "default", "meaning"), chart_values.rows())


PAGES = {
    "../deploy/helm/aerie/README.md": {"pools": chart_values.pools, "values": values},
    "gateway.md": {"config": config},
    "metrics.md": {"metrics": metrics},
    "settings.md": {"settings": settings},
    "speculation.md": {"capabilities": capabilities},
}


def main() -> int:
    """Write the pages, or check them."""
    behind = []
    for page, parts in PAGES.items():
        path = DOCS / page
        text = path.read_text()
        for name, make in parts.items():
            fresh = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
            new = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, fresh=fresh: fresh, text, flags=re.DOTALL)
            if new != text:
                behind.append(page)
            text = new
        if "--check" not in sys.argv:
            path.write_text(text)
    if behind and "--check" in sys.argv:
        print(f"docs: behind the code: {', '.join(behind)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
