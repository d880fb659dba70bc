# ruff: noqa: N803, N806, N812  shape suffixes
"""The EAGLE-3 draft (section 3.1, Figure 5): fused features, one decoder layer, a head over a reduced vocabulary.

Its module names are the tensor names of SGLang's checkpoint (`srt/models/llama_eagle3.py`), so `state_dict()` is the
checkpoint. Which keys a query may see is the caller's: `attend` is causal-then-diagonal in training and a cache with a
tree mask in decoding, and everything else is the same code.

Owns the forward pass and its initial weights; refuses to own the embedding (it is the target's, frozen).

Shapes: M tokens in any order, N of them kept, D hidden size, F tap features (taps * D), H heads, G key-value heads,
d head dimension, h half of it, W draft vocabulary, V target vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from draft_models.attention import rotate
from draft_models.config import DraftConfig

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query_MHd, key_MGd, value_MGd) -> out_NHd; it may keep fewer outputs than there were queries."""


class RMSNorm(nn.Module):
    """Root-mean-square norm in the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_MD: Tensor) -> Tensor:
        """Same shape, same dtype."""
        # CUDA's autocast computes it in fp32
        return F.rms_norm(x_MD, self.weight.shape, self.weight.to(x_MD.dtype), self.eps).to(x_MD.dtype)


class Rope:
    """The target's rotary tables.

    No nn.Module, whose buffers `draft.to(torch.bfloat16)` would round: at position 1,000 the angles of bf16 frequencies
    are off by a radian and more. Hugging Face keeps the target's in float32, and SGLang both.
    """

    def __init__(self, config: DraftConfig) -> None:
        with torch.device("cpu"):  # real even in a draft that is built on "meta"
            made = LlamaRotaryEmbedding(_rope_config(config))
        self.frequency_h: Tensor = made.inv_freq
        self.scale: float = made.attention_scaling

    def __call__(self, position_M: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [M, d] each."""
        angle_Mh = position_M[:, None].float() * self.frequency_h.to(position_M.device)
        angle_Md = torch.cat([angle_Mh, angle_Mh], dim=-1)
        return (angle_Md.cos() * self.scale).to(dtype), (angle_Md.sin() * self.scale).to(dtype)


class Attention(nn.Module):
    """Grouped-query attention whose projections read the concatenated 2 * D inputs."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_size, key_size = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(2 * config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(2 * config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(2 * config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(self, x_M2D: Tensor, cos_Md: Tensor, sin_Md: Tensor, attend: Attend) -> Tensor:
        """[N, D]."""
        query_MHd, key_MGd, value_MGd = (
            project(x_M2D).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out_NHd = attend(rotate(query_MHd, cos_Md, sin_Md), rotate(key_MGd, cos_Md, sin_Md), value_MGd)
        out_ND: Tensor = self.o_proj(out_NHd.flatten(1).to(x_M2D.dtype))
        return out_ND


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D]."""
        out_ND: Tensor = self.down_proj(F.silu(self.gate_proj(x_ND)) * self.up_proj(x_ND))
        return out_ND


class DecoderLayer(nn.Module):
    """One Llama layer over [embedding ; feature]; the residual stream carries the feature alone."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.input_layernorm, self.hidden_norm, self.post_attention_layernorm = (
            RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(3)
        )
        self.self_attn = Attention(config)
        self.mlp = MLP(config)

    def forward(
        self, embed_MD: Tensor, hidden_MD: Tensor, cos_Md: Tensor, sin_Md: Tensor, attend: Attend, keep_N: Tensor | None
    ) -> Tensor:
        """[N, D]: the tokens in `keep_N`, all of them without it."""
        x_M2D = torch.cat([self.input_layernorm(embed_MD), self.hidden_norm(hidden_MD)], dim=-1)
        residual_ND = hidden_MD if keep_N is None else hidden_MD[keep_N]
        hidden_ND = residual_ND + self.self_attn(x_M2D, cos_Md, sin_Md, attend)
        out_ND: Tensor = hidden_ND + self.mlp(self.post_attention_layernorm(hidden_ND))
        return out_ND


class DraftModel(nn.Module):
    """The draft of section 3.1. `d2t` and `t2d` (vocab.py) travel with the weights."""

    def __init__(self, config: DraftConfig, d2t_W: Tensor, t2d_V: Tensor) -> None:
        super().__init__()
        assert d2t_W.shape == (config.draft_vocab_size,)
        assert t2d_V.shape == (config.vocab_size,)
        self.config = config
        self.fc = nn.Linear(len(config.taps) * config.hidden_size, config.hidden_size, bias=False)
        self.midlayer = DecoderLayer(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        self.d2t = nn.Buffer(d2t_W)
        self.t2d = nn.Buffer(t2d_V)
        self.rope = Rope(config)

    def fuse(self, taps_MF: Tensor) -> Tensor:
        """g = fc([low ; middle ; high]): the target's features in the draft's own space, [M, D]."""
        hidden_MD: Tensor = self.fc(taps_MF)
        return hidden_MD

    def forward(
        self, embed_MD: Tensor, hidden_MD: Tensor, position_M: Tensor, attend: Attend, keep_N: Tensor | None = None
    ) -> Tensor:
        """One draft step: [N, D], the next step's feature and, through `logits`, the next token's distribution.

        Args:
            embed_MD: the target's embedding of the token *after* the one whose feature it is paired with.
            hidden_MD: `fuse` of the target's features where they are known, the draft's own output where not.
            position_M: rope position of each pair, that of the feature's token.
            attend: which keys a query sees, and where keys and values are kept.
            keep_N: the tokens whose output `attend` returns.
        """
        cos_Md, sin_Md = self.rope(position_M, hidden_MD.dtype)
        out_ND: Tensor = self.midlayer(embed_MD, hidden_MD, cos_Md, sin_Md, attend, keep_N)
        return out_ND

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Over the draft vocabulary, [N, W]."""
        logits_NW: Tensor = self.lm_head(self.norm(hidden_ND))
        return logits_NW

    def target_ids(self, draft_ids: Tensor) -> Tensor:
        """Token ids of the target for ids of the draft vocabulary: d2t is an offset."""
        return draft_ids + self.d2t[draft_ids]


@torch.no_grad()
def initialise(draft: DraftModel, head_VD: Tensor, norm_D: Tensor, taps_rms: list[float], seed: int) -> None:
    """Where training starts: the head from the target's rows, a small random layer, features of unit scale.

    A target's taps differ in scale by an order of magnitude (SmolLM2-135M: rms 3.2, 7.0, 27.6): each tap's columns of
    fc are scaled by the inverse of its rms. Copying the target's last layer or an identity fc was worse (docs/log.md).
    """
    generator = torch.Generator().manual_seed(seed)
    hidden_size = draft.config.hidden_size
    draft.lm_head.weight.copy_(head_VD[draft.t2d].float())
    draft.norm.weight.copy_(norm_D.float() / 4)
    for tap, rms in enumerate(taps_rms):
        columns_DD = draft.fc.weight[:, tap * hidden_size : (tap + 1) * hidden_size]
        _draw(columns_DD, 1 / (rms * draft.fc.in_features**0.5), generator)
    attention, mlp = draft.midlayer.self_attn, draft.midlayer.mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
        _draw(linear.weight, linear.in_features**-0.5, generator)
    for linear in (attention.o_proj, mlp.down_proj):
        _draw(linear.weight, 0.5 * linear.in_features**-0.5, generator)


def _draw(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Normal, drawn on the CPU: a run starts from the same weights on every device."""
    weight.copy_(torch.empty(weight.shape).normal_(0, std, generator=generator))


def _rope_config(config: DraftConfig) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters=dict(config.rope_parameters),
    )
