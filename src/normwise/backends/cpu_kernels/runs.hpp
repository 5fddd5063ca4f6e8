// What is done to one run of neighbouring values: statistics, apply, and the two passes of the backward.
#pragma once

#include <algorithm>

#include "activations.hpp"

namespace nw {

template <class T>
NW_INLINE T* shifted(T* p, int64_t by) {
  return p ? p + by : nullptr;
}

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

// z = (x - mean)·scale + shift, as vectors of coefficients: one value everywhere, or one for each channel.
template <class T>
struct Affine {
  Values<T> mean, scale, shift;
};

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
// Around its own mean.
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

// The first chunk is read twice, the next ones are taken around the mean so far. Where that is off by a distance D, the
// squares carry D² times a rounding, and the merge adds at least half of count·D² to the same sum: it never cancels.
// The mean would lose digits, so that data that jumps is read twice as well.
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

// f(true_type) where the loop in f has nothing to do but the least, f(false_type) otherwise: compiled twice, so that the
// common one asks nothing for each step.
template <class F>
NW_INLINE void lean_or_not(bool lean, F f) {
  lean ? f(std::true_type{}) : f(std::false_type{});
}

template <class T, int K, class P>
NW_INLINE void apply_step(const T* x, const T* residual, T* y, P part, const Affine<T>& f, int act, bool stream) {
  const Values<T> v = load(x, part), r = residual ? load(residual, part) : Values<T>{};
  Values<T> out;
  each_way<T>([&](int w) NW_LAMBDA {
    vec<acc<T>> z = (v.at[w] - f.mean.at[w]) * f.scale.at[w] + f.shift.at[w];
    if (residual) z += r.at[w];
    out.at[w] = value_of<K>(act, z);
  });
  store(y, out, part, stream);
}

template <class T, int K>
NW_INLINE void apply_run(const T* x, const T* residual, T* y, int64_t n, const Affine<T> f, int act, bool stream) {
  lean_or_not(!residual && !stream, [&](auto lean) NW_LAMBDA {
    each_step<T>(n, [&](int64_t i, auto part) NW_LAMBDA {
      apply_step<T, K>(x + i, lean ? nullptr : shifted(residual, i), y + i, part, f, act, !lean && stream);
    });
  });
}

// What a backward pass reads: grad_y, x, and the residual or null.
template <class T>
struct Incoming {
  const T *gy, *x, *residual;
  Incoming at(int64_t i) const { return {gy + i, x + i, shifted(residual, i)}; }
};

// f(w, g, d) for each way: g = grad_y · f'(z), with z recomputed from x, and d = x - mean.
template <class T, int K, class P, class F>
NW_INLINE void gradient_step(const Incoming<T>& in, P part, const Affine<T>& affine, int act, F f) {
  const Values<T> gy = load(in.gy, part), x = load(in.x, part);
  const Values<T> r = K != kPlain && in.residual ? load(in.residual, part) : Values<T>{};
  each_way<T>([&](int w) NW_LAMBDA {
    vec<acc<T>> g = gy.at[w], d = x.at[w] - affine.mean.at[w];
    if constexpr (K != kPlain) {
      vec<acc<T>> z = d * affine.scale.at[w] + affine.shift.at[w];
      if (in.residual) z += r.at[w];
      g = times_slope<K>(act, g, z);
    }
    f(w, g, d);
  });
}

struct Pair {
  double g = 0, gd = 0;
};

// Σ g and Σ g·(x - mean).
template <class T, int K>
NW_INLINE Pair sums_of(const Incoming<T> in, const Runs& runs, const Affine<T> f, int act) {
  using A = acc<T>;
  Pair sums;
  for_chunks(runs, [&](int64_t at, const Runs& chunk) NW_LAMBDA {
    Sum<A> s, t;
    for (int64_t r = 0; r < chunk.number; ++r) {
      const Incoming<T> here = in.at(at + r * chunk.distance);
      sweep<T>(chunk.length, [&](int64_t i, int slot, auto part) NW_LAMBDA {
        gradient_step<T, K>(here.at(i), part, f, act, [&](int w, vec<A> g, vec<A> d) NW_LAMBDA {
          s.slots[slot + w] += keep<T>(g, w, part);
          t.slots[slot + w] += keep<T>(g * d, w, part);
        });
      });
    }
    sums.g += s.total();
    sums.gd += t.total();
  });
  return sums;
}

// Of up to as many neighbouring planes as a vector has lanes, whose totals are taken together: that of one vector costs as
// much as a plane of 7 x 7. affine(p) has the coefficients of plane p.
template <class T, int K, class F>
NW_INLINE void sums_of_planes(const Incoming<T> in, int64_t size, int64_t planes, F affine, int act, double* sum_g,
                              double* sum_gd) {
  using A = acc<T>;
  vec<A> s[lanes<A>]{}, t[lanes<A>]{};
  for (int64_t p = 0; p < planes; ++p) {
    const Affine<T> f = affine(p);
    const Incoming<T> here = in.at(p * size);
    vec<A> plain{}, product{};
    each_step<T>(size, [&](int64_t i, auto part) NW_LAMBDA {
      gradient_step<T, K>(here.at(i), part, f, act, [&](int w, vec<A> g, vec<A> d) NW_LAMBDA {
        plain += keep<T>(g, w, part);
        product += keep<T>(g * d, w, part);
      });
    });
    s[p] = plain;
    t[p] = product;
  }
  const vec<A> of_g = totals_of(s), of_gd = totals_of(t);
  for (int64_t p = 0; p < planes; ++p) {
    sum_g[p] = double(of_g[p]);
    sum_gd[p] = double(of_gd[p]);
  }
}

// What flows back through the statistics to each value: slope·(x - mean) + offset.
template <class T>
struct Through {
  Values<T> slope, offset;
};

// The gradients of x and, where gr is not null, of the residual; without `Measured` the statistics were given.
template <class T, int K, bool Measured, class P>
NW_INLINE void grad_step(const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr, P part, const Affine<T>& f, int act,
                         const Through<T>& through, bool stream) {
  using A = acc<T>;
  Values<T> to_x, to_residual;
  gradient_step<T, K>(in, part, f, act, [&](int w, vec<A> g, vec<A> d) NW_LAMBDA {
    to_x.at[w] = f.scale.at[w] * g;
    if constexpr (Measured) {
      const vec<A> back = through.slope.at[w] * d + through.offset.at[w];
      to_x.at[w] += mask ? (load_mask<T>(mask, part, w) ? back : vec<A>{}) : back;
    }
    to_residual.at[w] = g;
  });
  store(gx, to_x, part, stream);
  if (gr) store(gr, to_residual, part, stream);
}

template <class T, int K, bool Measured>
NW_INLINE void grad_run(const Incoming<T> in, const uint8_t* mask, T* gx, T* gr, int64_t n, const Affine<T> f, int act,
                        const Through<T> through, bool stream) {
  lean_or_not(!mask && !gr && !stream, [&](auto lean) NW_LAMBDA {
    each_step<T>(n, [&](int64_t i, auto part) NW_LAMBDA {
      grad_step<T, K, Measured>(in.at(i), lean ? nullptr : shifted(mask, i), gx + i, lean ? nullptr : shifted(gr, i), part, f,
                                act, through, !lean && stream);
    });
  });
}

}  // namespace nw
