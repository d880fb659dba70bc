// Attention's arguments: what is demanded of caches and slot lists, and how a pass's queries are cut up for threads.
// Included by bindings.cpp only.
#pragma once
#include <utility>
#include <vector>

#include "checks.h"

namespace aerie {
namespace {

struct Batch {
  const char* op;
  const Tensor &q, &out, &k_cache, &v_cache, &req_to_token;
  double scale, logit_cap;
};

void check_batch(const Batch& b) {
  TORCH_CHECK(b.q.dim() == 3 && b.out.dim() == 3 && b.k_cache.dim() == 3 && b.v_cache.dim() == 3, b.op, ": rank 3 expected");
  TORCH_CHECK_NOT_IMPLEMENTED(b.k_cache.sizes() == b.v_cache.sizes() && b.q.size(2) == b.k_cache.size(2) && b.q.sizes() == b.out.sizes(),
      b.op, ": Aerie's CPU runtime serves dense Llama-type models (K and V heads of one size, no MLA); use a GPU profile for this model");
  TORCH_CHECK_NOT_IMPLEMENTED(b.q.size(2) % 2 == 0, b.op, ": Aerie's CPU runtime serves even head sizes, not ", b.q.size(2));
  TORCH_CHECK(b.k_cache.size(1) > 0 && b.q.size(1) % b.k_cache.size(1) == 0, b.op, ": ", b.q.size(1), " query heads for ",
              b.k_cache.size(1), " KV heads");
  for (const Tensor* t : {&b.out, &b.k_cache, &b.v_cache}) {
    TORCH_CHECK_NOT_IMPLEMENTED(t->scalar_type() == b.q.scalar_type(), b.op, ": query is ", b.q.scalar_type(), ", cache or output ",
                                t->scalar_type(), "; start SGLang without --kv-cache-dtype");
    TORCH_CHECK(t->numel() == 0 || t->stride(2) == 1, b.op, ": heads must be contiguous");
  }
  TORCH_CHECK(b.q.numel() == 0 || b.q.stride(2) == 1, b.op, ": query heads must be contiguous");
  TORCH_CHECK(b.req_to_token.dim() == 2 && b.req_to_token.scalar_type() == at::kInt && b.req_to_token.stride(1) == 1, b.op,
              ": req_to_token must be an int32 matrix");
}

// The request's slot list, with every slot that will be read checked against the cache.
const int32_t* request_slots(const Batch& b, int64_t request, int64_t length) {
  TORCH_CHECK(request >= 0 && request < b.req_to_token.size(0), b.op, ": request ", request, " is not in req_to_token");
  TORCH_CHECK(length >= 0 && length <= b.req_to_token.size(1), b.op, ": sequence length ", length, " exceeds req_to_token");
  const int32_t* slots = data<int32_t>(b.req_to_token) + request * b.req_to_token.stride(0);
  const int64_t capacity = b.k_cache.size(0);
  for (int64_t i = 0; i < length; ++i) TORCH_CHECK(slots[i] >= 0 && slots[i] < capacity, b.op, ": slot ", slots[i], " is not in the cache");
  return slots;
}

void check_supported(const char* op, bool is_cross_attn, const OptionalTensor& encoder_lens, const OptionalTensor& sinks) {
  TORCH_CHECK_NOT_IMPLEMENTED(!is_cross_attn && !encoder_lens && !sinks, op,
      ": cross attention, encoder lengths and attention sinks are not supported by Aerie's CPU runtime; use a GPU profile");
}

int64_t window_start(int64_t position, int64_t window) { return window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0; }

// Enough queries to amortise converting a K or V row, few enough that their scores stay in cache.
constexpr int64_t queries_per_block = 4;

// The queries of one pass, every slot of theirs checked, in blocks [first, last) of one request.
struct Plan {
  std::vector<Query> queries;
  std::vector<std::pair<int64_t, int64_t>> blocks;
  int64_t keys = 0, pairs = 0;  // keys of the longest query; queries times keys

  void add(const Batch& b, const Query& query) {
    TORCH_CHECK(query.token >= 0 && query.token < b.q.size(0), b.op, ": token ", query.token, " of ", b.q.size(0));
    const int64_t at = int64_t(queries.size());
    const bool joins = !blocks.empty() && at - blocks.back().first < queries_per_block && queries[blocks.back().first].slots == query.slots;
    if (!joins) blocks.push_back({at, at});
    blocks.back().second = at + 1;
    queries.push_back(query);
    keys = std::max(keys, query.to);
    pairs += query.to;
  }

  int64_t scratch(const Batch& b) const {
    return attention_scratch(queries_per_block, b.q.size(1) / b.k_cache.size(1), b.q.size(2), keys);
  }
};

// Of a pass in which request i's last extend_seq_lens[i] tokens are queries.
Plan plan_extend(const Batch& b, const Tensor& req_pool_indices, const Tensor& seq_lens, const Tensor& extend_seq_lens,
                 const Tensor& extend_start_loc, int64_t window, const OptionalTensor& tree_mask, bool is_causal) {
  TORCH_CHECK_NOT_IMPLEMENTED(!tree_mask || window <= 0, b.op,
      ": a token tree on a sliding-window layer is not supported by Aerie's CPU runtime; use --speculative-eagle-topk 1");
  const int64_t count = seq_lens.numel();
  const Tensor requests = indices(b.op, req_pool_indices, count), lengths = indices(b.op, seq_lens, count),
               extends = indices(b.op, extend_seq_lens, count), starts = indices(b.op, extend_start_loc, count);
  TORCH_CHECK(!tree_mask || (tree_mask->scalar_type() == at::kBool && tree_mask->is_contiguous()), b.op, ": tree_mask must be contiguous bool");
  Plan plan;
  int64_t mask_at = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = data<int64_t>(lengths)[i], extend = data<int64_t>(extends)[i], prefix = length - extend;
    TORCH_CHECK(extend >= 0 && prefix >= 0, b.op, ": ", extend, " new tokens in a sequence of ", length);
    TORCH_CHECK(!tree_mask || mask_at + extend * extend <= tree_mask->numel(), b.op, ": tree_mask is too short");
    const int32_t* slots = request_slots(b, data<int64_t>(requests)[i], length);
    for (int64_t j = 0; j < extend; ++j) {
      const bool* mask = tree_mask ? data<bool>(*tree_mask) + mask_at + j * extend : nullptr;
      const int64_t to = mask || !is_causal ? length : prefix + j + 1;
      plan.add(b, {slots, data<int64_t>(starts)[i] + j, window_start(prefix + j, window), to, prefix, mask});
    }
    mask_at += extend * extend;
  }
  return plan;
}

// Items [first, last) of blocks times KV heads; all = the arguments for head 0, but for the queries.
template <typename T>
void attend_items(const Batch& b, const Plan& plan, AttentionArgs<T> all, int64_t first, int64_t last) {
  const int64_t kv_heads = b.k_cache.size(1);
  for (int64_t item = first; item < last; ++item) {
    const auto [from, to] = plan.blocks[item / kv_heads];
    const int64_t head = item % kv_heads;
    AttentionArgs<T> args = all;
    args.q += head * all.group * all.q_head_stride;
    args.out += head * all.group * all.out_head_stride;
    args.k_cache += head * b.k_cache.stride(1);
    args.v_cache += head * b.v_cache.stride(1);
    args.queries = plan.queries.data() + from;
    args.count = to - from;
    pick<T>(kernels().attention_f32, kernels().attention_bf16)(args);
  }
}

template <typename T>
AttentionArgs<T> attention_args(const Batch& b, float* scratch) {
  return {data<T>(b.q), b.q.stride(0), b.q.stride(1), data<T>(b.out), b.out.stride(0), b.out.stride(1),
          data<T>(b.k_cache), data<T>(b.v_cache), b.k_cache.stride(0), b.v_cache.stride(0), nullptr, 0,
          b.q.size(1) / b.k_cache.size(1), b.q.size(2), float(b.scale), float(b.logit_cap), scratch};
}

}  // namespace
}  // namespace aerie
