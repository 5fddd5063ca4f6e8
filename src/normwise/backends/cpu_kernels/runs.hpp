// The passes over one run of neighbouring values: apply, and the two backward passes.
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

// f(true_type) if the loop in f has only its basic work, f(false_type) otherwise: compiled twice, so that the
// common loop tests nothing in each step.
template <class F>
NW_INLINE void lean_or_not(bool lean, F f) {
  lean ? f(std::true_type{}) : f(std::false_type{});
}

// The number of steps of a block that stays in the first-level cache, between its passes and its activation.
template <class T>
constexpr int64_t kBlockSteps = 4096 / (kBytes * ways<T>);

// f(start, count) for the blocks of n values.
template <class T, class F>
NW_INLINE void for_steps_in_blocks(int64_t n, F f) {
  constexpr int64_t size = kBlockSteps<T> * step<T>;
  for (int64_t start = 0; start < n; start += size) f(start, std::min(size, n - start));
}

template <class T>
NW_INLINE int64_t steps_of(int64_t n) {
  return (n + step<T> - 1) / step<T>;
}

// z, before the activation.
template <class T, class P>
NW_INLINE Values<T> before(const T* x, const T* residual, P part, const Affine<T>& f) {
  const Values<T> v = load(x, part), r = residual ? load(residual, part) : Values<T>{};
  Values<T> z;
  each_way<T>([&](int w) NW_LAMBDA {
    z.at[w] = (v.at[w] - f.mean.at[w]) * f.scale.at[w] + f.shift.at[w];
    if (residual) z.at[w] += r.at[w];
  });
  return z;
}

// The two tensors that are read along with a block of n values, for prefetching behind it; `second` may be null.
template <class T>
NW_INLINE Next behind(const T* first, const T* second, int64_t n) {
  return {first + n, (second ? second : first) + n, kBytes / ways<T>};
}

// y of n values; z(i, part) is the value before the activation at the step at i, for which x and perhaps the residual are
// read.
template <class T, int K, class Z>
NW_INLINE void apply_steps(int64_t n, Z z, const T* x, const T* residual, T* y, int act, bool stream) {
  if constexpr (K == kAny) {
    for_steps_in_blocks<T>(n, [&](int64_t start, int64_t count) NW_LAMBDA {
      Values<T> block[kBlockSteps<T>];
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA { block[i / step<T>] = z(start + i, part); });
      activate<T>(act, block, y + start, count, behind(x + start, shifted(residual, start), count), stream);
    });
  } else {
    each_step<T>(n, [&](int64_t i, auto part) NW_LAMBDA {
      Values<T> v = z(i, part);
      if constexpr (K != kPlain) each_way<T>([&](int w) NW_LAMBDA { v.at[w] = any_value<T>(activation_of(K), v.at[w]); });
      store(y + i, v, part, stream);
    });
  }
}

// The data that all steps of a run have in common.
template <class V>
NW_INLINE auto same(const V& value) {
  return [value](int64_t) NW_LAMBDA { return value; };
}

// affine(i) has the coefficients of the step at i.
template <class T, int K, class F>
NW_INLINE void apply_run(const T* x, const T* residual, T* y, int64_t n, F affine, int act, bool stream) {
  lean_or_not(!residual && !stream, [&](auto lean) NW_LAMBDA {
    const auto z = [&](int64_t i, auto part) NW_LAMBDA {
      return before(x + i, lean ? nullptr : shifted(residual, i), part, affine(i));
    };
    apply_steps<T, K>(n, z, x, residual, y, act, !lean && stream);
  });
}

// The inputs of a backward pass: grad_y, x, and the residual or null. In `kept`, if it is there, an activation's first pass
// leaves grad_y · f'(z) for the second one, which is of the kind kKept.
template <class T>
struct Incoming {
  const T *gy, *x, *residual;
  acc<T>* kept = nullptr;
  Incoming at(int64_t i) const { return {gy + i, x + i, shifted(residual, i), shifted(kept, i)}; }
};

// f(w, g, d, scale) for each way: g = grad_y · f'(z), with z recomputed from x, and d = x - mean.
template <class T, int K, class P, class F>
NW_INLINE void gradient_step(const Incoming<T>& in, P part, const Affine<T>& affine, F f) {
  static_assert(K != kAny);
  constexpr bool ready = K == kPlain || K == kKept;
  const Values<T> gy = K == kKept ? load_wide<T>(in.kept, part) : load(in.gy, part), x = load(in.x, part);
  const Values<T> r = !ready && in.residual ? load(in.residual, part) : Values<T>{};
  each_way<T>([&](int w) NW_LAMBDA {
    vec<acc<T>> g = gy.at[w], d = x.at[w] - affine.mean.at[w];
    if constexpr (!ready) {
      vec<acc<T>> z = d * affine.scale.at[w] + affine.shift.at[w];
      if (in.residual) z += r.at[w];
      g = times_slope<T, K>(g, z);
    }
    f(w, g, d, affine.scale.at[w]);
  });
}

// g = grad_y · f'(z) of the steps of one block; z(i, part) as in `apply_steps`.
template <class T, class Z>
NW_INLINE void block_of_gradients(const T* gy, const T* x, int64_t n, Z z, int act, Values<T>* g) {
  Values<T> block[kBlockSteps<T>];
  each_step<T>(n, [&](int64_t i, auto part) NW_LAMBDA { block[i / step<T>] = z(i, part); });
  multiply_by_slopes<T>(act, block, gy, g, n, behind(x, gy, n));
}

// f(start, count, gradient) for the blocks of n values, or for all at once: gradient(i, part, f) is `gradient_step` of the
// step at start + i.
template <class T, int K, class C, class F>
NW_INLINE void with_gradients(const Incoming<T>& in, int64_t n, C affine, int act, F f) {
  if constexpr (K == kAny) {
    for_steps_in_blocks<T>(n, [&](int64_t start, int64_t count) NW_LAMBDA {
      const Incoming<T> here = in.at(start);
      const auto z = [&](int64_t i, auto part) NW_LAMBDA {
        return before(here.x + i, shifted(here.residual, i), part, affine(start + i));
      };
      Values<T> g[kBlockSteps<T>];
      block_of_gradients(here.gy, here.x, count, z, act, g);
      if (here.kept) each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA { store_wide(here.kept + i, g[i / step<T>], part); });
      f(start, count, [&](int64_t i, auto part, auto take) NW_LAMBDA {
        const Values<T> x = load(here.x + i, part);
        const Affine<T> of_step = affine(start + i);
        each_way<T>([&](int w) NW_LAMBDA {
          take(w, g[i / step<T>].at[w], x.at[w] - of_step.mean.at[w], of_step.scale.at[w]);
        });
      });
    });
  } else {
    f(int64_t(0), n, [&](int64_t i, auto part, auto take) NW_LAMBDA {
      gradient_step<T, K>(in.at(i), part, affine(i), take);
    });
  }
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
      with_gradients<T, K>(in.at(at + r * chunk.distance), chunk.length, same(f), act,
                           [&](int64_t, int64_t count, auto gradient) NW_LAMBDA {
        sweep<T>(count, [&](int64_t i, int slot, auto part) NW_LAMBDA {
          gradient(i, part, [&](int w, vec<A> g, vec<A> d, vec<A>) NW_LAMBDA {
            s.slots[slot + w] += keep<T>(g, w, part);
            t.slots[slot + w] += keep<T>(g * d, w, part);
          });
        });
      });
    }
    sums.g += s.total();
    sums.gd += t.total();
  });
  return sums;
}

// The gradient through the statistics for each value: slope·(x - mean) + offset.
template <class T>
struct Through {
  Values<T> slope, offset;
};

// The gradients of x and, where gr is not null, of the residual at one step, whose `gradient` is that of `with_gradients`;
// without `Measured` the statistics were given.
template <class T, bool Measured, class G, class P>
NW_INLINE void grad_step(G gradient, int64_t i, const uint8_t* mask, T* gx, T* gr, P part, const Through<T>& through,
                         bool stream) {
  using A = acc<T>;
  Values<T> to_x, to_residual;
  gradient(i, part, [&](int w, vec<A> g, vec<A> d, vec<A> scale) NW_LAMBDA {
    to_x.at[w] = scale * g;
    if constexpr (Measured) {
      const vec<A> back = through.slope.at[w] * d + through.offset.at[w];
      to_x.at[w] += mask ? (load_mask<T>(mask, part, w) ? back : vec<A>{}) : back;
    }
    to_residual.at[w] = g;
  });
  store(gx, to_x, part, stream);
  if (gr) store(gr, to_residual, part, stream);
}

template <class T, int K, bool Measured, class F, class G>
NW_INLINE void grad_run(const Incoming<T> in, const uint8_t* mask, T* gx, T* gr, int64_t n, F affine, int act, G through,
                        bool stream) {
  lean_or_not(!mask && !gr && !stream, [&](auto lean) NW_LAMBDA {
    with_gradients<T, K>(in, n, affine, act, [&](int64_t start, int64_t count, auto gradient) NW_LAMBDA {
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        const int64_t at = start + i;
        grad_step<T, Measured>(gradient, i, lean ? nullptr : shifted(mask, at), gx + at, lean ? nullptr : shifted(gr, at),
                               part, through(at), !lean && stream);
      });
    });
  });
}

}  // namespace nw
