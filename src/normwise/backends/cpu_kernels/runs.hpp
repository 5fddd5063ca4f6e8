// What is done to one run of neighbouring values: apply, and the two passes of the backward.
#pragma once

#include "activations.hpp"
#include "stats.hpp"

namespace nw {

template <class T>
NW_INLINE T* shifted(T* p, int64_t by) {
  return p ? p + by : nullptr;
}

// z = (x - mean)·scale + shift, as vectors of coefficients: one value everywhere, or one for each channel.
template <class T>
struct Affine {
  Values<T> mean, scale, shift;
};

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
