// The kernels' C interface: plain pointers and sizes, no exceptions across it. 0 = done, 1 = out of memory,
// 2 = an element type or activation that is not known here.
#include <new>

#include "fused.hpp"
#include "tables.hpp"

namespace nw {

enum Element { kFloat, kDouble, kBfloat16, kHalf };

template <class F>
int with_element(int element, F f) noexcept {
  try {
    switch (element) {
      case kFloat: f(float{}); return 0;
      case kDouble: f(double{}); return 0;
      case kBfloat16: f(bf16{}); return 0;
      case kHalf: f(fp16{}); return 0;
      default: return 2;
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

template <class F>
void with_kind(int act, F f) {
  if (act == kNone)
    f(std::integral_constant<int, kPlain>{});
  else if (act == kRelu)
    f(std::integral_constant<int, kRectified>{});
  else
    f(std::integral_constant<int, kAny>{});
}

template <class F>
int with_both(int element, int act, F f) noexcept {
  if (act < kNone || act > kSoftsign) return 2;
  return with_element(element, [&](auto t) { with_kind(act, [&](auto kind) { f(t, kind); }); });
}

template <class A>
Coefficients<A> coefficients(const void* const* tables, const int64_t* strides) {
  auto table = [&](int i) { return Table<A>{static_cast<const A*>(tables[i]), strides[2 * i], strides[2 * i + 1]}; };
  return {table(0), table(1), table(2)};
}
template <class A>
Through<A> through(const void* const* tables, const int64_t* strides) {
  auto table = [&](int i) { return Table<A>{static_cast<const A*>(tables[i]), strides[2 * i], strides[2 * i + 1]}; };
  return {table(3), table(4)};
}

}  // namespace nw

using namespace nw;

#define NW_PUBLIC extern "C" __attribute__((visibility("default")))

// Recompiled with the sources: a library that answers otherwise is not the one that was asked for.
NW_PUBLIC int nw_version() { return NW_VERSION; }

NW_PUBLIC int nw_vector_bytes() { return kBytes; }

NW_PUBLIC int nw_moments(int element, int last, int64_t N, int64_t C, int64_t S, int threads, const void* x, const uint8_t* mask,
               double* mean, double* var, double* count) {
  return with_element(element, [&](auto t) {
    using T = decltype(t);
    std::vector<Stats> stats = measure<T>({N, C, S, last != 0, threads}, static_cast<const T*>(x), mask);
    for (int64_t i = 0; i < N * C; ++i) {
      mean[i] = stats[size_t(i)].mean;
      var[i] = stats[size_t(i)].var();
      if (count && i % C == 0) count[i / C] = stats[size_t(i)].count;
    }
  });
}

// tables: mean, scale, shift; strides: two for each of them.
NW_PUBLIC int nw_apply(int element, int last, int64_t N, int64_t C, int64_t S, int threads, const void* x, const void* residual,
             const void* const* tables, const int64_t* strides, int act, void* y) {
  return with_both(element, act, [&](auto t, auto kind) {
    using T = decltype(t);
    apply<T, decltype(kind)::value>({N, C, S, last != 0, threads}, static_cast<const T*>(x),
                                    static_cast<const T*>(residual), static_cast<T*>(y),
                                    coefficients<acc<T>>(tables, strides), act);
  });
}

NW_PUBLIC int nw_backward_reduce(int element, int last, int64_t N, int64_t C, int64_t S, int threads, const void* gy, const void* x,
                       const void* residual, const void* const* tables, const int64_t* strides, int act, void* sum_g,
                       void* sum_gx) {
  return with_both(element, act, [&](auto t, auto kind) {
    using T = decltype(t);
    std::vector<double> sums = reduce<T, decltype(kind)::value>(
        {N, C, S, last != 0, threads}, static_cast<const T*>(gy), static_cast<const T*>(x),
        static_cast<const T*>(residual), coefficients<acc<T>>(tables, strides), act);
    for (int64_t i = 0; i < N * C; ++i) {
      static_cast<acc<T>*>(sum_g)[i] = acc<T>(sums[size_t(2 * i)]);
      static_cast<acc<T>*>(sum_gx)[i] = acc<T>(sums[size_t(2 * i + 1)]);
    }
  });
}

// tables: mean, scale, shift, slope, offset, the last two without data where the statistics were given.
NW_PUBLIC int nw_backward_apply(int element, int last, int64_t N, int64_t C, int64_t S, int threads, const void* gy, const void* x,
                      const void* residual, const uint8_t* mask, const void* const* tables, const int64_t* strides, int act,
                      void* gx, void* gr) {
  return with_both(element, act, [&](auto t, auto kind) {
    using T = decltype(t);
    differentiate<T, decltype(kind)::value>(
        {N, C, S, last != 0, threads}, static_cast<const T*>(gy), static_cast<const T*>(x),
        static_cast<const T*>(residual), mask, static_cast<T*>(gx), static_cast<T*>(gr),
        coefficients<acc<T>>(tables, strides), act, through<acc<T>>(tables, strides));
  });
}

// groups = 0: over the batch. mean and var, one of each pool, are written, or read where they are known.
NW_PUBLIC int nw_standardize(int element, int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups,
                             int known, double eps, const void* x, const void* residual, const void* weight,
                             const void* bias, int act, void* y, double* mean, double* var) {
  return with_both(element, act, [&](auto t, auto kind) {
    using T = decltype(t);
    using A = acc<T>;
    Pool<A> pool{groups, known != 0, eps, static_cast<const A*>(weight), static_cast<const A*>(bias), mean, var};
    standardize<T, decltype(kind)::value>({N, C, S, last != 0, threads}, pool, static_cast<const T*>(x),
                                          static_cast<const T*>(residual), static_cast<T*>(y), act);
  });
}

// gx and gr are not computed where they are null; the gradients of weight and bias are in the statistics' type.
NW_PUBLIC int nw_standardize_backward(int element, int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups,
                                      int known, double eps, const void* gy, const void* x, const void* residual,
                                      const void* weight, const void* bias, int act, double* mean, double* var, void* gx,
                                      void* gr, void* gw, void* gb) {
  return with_both(element, act, [&](auto t, auto kind) {
    using T = decltype(t);
    using A = acc<T>;
    Pool<A> pool{groups, known != 0, eps, static_cast<const A*>(weight), static_cast<const A*>(bias), mean, var};
    differentiate_standardized<T, decltype(kind)::value>(
        {N, C, S, last != 0, threads}, pool, static_cast<const T*>(gy), static_cast<const T*>(x),
        static_cast<const T*>(residual), act, static_cast<T*>(gx), static_cast<T*>(gr), static_cast<A*>(gw),
        static_cast<A*>(gb));
  });
}
