// The same for a sheet of rows of channels: a part of a channels_last tensor.
#pragma once

#include <numeric>

#include "runs.hpp"

namespace nw {

template <class A>
using Buffer = std::vector<A>;

// Rows of few channels waste most of a vector, so that several of them are treated as one long row.
template <class A>
inline int64_t rows_at_once(int64_t rows, int64_t channels) {
  if (channels >= 256) return 1;
  int64_t k = lanes<A> / std::gcd(channels, int64_t(lanes<A>));
  while (k * channels < 4 * lanes<A>) k *= 2;
  return rows >= 2 * k ? k : 1;
}

template <class A>
inline int64_t padded(int64_t n) {
  return n + lanes<A>;
}

// Rows whose sums in fp32 are exact enough.
constexpr int64_t kBlockRows = 128;
// The first rows are read twice, for their mean and around it: so few that they are still in the first caches.
template <class T>
inline int64_t first_rows(int64_t width) {
  return std::clamp<int64_t>(32768 / (width * int64_t(sizeof(T))), 8, kBlockRows);
}

template <class T, int R>
NW_INLINE void add_rows(const T* const* x, int64_t width, const acc<T>* pilot, acc<T>* rest, acc<T>* squares) {
  using A = acc<T>;
  each_vector<A>(width, [&](int64_t i, auto part) NW_LAMBDA {
    vec<A> p = load(pilot + i, Full{}), s = load(rest + i, Full{}), q = load(squares + i, Full{});
    for (int r = 0; r < R; ++r) {
      vec<A> d = load(x[r] + i, part) - p;
      s += d;
      q += d * d;
    }
    store(rest + i, s, Full{});
    store(squares + i, q, Full{});
  });
}

// Running statistics of every column, all with the same count.
template <class T>
struct ColumnStats {
  using A = acc<T>;
  int64_t width;
  double count = 0;
  Buffer<double> mean, m2;
  Buffer<A> pilot, rest, squares;

  explicit ColumnStats(int64_t w)
      : width(w), mean(w), m2(w), pilot(padded<A>(w)), rest(padded<A>(w)), squares(padded<A>(w)) {}

  // x points to the kept rows of one block.
  void take(const std::vector<const T*>& x) {
    if (x.empty()) return;
    const double rows = double(x.size()), inverse = 1 / rows;
    if (count == 0) {
      add(x);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) pilot[c] = A(double(rest[c]) * inverse);
    }
    add(x);
    const double sum = count + rows, share = rows / sum, weight = count * share;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      double off = double(rest[c]) * inverse, delta = double(pilot[c]) + off - mean[c];
      m2[c] += double(squares[c]) - double(rest[c]) * off + delta * delta * weight;
      mean[c] += delta * share;
      pilot[c] = A(mean[c]);
    }
    count = sum;
  }

 private:
  void add(const std::vector<const T*>& x) {
    std::fill(rest.begin(), rest.end(), A(0));
    std::fill(squares.begin(), squares.end(), A(0));
    size_t r = 0;
    for (; r + 4 <= x.size(); r += 4) add_rows<T, 4>(&x[r], width, pilot.data(), rest.data(), squares.data());
    for (; r < x.size(); ++r) add_rows<T, 1>(&x[r], width, pilot.data(), rest.data(), squares.data());
  }
};

// Merge the statistics of a sheet into those of its channels.
template <class T>
inline void sheet_stats(Stats* stats, const T* x, int64_t rows, int64_t channels, const uint8_t* mask) {
  using A = acc<T>;
  int64_t k = mask ? 1 : rows_at_once<A>(rows, channels), width = k * channels, whole = rows / k;
  ColumnStats<T> columns(width);
  std::vector<const T*> kept;
  for (int64_t start = 0, end; start < whole; start = end) {
    end = std::min(whole, start + (columns.count == 0 ? first_rows<T>(width) : kBlockRows));
    kept.clear();
    for (int64_t r = start; r < end; ++r)
      if (!mask || mask[r]) kept.push_back(x + r * width);
    columns.take(kept);
  }
  for (int64_t j = 0; j < k; ++j)
    for (int64_t c = 0; c < channels; ++c)
      stats[c].merge(columns.count, columns.mean[j * channels + c], columns.m2[j * channels + c]);
  const T* tail = x + whole * width;
  int64_t left = (rows - whole * k) * channels;
  for (int64_t i = 0; i < left; i += lanes<A>) {
    int n = int(std::min<int64_t>(lanes<A>, left - i));
    vec<A> v = load(tail + i, Part{n});
    for (int l = 0; l < n; ++l) stats[(i + l) % channels].merge(1, double(v[l]), 0);
  }
}

// Coefficients of the channels, repeated for as many rows as are treated at once.
template <class A>
struct Repeated {
  Buffer<A> values;
  template <class F>
  Repeated(int64_t channels, int64_t k, F of_channel) : values(padded<A>(channels * k)) {
    for (int64_t c = 0; c < channels; ++c) values[c] = of_channel(c);
    for (int64_t j = 1; j < k; ++j) std::copy_n(values.begin(), channels, values.begin() + j * channels);
  }
  Each<A> each() const { return {values.data()}; }
};

// f(offset, length) for every long row, and for the shorter last one.
template <class F>
inline void for_rows(int64_t rows, int64_t channels, int64_t k, F f) {
  int64_t total = rows * channels, width = k * channels;
  for (int64_t i = 0; i < total; i += width) f(i, std::min(width, total - i));
}

// Σ g and Σ g·(x - mean) of each channel are added to sums, [channels][2].
template <class T, int K>
inline void sheet_sums(const T* gy, const T* x, const T* residual, int64_t rows, int64_t channels, int64_t k,
                       Affine<Each<acc<T>>> f, int act, double* sums) {
  using A = acc<T>;
  int64_t width = k * channels, block = kBlockRows * width, all = rows * channels;
  Buffer<A> s(padded<A>(width)), t(padded<A>(width));
  for (int64_t start = 0; start < all; start += block) {
    int64_t end = std::min(all, start + block);
    std::fill(s.begin(), s.end(), A(0));
    std::fill(t.begin(), t.end(), A(0));
    for (int64_t row = start; row < end; row += width) {
      const T* r = residual ? residual + row : nullptr;
      each_vector<A>(std::min(width, end - row), [&](int64_t i, auto part) NW_LAMBDA {
        vec<A> d, g = grad_at<T, K>(gy + row, x + row, r, i, part, f, act, d);
        store(s.data() + i, load(s.data() + i, Full{}) + keep<A>(g, part), Full{});
        store(t.data() + i, load(t.data() + i, Full{}) + keep<A>(g * d, part), Full{});
      });
    }
    for (int64_t j = 0; j < k; ++j)
      for (int64_t c = 0; c < channels; ++c) {
        sums[2 * c] += double(s[j * channels + c]);
        sums[2 * c + 1] += double(t[j * channels + c]);
      }
  }
}

}  // namespace nw
