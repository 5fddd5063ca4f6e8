// Standardization in one call, forward and backward.
#pragma once

#include "tiles.hpp"

namespace nw {

// The statistics of each pool from one run of values, or from several if values of other channels lie between them.
template <class T>
void measure_runs(const Shape& s, const Pool& pool, const T* x) {
  const int64_t per_pool = pool.channels(s), pools = pool.batch() ? s.C : pool.groups;
  Runs runs{per_pool * s.S};
  if (pool.batch())
    runs = Runs{s.S, s.N, s.stride};
  else if (s.last && pools > 1)
    runs = Runs{per_pool, s.S, s.row};
  const double inverse = 1 / double(runs.size());
  for (int64_t n = 0; n < pool.rows(s); ++n)
    for (int64_t p = 0; p < pools; ++p) {
      const T* first = x + n * s.stride + p * per_pool * (s.last ? 1 : s.S);
      const Stats stats = runs.size() <= kChunk ? stats_of_chunk<T, false>(first, nullptr, runs, inverse)
                                                 : stats_of(first, runs);
      pool.mean[n * pools + p] = stats.mean;
      pool.var[n * pools + p] = stats.var(inverse);
    }
}

// First the statistics of every plane, then pooled by the law of total variance.
template <class T>
void measure_planes(const Shape& s, const Pool& pool, const T* x) {
  Shape planes = s;
  // A whole sample is one run: the order of its values does not matter.
  if (!pool.batch() && (!s.last || pool.groups == 1)) {
    planes.last = false;
    planes.C = pool.groups;
    planes.S = pool.channels(s) * s.S;
  }
  Moments stats = measure(planes, x, nullptr);
  if (pool.batch()) stats = std::move(stats).folded(1);
  const int64_t pools = pool.count(s), of_pool = stats.rows * stats.channels / pools;
  const double count = stats.count[0], inverse = 1 / (count * double(of_pool)), share = 1 / double(of_pool);
  for (int64_t p = 0; p < pools; ++p) {
    const double *mean = &stats.mean[p * of_pool], *m2 = &stats.m2[p * of_pool];
    double sum = 0, inside = 0, between = 0;
#pragma omp simd reduction(+ : sum, inside)
    for (int64_t i = 0; i < of_pool; ++i) sum += mean[i], inside += m2[i];
    sum *= share;
#pragma omp simd reduction(+ : between)
    for (int64_t i = 0; i < of_pool; ++i) between += (mean[i] - sum) * (mean[i] - sum);
    pool.mean[p] = sum;
    pool.var[p] = Stats{count, sum, inside + count * between}.var(inverse);
  }
}

// Whether the pools are runs of neighbours, long enough in channels_last, that a tile holds.
template <class T>
bool of_runs(const Tile& tile) {
  const Shape& s = tile.shape;
  return s.tile && (!s.last || tile.pool.channels(s) >= 2 * step<T>);
}

// The pools' mean and 1/σ for every channel, [rows, C]; if each channel is a pool, the pools' own arrays.
struct Spread {
  const double *mean, *root;
  Buffer<double> roots, means_of_channels, roots_of_channels;

  Spread(const Shape& s, const Pool& pool) : mean(pool.mean), roots(pool.count(s)) {
    double* out = roots.data();
#pragma omp simd
    for (int64_t p = 0; p < roots.size(); ++p) out[p] = 1 / std::sqrt(pool.var[p] + pool.eps);
    root = out;
    const int64_t width = pool.channels(s);
    if (width == 1) return;
    means_of_channels = Buffer<double>(roots.size() * width);
    roots_of_channels = Buffer<double>(roots.size() * width);
    for (int64_t p = 0; p < roots.size(); ++p) {
      std::fill_n(&means_of_channels[p * width], width, pool.mean[p]);
      std::fill_n(&roots_of_channels[p * width], width, roots[p]);
    }
    mean = means_of_channels.data();
    root = roots_of_channels.data();
  }
};

// mean, scale and shift of every channel for the passes. They subtract the rounded mean; the rounding error
// goes into the shift, so that a mean of a thousand standard deviations costs no digits.
template <class T>
struct Prepared {
  Buffer<acc<T>> values;
  Coefficients<T> coefficients;

  Prepared(const Shape& s, const Pool& pool, const Spread& spread) : values(3 * pool.rows(s) * s.C) {
    using A = acc<T>;
    const int64_t rows = pool.rows(s), size = rows * s.C, of_sample = pool.batch() ? 0 : s.C;
    A *mean = values.data(), *scale = mean + size, *shift = scale + size;
    for (int64_t n = 0; n < rows; ++n)
#pragma omp simd
      for (int64_t c = 0; c < s.C; ++c) {
        const int64_t i = n * s.C + c;
        const double factor = pool.weight[c] * spread.root[i];
        mean[i] = A(spread.mean[i]);
        scale[i] = A(factor);
        shift[i] = A(pool.bias[c] + (double(mean[i]) - spread.mean[i]) * factor);
      }
    coefficients = {{mean, of_sample, 1}, {scale, of_sample, 1}, {shift, of_sample, 1}};
  }
};

template <class T, int K>
void standardize(Shape shape, Pool whole, const T* x, const T* residual, T* y, int act) {
  join_batch(shape, whole);
  shape.stream = may_stream(shape, y, y);
  for_tiles(shape, whole, sizeof(T), 1, [&](const Tile& tile) {
    const T* values = x + tile.offset;
    if (!tile.pool.known) {
      if (of_runs<T>(tile))
        measure_runs(tile.shape, tile.pool, values);
      else
        measure_planes(tile.shape, tile.pool, values);
    }
    const Spread spread(tile.shape, tile.pool);
    const Prepared<T> prepared(tile.shape, tile.pool, spread);
    apply<T, K>(turned(tile), values, shifted(residual, tile.offset), y + tile.offset, prepared.coefficients, act);
  });
}

// Σ g and Σ g·(x - mean) for every channel, [rows, C].
template <class T, int K>
Sums reduce_channels(const Tile& tile, const Incoming<T>& in, const Coefficients<T>& table, int act) {
  const Shape& s = tile.shape;
  if (!tile.pool.batch() || !s.tile) return reduce<T, K>(s, in, table, act).folded(tile.pool.rows(s));
  Sums sums(1, s.C);
  for (int64_t c = 0; c < s.C; ++c) {
    const Pair pair = sums_of<T, K>(in.at(c * s.S), Runs{s.S, s.N, s.stride}, table.plane(0, c), act);
    sums.row(0)[c] = pair.g;
    sums.row(1)[c] = pair.gd;
  }
  return sums;
}

// From the sums of every channel: its contribution to weight and bias (two arrays [rows, C]), and the gradient through
// the statistics.
template <class T>
struct Returned {
  Buffer<acc<T>> values;
  Backflow<T> back{};

  Returned(const Shape& s, const Pool& pool, const Spread& spread, const Sums& sums, double* to_weight,
           double* to_bias) {
    using A = acc<T>;
    const int64_t rows = pool.rows(s), size = rows * s.C, width = pool.channels(s);
    const double *sum_g = sums.row(0), *sum_gd = sums.row(1);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const double left = spread.mean[i] - double(A(spread.mean[i]));
      to_weight[i] = spread.root[i] * (sum_gd[i] - left * sum_g[i]);
      to_bias[i] = sum_g[i];
    }
    if (pool.known) return;
    const double share = double(pool.count(s)) / double(s.numel());
    values = Buffer<A>(2 * size);
    A *slope = values.data(), *offset = slope + size;
    for (int64_t p = 0; p < size / width; ++p) {
      const double *weight = pool.weight + p * width % s.C, *bias_terms = to_bias + p * width;
      const double* weight_terms = to_weight + p * width;
      double to_mean = 0, to_scale = 0;
#pragma omp simd reduction(+ : to_mean, to_scale)
      for (int64_t i = 0; i < width; ++i) {
        to_mean += weight[i] * bias_terms[i];
        to_scale += weight[i] * weight_terms[i];
      }
      const double mean = pool.mean[p], root = spread.roots[p], along = -root * root * to_scale * share;
      const double across = -root * to_mean * share - along * (mean - double(A(mean)));
      std::fill_n(slope + p * width, width, A(along));
      std::fill_n(offset + p * width, width, A(across));
    }
    const int64_t of_sample = pool.batch() ? 0 : s.C;
    back = {{slope, of_sample, 1}, {offset, of_sample, 1}};
  }
};

// Whether the gradient before an activation is kept between the passes: computing it again costs more than writing it to
// the cache and reading it again. In a narrow type it would be rounded, so there it needs a separate buffer as
// large as the tile.
template <class T, int K>
bool keeps(const Tile& tile) {
  return K == kAny && !tile.pool.known && (sizeof(T) >= sizeof(float) || (tile.shape.tile && !tile.pool.batch()));
}
template <class T>
Buffer<acc<T>> room_to_keep(const Tile& tile, bool keeping, Incoming<T>& in, T* written) {
  Buffer<acc<T>> own;
  if (!keeping) return own;
  if constexpr (sizeof(T) >= sizeof(float)) {
    in.kept = written + tile.offset;
  } else {
    own = Buffer<acc<T>>(tile.shape.numel());
    in.kept = own.data();
  }
  return own;
}

template <class T, int K>
void differentiate_standardized(Shape shape, Pool whole, const Incoming<T>& incoming, int act, T* gx, T* gr,
                                acc<T>* gw, acc<T>* gb) {
  join_batch(shape, whole);
  const int64_t rows = whole.rows(shape);
  Buffer<double> to_weight(rows * shape.C), to_bias(rows * shape.C);
  shape.stream = gx && may_stream(shape, gx, gr);
  for_tiles(shape, whole, sizeof(T), 2, [&](const Tile& tile) {
    const Spread spread(tile.shape, tile.pool);
    const Prepared<T> prepared(tile.shape, tile.pool, spread);
    Incoming<T> in = incoming.at(tile.offset);
    const bool at_once = gx && tile.pool.known;
    const bool keeping = keeps<T, K>(tile) && gx;
    Buffer<acc<T>> own = room_to_keep<T>(tile, keeping, in, gr ? gr : gx);
    const Sums sums =
        at_once ? reduce_and_differentiate<T, K>(tile.shape, in, gx, gr, prepared.coefficients, act).folded(rows)
                : reduce_channels<T, K>(tile, in, prepared.coefficients, act);
    const Returned<T> returned(tile.shape, tile.pool, spread, sums, &to_weight[tile.table], &to_bias[tile.table]);
    if (keeping)
      differentiate_pieces<T, kKept, true>(turned(tile), in, nullptr, gx + tile.offset,
                                           own.size() ? shifted(gr, tile.offset) : nullptr, prepared.coefficients, kNone,
                                           returned.back);
    else if (gx && !at_once)
      differentiate<T, K>(turned(tile), in, nullptr, gx + tile.offset, shifted(gr, tile.offset), prepared.coefficients, act,
                          returned.back);
  });
  if (gw) sum_rows(to_weight, rows, shape.C, gw);
  if (gb) sum_rows(to_bias, rows, shape.C, gb);
}

}  // namespace nw
