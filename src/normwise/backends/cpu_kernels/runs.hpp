// What is done to one run of neighbouring values: statistics, apply, and the two passes of the backward.
#pragma once

#include <algorithm>
#include <vector>

#include "activations.hpp"

namespace nw {

// At most this many values are summed in the narrow accumulator before the sum moves to fp64.
constexpr int64_t kChunk = 4096;

struct Stats {
  double count = 0, mean = 0, m2 = 0;

  double var() const { return count > 0 ? std::max(m2, 0.0) / count + (m2 - m2) : 0; }  // NaN stays NaN

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

// A coefficient: one for the whole run (a plane), or one for each value (a row of channels).
template <class A>
struct One {
  A value;
  NW_INLINE vec<A> at(int64_t) const { return splat<A>(value); }
};
template <class A>
struct Each {
  const A* values;  // padded to a whole vector
  NW_INLINE vec<A> at(int64_t i) const { return load(values + i, Full{}); }
};
template <class C>
struct Affine {
  C mean, scale, shift;
};

template <class T, bool Masked>
NW_INLINE double sum_chunk(const T* x, const uint8_t* mask, int64_t n, double& count) {
  using A = acc<T>;
  vec<A> s[4] = {};
  ints<A> kept{};
  sweep<A>(n, [&](int64_t i, int slot, auto part) NW_LAMBDA {
    vec<A> v = load(x + i, part);
    if constexpr (Masked) {
      ints<A> m = load_mask<A>(mask + i, part);
      v = m ? v : vec<A>{};
      kept -= m;
    }
    s[slot] += v;
  });
  count = double(n);
  if constexpr (Masked) {
    count = 0;
    for (int i = 0; i < lanes<A>; ++i) count += double(kept[i]);
  }
  return total<A>(s);
}

// Take a chunk in around a pilot: the mean so far, or the chunk's own. Where the pilot is off by a distance D, the
// squares carry D² times a rounding, and the merge adds at least half of count·D² to the same sum: it never cancels.
template <class T, bool Masked>
NW_INLINE void take_chunk(Stats& stats, const T* x, const uint8_t* mask, int64_t n) {
  using A = acc<T>;
  double count = double(n), pilot_value = stats.mean;
  if (stats.count == 0) {
    double sum = sum_chunk<T, Masked>(x, mask, n, count);
    if (count == 0) return;
    pilot_value = sum / count;
  }
  const A pilot = A(pilot_value);
  vec<A> s[4] = {}, q[4] = {};
  ints<A> kept{};
  sweep<A>(n, [&](int64_t i, int slot, auto part) NW_LAMBDA {
    vec<A> d = keep<A>(load(x + i, part) - pilot, part);
    if constexpr (Masked) {
      ints<A> m = load_mask<A>(mask + i, part);
      d = m ? d : vec<A>{};
      kept -= m;
    }
    s[slot] += d;
    q[slot] += d * d;
  });
  if constexpr (Masked) {
    count = 0;
    for (int i = 0; i < lanes<A>; ++i) count += double(kept[i]);
    if (count == 0) return;
  }
  double rest = total<A>(s), mean = rest / count;
  stats.merge(count, double(pilot) + mean, total<A>(q) - rest * mean);
}

template <class T>
inline void take_run(Stats& stats, const T* x, const uint8_t* mask, int64_t n) {
  for (int64_t i = 0; i < n; i += kChunk) {
    int64_t m = std::min(kChunk, n - i);
    if (mask)
      take_chunk<T, true>(stats, x + i, mask + i, m);
    else
      take_chunk<T, false>(stats, x + i, nullptr, m);
  }
}

template <class T, int K, class C>
inline void apply_run(const T* x, const T* residual, T* y, int64_t n, Affine<C> f, int act) {
  using A = acc<T>;
  each_vector<A>(n, [&](int64_t i, auto part) NW_LAMBDA {
    vec<A> z = (load(x + i, part) - f.mean.at(i)) * f.scale.at(i) + f.shift.at(i);
    if (residual) z += load(residual + i, part);
    store(y + i, value_of<K>(act, z), part);
  });
}

// g = grad_y · f'(z), with z recomputed from x; `d` becomes x - mean.
template <class T, int K, class C, class P>
NW_INLINE vec<acc<T>> grad_at(const T* gy, const T* x, const T* residual, int64_t i, P part, const Affine<C>& f,
                              int act, vec<acc<T>>& d) {
  vec<acc<T>> g = load(gy + i, part);
  d = load(x + i, part) - f.mean.at(i);
  if constexpr (K != kPlain) {
    vec<acc<T>> z = d * f.scale.at(i) + f.shift.at(i);
    if (residual) z += load(residual + i, part);
    g = times_slope<K>(act, g, z);
  }
  return g;
}

// Σ g and Σ g·(x - mean) are added to sums[0] and sums[1].
template <class T, int K>
inline void sum_run(const T* gy, const T* x, const T* residual, int64_t n, Affine<One<acc<T>>> f, int act, double* sums) {
  using A = acc<T>;
  for (int64_t start = 0; start < n; start += kChunk) {
    int64_t m = std::min(kChunk, n - start);
    const T* r = residual ? residual + start : nullptr;
    vec<A> s[4] = {}, t[4] = {};
    sweep<A>(m, [&](int64_t i, int slot, auto part) NW_LAMBDA {
      vec<A> d, g = grad_at<T, K>(gy + start, x + start, r, i, part, f, act, d);
      s[slot] += keep<A>(g, part);
      t[slot] += keep<A>(g * d, part);
    });
    sums[0] += total<A>(s);
    sums[1] += total<A>(t);
  }
}

template <class T, int K, class C>
inline void grad_run(const T* gy, const T* x, const T* residual, const uint8_t* mask, T* gx, T* gr, int64_t n,
                     Affine<C> f, int act, bool measured, C slope, C offset) {
  using A = acc<T>;
  each_vector<A>(n, [&](int64_t i, auto part) NW_LAMBDA {
    vec<A> d, g = grad_at<T, K>(gy, x, residual, i, part, f, act, d);
    vec<A> to_x = f.scale.at(i) * g;
    if (measured) {
      vec<A> through = slope.at(i) * d + offset.at(i);
      to_x += mask ? (load_mask<A>(mask + i, part) ? through : vec<A>{}) : through;
    }
    store(gx + i, to_x, part);
    if (gr) store(gr + i, g, part);
  });
}

}  // namespace nw
