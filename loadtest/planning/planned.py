"""The plan file, `aerie-plan/1`: what was asked, what it rests on, and the sizes that answer it.

Owns the fields. Refuses to own how they are found (plan.py) and their looks (plan_text.py).
"""

from typing import Literal

from loadtest.document import AcceptanceLength, Count, Document, NotNegative, Part, Positive, Words


class Milliseconds(Part):
    """Of a latency: the mean on paper, percentiles by simulation."""

    mean: NotNegative
    p50: NotNegative
    p99: NotNegative


class Row(Part):
    """The best size of one GPU, with speculation or without."""

    gpu: Words
    tp: Count
    tree: Words
    """num_steps/eagle_topk/num_draft_tokens, or `none`."""
    tau: AcceptanceLength
    replicas: Count
    gpus: Count
    room: Count
    """Requests that a replica decodes at once at most."""
    batch: NotNegative
    """Requests that a replica decodes at once on average."""
    utilisation: Positive
    limit_per_s: Positive
    """Requests per second that a replica could take at most, whatever the latencies."""
    tokens_per_s: Positive
    """Answer tokens of all replicas."""
    ttft_ms: Milliseconds
    tpot_ms: Milliseconds
    gpu_hours_per_million: Positive
    """Answer tokens, at the planned traffic."""
    usd_per_million: Positive | None


class Band(Part):
    """Batch sizes at which one way of decoding is fastest."""

    first: Count
    last: Count
    tree: Words
    speedup_first: Positive
    """Over plain decoding, at the first batch size."""
    speedup_last: Positive


class Bands(Part):
    """Of one GPU and parallelism."""

    gpu: Words
    tp: Count
    bands: tuple[Band, ...]


class Asked(Part):
    """The traffic and the objectives."""

    model: Words
    precision: Words
    rate_per_s: Positive
    prompt_tokens: Count
    answer_tokens: Count
    ttft_ms: Positive | None
    tpot_ms: Positive | None
    utilisation: Positive
    acceptance: dict[str, AcceptanceLength]
    prices_usd_per_hour: dict[str, Positive]
    seed: int


class Planned(Document):
    """The file."""

    format: Literal["aerie-plan/1"] = "aerie-plan/1"
    asked: Asked
    constants: dict[str, Positive]
    constants_from: Words
    rows: tuple[Row, ...]
    bands: tuple[Bands, ...]
    notes: tuple[str, ...]
