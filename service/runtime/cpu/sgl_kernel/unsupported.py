"""Ops of the official sgl-kernel that this one does not have, and what a caller is told.

Some are only bound to a name when SGLang imports a model file, so they must exist; the others would otherwise fail with
"object has no attribute". Ops that SGLang probes with hasattr and can do without (fused_qk_norm_cpu,
fused_qk_norm_rope_cpu) must not be listed.
"""

from typing import NoReturn

import torch

UNSUPPORTED: dict[str, tuple[str, ...]] = {
    "mixture-of-experts layers": (
        "fused_experts_cpu",
        "shared_expert_cpu",
        "fused_moe_router_cpu",
        "topk_softmax_cpu",
        "topk_sigmoid_cpu",
        "grouped_topk_cpu",
        "biased_grouped_topk_cpu",
        "fused_linear_sigmoid_mul",
    ),
    "multi-head latent attention": ("bmm_cpu", "qkv_proj_with_rope", "qkv_proj_with_rope_fused_weight"),
    "quantised linear layers": (
        "convert_weight_packed_scale_zp",
        "fp8_scaled_mm_cpu",
        "fp8_per_tensor_scaled_mm_cpu",
        "int4_scaled_mm_cpu",
        "int8_scaled_mm_with_quant",
        "per_token_quant_int8_cpu",
    ),
    "tensor parallelism (tp_size > 1)": ("shm_allreduce", "shm_allgather"),
    "Gemma, Grok and layer norms": (
        "gemma_rmsnorm_cpu",
        "gemma_fused_add_rmsnorm_cpu",
        "gemma3_rmsnorm_cpu",
        "gemma4_rmsnorm_cpu",
        "layernorm_cpu",
        "fused_add_layernorm_cpu",
        "l2norm_cpu",
        "fused_rmsnorm_gated_cpu",
        "fused_dual_residual_rmsnorm_cpu",
        "fused_qk_rmsnorm_cpu",
        "fused_qk_rmsnorm_sumsq_cpu",
        "fused_qk_rmsnorm_apply_from_stats_cpu",
    ),
    "GELU activations": ("gelu_and_mul_cpu", "gelu_tanh_and_mul_cpu"),
    "linear attention and state-space layers": (
        "causal_conv1d_weight_pack",
        "causal_conv1d_fwd_cpu",
        "causal_conv1d_update_cpu",
        "fused_sigmoid_mul_cpu",
        "fused_qk_gemma_rmsnorm_cpu",
        "fused_qk_gemma_rmsnorm_with_gate_cpu",
        "fused_qkvzba_split_reshape_cat_cpu",
        "fused_qkvzba_split_reshape_cat_contiguous_cpu",
        "fused_input_proj_cpu",
        "fused_gdn_gating_cpu",
        "fused_sigmoid_gating_delta_rule_update_cpu",
    ),
    "multimodal models": (
        "apply_rotary_pos_emb_cpu",
        "apply_multidimensional_rope_cpu",
        "multimodal_rotary_embedding_cpu",
        "conv3d_embed_cpu",
        "conv3d_embed_weight_pack",
        "image_preprocess_cpu",
        "flash_attn_varlen_func",
    ),
}


def refusal(feature: str, called: str) -> NotImplementedError:
    """The one wording for everything this runtime does not do."""
    return NotImplementedError(
        f"{called}: Aerie's CPU runtime serves dense Llama-type models with tp_size=1; use a GPU profile for {feature}"
    )


class UnsupportedOp:
    """Stands where an op would: can be bound to a name, raises when called."""

    def __init__(self, name: str, feature: str) -> None:
        self.name, self.feature = name, feature

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        """Says what is unsupported and what to do."""
        raise refusal(self.feature, f"sgl_kernel::{self.name}")

    @property
    def default(self) -> "UnsupportedOp":
        """The overload SGLang sometimes spells out."""
        return self


def install() -> None:
    """Put an UnsupportedOp into torch.ops.sgl_kernel for every op in the table."""
    for feature, names in UNSUPPORTED.items():
        for name in names:
            setattr(torch.ops.sgl_kernel, name, UnsupportedOp(name, feature))
