// All layers of a Llama-type decoder as one op, in one parallel region: a decoding step of a small model would otherwise
// spend more time between its kernels than in them. The kernels, their arguments and so the bits are those of the ops
// that it stands for (sgl_kernel/decoder.py says which). Included by bindings.cpp only.
#pragma once
#include <omp.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "paged.h"

namespace aerie {
namespace {

// One of the threads that go through a pass together.
struct Member {
  int64_t rank, members;

  // This thread's part of `items`, cut at multiples of `multiple`; then waits until everybody's is done.
  template <typename Body>
  void share(int64_t items, int64_t multiple, Body&& body) const {
    const int64_t part = (items + members * multiple - 1) / (members * multiple) * multiple;
    const int64_t first = std::min(items, rank * part), last = std::min(items, first + part);
    if (first < last) body(first, last);
#pragma omp barrier
  }
};

struct Layer {
  const bf16 *norm, *qkv, *o, *post_norm, *gate_up, *down;
  bf16 *k_cache, *v_cache;
};

constexpr int64_t layer_weights = 6;

struct Widths {
  int64_t hidden, qkv_in, qkv, q, kv, intermediate;
};

// The layers' pointers, after every shape was checked against the first layer's.
std::vector<Layer> check_layers(const char* op, at::TensorList weights, at::TensorList caches, const Widths& w) {
  const int64_t count = int64_t(weights.size()) / layer_weights;
  TORCH_CHECK(count > 0 && int64_t(weights.size()) == count * layer_weights && int64_t(caches.size()) == 2 * count, op, ": ",
              weights.size(), " weights and ", caches.size(), " caches; a layer has ", layer_weights, " and 2");
  const auto vector = [&](const Tensor& t, int64_t size) {
    TORCH_CHECK(t.scalar_type() == at::kBFloat16 && t.dim() == 1 && t.size(0) == size && t.is_contiguous(), op, ": a norm is ",
                t.scalar_type(), " ", t.sizes(), ", expected ", size, " bfloat16");
    return data<bf16>(t);
  };
  const auto matrix = [&](const Tensor& t, int64_t out, int64_t in) {
    TORCH_CHECK(is_packed(t) && t.is_contiguous() && t.size(0) == out && t.size(1) == in, op, ": a weight is ", t.scalar_type(), " ",
                t.sizes(), ", expected a packed [", out, ", ", in, "]");
    return data<bf16>(t);
  };
  std::vector<Layer> layers;
  for (int64_t i = 0; i < count; ++i) {
    const Tensor *t = &weights[layer_weights * i], *cache = &caches[2 * i];
    for (int64_t side = 0; side < 2; ++side)
      TORCH_CHECK(cache[side].sizes() == caches[side].sizes() && cache[side].strides() == caches[side].strides() &&
                      cache[side].scalar_type() == at::kBFloat16 && cache[side].stride(1) == cache[side].size(2), op, ": layer ", i,
                  "'s cache is not like the first, its heads side by side");
    layers.push_back({vector(t[0], w.hidden), matrix(t[1], w.qkv, i ? w.hidden : w.qkv_in), matrix(t[2], w.hidden, w.q), vector(t[3], w.hidden),
                      matrix(t[4], 2 * w.intermediate, w.hidden), matrix(t[5], w.hidden, w.intermediate), data<bf16>(cache[0]), data<bf16>(cache[1])});
  }
  return layers;
}

// -> (the normed hidden states [T, hidden], the residual stream before the layers `captured`, side by side).
std::tuple<Tensor, Tensor> decoder_layers(const Tensor& hidden, const OptionalTensor& embeds, const OptionalTensor& hidden_norm,
                                          at::TensorList weights, const Tensor& final_norm, double eps, const Tensor& positions,
                                          const Tensor& cos_sin_cache, bool is_neox, at::TensorList kv_caches, const Tensor& slots,
                                          const Tensor& req_to_token, const Tensor& req_pool_indices, const Tensor& seq_lens,
                                          const Tensor& extend_seq_lens, const OptionalTensor& tree_mask, double sm_scale,
                                          at::IntArrayRef captured) {
  const char* op = "decoder_layers";
  TORCH_CHECK(hidden.dim() == 2 && hidden.scalar_type() == at::kBFloat16, op, ": hidden states must be a bfloat16 matrix, not ",
              hidden.scalar_type(), " ", hidden.sizes());
  TORCH_CHECK(weights.size() >= layer_weights && kv_caches.size() >= 2 && kv_caches[0].dim() == 3, op, ": no layers");
  TORCH_CHECK(embeds.has_value() == hidden_norm.has_value(), op, ": embeds without hidden_norm");
  const int64_t tokens = hidden.size(0), head_size = kv_caches[0].size(2), kv = kv_caches[0].size(1) * head_size;
  const Widths w{hidden.size(1), (embeds ? 2 : 1) * hidden.size(1), weights[1].size(0), weights[1].size(0) - 2 * kv, kv, weights[5].size(1)};
  TORCH_CHECK(w.q > 0 && w.q % head_size == 0, op, ": ", w.qkv, " outputs do not make heads of ", head_size);
  const std::vector<Layer> layers = check_layers(op, weights, kv_caches, w);
  const int64_t depth = int64_t(layers.size());
  const auto is_norm = [&](const Tensor& t) { return t.scalar_type() == at::kBFloat16 && t.numel() == w.hidden && t.is_contiguous(); };
  TORCH_CHECK(is_norm(final_norm) && (!hidden_norm || is_norm(*hidden_norm)), op, ": a norm is not ", w.hidden, " bfloat16");
  TORCH_CHECK(!embeds || (embeds->sizes() == hidden.sizes() && embeds->scalar_type() == at::kBFloat16), op, ": embeds are not like hidden states");
  TORCH_CHECK(cos_sin_cache.dim() == 2 && cos_sin_cache.is_contiguous() && cos_sin_cache.scalar_type() == at::kBFloat16 &&
                  cos_sin_cache.size(1) % 2 == 0 && cos_sin_cache.size(1) <= head_size, op, ": cos_sin_cache ", cos_sin_cache.sizes());
  const Tensor position = indices_below(op, "position", positions, tokens, cos_sin_cache.size(0)),
               slot = indices_below(op, "slot", slots, tokens, kv_caches[0].size(0));
  for (const int64_t layer : captured) TORCH_CHECK(layer >= 0 && layer <= depth, op, ": layer ", layer, " of ", depth);

  const auto matrix = [&](int64_t width) { return at::empty({tokens, width}, hidden.options()); };
  const Tensor first_embeds = embeds ? embeds->contiguous() : Tensor();
  const Tensor residual = hidden.clone(at::MemoryFormat::Contiguous), result = matrix(w.hidden), first_input = embeds ? matrix(w.qkv_in) : result,
               qkv = matrix(w.qkv), sum = matrix(w.hidden),
               gate_up = matrix(2 * w.intermediate), gated = matrix(w.intermediate), kept = matrix(w.hidden * int64_t(captured.size()));
  const Tensor q = at::empty({tokens, w.q / head_size, head_size}, hidden.options()), attended = at::empty_like(q);
  const Batch batch{op, q, attended, kv_caches[0], kv_caches[1], req_to_token, sm_scale, 0.};
  check_batch(batch);
  const Tensor starts = extend_seq_lens.cumsum(0) - extend_seq_lens;
  const Plan plan = plan_extend(batch, req_pool_indices, seq_lens, extend_seq_lens, starts, 0, tree_mask, true);
  TORCH_CHECK(int64_t(plan.queries.size()) == tokens, op, ": ", plan.queries.size(), " new tokens in the sequences, ", tokens, " hidden states");

  if (tokens == 0) return {result, kept};
  const Kernels& kernel = kernels();
  const int64_t scratch_each = std::max(w.hidden, plan.scratch(batch)), members = at::get_num_threads();
  std::vector<float> scratch(scratch_each * members);
  const int64_t row_bytes = w.hidden * int64_t(sizeof(bf16)), k_stride = kv_caches[0].stride(0), v_stride = kv_caches[1].stride(0);

#pragma omp parallel num_threads(int(members))
  {
    const Member member{omp_get_thread_num(), omp_get_num_threads()};
    float* own = scratch.data() + member.rank * scratch_each;

    const auto linear = [&](const Tensor& x, const bf16* weight, const Tensor& out) {
      const LinearArgs args{data<bf16>(x), weight, nullptr, data<bf16>(out), tokens, x.numel() / tokens, x.numel() / tokens, out.size(1)};
      member.share(out.size(1) / panel_width, 2, [&](int64_t first, int64_t last) { kernel.linear(args, first, last); });
    };
    // residual += x, unless there is none yet; result = norm(residual); the residual is kept where it is asked for.
    const auto norm = [&](const bf16* x, const bf16* weight, int64_t layer) {
      member.share(tokens, 1, [&](int64_t first, int64_t last) {
        bf16* stream = data<bf16>(residual);
        kernel.rms_norm_bf16({x ? x : stream, x ? stream : nullptr, weight, data<bf16>(result), w.hidden, float(eps), own}, first, last);
        for (size_t i = 0; i < captured.size(); ++i)
          for (int64_t row = first; captured[i] == layer && row < last; ++row)
            std::memcpy(data<bf16>(kept) + (row * int64_t(captured.size()) + int64_t(i)) * w.hidden, stream + row * w.hidden, row_bytes);
      });
    };

    for (int64_t i = 0; i < depth; ++i) {
      const Layer& layer = layers[i];
      if (i == 0 && embeds) {  // EAGLE-3's layer: the token's embedding beside the features
        member.share(tokens, 1, [&](int64_t first, int64_t last) {
          for (int64_t row = first; row < last; ++row) {
            bf16* out = data<bf16>(first_input) + row * w.qkv_in;
            kernel.rms_norm_bf16({data<bf16>(first_embeds) + row * w.hidden, nullptr, layer.norm, out, w.hidden, float(eps), own}, 0, 1);
            kernel.rms_norm_bf16({data<bf16>(residual) + row * w.hidden, nullptr, data<bf16>(*hidden_norm), out + w.hidden, w.hidden, float(eps), own}, 0, 1);
          }
        });
      } else {
        norm(i ? data<bf16>(sum) : nullptr, layer.norm, i);
      }
      linear(i ? result : first_input, layer.qkv, qkv);
      member.share(tokens, 1, [&](int64_t first, int64_t last) {
        RotaryArgs<bf16> args{data<bf16>(qkv), data<bf16>(q), w.qkv, w.q / head_size, head_size, cos_sin_cache.size(1),
                              data<int64_t>(position), data<bf16>(cos_sin_cache), is_neox};
        kernel.rotary_bf16(args, first, last);
        args.heads = w.kv / head_size;
        for (int64_t token = first; token < last; ++token) {
          const int64_t at = data<int64_t>(slot)[token];
          args.in = data<bf16>(qkv) + token * w.qkv + w.q;
          args.positions = data<int64_t>(position) + token;
          args.out = layer.k_cache + at * k_stride;
          kernel.rotary_bf16(args, 0, 1);
          std::memcpy(layer.v_cache + at * v_stride, args.in + w.kv, w.kv * sizeof(bf16));
        }
      });
      member.share(int64_t(plan.blocks.size()) * batch.k_cache.size(1), 1, [&](int64_t first, int64_t last) {
        AttentionArgs<bf16> args = attention_args<bf16>(batch, own);
        args.k_cache = layer.k_cache;
        args.v_cache = layer.v_cache;
        attend_items(batch, plan, args, first, last);
      });
      linear(attended, layer.o, sum);
      norm(data<bf16>(sum), layer.post_norm, -1);
      linear(result, layer.gate_up, gate_up);
      member.share(tokens, 1, [&](int64_t first, int64_t last) {
        kernel.silu_and_mul_bf16(data<bf16>(gate_up), data<bf16>(gated), w.intermediate, first, last);
      });
      linear(gated, layer.down, sum);
    }
    norm(data<bf16>(sum), data<bf16>(final_norm), depth);
  }
  return {result, kept};
}

}  // namespace
}  // namespace aerie
