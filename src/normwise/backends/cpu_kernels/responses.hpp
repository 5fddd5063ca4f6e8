// The responses of core/responses.py, functions of each value that are not affine in it, on vectors. Their numbers are their
// order in that table; a residual is added to the shift.
#pragma once

#include "tables.hpp"

namespace nw {

#define NW_RESPONSES(X) X(kThresholded, "thresholded") X(kGated, "gated") X(kLargerScale, "larger scale")

enum ResponseKind { NW_RESPONSES(NW_SYMBOL) kResponses };
constexpr const char* kResponseNames = NW_RESPONSES(NW_NAME);

// Each has, for vectors V: the value for x with residual r, and its derivatives by x and by each table but the shift,
// whose derivative is the residual's.
struct Thresholded {
  static constexpr int kTables = 3;
  enum { kScale, kShift, kThreshold };

  template <class V>
  static NW_INLINE V value(const V* t, V x, V r) {
    const V z = x * t[kScale] + (t[kShift] + r);
    return z < t[kThreshold] ? t[kThreshold] : z;
  }
  template <class V>
  static NW_INLINE V slopes(const V* t, V x, V r, V g, V* to) {
    const auto cut = x * t[kScale] + (t[kShift] + r) < t[kThreshold];
    to[kThreshold] = cut ? g : V{};
    to[kShift] = cut ? V{} : g;
    to[kScale] = to[kShift] * x;
    return to[kShift] * t[kScale];
  }
};

// sigmoid(u), and 1 - sigmoid(u) with all digits. Below u = -80 it stays at 2e-35: no inf times 0, and no subnormal
// numbers, which cost a hundred times as much.
template <class V>
struct Gate {
  V open, closed;
};
NW_INLINE vec<float> exp_in_range(vec<float> x) {
  const Exponent e = exponent<float>(x);
  return e.power * e.fraction + e.power;
}
NW_INLINE vec<double> exp_in_range(vec<double> x) { return exp_(x); }
template <class V>
NW_INLINE Gate<V> gate(V u) {
  const V e = exp_in_range(u < -80 ? constant<V>(80) : -u), open = 1 / (1 + e);
  return {open, e * open};
}

struct Gated {
  static constexpr int kTables = 3;
  enum { kScale, kShift, kV };

  template <class V>
  static NW_INLINE V value(const V* t, V x, V r) {
    return x * gate(t[kV] * x).open * t[kScale] + (t[kShift] + r);
  }
  template <class V>
  static NW_INLINE V slopes(const V* t, V x, V, V g, V* to) {
    const V u = t[kV] * x;
    const Gate<V> s = gate(u);
    const V scaled = g * t[kScale] * s.open;
    to[kShift] = g;
    to[kScale] = g * (x * s.open);
    to[kV] = scaled * x * x * s.closed;
    return scaled + scaled * u * s.closed;
  }
};

struct LargerScale {
  static constexpr int kTables = 5;
  enum { kScale, kShift, kLeast, kV, kOwn };

  template <class V>
  static NW_INLINE V value(const V* t, V x, V r) {
    const V other = t[kV] * x + t[kOwn];
    return x * t[kScale] / larger(t[kLeast], other) + (t[kShift] + r);
  }
  template <class V>
  static NW_INLINE V slopes(const V* t, V x, V, V g, V* to) {
    const V other = t[kV] * x + t[kOwn], inverse = 1 / larger(t[kLeast], other), response = x * inverse;
    const V scaled = g * t[kScale] * inverse, per_larger = scaled * response;
    const V half = constant<V>(0.5), share = (other > t[kLeast] ? half : V{}) + (other >= t[kLeast] ? half : V{});
    const V by_other = share * per_larger;
    to[kShift] = g;
    to[kScale] = g * response;
    to[kLeast] = by_other - per_larger;
    to[kV] = -by_other * x;
    to[kOwn] = -by_other;
    // Where v x + own is the larger: γ/m - v γ x/m² = γ own/m², without the difference of two large numbers.
    return scaled * ((1 - share) + share * (t[kOwn] * inverse));
  }

 private:
  // NaN if either argument is NaN, as with torch's maximum.
  template <class V>
  static NW_INLINE V larger(V least, V other) {
    return ((other > least) | (other != other)) ? other : least;
  }
};

// The coefficients of one step, for one way of it.
template <class T, class R>
struct Set {
  Values<T> of[R::kTables];
  NW_INLINE void way(int w, vec<acc<T>>* t) const {
    for (int k = 0; k < R::kTables; ++k) t[k] = of[k].at[w];
  }
};

template <class T, class R>
struct SetLine {
  Line<T> of[R::kTables];
  NW_INLINE Set<T, R> at(int64_t i) const {
    Set<T, R> set;
    for (int k = 0; k < R::kTables; ++k) set.of[k] = of[k].at(i);
    return set;
  }
};

// The tables of a response.
template <class T, class R>
struct Tables {
  Table<acc<T>> of[R::kTables];

  NW_INLINE Set<T, R> plane(int64_t n, int64_t c) const {
    Set<T, R> set;
    for (int k = 0; k < R::kTables; ++k) set.of[k] = everywhere<T>(of[k].at(n, c));
    return set;
  }
  SetLine<T, R> line(int64_t n, const Sheet<T>& sheet) const {
    return lines(n, sheet, std::make_index_sequence<R::kTables>());
  }

 private:
  template <size_t... K>
  SetLine<T, R> lines(int64_t n, const Sheet<T>& sheet, std::index_sequence<K...>) const {
    return {{Line<T>(of[K], n, sheet)...}};
  }
};

}  // namespace nw
