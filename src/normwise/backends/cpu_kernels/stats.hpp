// The statistics of runs of neighbouring values.
#pragma once

#include <algorithm>

#include "elements.hpp"
#include "totals.hpp"

namespace nw {

// At most this many values are summed in the narrow accumulator before the sum moves to fp64.
constexpr int64_t kChunk = 4096;

struct Stats {
  double count = 0, mean = 0, m2 = 0;

  double var() const { return count > 0 ? var(1 / count) : 0; }
  double var(double inverse) const { return std::max(m2, 0.0) * inverse + (m2 - m2); }  // NaN stays NaN

  // Chan's formula.
  void merge(double other_count, double other_mean, double other_m2) {
    if (other_count == 0) return;
    if (count == 0) {
      count = other_count, mean = other_mean, m2 = other_m2;
      return;
    }
    double sum = count + other_count, delta = other_mean - mean, share = other_count / sum;
    mean += delta * share;
    m2 += other_m2 + delta * delta * count * share;
    count = sum;
  }
  void merge(const Stats& other) { merge(other.count, other.mean, other.m2); }
};

// Runs of equal length at equal distances: one plane, or the same channel of several samples.
struct Runs {
  int64_t length, number = 1, distance = 0;
  int64_t size() const { return length * number; }
};

// f(offset, chunk) over parts of the runs that have at most kChunk values: a piece of one run, or several short runs.
template <class F>
NW_INLINE void for_chunks(const Runs& runs, F f) {
  // One run needs no division, which takes as long as the sums of a plane of 7 x 7.
  const int64_t together = runs.number == 1 ? 1 : std::max<int64_t>(1, kChunk / std::max<int64_t>(1, runs.length));
  for (int64_t r = 0; r < runs.number; r += together)
    for (int64_t i = 0; i < runs.length; i += kChunk)
      f(r * runs.distance + i,
        Runs{std::min(kChunk, runs.length - i), std::min(together, runs.number - r), runs.distance});
}

// Four sums in parallel.
template <class A>
struct Sum {
  vec<A> slots[4] = {};
  NW_INLINE double total() const {
    return double(total_of((slots[0] + slots[1]) + (slots[2] + slots[3])));
  }
};

template <class A>
NW_INLINE double count_of(ints<A> kept) {
  double count = 0;
  for (int i = 0; i < lanes<A>; ++i) count -= double(kept[i]);
  return count;
}

// Σ x of a run's values that the mask keeps, and their number.
template <class T, bool Masked>
NW_INLINE void add_values(Sum<acc<T>>& sum, ints<acc<T>>& kept, const T* x, const uint8_t* mask, int64_t n) {
  sweep<T>(n, [&](int64_t i, int slot, auto part) NW_LAMBDA {
    const Values<T> v = load(x + i, part);
    each_way<T>([&](int w) NW_LAMBDA {
      if constexpr (Masked) {
        const auto m = load_mask<T>(mask + i, part, w);
        sum.slots[slot + w] += m ? v.at[w] : vec<acc<T>>{};
        kept += m;
      } else {
        sum.slots[slot + w] += v.at[w];
      }
    });
  });
}

// Σ d and Σ d² with d = x - pilot.
template <class T, bool Masked>
NW_INLINE void add_squares(Sum<acc<T>>& rest, Sum<acc<T>>& squares, ints<acc<T>>& kept, acc<T> pilot, const T* x,
                           const uint8_t* mask, int64_t n) {
  sweep<T>(n, [&](int64_t i, int slot, auto part) NW_LAMBDA {
    const Values<T> v = load(x + i, part);
    each_way<T>([&](int w) NW_LAMBDA {
      vec<acc<T>> d = keep<T>(v.at[w] - pilot, w, part);
      if constexpr (Masked) {
        const auto m = load_mask<T>(mask + i, part, w);
        d = m ? d : vec<acc<T>>{};
        kept += m;
      }
      rest.slots[slot + w] += d;
      squares.slots[slot + w] += d * d;
    });
  });
}

// The statistics of a chunk around a pilot.
template <class T, bool Masked>
NW_INLINE Stats around(double pilot_value, const T* x, const uint8_t* mask, const Runs& chunk, double inverse) {
  using A = acc<T>;
  const A pilot = A(pilot_value);
  Sum<A> rest, squares;
  ints<A> kept{};
  for (int64_t r = 0; r < chunk.number; ++r)
    add_squares<T, Masked>(rest, squares, kept, pilot, x + r * chunk.distance, mask, chunk.length);
  double count = double(chunk.size());
  if constexpr (Masked) {
    count = count_of<A>(kept);
    if (count == 0) return {};
    inverse = 1 / count;
  }
  const double left = rest.total(), off = left * inverse;
  return {count, double(pilot) + off, squares.total() - left * off};
}
// The statistics of a chunk around its own mean.
template <class T, bool Masked>
NW_INLINE Stats stats_of_chunk(const T* x, const uint8_t* mask, const Runs& chunk, double inverse) {
  using A = acc<T>;
  Sum<A> sum;
  ints<A> kept{};
  for (int64_t r = 0; r < chunk.number; ++r)
    add_values<T, Masked>(sum, kept, x + r * chunk.distance, mask, chunk.length);
  if constexpr (Masked) inverse = 1 / std::max(1.0, count_of<A>(kept));
  return around<T, Masked>(sum.total() * inverse, x, mask, chunk, inverse);
}

// The first chunk is read twice, the next ones are summed around the mean so far. If that is off by a distance D, the
// squares carry D² times a rounding, and the merge adds at least half of count·D² to the same sum: it never cancels.
// But the mean would lose digits, so that data with jumps is read twice as well.
template <class T, bool Masked>
inline void take_chunk(Stats& stats, const T* x, const uint8_t* mask, const Runs& chunk) {
  const double inverse = 1 / double(chunk.size());
  Stats found{};
  if (stats.count > 0) found = around<T, Masked>(stats.mean, x, mask, chunk, inverse);
  const double jump = found.mean - stats.mean;
  if (stats.count == 0 || jump * jump * found.count > found.m2) found = stats_of_chunk<T, Masked>(x, mask, chunk, inverse);
  stats.merge(found);
}

template <class T>
inline Stats stats_of(const T* x, const Runs& runs) {
  Stats stats;
  for_chunks(runs, [&](int64_t at, const Runs& chunk) { take_chunk<T, false>(stats, x + at, nullptr, chunk); });
  return stats;
}
template <class T>
inline Stats stats_of(const T* x, const uint8_t* mask, int64_t n) {
  Stats stats;
  for_chunks({n}, [&](int64_t at, const Runs& chunk) { take_chunk<T, true>(stats, x + at, mask + at, chunk); });
  return stats;
}

}  // namespace nw
