// Numbers for every channel: tables of sums and of moments, with a row for each sample or for each part of one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

namespace nw {

// An array that is written before it is read.
template <class A>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) : size_(n), values_(new A[size_t(n)]) {}
  Buffer(int64_t n, A value) : Buffer(n) { std::fill_n(values_.get(), n, value); }
  A* data() { return values_.get(); }
  const A* data() const { return values_.get(); }
  A& operator[](int64_t i) { return values_[size_t(i)]; }
  const A& operator[](int64_t i) const { return values_[size_t(i)]; }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
  std::unique_ptr<A[]> values_;
};

// K sums of every channel, [K, rows, C].
template <int K>
struct Totals {
  int64_t rows, channels;
  Buffer<double> values;

  Totals(int64_t rows_, int64_t channels_) : rows(rows_), channels(channels_), values(K * rows_ * channels_, 0) {}
  double* row(int k, int64_t r = 0) { return values.data() + (k * rows + r) * channels; }
  const double* row(int k, int64_t r = 0) const { return values.data() + (k * rows + r) * channels; }

  // `fewer` rows, each the sum of equally many of these, in their order.
  Totals folded(int64_t fewer) && {
    if (fewer == rows) return std::move(*this);
    Totals sums(fewer, channels);
    for (int k = 0; k < K; ++k)
      for (int64_t r = 0; r < rows; ++r) {
        double* to = sums.row(k, r / (rows / fewer));
        const double* from = row(k, r);
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
      }
    return sums;
  }
};

// A row of moments: the channels share the count, since a mask applies to all of them.
struct MomentsRow {
  double *count, *mean, *m2;
  int64_t channels;

  // Chan's formula; `squares` may be null, for single values.
  void merge(double number, const double* means, const double* squares) {
    if (number == 0) return;
    const double before = *count, sum = before + number, share = number / sum, weight = before * share;
    *count = sum;
    if (before == 0) {
      std::copy_n(means, channels, mean);
      squares ? std::copy_n(squares, channels, m2) : std::fill_n(m2, channels, 0.0);
      return;
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const double delta = means[c] - mean[c];
      mean[c] += delta * share;
      m2[c] += (squares ? squares[c] : 0.0) + delta * delta * weight;
    }
  }
  void merge(const MomentsRow& other) { merge(*other.count, other.mean, other.m2); }
};

// The moments of every channel, [rows, C].
struct Moments {
  int64_t rows, channels;
  Buffer<double> count, mean, m2;

  Moments(int64_t rows_, int64_t channels_)
      : rows(rows_), channels(channels_), count(rows_, 0), mean(rows_ * channels_, 0), m2(rows_ * channels_, 0) {}
  MomentsRow row(int64_t r) {
    return {&count[r], mean.data() + r * channels, m2.data() + r * channels, channels};
  }
  // `fewer` rows, each merged from equally many of these, in their order.
  Moments folded(int64_t fewer) && {
    if (fewer == rows) return std::move(*this);
    Moments merged(fewer, channels);
    for (int64_t r = 0; r < rows; ++r) merged.row(r / (rows / fewer)).merge(row(r));
    return merged;
  }
};

}  // namespace nw
