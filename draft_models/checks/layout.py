"""What SGLang 0.5.23 builds from a draft's config.json (`srt/models/llama_eagle3.py`): tensors, shapes and taps.

Owns SGLang's reading of the configuration, its defaults included; the trained draft's own layout is model.py's.
"""

from draft_models.checks.facts import Facts, Shape
from draft_models.formats.sglang import KEY

NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
    "max_position_embeddings",
)
"""Without one of these SGLang takes LlamaConfig's default, that of Llama-2-7B."""


def layers(facts: Facts) -> list[int] | None:
    """`eagle_aux_hidden_state_layer_ids`; None where SGLang takes its default, or where it is no list of numbers."""
    found = facts.eagle_config.get(KEY)
    return found if isinstance(found, list) and all(type(layer) is int for layer in found) else None


def num_taps(facts: Facts) -> int:
    """As SGLang counts them: the key, the list, or 3."""
    return facts.number("num_aux_hidden_states") or len(layers(facts) or ()) or 3


def shares_embedding(facts: Facts) -> bool:
    """Whether SGLang puts the target's embedding in place of the draft's own."""
    return facts.found.get("target_hidden_size", facts.found.get("hidden_size")) == facts.found.get("hidden_size")


def expected(facts: Facts) -> dict[str, Shape]:
    """Every tensor SGLang builds, by SGLang's name; {} where config.json lacks the numbers to tell."""
    numbers = {name: facts.number(name) for name in NEEDED}
    if any(not number or number < 1 for number in numbers.values()):
        return {}
    size, count = facts.number("hidden_size") or 0, num_taps(facts)
    width = count * (facts.number("target_hidden_size") or size)
    shapes: dict[str, Shape] = {"fc.weight": (size, width), "norm.weight": (size,)}
    if facts.found.get("bias"):
        shapes["fc.bias"] = (size,)
    if facts.eagle_config.get("norm_before_fc", facts.found.get("norm_before_fc")):
        shapes["input_norm.weight"] = (width,)
    if facts.found.get("fc_norm") or facts.found.get("use_aux_norm"):
        shapes |= {f"fc_norm.{tap}.weight": (width // count,) for tap in range(count)}
    if not shares_embedding(facts):
        shapes["embed_tokens.weight"] = (facts.number("vocab_size") or 0, size)
    if _own_head(facts):
        shapes["lm_head.weight"] = (facts.number("draft_vocab_size") or 0, size)
    for layer in range(facts.number("num_hidden_layers") or 0):
        shapes |= _layer(facts, "midlayer" if layer == 0 else f"layers.{layer}", (2 if layer == 0 else 1) * size)
    return shapes


def _own_head(facts: Facts) -> bool:
    return facts.number("draft_vocab_size") is not None and not facts.found.get("tie_word_embeddings")


def _layer(facts: Facts, prefix: str, inputs: int) -> dict[str, Shape]:
    size, inner = facts.number("hidden_size") or 0, facts.number("intermediate_size") or 0
    heads = facts.number("num_attention_heads") or 1
    groups, head_dim = facts.number("num_key_value_heads") or heads, facts.number("head_dim") or size // heads
    attention = {
        "q_proj": (heads * head_dim, inputs),
        "k_proj": (groups * head_dim, inputs),
        "v_proj": (groups * head_dim, inputs),
        "o_proj": (size, heads * head_dim),
    }
    mlp = {"gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    norms = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    return {
        **{f"{prefix}.self_attn.{name}.weight": shape for name, shape in attention.items()},
        **{f"{prefix}.mlp.{name}.weight": shape for name, shape in mlp.items()},
        **{f"{prefix}.{name}.weight": (size,) for name in norms},
    }
