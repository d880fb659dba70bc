// The only file that knows torch: checks every argument, then runs the kernels over threads.
//
// Bad input is a c10::Error (a Python RuntimeError that names the op), never a crash: dtypes, shapes, strides and every
// index into a cache are checked here. Schemas are defined in Python (sgl_kernel/ops.py); names and order are SGLang's.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "decoder.h"
#include "pages.h"

namespace aerie {
namespace {

// ---- norm, activation, linear ----------------------------------------------------------------------------------

void run_norm(const char* op, const Tensor& x, const Tensor* residual, const Tensor& weight, Tensor& out, double eps) {
  const int64_t width = x.dim() ? x.size(-1) : 0;
  TORCH_CHECK(weight.dim() == 1 && weight.size(0) == width && weight.is_contiguous(), op, ": weight has shape ",
              weight.sizes(), ", input ", x.sizes());
  check_same_dtype(op, x, weight);
  by_dtype(op, x, [&](auto tag) {
    using T = decltype(tag);
    const auto kernel = pick<T>(kernels().rms_norm_f32, kernels().rms_norm_bf16);
    if (x.numel() == 0) return;
    at::parallel_for(0, x.numel() / width, grain(width), [&](int64_t first, int64_t last) {
      std::vector<float> scratch(width);
      kernel({data<T>(x), residual ? data<T>(*residual) : nullptr, data<T>(weight), data<T>(out), width, float(eps),
              scratch.data()}, first, last);
    });
  });
}

Tensor rmsnorm(const Tensor& input, const Tensor& weight, double eps) {
  const Tensor x = input.contiguous();
  Tensor out = at::empty_like(x);
  run_norm("rmsnorm_cpu", x, nullptr, weight, out, eps);
  return out;
}

void fused_add_rmsnorm(Tensor input, Tensor residual, const Tensor& weight, double eps) {
  const char* op = "fused_add_rmsnorm_cpu";
  TORCH_CHECK(input.is_contiguous() && residual.is_contiguous(), op, ": input and residual must be contiguous");
  TORCH_CHECK(input.sizes() == residual.sizes(), op, ": input ", input.sizes(), ", residual ", residual.sizes());
  check_same_dtype(op, input, residual);
  run_norm(op, input, &residual, weight, input, eps);
}

Tensor silu_and_mul(const Tensor& input) {
  const char* op = "silu_and_mul_cpu";
  TORCH_CHECK(input.dim() >= 1 && input.size(-1) % 2 == 0, op, ": the last dimension of ", input.sizes(), " must be even");
  const Tensor x = input.contiguous();
  auto sizes = x.sizes().vec();
  const int64_t width = sizes.back() /= 2;
  Tensor out = at::empty(sizes, x.options());
  by_dtype(op, x, [&](auto tag) {
    using T = decltype(tag);
    const auto kernel = pick<T>(kernels().silu_and_mul_f32, kernels().silu_and_mul_bf16);
    if (out.numel() == 0) return;
    at::parallel_for(0, out.numel() / width, grain(4 * width), [&](int64_t first, int64_t last) {
      kernel(data<T>(x), data<T>(out), width, first, last);
    });
  });
  return out;
}

Tensor pack_weight(const Tensor& weight) {
  Tensor copy = empty_in_large_pages(weight.sizes(), weight.options());
  if (!is_packed(weight)) return copy.copy_(weight);
  const int64_t panels = weight.size(0) / panel_width, words = weight.size(1) / 2;
  copy.view({panels, words, panel_width, 2}).copy_(weight.reshape({panels, panel_width, words, 2}).transpose(1, 2));
  return copy;
}

Tensor packed_linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool) {
  const char* op = "weight_packed_linear";
  if (!is_packed(weight)) return at::linear(input, weight, bias ? OptionalTensor(bias->to(input.scalar_type())) : bias);
  check_same_dtype(op, input, weight);
  TORCH_CHECK(input.dim() == 2 && input.size(1) == weight.size(1) && weight.is_contiguous(), op, ": input ", input.sizes(),
              " for weight ", weight.sizes());
  const Tensor x = input.stride(1) == 1 ? input : input.contiguous(), offset = bias ? bias->to(at::kFloat).contiguous() : Tensor();
  TORCH_CHECK(!bias || offset.numel() == weight.size(0), op, ": bias ", offset.sizes(), " for weight ", weight.sizes());
  Tensor out = at::empty({x.size(0), weight.size(0)}, x.options());
  const LinearArgs args{data<bf16>(x), data<bf16>(weight), bias ? data<float>(offset) : nullptr, data<bf16>(out),
                        x.size(0), x.size(1), x.stride(0), weight.size(0)};
  at::parallel_for(0, weight.size(0) / panel_width, grain(panel_width * x.size(1)), [&](int64_t first, int64_t last) {
    kernels().linear(args, first, last);
  });
  return out;
}

// ---- rotary ----------------------------------------------------------------------------------------------------

Tensor rotate(const char* op, const Tensor& input, const Tensor& positions, const Tensor& cache, int64_t head_size, bool neox) {
  const int64_t tokens = positions.numel();
  TORCH_CHECK(input.dim() >= 2 && input.size(0) == tokens, op, ": ", tokens, " positions for input ", input.sizes());
  Tensor x = input.flatten(1);
  if (x.stride(1) != 1) x = x.contiguous();
  TORCH_CHECK(head_size > 0 && x.size(1) % head_size == 0 && cache.size(1) % 2 == 0 && cache.size(1) <= head_size, op,
              ": head_size ", head_size, " and cos_sin_cache ", cache.sizes(), " do not fit input ", input.sizes());
  check_same_dtype(op, x, cache);
  Tensor out = at::empty(input.sizes(), input.options());
  by_dtype(op, x, [&](auto tag) {
    using T = decltype(tag);
    const auto kernel = pick<T>(kernels().rotary_f32, kernels().rotary_bf16);
    const RotaryArgs<T> args{data<T>(x), data<T>(out), x.stride(0), x.size(1) / head_size, head_size, cache.size(1),
                             data<int64_t>(positions), data<T>(cache), neox};
    at::parallel_for(0, tokens, grain(x.size(1)), [&](int64_t first, int64_t last) { kernel(args, first, last); });
  });
  return out;
}

std::tuple<Tensor, Tensor> rotary_embedding(const Tensor& positions, const Tensor& query, const Tensor& key, int64_t head_size,
                                            const Tensor& cos_sin_cache, bool is_neox) {
  const char* op = "rotary_embedding_cpu";
  TORCH_CHECK(cos_sin_cache.dim() == 2 && cos_sin_cache.is_contiguous(), op, ": cos_sin_cache must be a contiguous matrix");
  const Tensor at_position = indices_below(op, "position", positions.flatten(), positions.numel(), cos_sin_cache.size(0));
  return {rotate(op, query, at_position, cos_sin_cache, head_size, is_neox),
          rotate(op, key, at_position, cos_sin_cache, head_size, is_neox)};
}

// ---- KV cache --------------------------------------------------------------------------------------------------

void store_rows(const char* op, const Tensor& values, Tensor& cache, const Tensor& at_slots, int64_t row_dim) {
  const int64_t count = at_slots.numel();
  TORCH_CHECK(values.numel() == count * row_dim, op, ": ", count, " slots for values ", values.sizes());
  TORCH_CHECK(cache.dim() >= 2 && cache.numel() == cache.size(0) * row_dim && (cache.numel() == 0 || cache[0].is_contiguous()),
              op, ": cache ", cache.sizes(), " does not hold rows of ", row_dim);
  check_same_dtype(op, values, cache);
  Tensor rows = values.reshape({count, row_dim});
  if (count > 0 && rows.stride(1) != 1) rows = rows.contiguous();
  const int64_t bytes = row_dim * rows.element_size(), from = rows.stride(0) * rows.element_size(),
                to = cache.stride(0) * cache.element_size();
  const Tensor slots = indices_below(op, "slot", at_slots, count, cache.size(0));
  const int64_t* slot = data<int64_t>(slots);
  for (int64_t i = 0; i < count; ++i) std::memcpy(data<char>(cache) + slot[i] * to, data<char>(rows) + i * from, bytes);
}

void store_cache(const Tensor& k, const Tensor& v, Tensor k_cache, Tensor v_cache, const Tensor& at_slots, int64_t row_dim) {
  const char* op = "store_cache_cpu";
  const Tensor slots = at_slots.flatten();
  store_rows(op, k, k_cache, slots, row_dim);
  store_rows(op, v, v_cache, slots, row_dim);
}

// Raw addresses, as SGLang's pool hands them out: the one op whose memory bounds cannot be checked here.
void copy_slots(const Tensor& buffers, const Tensor& bytes_per_slot, const Tensor& targets, const Tensor& sources) {
  const char* op = "copy_slots";
  const int64_t count = targets.numel(), layers = buffers.numel();
  const Tensor to = indices(op, targets, count), from = indices(op, sources, count), stride = indices(op, bytes_per_slot, layers);
  TORCH_CHECK(buffers.element_size() == 8 && buffers.is_contiguous(), op, ": buffers must hold 64-bit addresses");
  TORCH_CHECK(count == 0 || (to.min().item<int64_t>() >= 0 && from.min().item<int64_t>() >= 0), op, ": negative slot");
  const int64_t *t = data<int64_t>(to), *f = data<int64_t>(from);
  std::vector<char> rows;
  for (int64_t layer = 0; layer < layers; ++layer) {
    char* base = reinterpret_cast<char*>(data<uint64_t>(buffers)[layer]);
    const int64_t bytes = data<int64_t>(stride)[layer];
    rows.resize(count * bytes);  // read all before writing any: targets may also be sources
    for (int64_t i = 0; i < count; ++i) std::memcpy(rows.data() + i * bytes, base + f[i] * bytes, bytes);
    for (int64_t i = 0; i < count; ++i) std::memcpy(base + t[i] * bytes, rows.data() + i * bytes, bytes);
  }
}

// ---- attention -------------------------------------------------------------------------------------------------

// Multiply-adds below which threads cost more than they bring.
constexpr int64_t parallel_work = 1 << 18;

void attend(const Batch& b, const Plan& plan) {
  const int64_t items = int64_t(plan.blocks.size()) * b.k_cache.size(1), work = 2 * plan.pairs * b.q.size(1) * b.q.size(2);
  by_dtype(b.op, b.q, [&](auto tag) {
    using T = decltype(tag);
    at::parallel_for(0, items, work < parallel_work ? std::max<int64_t>(items, 1) : 1, [&](int64_t first, int64_t last) {
      const std::unique_ptr<float[]> scratch(new float[plan.scratch(b)]);
      attend_items(b, plan, attention_args<T>(b, scratch.get()), first, last);
    });
  });
}

void decode_attention(const Tensor& query, Tensor k_cache, Tensor v_cache, double, double, Tensor output, const OptionalTensor& key,
                      const OptionalTensor& value, const Tensor& loc, const Tensor&, const Tensor& req_to_token,
                      const Tensor& req_pool_indices, const Tensor& seq_lens, double sm_scale, double logit_cap, bool is_cross_attn,
                      int64_t sliding_window_size, const OptionalTensor& encoder_lens, const OptionalTensor& sinks) {
  const char* op = "decode_attention_cpu";
  check_supported(op, is_cross_attn, encoder_lens, sinks);
  const Batch batch{op, query, output, k_cache, v_cache, req_to_token, sm_scale, logit_cap};
  check_batch(batch);
  TORCH_CHECK(key.has_value() == value.has_value(), op, ": key without value");
  if (key) store_cache(*key, *value, k_cache, v_cache, loc, k_cache.size(1) * k_cache.size(2));
  const Tensor one = at::ones_like(seq_lens), row = at::arange(seq_lens.numel(), seq_lens.options());
  attend(batch, plan_extend(batch, req_pool_indices, seq_lens, one, row, sliding_window_size, std::nullopt, true));
}

void extend_attention(const Tensor& q_extend, const OptionalTensor&, const OptionalTensor&, Tensor o_extend, const Tensor& k_buffer,
                      const Tensor& v_buffer, double, double, const Tensor& req_to_token, const Tensor& req_pool_indices,
                      const Tensor& seq_lens, const Tensor& extend_seq_lens, const Tensor& extend_start_loc, int64_t, double sm_scale,
                      double logit_cap, bool is_cross_attn, int64_t sliding_window_size, const OptionalTensor& encoder_lens,
                      const OptionalTensor& sinks, const OptionalTensor& tree_mask, bool is_causal) {
  const char* op = "extend_attention_cpu";
  check_supported(op, is_cross_attn, encoder_lens, sinks);
  const Batch batch{op, q_extend, o_extend, k_buffer, v_buffer, req_to_token, sm_scale, logit_cap};
  check_batch(batch);
  attend(batch, plan_extend(batch, req_pool_indices, seq_lens, extend_seq_lens, extend_start_loc, sliding_window_size, tree_mask, is_causal));
}

// ---- sampling --------------------------------------------------------------------------------------------------

// out [rows, columns] of a function of (seed, position) of the row and of the column's token id.
template <typename T>
Tensor by_column(const char* op, at::ScalarType type, const Tensor& seed, const Tensor& positions, const Tensor& token_ids,
                 void (*fill)(uint64_t, uint32_t, const int64_t*, T*, int64_t)) {
  const int64_t rows = seed.numel(), columns = token_ids.numel();
  TORCH_CHECK(seed.dim() == 1 && seed.element_size() == 8 && !seed.is_floating_point(), op, ": seeds must be 64-bit integers");
  const Tensor at_position = indices(op, positions, rows), column = indices(op, token_ids, columns), seeds = seed.contiguous();
  Tensor out = at::empty({rows, columns}, seed.options().dtype(type));
  at::parallel_for(0, rows, grain(columns), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      fill(data<uint64_t>(seeds)[row], uint32_t(data<int64_t>(at_position)[row]), data<int64_t>(column), data<T>(out) + row * columns, columns);
  });
  return out;
}

Tensor murmur_hash32(const Tensor& seed, const Tensor& positions, const Tensor& col_indices) {
  return by_column<uint32_t>("murmur_hash32_cpu", at::kUInt32, seed, positions, col_indices, kernels().murmur_hash);
}

Tensor draw_noise(const Tensor& seeds, const Tensor& positions, const Tensor& token_ids) {
  return by_column<float>("draw_noise", at::kFloat, seeds, positions, token_ids, kernels().draw_noise);
}

// Each request's filters, checked.
struct FilterRows {
  Tensor top_ks, top_ps, min_ps;

  FilterRows(const char* op, const Tensor& k, const Tensor& p, const Tensor& min, int64_t rows)
      : top_ks(indices(op, k, rows)), top_ps(p.contiguous()), min_ps(min.contiguous()) {
    for (const Tensor* t : {&top_ps, &min_ps})
      TORCH_CHECK(t->dim() == 1 && t->numel() == rows && t->scalar_type() == at::kFloat, op, ": top_ps and min_ps must be float32 [", rows, "]");
  }

  Filters operator[](int64_t row) const { return {data<int64_t>(top_ks)[row], data<float>(top_ps)[row], data<float>(min_ps)[row]}; }
};

Tensor draw_tokens(const Tensor& probs, const Tensor& top_ks, const Tensor& top_ps, const Tensor& min_ps, const Tensor& seeds,
                   const Tensor& positions) {
  const char* op = "draw_tokens";
  TORCH_CHECK(probs.dim() == 2 && probs.scalar_type() == at::kFloat && probs.size(1) > 0, op, ": probabilities must be a float32 matrix");
  const int64_t rows = probs.size(0), vocab = probs.size(1);
  const Tensor p = probs.contiguous(), seed = indices(op, seeds, rows), position = indices(op, positions, rows);
  const FilterRows filters(op, top_ks, top_ps, min_ps, rows);
  Tensor out = at::empty({rows}, probs.options().dtype(at::kInt));
  at::parallel_for(0, rows, 1, [&](int64_t first, int64_t last) {
    const std::unique_ptr<int32_t[]> heap(new int32_t[vocab]);  // not touched without filters
    for (int64_t row = first; row < last; ++row)
      data<int32_t>(out)[row] = kernels().draw_token({data<float>(p) + row * vocab, vocab, filters[row],
          uint64_t(data<int64_t>(seed)[row]), uint32_t(data<int64_t>(position)[row]), heap.get()});
  });
  return out;
}

Tensor softmax(const Tensor& logits, const Tensor& temperatures) {
  const char* op = "softmax";
  TORCH_CHECK(logits.dim() == 2 && temperatures.scalar_type() == at::kFloat && temperatures.numel() == logits.size(0), op, ": ",
              temperatures.sizes(), " ", temperatures.scalar_type(), " temperatures for logits ", logits.sizes());
  const Tensor x = logits.contiguous(), temperature = temperatures.contiguous();
  Tensor out = at::empty(x.sizes(), x.options().dtype(at::kFloat));
  by_dtype(op, x, [&](auto tag) {
    using T = decltype(tag);
    const auto kernel = pick<T>(kernels().softmax_f32, kernels().softmax_bf16);
    at::parallel_for(0, x.size(0), grain(8 * x.size(1)), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        kernel(data<T>(x) + row * x.size(1), data<float>(temperature)[row], data<float>(out) + row * x.size(1), x.size(1));
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> propose_tokens(const Tensor& logits, int64_t count, const Tensor& temperatures, const Tensor& top_ks,
                                          const Tensor& top_ps, const Tensor& min_ps, const Tensor& seeds, const Tensor& positions,
                                          const Tensor& token_ids) {
  const char* op = "propose_tokens";
  TORCH_CHECK(logits.dim() == 2 && logits.scalar_type() == at::kBFloat16 && count > 0 && count <= logits.size(1), op, ": ", count,
              " tokens of logits ", logits.scalar_type(), " ", logits.sizes());
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const Tensor x = logits.contiguous(), seed = indices(op, seeds, rows), position = indices(op, positions, rows),
               column = indices(op, token_ids, vocab), temperature = temperatures.contiguous();
  TORCH_CHECK(temperature.scalar_type() == at::kFloat && temperature.numel() == rows, op, ": temperatures must be float32 [", rows, "]");
  const FilterRows filters(op, top_ks, top_ps, min_ps, rows);
  Tensor probs = at::empty({rows, count}, x.options().dtype(at::kFloat)), ids = at::empty({rows, count}, x.options().dtype(at::kLong));
  at::parallel_for(0, rows, grain(8 * vocab), [&](int64_t first, int64_t last) {
    const std::unique_ptr<float[]> scores(new float[2 * vocab]);
    const std::unique_ptr<int32_t[]> heap(new int32_t[vocab]);
    for (int64_t row = first; row < last; ++row)
      kernels().propose({data<bf16>(x) + row * vocab, data<int64_t>(column), vocab, count, data<float>(temperature)[row], filters[row],
                         uint64_t(data<int64_t>(seed)[row]), uint32_t(data<int64_t>(position)[row]), scores.get(), scores.get() + vocab,
                         heap.get(), data<float>(probs) + row * count, data<int64_t>(ids) + row * count});
  });
  return {probs, ids};
}

Tensor likeliest_tokens(const Tensor& logits) {
  const char* op = "likeliest_tokens";
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, op, ": logits must be a matrix, not ", logits.sizes());
  const Tensor x = logits.contiguous();
  Tensor out = at::empty({x.size(0)}, x.options().dtype(at::kLong));
  by_dtype(op, x, [&](auto tag) {
    using T = decltype(tag);
    const auto kernel = pick<T>(kernels().argmax_f32, kernels().argmax_bf16);
    at::parallel_for(0, x.size(0), grain(x.size(1)), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) data<int64_t>(out)[row] = kernel(data<T>(x) + row * x.size(1), x.size(1));
    });
  });
  return out;
}

}  // namespace
}  // namespace aerie

TORCH_LIBRARY_IMPL(sgl_kernel, CPU, m) {
  m.impl("convert_weight_packed", &aerie::pack_weight);
  m.impl("weight_packed_linear", &aerie::packed_linear);
  m.impl("rmsnorm_cpu", &aerie::rmsnorm);
  m.impl("fused_add_rmsnorm_cpu", &aerie::fused_add_rmsnorm);
  m.impl("silu_and_mul_cpu", &aerie::silu_and_mul);
  m.impl("rotary_embedding_cpu", &aerie::rotary_embedding);
  m.impl("store_cache_cpu", &aerie::store_cache);
  m.impl("decode_attention_cpu", &aerie::decode_attention);
  m.impl("extend_attention_cpu", &aerie::extend_attention);
  m.impl("murmur_hash32_cpu", &aerie::murmur_hash32);
}

TORCH_LIBRARY_IMPL(aerie_cpu, CPU, m) {
  m.impl("decoder_layers", &aerie::decoder_layers);
  m.impl("draw_tokens", &aerie::draw_tokens);
  m.impl("draw_noise", &aerie::draw_noise);
  m.impl("softmax", &aerie::softmax);
  m.impl("propose_tokens", &aerie::propose_tokens);
  m.impl("likeliest_tokens", &aerie::likeliest_tokens);
  m.impl("copy_slots", &aerie::copy_slots);
}

TORCH_LIBRARY_IMPL(aerie_cpu, CompositeExplicitAutograd, m) {
  m.impl("isa", [] { return std::string(aerie::kernels().isa); });
}
