// The kernels' C interface: plain pointers and sizes, no exceptions across it. Compiled once for each element type, whose
// name is NW_ELEMENT and part of every function's. 0 = done, 1 = out of memory, 2 = an activation or a response that is not
// known here.
#include <new>

#include "positions.hpp"
#include "respond.hpp"

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
nw::Buffer<double> parameter(const A* values, int64_t channels, double otherwise) {
  nw::Buffer<double> wide(channels, otherwise);
  if (values)
    for (int64_t c = 0; c < channels; ++c) wide[c] = double(values[c]);
  return wide;
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

// groups = 0: over the batch. mean and var, one of each pool, are written, or read where they are known.
NW_PUBLIC(nw_standardize)(int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups, int known, double eps,
                          const T* x, const T* residual, const A* weight, const A* bias, int act, T* y, double* mean,
                          double* var) {
  return with_kind(act, [&](auto kind) {
    const auto weights = parameter(weight, C, 1), biases = parameter(bias, C, 0);
    nw::standardize<T, kind>({N, C, S, last != 0, threads},
                             {groups, known != 0, eps, weights.data(), biases.data(), mean, var}, x, residual, y, act);
  });
}

// gx, gr, gw and gb are not computed where they are null.
NW_PUBLIC(nw_standardize_backward)(int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups, int known,
                                   double eps, const T* gy, const T* x, const T* residual, const A* weight, const A* bias,
                                   int act, double* mean, double* var, T* gx, T* gr, A* gw, A* gb) {
  return with_kind(act, [&](auto kind) {
    const auto weights = parameter(weight, C, 1), biases = parameter(bias, C, 0);
    nw::differentiate_standardized<T, kind>({N, C, S, last != 0, threads},
                                            {groups, known != 0, eps, weights.data(), biases.data(), mean, var},
                                            {gy, x, residual}, act, gx, gr, gw, gb);
  });
}

// center = 0: by the root mean square. mean and root (1/σ), one of each row, are written.
NW_PUBLIC(nw_rows)(int64_t rows, int64_t width, int threads, int center, double eps, const T* x, const A* weight,
                   const A* bias, T* y, double* mean, double* root) {
  return guarded([&] {
    nw::normalize_rows<T>({rows, width, threads, center != 0, x, weight, bias, mean, root}, eps, y);
  });
}

NW_PUBLIC(nw_rows_backward)(int64_t rows, int64_t width, int threads, int center, const T* gy, const T* x, const A* weight,
                            double* mean, double* root, T* gx, A* gw, A* gb) {
  return guarded([&] {
    nw::differentiate_rows<T>({rows, width, threads, center != 0, x, weight, nullptr, mean, root}, gy, gx, gw, gb);
  });
}

// Each position of [N, C, S] over its channels; mean and root are [N, S].
NW_PUBLIC(nw_columns)(int64_t N, int64_t C, int64_t S, int threads, int center, double eps, const T* x, const A* weight,
                      const A* bias, T* y, double* mean, double* root) {
  return guarded([&] {
    nw::normalize_positions<T>({N, C, S, threads, center != 0, x, weight, bias, mean, root}, eps, y);
  });
}

NW_PUBLIC(nw_columns_backward)(int64_t N, int64_t C, int64_t S, int threads, int center, const T* gy, const T* x,
                               const A* weight, double* mean, double* root, T* gx, A* gw, A* gb) {
  return guarded([&] {
    nw::differentiate_positions<T>({N, C, S, threads, center != 0, x, weight, nullptr, mean, root}, gy, gx, gw, gb);
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
