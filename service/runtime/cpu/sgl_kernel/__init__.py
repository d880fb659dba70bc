"""The module SGLang 0.5.23 imports as `sgl_kernel` on a machine without a GPU.

Importing it defines `torch.ops.sgl_kernel.*` and exposes the functions SGLang imports by name. Which implementation
runs is decided by AERIE_CPU_OPS, see library.py. It serves dense Llama-type models with tp_size=1; every other op
SGLang could ask for raises NotImplementedError (unsupported.py).

SGLang takes its fast CPU path when `torch.ops.sgl_kernel.convert_weight_packed` exists and
`torch.cpu._is_amx_tile_supported()` answers True (serve.py sees to that; no op here needs AMX).
"""

from . import library, ops, unsupported
from .kv import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_draft_decode_metadata_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
)
from .speculative import fill_bonus_tokens_cpu, rotate_input_ids_cpu
from .tree import build_tree_kernel_efficient_cpu, reconstruct_indices_from_tree_mask_cpu, verify_tree_greedy_cpu

__version__ = "0.5.23+aerie"

__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_draft_decode_metadata_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "reconstruct_indices_from_tree_mask_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
]

library.load(ops.OPS)
unsupported.install()
