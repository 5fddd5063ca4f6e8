// Standardization in one call: tile by tile, so that what is read for the statistics is still in the cache when it
// is normalized.
#pragma once

#include "tables.hpp"

namespace nw {

// Bytes of the big tensors that a tile may touch and still find again in a core's second cache.
constexpr int64_t kTileBytes = 1 << 20;

// What is pooled, and with which parameters it is standardized.
template <class A>
struct Pool {
  int64_t groups;  // of channels in each sample; 0: each channel over the batch
  bool known;      // mean and var are given
  double eps;
  const A* weight;
  const A* bias;
  double* mean;  // [C] over the batch, [N, groups] otherwise
  double* var;

  bool batch() const { return groups == 0; }
  int64_t tables(const Shape& s) const { return batch() ? 1 : s.N; }
  int64_t index(const Shape& s, int64_t n, int64_t c) const { return batch() ? c : n * groups + c / (s.C / groups); }
  int64_t count(const Shape& s) const { return batch() ? s.C : s.N * groups; }
  // 1/σ of every pool.
  Buffer<double> roots(const Shape& s) const {
    Buffer<double> root(size_t(count(s)));
    double* out = root.data();
#pragma omp simd
    for (int64_t p = 0; p < int64_t(root.size()); ++p) out[p] = 1 / std::sqrt(var[p] + eps);
    return root;
  }
  // f(n, c, pool) for every row and channel of a table.
  template <class F>
  void each(const Shape& s, int64_t rows, F f) const {
    int64_t per_pool = batch() ? 1 : s.C / groups;
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t c = 0, p = batch() ? 0 : n * groups; c < s.C; ++p)
        for (int64_t end = c + per_pool; c < end; ++c) f(n, c, p);
  }
};

// A part of the tensor whose pools are complete.
template <class A>
struct Tile {
  Shape shape;
  Pool<A> pool;
  int64_t offset;   // of its first value
  int64_t table;    // of its first row in a table [N, C] (or [1, C]) of all channels
};

template <class A>
Tile<A> tile_at(const Shape& s, const Pool<A>& pool, int64_t i, int64_t width) {
  Tile<A> tile{s, pool, 0, 0};
  tile.shape.threads = 1;
  int64_t channel = 0, first_pool = 0;
  if (pool.batch()) {
    channel = first_pool = i * width;
    tile.shape.C = std::min(width, s.C - channel);
    tile.offset = channel * s.S;
    tile.table = channel;
  } else if (s.last) {
    tile.shape.N = 1;
    first_pool = i * pool.groups;
    tile.offset = i * s.stride;
    tile.table = i * s.C;
  } else {
    int64_t per_group = s.C / pool.groups, parts = (pool.groups + width - 1) / width, n = i / parts, g = i % parts * width;
    tile.pool.groups = std::min(width, pool.groups - g);
    tile.shape.N = 1;
    tile.shape.C = tile.pool.groups * per_group;
    channel = g * per_group;
    first_pool = n * pool.groups + g;
    tile.offset = n * s.stride + channel * s.S;
    tile.table = n * s.C + channel;
  }
  tile.pool.mean += first_pool;
  tile.pool.var += first_pool;
  if (pool.weight) tile.pool.weight += channel;
  if (pool.bias) tile.pool.bias += channel;
  return tile;
}

// f(tile) for tiles that fit the cache, each on one thread; f(everything), which splits its passes over the threads,
// where they do not fit or are too few.
template <class A, class F>
void for_tiles(const Shape& s, const Pool<A>& pool, int64_t bytes_per_value, F f) {
  int64_t unit = s.last ? s.C * s.S : pool.batch() ? s.N * s.S : s.C / pool.groups * s.S;
  int64_t units = s.last ? s.N : pool.batch() ? s.C : pool.groups;
  int64_t width = 1;
  if (!s.last) {
    // Neighbouring planes share cache lines and pages: several small ones make a tile.
    int64_t wanted = pool.batch() ? 4096 / std::max<int64_t>(1, s.S * bytes_per_value) : kGrain / 2 / unit;
    width = std::clamp<int64_t>(wanted, 1, units);
    width = std::max<int64_t>(1, std::min(width, kTileBytes / std::max<int64_t>(1, unit * bytes_per_value)));
  }
  int64_t tiles = (units + width - 1) / width * (s.last || pool.batch() ? 1 : s.N);
  int threads = s.numel() < kSerial ? 1 : s.threads;
  if (unit * width * bytes_per_value > kTileBytes || tiles < threads || tiles == 1)
    f(Tile<A>{s, pool, 0, 0});
  else
    parallel(threads, tiles, [&](int64_t i) { f(tile_at(s, pool, i, width)); });
}

// Channels_last over the batch is one long sample.
template <class A>
void join_batch(Shape& s, Pool<A>& pool) {
  if (!s.last || !pool.batch()) return;
  s.S *= s.N;
  s.N = 1;
  s.stride = s.C * s.S;
  pool.groups = s.C;
}

template <class T>
void measure_pools(const Shape& s, const Pool<acc<T>>& pool, const T* x) {
  std::vector<Stats> stats;
  int64_t pools = pool.count(s);
  if (!s.last && !pool.batch()) {
    Shape joined = s;
    joined.C = pool.groups;
    joined.S = s.C / pool.groups * s.S;
    stats = measure(joined, x, nullptr);
  } else if (pool.batch() && s.threads == 1) {
    stats.resize(size_t(s.C));
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t n = 0; n < s.N; ++n) take_run(stats[size_t(c)], x + n * s.stride + c * s.S, nullptr, s.S);
  } else {
    stats.resize(size_t(pools));
    std::vector<Stats> planes = measure(s, x, nullptr);
    for (int64_t n = 0; n < s.N; ++n)
      for (int64_t c = 0; c < s.C; ++c) stats[size_t(pool.index(s, n, c))].merge(planes[size_t(n * s.C + c)]);
  }
  for (int64_t p = 0; p < pools; ++p) {
    pool.mean[p] = stats[size_t(p)].mean;
    pool.var[p] = stats[size_t(p)].var();
  }
}

// mean, scale and shift of every channel as the passes want them. They center on the rounded mean; what the rounding
// left over goes into the shift, so that a mean of a thousand standard deviations costs no digits.
template <class A>
struct Lines {
  Buffer<A> values;
  Coefficients<A> coefficients;

  Lines(const Shape& s, const Pool<A>& pool) : values(size_t(3 * pool.tables(s) * s.C)) {
    int64_t rows = pool.tables(s), size = rows * s.C, of_sample = pool.batch() ? 0 : s.C;
    A *mean = values.data(), *scale = mean + size, *shift = scale + size;
    const Buffer<double> roots = pool.roots(s);
    pool.each(s, rows, [&](int64_t n, int64_t c, int64_t p) {
      int64_t i = n * s.C + c;
      double factor = pool.weight ? double(pool.weight[c]) * roots[size_t(p)] : roots[size_t(p)];
      mean[i] = A(pool.mean[p]);
      scale[i] = A(factor);
      shift[i] = A((pool.bias ? double(pool.bias[c]) : 0.0) + (double(mean[i]) - pool.mean[p]) * factor);
    });
    coefficients = {{mean, of_sample, 1}, {scale, of_sample, 1}, {shift, of_sample, 1}};
  }
};

template <class T, int K>
void standardize(Shape shape, Pool<acc<T>> whole, const T* x, const T* residual, T* y, int act) {
  join_batch(shape, whole);
  for_tiles(shape, whole, sizeof(T), [&](const Tile<acc<T>>& tile) {
    if (!tile.pool.known) measure_pools(tile.shape, tile.pool, x + tile.offset);
    Lines<acc<T>> lines(tile.shape, tile.pool);
    apply<T, K>(tile.shape, x + tile.offset, shifted(residual, tile.offset), y + tile.offset, lines.coefficients, act);
  });
}

// From the sums of every plane: what flows back through the statistics, and what each plane gives to weight and bias,
// [rows, C][2].
template <class A>
struct Backflow {
  Buffer<A> values;
  Through<A> through{};

  Backflow(const Shape& s, const Pool<A>& pool, const std::vector<double>& sums, double* parameters, int64_t row) {
    int64_t rows = pool.tables(s), pools = pool.count(s);
    std::vector<double> to_mean(static_cast<size_t>(pools)), to_scale(static_cast<size_t>(pools));
    const Buffer<double> roots = pool.roots(s);
    auto left = [&](int64_t p) { return pool.mean[p] - double(A(pool.mean[p])); };
    pool.each(s, s.N, [&](int64_t n, int64_t c, int64_t p) {
      const double weight = pool.weight ? double(pool.weight[c]) : 1.0, *sum = &sums[size_t(2 * (n * s.C + c))];
      const double sum_g = sum[0], sum_gx = roots[size_t(p)] * (sum[1] - left(p) * sum_g);
      double* out = parameters + 2 * ((pool.batch() ? 0 : n) * row + c);
      out[0] += sum_gx;
      out[1] += sum_g;
      to_mean[size_t(p)] += weight * sum_g;
      to_scale[size_t(p)] += weight * sum_gx;
    });
    if (pool.known) return;
    const double share = double(pools) / double(s.numel());
    int64_t size = rows * s.C, of_sample = pool.batch() ? 0 : s.C;
    values.resize(size_t(2 * size));
    pool.each(s, rows, [&](int64_t n, int64_t c, int64_t p) {
      const double root = roots[size_t(p)], slope = -root * root * to_scale[size_t(p)] * share;
      values[size_t(n * s.C + c)] = A(slope);
      values[size_t(size + n * s.C + c)] = A(-root * to_mean[size_t(p)] * share - slope * left(p));
    });
    through = {{values.data(), of_sample, 1}, {values.data() + size, of_sample, 1}};
  }
};

template <class T, int K>
void differentiate_standardized(Shape shape, Pool<acc<T>> whole, const T* gy, const T* x, const T* residual, int act,
                                T* gx, T* gr, acc<T>* gw, acc<T>* gb) {
  join_batch(shape, whole);
  int64_t rows = whole.tables(shape);
  std::vector<double> parameters(size_t(2 * rows * shape.C));
  for_tiles(shape, whole, 2 * sizeof(T), [&](const Tile<acc<T>>& tile) {
    Lines<acc<T>> lines(tile.shape, tile.pool);
    const T *g = gy + tile.offset, *v = x + tile.offset, *r = shifted(residual, tile.offset);
    std::vector<double> sums = reduce<T, K>(tile.shape, g, v, r, lines.coefficients, act);
    Backflow<acc<T>> back(tile.shape, tile.pool, sums, &parameters[size_t(2 * tile.table)], shape.C);
    if (gx)
      differentiate<T, K>(tile.shape, g, v, r, nullptr, gx + tile.offset, shifted(gr, tile.offset), lines.coefficients,
                          act, back.through);
  });
  for (int64_t c = 0; c < shape.C; ++c) {
    double to_weight = 0, to_bias = 0;
    for (int64_t n = 0; n < rows; ++n) {
      to_weight += parameters[size_t(2 * (n * shape.C + c))];
      to_bias += parameters[size_t(2 * (n * shape.C + c) + 1)];
    }
    if (gw) gw[c] = acc<T>(to_weight);
    if (gb) gb[c] = acc<T>(to_bias);
  }
}

}  // namespace nw
