// The kernels' C interface: plain pointers and sizes, no exceptions across it. Compiled once for each element type, whose
// name is NW_ELEMENT and part of every function's. 0 = done, 1 = out of memory, 2 = an activation or a response that is not
// known here.
#include <new>

#include "formula.hpp"
#include "positions.hpp"
#include "running.hpp"

namespace {

using fp32 = float;
using fp64 = double;
using nw::bf16, nw::fp16;
using T = NW_ELEMENT;
using A = nw::acc<T>;

template <class F>
int guarded(F f) noexcept {
  try {
    f();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

template <class F>
int with_kind(int act, F f) noexcept {
  if (act < nw::kNone || act > nw::kSoftsign) return 2;
  return guarded([&] {
    if (act == nw::kNone)
      f(std::integral_constant<int, nw::kPlain>{});
    else if (act == nw::kRelu)
      f(std::integral_constant<int, nw::kRectified>{});
    else
      f(std::integral_constant<int, nw::kAny>{});
  });
}

template <class F>
int with_response(int response, F f) noexcept {
  if (response < nw::kThresholded || response > nw::kLargerScale) return 2;
  return guarded([&] {
    if (response == nw::kThresholded)
      f(nw::Thresholded());
    else if (response == nw::kGated)
      f(nw::Gated());
    else
      f(nw::LargerScale());
  });
}

template <class F>
int with_step(const nw::Formula& formula, int act, F f) noexcept {
  if (formula.response < 0) return with_kind(act, [&](auto kind) { f(nw::AffineStep<T, kind>{act}); });
  return with_response(int(formula.response), [&](auto kind) { f(nw::ResponseStep<T, decltype(kind)>{}); });
}

nw::Table<A> table_at(const void* const* tables, const int64_t* strides, int i) {
  return {static_cast<const A*>(tables[i]), strides[2 * i], strides[2 * i + 1]};
}
nw::Coefficients<T> coefficients(const void* const* tables, const int64_t* strides) {
  return {table_at(tables, strides, 0), table_at(tables, strides, 1), table_at(tables, strides, 2)};
}
template <class R>
nw::Tables<T, R> response_tables(const void* const* tables, const int64_t* strides) {
  nw::Tables<T, R> found;
  for (int k = 0; k < R::kTables; ++k) found.of[k] = table_at(tables, strides, k);
  return found;
}

// A parameter of the layer in fp64; `otherwise` where it has none.
nw::Buffer<double> parameter(const void* values, int kept, int64_t channels, double otherwise) {
  return values ? nw::read_kept<T, double>(values, kept, channels) : nw::Buffer<double>(channels, otherwise);
}

}  // namespace

#define NW_JOINED(name, element) name##_##element
#define NW_NAMED(name, element) NW_JOINED(name, element)
#define NW_PUBLIC(name) extern "C" __attribute__((visibility("default"))) int NW_NAMED(name, NW_ELEMENT)

// Recompiled with the sources: a library that answers otherwise is not the one that was asked for.
NW_PUBLIC(nw_version)() { return NW_VERSION; }

NW_PUBLIC(nw_moments)(int last, int64_t N, int64_t C, int64_t S, int threads, const T* x, const uint8_t* mask,
                      double* mean, double* var, double* count) {
  return guarded([&] {
    nw::put(nw::measure<T>({N, C, S, last != 0, threads}, x, mask), mean, var, count);
  });
}

// tables: mean, scale, shift; strides: two for each of them.
NW_PUBLIC(nw_apply)(int last, int64_t N, int64_t C, int64_t S, int threads, const T* x, const T* residual,
                    const void* const* tables, const int64_t* strides, int act, T* y) {
  return with_kind(act, [&](auto kind) {
    nw::apply<T, kind>({N, C, S, last != 0, threads}, x, residual, y, coefficients(tables, strides), act);
  });
}

NW_PUBLIC(nw_backward_reduce)(int last, int64_t N, int64_t C, int64_t S, int threads, const T* gy, const T* x,
                              const T* residual, const void* const* tables, const int64_t* strides, int act, A* sum_g,
                              A* sum_gx) {
  return with_kind(act, [&](auto kind) {
    const nw::Sums sums = nw::reduce<T, kind>({N, C, S, last != 0, threads}, {gy, x, residual},
                                              coefficients(tables, strides), act);
    std::copy_n(sums.row(0), N * C, sum_g);
    std::copy_n(sums.row(1), N * C, sum_gx);
  });
}

// tables: mean, scale, shift, slope, offset, the last two without data where the statistics were given.
NW_PUBLIC(nw_backward_apply)(int last, int64_t N, int64_t C, int64_t S, int threads, const T* gy, const T* x,
                             const T* residual, const uint8_t* mask, const void* const* tables, const int64_t* strides,
                             int act, T* gx, T* gr) {
  return with_kind(act, [&](auto kind) {
    nw::differentiate<T, kind>({N, C, S, last != 0, threads}, {gy, x, residual}, mask, gx, gr,
                               coefficients(tables, strides), act,
                               {table_at(tables, strides, 3), table_at(tables, strides, 4)});
  });
}

// Parameters, and their gradients, are in the type that `kept` says (see parameters.hpp). groups = 0: over the batch.
// The statistics are measured, or those that are given in the type that `known` says; the table [2, pools] of mean and
// variance, for the backward, may be null.
NW_PUBLIC(nw_standardize)(int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups, double eps, const T* x,
                          const T* residual, const void* weight, const void* bias, int kept, const void* known_mean,
                          const void* known_var, int known, int act, T* y, double* table) {
  return with_kind(act, [&](auto kind) {
    const int64_t pools = groups ? N * groups : C;
    nw::Buffer<double> own(table ? 0 : 2 * pools);
    double *mean = table ? table : own.data(), *var = mean + pools;
    if (known_mean) {
      nw::for_kept<T>(known_mean, known, pools, [&](int64_t i, double value) { mean[i] = value; });
      nw::for_kept<T>(known_var, known, pools, [&](int64_t i, double value) { var[i] = value; });
    }
    const auto weights = parameter(weight, kept, C, 1), biases = parameter(bias, kept, C, 0);
    nw::standardize<T, kind>({N, C, S, last != 0, threads},
                             {groups, known_mean != nullptr, eps, weights.data(), biases.data(), mean, var}, x, residual,
                             y, act);
  });
}

// gx, gr, gw and gb are not computed where they are null.
NW_PUBLIC(nw_standardize_backward)(int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups, int known,
                                   double eps, const T* gy, const T* x, const T* residual, const void* weight,
                                   const void* bias, int kept, int act, double* table, T* gx, T* gr, void* gw, void* gb) {
  return with_kind(act, [&](auto kind) {
    const auto weights = parameter(weight, kept, C, 1), biases = parameter(bias, kept, C, 0);
    nw::Gradient<T> to_weight(gw, kept, C), to_bias(gb, kept, C);
    double* var = table + (groups ? N * groups : C);
    nw::differentiate_standardized<T, kind>({N, C, S, last != 0, threads},
                                            {groups, known != 0, eps, weights.data(), biases.data(), table, var},
                                            {gy, x, residual}, act, gx, gr, to_weight.data(), to_bias.data());
    to_weight.deliver();
    to_bias.deliver();
  });
}

// A batch's mean and variance (with a positive eps 1/√(variance + eps)), one of each channel; batches: null where nobody
// counts. 3 = not finite, and nothing was changed.
NW_PUBLIC(nw_remember)(int64_t C, const void* mean, const void* var, int kept, double eps, double bessel, double momentum,
                       void* running_mean, void* running_var, int running_kept, int64_t* batches) {
  bool finite = true;
  const int failed = guarded([&] {
    finite = nw::remember<T>({running_mean, running_var, running_kept, batches}, {mean, var, kept, eps, bessel}, C, momentum);
  });
  return finite ? failed : 3;
}

// center = 0: by the root mean square. The table [2, rows] of mean and root (1/σ), for the backward, may be null; parameters
// as above.
NW_PUBLIC(nw_rows)(int64_t rows, int64_t width, int threads, int center, double eps, const T* x, const void* weight,
                   const void* bias, int kept, T* y, double* table) {
  return guarded([&] {
    const nw::Parameter<T> weights(weight, kept, width), biases(bias, kept, width);
    nw::Buffer<double> own(table ? 0 : 2 * rows);
    double* mean = table ? table : own.data();
    nw::normalize_rows<T>({rows, width, threads, center != 0, x, weights.data, biases.data, mean, mean + rows}, eps, y);
  });
}

NW_PUBLIC(nw_rows_backward)(int64_t rows, int64_t width, int threads, int center, const T* gy, const T* x,
                            const void* weight, int kept, double* table, T* gx, void* gw, void* gb) {
  return guarded([&] {
    const nw::Parameter<T> weights(weight, kept, width);
    nw::Gradient<T> to_weight(gw, kept, width), to_bias(gb, kept, width);
    nw::differentiate_rows<T>({rows, width, threads, center != 0, x, weights.data, nullptr, table, table + rows}, gy, gx,
                              to_weight.data(), to_bias.data());
    to_weight.deliver();
    to_bias.deliver();
  });
}

// Each position of [N, C, S] over its channels; the table is [2, N, S].
NW_PUBLIC(nw_columns)(int64_t N, int64_t C, int64_t S, int threads, int center, double eps, const T* x, const void* weight,
                      const void* bias, int kept, T* y, double* table) {
  return guarded([&] {
    const nw::Parameter<T> weights(weight, kept, C), biases(bias, kept, C);
    nw::Buffer<double> own(table ? 0 : 2 * N * S);
    double* mean = table ? table : own.data();
    nw::normalize_positions<T>({N, C, S, threads, center != 0, x, weights.data, biases.data, mean, mean + N * S}, eps, y);
  });
}

NW_PUBLIC(nw_columns_backward)(int64_t N, int64_t C, int64_t S, int threads, int center, const T* gy, const T* x,
                               const void* weight, int kept, double* table, T* gx, void* gw, void* gb) {
  return guarded([&] {
    const nw::Parameter<T> weights(weight, kept, C);
    nw::Gradient<T> to_weight(gw, kept, C), to_bias(gb, kept, C);
    nw::differentiate_positions<T>({N, C, S, threads, center != 0, x, weights.data, nullptr, table, table + N * S}, gy, gx,
                                   to_weight.data(), to_bias.data());
    to_weight.deliver();
    to_bias.deliver();
  });
}

// tables: the response's own, in their order.
NW_PUBLIC(nw_respond)(int last, int64_t N, int64_t C, int64_t S, int threads, int response, const T* x, const T* residual,
                      const void* const* tables, const int64_t* strides, T* y) {
  return with_response(response, [&](auto kind) {
    using R = decltype(kind);
    nw::respond<T, R>({N, C, S, last != 0, threads}, x, residual, y, response_tables<R>(tables, strides));
  });
}

// sums: [tables, N, C].
NW_PUBLIC(nw_respond_reduce)(int last, int64_t N, int64_t C, int64_t S, int threads, int response, const T* gy, const T* x,
                             const T* residual, const void* const* tables, const int64_t* strides, A* sums) {
  return with_response(response, [&](auto kind) {
    using R = decltype(kind);
    const auto totals = nw::reduce_response<T, R>({N, C, S, last != 0, threads}, {gy, x, residual},
                                                  response_tables<R>(tables, strides));
    std::copy_n(totals.values.data(), totals.values.size(), sums);
  });
}

// tables: the response's own, then mean, slope and offset, without data where the statistics were given.
NW_PUBLIC(nw_respond_backward)(int last, int64_t N, int64_t C, int64_t S, int threads, int response, const T* gy,
                               const T* x, const T* residual, const uint8_t* mask, const void* const* tables,
                               const int64_t* strides, T* gx, T* gr) {
  return with_response(response, [&](auto kind) {
    using R = decltype(kind);
    constexpr int K = R::kTables;
    nw::differentiate_response<T, R>(
        {N, C, S, last != 0, threads}, {gy, x, residual}, mask, gx, gr, response_tables<R>(tables, strides),
        {table_at(tables, strides, K), table_at(tables, strides, K + 1), table_at(tables, strides, K + 2)});
  });
}

// A program on tables alone: pointers to what enters and what leaves it.
NW_PUBLIC(nw_run)(const nw::Program* program, void* const* entering, void* const* leaving) {
  return guarded([&] { nw::run(*program, entering, leaving); });
}

// measured = 0: mean and variance, the first two that enter, are given, otherwise written. tables: [1 + tables, N, C].
NW_PUBLIC(nw_normalize)(int last, int64_t N, int64_t C, int64_t S, int threads, const nw::Formula* formula, int measured,
                        void* const* entering, void* const* leaving, const T* x, const T* residual, const uint8_t* mask,
                        int act, T* y, A* tables) {
  return with_step(*formula, act, [&](auto step) {
    nw::normalize<T>({N, C, S, last != 0, threads}, *formula, step, {entering, leaving}, measured != 0, x, residual, mask,
                     y, tables);
  });
}

// What leaves it are the gradients of what the formula was given. gx and gr are not computed where they are null.
NW_PUBLIC(nw_normalize_backward)(int last, int64_t N, int64_t C, int64_t S, int threads, const nw::Formula* formula,
                                 int measured, void* const* entering, void* const* leaving, const T* gy, const T* x,
                                 const T* residual, const uint8_t* mask, int act, A* tables, T* gx, T* gr) {
  return with_step(*formula, act, [&](auto step) {
    nw::differentiate_normalized<T>({N, C, S, last != 0, threads}, *formula, step, {entering, leaving}, measured != 0,
                                    {gy, x, residual}, mask, gx, gr, tables);
  });
}
