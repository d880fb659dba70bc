// Memory for weights in pages of 2 MB, where Linux grants them. A decoding step reads every weight once: with pages of
// 4 KB it waits for their addresses, and the hardware's prefetching ends with every page. Included by bindings.cpp only.
#pragma once
#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>

namespace aerie {
namespace {

constexpr size_t large_page = size_t(2) << 20, chunk_bytes = size_t(64) << 20, cache_line = 64;

size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// An uninitialised contiguous tensor. Tensors lie side by side in chunks; a chunk lives as long as one of its tensors.
at::Tensor empty_in_large_pages(at::IntArrayRef sizes, const at::TensorOptions& options) {
  struct Chunk {
    std::shared_ptr<void> memory;
    size_t size = 0, used = 0;
  };
  static std::mutex guard;
  static Chunk chunk;
  const size_t bytes = rounded_up(c10::multiply_integers(sizes) * options.dtype().itemsize(), cache_line);
  const std::lock_guard<std::mutex> lock(guard);
  if (!chunk.memory || chunk.size - chunk.used < bytes) {
    const size_t size = rounded_up(std::max(bytes, chunk_bytes), large_page);  // what is never written takes no memory
    void* memory = std::aligned_alloc(large_page, size);
    if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(memory, size, MADV_HUGEPAGE);  // refused: 4 KB pages, slower and as good
#endif
    chunk = {std::shared_ptr<void>(memory, std::free), size, 0};
  }
  char* at = static_cast<char*>(chunk.memory.get()) + chunk.used;
  chunk.used += bytes;
  return at::from_blob(at, sizes, [owner = chunk.memory](void*) {}, options);
}

}  // namespace
}  // namespace aerie
