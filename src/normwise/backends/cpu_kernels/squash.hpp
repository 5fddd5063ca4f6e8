// A bounded function of each value instead of a normalizer: y = f(γ·c(αx + s) + β + residual), γ and β per channel.
#pragma once

#include "rows_backward.hpp"

namespace nw {

// The curves' numbers are their order here, like those of the activations.
#define NW_CURVES(X) X(kTangent, "tanh") X(kErrorFunction, "erf")
enum Curve { NW_CURVES(NW_SYMBOL) kCurves };
constexpr const char* kCurveNames = NW_CURVES(NW_NAME);

// [N, C, S]; for rows S is 1.
template <class T>
struct SquashCall {
  int64_t N, C, S;
  int threads;
  double alpha, shift;
  const T *x, *residual;
  const acc<T>*weight, *bias;
  int act;

  int64_t runs() const { return S == 1 ? N : N * C; }
  int64_t length() const { return S == 1 ? C : S; }
  int workers() const { return N * C * S < kSerial ? 1 : threads; }
};

// γ and β of a run: a line for a row, one number for a plane.
template <class T>
struct SquashParameters {
  const SquashCall<T>& call;
  acc<T> one = 1, zero = 0;
  Line<T> weights = line_of<T>(call.S == 1 ? call.weight : nullptr, call.S == 1 ? call.C : 0, one);
  Line<T> biases = line_of<T>(call.S == 1 ? call.bias : nullptr, call.S == 1 ? call.C : 0, zero);

  // f(weight, bias), two functions that return them at a step of run r.
  template <class F>
  NW_INLINE void at(int64_t r, F f) const {
    if (call.S == 1)
      return f([&](int64_t i) NW_LAMBDA { return weights.at(i); }, [&](int64_t i) NW_LAMBDA { return biases.at(i); });
    const int64_t c = r % call.C;
    const Values<T> w = everywhere<T>(call.weight ? call.weight[c] : one), b = everywhere<T>(call.bias ? call.bias[c] : zero);
    f([&](int64_t) NW_LAMBDA { return w; }, [&](int64_t) NW_LAMBDA { return b; });
  }
};

// c(αx + s) and its slope there, for each way.
template <class T, int C, class P>
NW_INLINE void bent(const T* x, P part, acc<T> alpha, acc<T> shift, Values<T>& value, Values<T>& slope) {
  const Values<T> v = load(x, part);
  each_way<T>([&](int k) NW_LAMBDA {
    const vec<acc<T>> u = v.at[k] * alpha + shift;
    const WithSlope<vec<acc<T>>> found = C == kTangent ? tangent<T>(u) : error_function<T>(u);
    value.at[k] = found.value;
    slope.at[k] = found.slope;
  });
}

// The value before the activation, at a step.
template <class T, int C, class P>
NW_INLINE Values<T> squashed(const SquashCall<T>& call, int64_t at, P part, const Values<T>& w, const Values<T>& b) {
  Values<T> z, slope;
  bent<T, C>(call.x + at, part, acc<T>(call.alpha), acc<T>(call.shift), z, slope);
  const Values<T> r = call.residual ? load(call.residual + at, part) : Values<T>{};
  each_way<T>([&](int k) NW_LAMBDA {
    z.at[k] = z.at[k] * w.at[k] + b.at[k];
    if (call.residual) z.at[k] += r.at[k];
  });
  return z;
}

template <class T, int C, int K>
void squash(const SquashCall<T> call, T* y) {
  const SquashParameters<T> parameters{call};
  const int64_t length = call.length();
  const Tasks tasks(call.runs(), length);
  parallel(call.workers(), tasks.number, [&](int64_t task) {
    const SquashCall<T> here = call;
    for (int64_t r = task * tasks.size; r < std::min(here.runs(), (task + 1) * tasks.size); ++r)
      parameters.at(r, [&](auto weight, auto bias) NW_LAMBDA {
        const auto z = [&](int64_t i, auto part) NW_LAMBDA {
          return squashed<T, C>(here, r * length + i, part, weight(i), bias(i));
        };
        apply_steps<T, K>(length, z, here.x + r * length, shifted(here.residual, r * length), y + r * length, here.act, false);
      });
  });
}

// gx and gr may be null; gr is null without an activation; gw and gb, [C], may be null, too. scalars: the gradients of α and s.
template <class T>
struct SquashGradients {
  const T* gy;
  T *gx, *gr;
  acc<T>*gw, *gb;
  double* scalars;
};

// The sums of a task: those of α and s, and those of each channel.
template <class T>
struct SquashSums {
  LineSums<T> lines;
  double alpha = 0, shift = 0;
  explicit SquashSums(LineSums<T>&& of_task) : lines(std::move(of_task)) {}
};

// A run whose slopes are known; returns Σ g and Σ g·c of a plane.
template <class T, int C, int K, class W>
NW_INLINE Pair squash_run(const SquashCall<T>& call, const SquashGradients<T>& to, int64_t first, const Slopes<T, K> slopes,
                          W weight, SquashSums<T>& sums) {
  using A = acc<T>;
  const A alpha = A(call.alpha), shift = A(call.shift);
  const T* x = call.x + first;
  T *gx = shifted(to.gx, first), *gr = shifted(to.gr, first);
  const bool row = call.S == 1;
  A *product = sums.lines.product.data(), *plain = sums.lines.plain.data();
  Pair found;
  for (int64_t start = 0; start < call.length(); start += kChunk) {
    Sum<A> of_g, of_curve, of_shift, of_alpha;
    sweep<T>(std::min(kChunk, call.length() - start), [&](int64_t at, int slot, auto part) NW_LAMBDA {
      const int64_t i = start + at;
      const Values<T> g = slopes.at(i, part), w = weight(i), v = load(x + i, part);
      Values<T> value, slope, out;
      bent<T, C>(x + i, part, alpha, shift, value, slope);
      Values<T> to_weight{}, to_bias{};
      if (row) to_weight = load_line<T>(product, i), to_bias = load_line<T>(plain, i);
      each_way<T>([&](int k) NW_LAMBDA {
        const vec<A> here = keep<T>(g.at[k], k, part), turned = here * value.at[k];
        const vec<A> inside = here * w.at[k] * slope.at[k];
        to_weight.at[k] += turned;
        to_bias.at[k] += here;
        of_shift.slots[slot + k] += inside;
        of_alpha.slots[slot + k] += inside * v.at[k];
        if (!row) of_g.slots[slot + k] += here, of_curve.slots[slot + k] += turned;
        out.at[k] = inside * alpha;
      });
      if (row) store_line<T>(product, i, to_weight), store_line<T>(plain, i, to_bias);
      if (gx) store(gx + i, out, part);
      if (K == kAny && gr) store(gr + i, g, part);
    });
    sums.alpha += of_alpha.total();
    sums.shift += of_shift.total();
    if (!row) found.g += of_g.total(), found.gd += of_curve.total();
  }
  if (row) sums.lines.rows_done(1);
  return found;
}

template <class T, int C, int K>
void differentiate_squash(const SquashCall<T>& call, const SquashGradients<T>& to) {
  const SquashParameters<T> parameters{call};
  const int64_t length = call.length(), runs = call.runs();
  const bool row = call.S == 1;
  const Tasks tasks(runs, length);
  // Each plane has its own entry, [N, C].
  Buffer<double> to_weight(row ? 0 : runs), to_bias(row ? 0 : runs), of_tasks(2 * tasks.number);
  TaskLines<T> lines(tasks.number, row ? call.C : 0, call.workers());
  parallel(call.workers(), tasks.number, [&](int64_t task) {
    SquashSums<T> sums(lines.sums(task));
    auto room = Slopes<T, K>::room(length);
    for (int64_t r = task * tasks.size; r < std::min(runs, (task + 1) * tasks.size); ++r)
      parameters.at(r, [&](auto weight, auto bias) NW_LAMBDA {
        const Slopes<T, K> slopes{to.gy + r * length, call.x + r * length, room.data()};
        slopes.take(length, [&](int64_t i, auto part) NW_LAMBDA {
          return squashed<T, C>(call, r * length + i, part, weight(i), bias(i));
        }, call.act);
        const Pair of_plane = squash_run<T, C, K>(call, to, r * length, slopes, weight, sums);
        if (!row) to_weight[r] = of_plane.gd, to_bias[r] = of_plane.g;
      });
    sums.lines.flush();
    of_tasks[2 * task] = sums.alpha;
    of_tasks[2 * task + 1] = sums.shift;
  });
  if (row) lines.deliver(to.gw, to.gb);
  if (!row && to.gw) sum_rows(to_weight, call.N, call.C, to.gw);
  if (!row && to.gb) sum_rows(to_bias, call.N, call.C, to.gb);
  sum_rows(of_tasks, tasks.number, 2, to.scalars);
}

}  // namespace nw
