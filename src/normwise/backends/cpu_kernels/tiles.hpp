// Tiles, parts of the tensor that contain whole pools: the values read for the statistics are still in the cache when they are
// normalized.
#pragma once

#if defined(__unix__)
#include <unistd.h>
#endif

#include "tables.hpp"

namespace nw {

// The bytes of the big tensors that a tile may touch and still find again in a core's second-level cache.
inline int64_t tile_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const int64_t cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  static const int64_t cache = 0;
#endif
  return cache > 0 ? std::clamp<int64_t>(cache, 1 << 18, 1 << 22) / 8 * 7 : 1 << 20;
}

// The pools, and the parameters of their standardization.
struct Pool {
  int64_t groups;  // of channels in each sample; 0: each channel over the batch
  bool known;      // mean and var are given
  double eps;
  const double* weight;  // [C]
  const double* bias;
  double* mean;  // [C] over the batch, [N, groups] otherwise
  double* var;

  bool batch() const { return groups == 0; }
  int64_t rows(const Shape& s) const { return batch() ? 1 : s.N; }  // of a table of the channels' coefficients
  int64_t count(const Shape& s) const { return batch() ? s.C : s.N * groups; }
  int64_t channels(const Shape& s) const { return batch() ? 1 : s.C / groups; }  // of a sample, in one pool
};

// A part of the tensor that contains whole pools.
struct Tile {
  Shape shape;
  Pool pool;
  int64_t offset;  // of its first value
  int64_t table;   // of its first value in a table [N, C] (or [1, C]) of all channels
};

// The division of the tensor into tiles of `width` channels, of the whole batch or of one sample. If the channels are last,
// all of them make a tile: the rows of some channels, a power of two apart, would share a few sets of the cache.
struct Cut {
  int64_t width, parts, tiles;
  bool fits;  // the cache
};

inline Cut cut_of(const Shape& s, const Pool& pool, int64_t element_size, int64_t tensors) {
  const int64_t bytes = s.S * element_size * tensors * (pool.batch() ? s.N : 1);  // of a channel
  const int64_t unit = pool.channels(s), most = tile_bytes() / std::max<int64_t>(1, bytes);
  int64_t width = s.C;
  if (!s.last) {
    // Neighbouring planes share cache lines and pages: several small ones make a tile.
    const int64_t wanted = pool.batch() ? 4096 / std::max<int64_t>(1, s.S * element_size * tensors) : kGrain / 2 / s.S;
    width = std::clamp<int64_t>(std::min(wanted, most) / unit * unit, unit, s.C);
  }
  const int64_t parts = (s.C + width - 1) / width;
  return {width, parts, parts * (pool.batch() ? 1 : s.N), width <= most};
}

inline Tile tile_at(const Shape& s, const Pool& pool, const Cut& cut, int64_t i) {
  Tile tile{s, pool, 0, 0};
  const int64_t n = i / cut.parts, channel = i % cut.parts * cut.width, unit = pool.channels(s);
  tile.shape.threads = 1;
  tile.shape.tile = true;
  tile.shape.C = std::min(cut.width, s.C - channel);
  if (!pool.batch()) {
    tile.shape.N = 1;
    tile.pool.groups = tile.shape.C / unit;
  }
  tile.offset = n * s.stride + channel * (s.last ? 1 : s.S);
  tile.table = n * s.C + channel;
  tile.pool.mean += n * pool.groups + channel / unit;
  tile.pool.var += n * pool.groups + channel / unit;
  tile.pool.weight += channel;
  tile.pool.bias += channel;
  return tile;
}

// f(tile) for tiles that fit into the cache, each on one thread; f(everything), which divides its passes among the threads,
// if they do not fit, are too few, or the statistics are known and each value is read only once anyway.
template <class F>
void for_tiles(const Shape& s, const Pool& pool, int64_t element_size, int64_t tensors, F f) {
  const Cut cut = cut_of(s, pool, element_size, tensors);
  const int threads = s.numel() < kSerial ? 1 : s.threads;
  if (pool.known || !cut.fits || cut.tiles < threads)
    f(Tile{s, pool, 0, 0});
  else
    parallel(threads, cut.tiles, [&](int64_t i) { f(tile_at(s, pool, cut, i)); });
}

// For channels_last the batch is one long sample.
inline void join_batch(Shape& s, Pool& pool) {
  if (!s.last || !pool.batch()) return;
  s.S *= s.N;
  s.N = 1;
  s.stride = s.C * s.S;
  pool.groups = s.C;
}

// A second pass starts where the first one ended: that part is still in the cache.
inline Shape turned(const Tile& tile) {
  Shape shape = tile.shape;
  shape.backwards = !tile.pool.known;
  return shape;
}

}  // namespace nw
