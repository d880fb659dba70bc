"""How long a pass, a step and a speculative cycle take: a roofline with overheads.

Owns the formulas and their constants' meaning. Pure: refuses to own where the constants come from (fit.py) and what
traffic does with the times (queueing.py).

    pass  = max(bytes / (bandwidth x efficiency), operations / (peak x efficiency))
            + layers x layer overhead + requests x request overhead + all-reduces
    cycle = num_steps x draft pass + verify pass over batch x num_draft_tokens + cycle overhead
"""

from dataclasses import dataclass, field, fields

from loadtest.planning.geometry import Geometry
from loadtest.planning.hardware import Gpu
from loadtest.tree import Tree

_ALL_REDUCES = 2
"""Of a layer: after attention and after the MLP."""
_ACTIVATION_BYTES = 2


@dataclass(frozen=True)
class Constants:
    """What no data sheet says; times in seconds."""

    memory_efficiency: float
    """Share of the peak bandwidth that reading weights and caches reaches."""
    compute_efficiency: float
    """Share of the peak operations that a large pass reaches."""
    layer_s: float
    """Launches and small kernels of one layer."""
    request_s: float
    """Of one request in a target's pass: sampling, scheduling, attention beyond its bytes."""
    draft_s: float
    """Of one draft pass: launches, choosing the tree's next level."""
    cycle_s: float
    """Of one cycle: building the tree, accepting, moving caches."""
    cycle_request_s: float
    """Of one request in a cycle, beyond `request_s`."""
    all_reduce_s: float
    """Latency of one all-reduce among GPUs."""

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


PUBLISHED = Constants(
    memory_efficiency=0.92,
    compute_efficiency=0.634,
    layer_s=5.81e-05,
    request_s=7.11e-05,
    draft_s=0.000346,
    cycle_s=0.00222,
    cycle_request_s=0.000149,
    all_reduce_s=4.04e-06,
)
"""Fitted to the points of published.yaml that are marked `fit` (fit.py; a test repeats it)."""


@dataclass(frozen=True)
class Machine:
    """One replica: a target and its draft on `tp` GPUs."""

    target: Geometry
    gpu: Gpu
    tp: int = 1
    draft_vocab: int | None = None
    """None: EAGLE-3's usual one."""
    constants: Constants = field(default=PUBLISHED)

    @property
    def draft(self) -> Geometry:
        """The EAGLE-3 draft of the target."""
        return self.target.eagle3_draft(self.draft_vocab) if self.draft_vocab else self.target.eagle3_draft()

    def step_s(self, batch: float, context: float) -> float:
        """Plain decoding: one token for each request."""
        return self._pass_s(self.target, batch, context, batch) + self.constants.request_s * batch

    def prefill_s(self, prompt: float) -> float:
        """A prompt, alone in its pass."""
        return self._pass_s(self.target, prompt, prompt / 2, 1) + self.constants.request_s

    def cycle_s(self, tree: Tree, batch: float, context: float) -> float:
        """Drafting a tree and verifying it, for each request."""
        own, tokens = self.constants, batch * tree.num_draft_tokens
        draft_s = self._pass_s(self.draft, batch * tree.eagle_topk, context, batch) + own.draft_s
        verify_s = self._pass_s(self.target, tokens, context, batch) + own.request_s * batch
        return tree.num_steps * draft_s + verify_s + own.cycle_s + own.cycle_request_s * batch

    def _pass_s(self, model: Geometry, tokens: float, context: float, requests: float) -> float:
        own, gpu = self.constants, self.gpu
        read = model.bytes_read(tokens) + requests * context * model.kv_bytes
        memory_s = read / self.tp / (1e9 * gpu.bandwidth_gb_per_s * own.memory_efficiency)
        compute_s = (
            model.flops(tokens, context) / self.tp / (gpu.flops_per_s(model.weight_bytes) * own.compute_efficiency)
        )
        return max(memory_s, compute_s) + model.layers * (own.layer_s + self._communication_s(model, tokens))

    def _communication_s(self, model: Geometry, tokens: float) -> float:
        """Of one layer: a ring's bytes over one direction of the link, and the latency."""
        if self.tp == 1:
            return 0
        ring = 2 * (self.tp - 1) / self.tp * tokens * model.hidden * _ACTIVATION_BYTES
        return _ALL_REDUCES * (self.constants.all_reduce_s + ring / (1e9 * self.gpu.link_gb_per_s / 2))
