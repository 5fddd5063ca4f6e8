// The kernels' C interface: plain pointers and sizes, no exceptions across it. Compiled once for each element type, whose
// name is NW_ELEMENT and part of every function's name. Every pointer comes with the number of its values. Return codes: 0 =
// done; otherwise nothing was read or written: 1 = out of memory, 2 = inconsistent sizes, a missing pointer, an activation or a
// response that is unknown here, 3 = statistics that are not finite.
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "arguments.hpp"
#include "modulated.hpp"
#include "positions.hpp"
#include "running.hpp"
#include "squash.hpp"

namespace {

using fp32 = float;
using fp64 = double;
using nw::bf16, nw::fp16;
using T = NW_ELEMENT;
using A = nw::acc<T>;

enum Answer { kDone, kOutOfMemory, kRefused, kNotFinite };

template <class F>
int guarded(const nw::Check& check, F f) noexcept {
  if (!check) return kRefused;
  try {
    f();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

template <class F>
int with_kind(const nw::Check& check, int act, F f) noexcept {
  if (act < nw::kNone || act >= nw::kActivations) return kRefused;
  return guarded(check, [&] {
    if (act == nw::kNone)
      f(std::integral_constant<int, nw::kPlain>{});
    else if (act == nw::kRelu)
      f(std::integral_constant<int, nw::kRectified>{});
    else if (act == nw::kLeakyRelu)
      f(std::integral_constant<int, nw::kLeaky>{});
    else
      f(std::integral_constant<int, nw::kAny>{});
  });
}

// The kernels of curves look up every activation: a curve costs as much itself.
template <class F>
int with_or_without(const nw::Check& check, int act, F f) noexcept {
  if (act < nw::kNone || act >= nw::kActivations) return kRefused;
  return guarded(check, [&] {
    if (act == nw::kNone)
      f(std::integral_constant<int, nw::kPlain>{});
    else
      f(std::integral_constant<int, nw::kAny>{});
  });
}

// Those of rows and positions look up every activation but ReLU, which costs less than keeping a block of values.
template <class F>
int with_rectified(const nw::Check& check, int act, F f) noexcept {
  if (act != nw::kRelu) return with_or_without(check, act, f);
  return guarded(check, [&] { f(std::integral_constant<int, nw::kRectified>{}); });
}

template <class F>
int with_curve(const nw::Check& check, int curve, int act, F f) noexcept {
  if (curve < 0 || curve >= nw::kCurves) return kRefused;
  return with_or_without(check, act, [&](auto kind) {
    if (curve == nw::kTangent)
      f(std::integral_constant<int, nw::kTangent>{}, kind);
    else
      f(std::integral_constant<int, nw::kErrorFunction>{}, kind);
  });
}

template <class F>
int with_response(int response, F f) noexcept {
  if (response == nw::kThresholded) return f(nw::Thresholded());
  if (response == nw::kGated) return f(nw::Gated());
  if (response == nw::kLargerScale) return f(nw::LargerScale());
  return kRefused;
}

template <class F>
int with_step(const nw::Formula& formula, nw::Check& check, int act, F f) noexcept {
  if (formula.response < 0)
    return with_kind(check.require(formula.tables == 2), act, [&](auto kind) { f(nw::AffineStep<T, kind>{act}); });
  return with_response(int(formula.response), [&](auto response) {
    using R = decltype(response);
    return guarded(check.require(formula.tables == R::kTables && act == nw::kNone), [&] { f(nw::ResponseStep<T, R>{}); });
  });
}

nw::Table<A> table_at(const nw::GivenTable* tables, int i) {
  return {static_cast<const A*>(tables[i].data), tables[i].of_sample, tables[i].of_channel};
}
nw::Coefficients<T> coefficients(const nw::GivenTable* tables) {
  return {table_at(tables, 0), table_at(tables, 1), table_at(tables, 2)};
}
template <class R>
nw::Tables<T, R> response_tables(const nw::GivenTable* tables) {
  nw::Tables<T, R> found;
  for (int k = 0; k < R::kTables; ++k) found.of[k] = table_at(tables, k);
  return found;
}

// A parameter of the layer in fp64; `otherwise` if it has none.
nw::Buffer<double> parameter(const void* values, int kept, int64_t channels, double otherwise) {
  return values ? nw::read_kept<T, double>(values, kept, channels) : nw::Buffer<double>(channels, otherwise);
}

// The check of a call over [N, C, S], none of them 0, on `threads` threads.
struct Sized : nw::Check {
  int64_t planes, positions, values;

  Sized(int64_t N, int64_t C, int64_t S, int threads)
      : planes(product(N, C)), positions(product(N, S)), values(product(N, C, S)) {
    require(threads > 0 && values > 0);
  }
  // The number of pools: `groups` of channels in every sample; for 0, each channel over the batch.
  int64_t pools(int64_t groups, int64_t N, int64_t C) {
    require(groups >= 0 && groups <= C && (groups == 0 || C % groups == 0));
    return *this ? (groups ? N * groups : C) : 0;
  }
  // The number of values of a table with a row for every `per` rows.
  int64_t maps(int64_t per, int64_t rows, int64_t width) {
    require(per > 0 && rows % per == 0);
    return *this ? rows / per * width : 0;
  }
};

// The value of an argument that was packed into eight bytes.
template <class V>
V unpacked(int64_t packed) noexcept {
  static_assert(sizeof(V) <= sizeof packed);
  if constexpr (std::is_pointer_v<V>) {
    return reinterpret_cast<V>(packed);
  } else if constexpr (std::is_floating_point_v<V>) {
    V value;
    std::memcpy(&value, &packed, sizeof value);
    return value;
  } else {
    return V(packed);
  }
}

template <class... V, size_t... I>
int call_unpacked(int (*kernel)(V...), const int64_t* packed, std::index_sequence<I...>) noexcept {
  return kernel(unpacked<V>(packed[I])...);
}

// A kernel whose arguments come in one array: passing it from Python takes a tenth of the time of two dozen arguments.
template <class... V>
int call_packed(int (*kernel)(V...), const int64_t* packed, int64_t count) noexcept {
  if (!packed || count != int64_t(sizeof...(V))) return kRefused;
  return call_unpacked(kernel, packed, std::index_sequence_for<V...>());
}

}  // namespace

#define NW_JOINED(name, element) name##_##element
#define NW_NAMED(name, element) NW_JOINED(name, element)
#define NW_PUBLIC(name) extern "C" __attribute__((visibility("default"))) int NW_NAMED(name, NW_ELEMENT)
#define NW_PACKED(name) \
  NW_PUBLIC(name##_packed)(const int64_t* packed, int64_t count) { return call_packed(NW_NAMED(name, NW_ELEMENT), packed, count); }

// Compiled with the sources' version: a library that returns another number is not the requested one.
NW_PUBLIC(nw_version)() { return NW_VERSION; }

// Whether more than one thread can work; false if the compiler has no OpenMP.
NW_PUBLIC(nw_threaded)() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

// The names that are known by number, in order: 0 activations, 1 responses, 2 operations of a program, 3 curves.
NW_PUBLIC(nw_names)(int list, const char** names) {
  static constexpr const char* known[] = {nw::kActivationNames, nw::kResponseNames, nw::kOperationNames, nw::kCurveNames};
  if (list < 0 || list > 3 || !names) return kRefused;
  *names = known[list];
  return kDone;
}

NW_PUBLIC(nw_moments)(int last, int64_t N, int64_t C, int64_t S, int threads, NW_SPAN(const T, x),
                      NW_SPAN(const uint8_t, mask), NW_SPAN(double, mean), NW_SPAN(double, var), NW_SPAN(double, count)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).may_have(NW_GIVEN(mask), check.positions);
  check.has(NW_GIVEN(mean), check.planes).has(NW_GIVEN(var), check.planes).may_have(NW_GIVEN(count), N);
  return guarded(check, [&] {
    nw::put(nw::measure<T>({N, C, S, last != 0, threads}, x, mask), mean, var, count);
  });
}

// tables: mean, scale, shift.
NW_PUBLIC(nw_apply)(int last, int64_t N, int64_t C, int64_t S, int threads, NW_SPAN(const T, x), NW_SPAN(const T, residual),
                    NW_SPAN(const nw::GivenTable, tables), int act, NW_SPAN(T, y)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values).has(NW_GIVEN(y), values);
  check.tables(NW_GIVEN(tables), 3, 0, N, C);
  return with_kind(check, act, [&](auto kind) {
    nw::apply<T, kind>({N, C, S, last != 0, threads}, x, residual, y, coefficients(tables), act);
  });
}

NW_PUBLIC(nw_backward_reduce)(int last, int64_t N, int64_t C, int64_t S, int threads, NW_SPAN(const T, gy),
                              NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const nw::GivenTable, tables),
                              int act, NW_SPAN(A, sum_g), NW_SPAN(A, sum_gx)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  check.tables(NW_GIVEN(tables), 3, 0, N, C).has(NW_GIVEN(sum_g), check.planes).has(NW_GIVEN(sum_gx), check.planes);
  return with_kind(check, act, [&](auto kind) {
    const nw::Sums sums = nw::reduce<T, kind>({N, C, S, last != 0, threads}, {gy, x, residual}, coefficients(tables), act);
    std::copy_n(sums.row(0), N * C, sum_g);
    std::copy_n(sums.row(1), N * C, sum_gx);
  });
}

// tables: mean, scale, shift, slope, offset; the last two without data if the statistics were given.
NW_PUBLIC(nw_backward_apply)(int last, int64_t N, int64_t C, int64_t S, int threads, NW_SPAN(const T, gy),
                             NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const uint8_t, mask),
                             NW_SPAN(const nw::GivenTable, tables), int act, NW_SPAN(T, gx), NW_SPAN(T, gr)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(mask), check.positions).tables(NW_GIVEN(tables), 5, 2, N, C);
  check.has(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values);
  return with_kind(check, act, [&](auto kind) {
    nw::differentiate<T, kind>({N, C, S, last != 0, threads}, {gy, x, residual}, mask, gx, gr, coefficients(tables), act,
                               {table_at(tables, 3), table_at(tables, 4)});
  });
}

// Parameters, and their gradients, are in the type that `kept` says (see parameters.hpp). groups = 0: over the batch.
// The statistics are measured, or given in the type that `known` says; the table [2, pools] of mean and
// variance, for the backward pass, may be null.
NW_PUBLIC(nw_standardize)(int last, int64_t N, int64_t C, int64_t S, int threads, int64_t groups, double eps,
                          NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const void, weight),
                          NW_SPAN(const void, bias), int kept, NW_SPAN(const void, known_mean),
                          NW_SPAN(const void, known_var), int known, int act, NW_SPAN(T, y), NW_SPAN(double, table)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  const int64_t pools = check.pools(groups, N, C);
  check.has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values).has(NW_GIVEN(y), values);
  check.may_have(NW_GIVEN(weight), C).may_have(NW_GIVEN(bias), C).kept(kept);
  check.may_have(NW_GIVEN(known_mean), pools).may_have(NW_GIVEN(known_var), pools).both(known_mean, known_var).kept(known);
  check.may_have(NW_GIVEN(table), 2 * pools);
  return with_kind(check, act, [&](auto kind) {
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
                                   double eps, NW_SPAN(const T, gy), NW_SPAN(const T, x), NW_SPAN(const T, residual),
                                   NW_SPAN(const void, weight), NW_SPAN(const void, bias), int kept, int act,
                                   NW_SPAN(double, table), NW_SPAN(T, gx), NW_SPAN(T, gr), NW_SPAN(void, gw),
                                   NW_SPAN(void, gb)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  const int64_t pools = check.pools(groups, N, C);
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(weight), C).may_have(NW_GIVEN(bias), C).kept(kept).has(NW_GIVEN(table), 2 * pools);
  check.may_have(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values);
  check.may_have(NW_GIVEN(gw), C).may_have(NW_GIVEN(gb), C);
  return with_kind(check, act, [&](auto kind) {
    const auto weights = parameter(weight, kept, C, 1), biases = parameter(bias, kept, C, 0);
    nw::Gradient<T> to_weight(gw, kept, C), to_bias(gb, kept, C);
    nw::differentiate_standardized<T, kind>({N, C, S, last != 0, threads},
                                            {groups, known != 0, eps, weights.data(), biases.data(), table, table + pools},
                                            {gy, x, residual}, act, gx, gr, to_weight.data(), to_bias.data());
    to_weight.deliver();
    to_bias.deliver();
  });
}

// A batch's mean and variance, one of each channel; batches: one number, null if batches are not counted.
NW_PUBLIC(nw_remember)(int64_t C, NW_SPAN(const void, mean), NW_SPAN(const void, var), int kept, double bessel, double momentum,
                       NW_SPAN(void, running_mean), NW_SPAN(void, running_var), int running_kept,
                       NW_SPAN(int64_t, batches)) {
  nw::Check check;
  check.product(C);
  check.has(NW_GIVEN(mean), C).has(NW_GIVEN(var), C).kept(kept);
  check.has(NW_GIVEN(running_mean), C).has(NW_GIVEN(running_var), C).kept(running_kept).may_have(NW_GIVEN(batches), 1);
  bool finite = true;
  const int answer = guarded(check, [&] {
    finite = nw::remember<T>({running_mean, running_var, running_kept, batches}, {mean, var, kept, bessel}, C, momentum);
  });
  return finite ? answer : kNotFinite;
}

// center = 0: by the root mean square. With `added`, x + added is normalized and written to `sum`. `residual` is added to
// the normalized values. The table [2, rows] of mean and root (1/σ), for the backward pass, may be null; parameters as above.
NW_PUBLIC(nw_rows)(int64_t rows, int64_t width, int threads, int center, double eps, NW_SPAN(const T, x),
                   NW_SPAN(const T, added), NW_SPAN(T, sum), NW_SPAN(const T, residual), NW_SPAN(const void, weight),
                   NW_SPAN(const void, bias), int kept, int act, NW_SPAN(T, y), NW_SPAN(double, table)) {
  Sized check(rows, width, 1, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).has(NW_GIVEN(y), values).may_have(NW_GIVEN(table), 2 * check.positions);
  check.may_have(NW_GIVEN(added), values).may_have(NW_GIVEN(sum), values).both(added, sum);
  check.may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(weight), width).may_have(NW_GIVEN(bias), width).kept(kept);
  return with_rectified(check, act, [&](auto kind) {
    const nw::Parameter<T> weights(weight, kept, width), biases(bias, kept, width);
    nw::Buffer<double> own(table ? 0 : 2 * rows);
    double* mean = table ? table : own.data();
    nw::normalize_rows<T, kind>({rows, width, threads, center != 0, x, weights.data, biases.data, mean, mean + rows,
                                 residual, act, added, sum}, eps, y);
  });
}

// For a normalized sum, x is the sum, and `more` its gradient from other uses: gx is then the gradient of both terms.
// flow [2, rows]: the gradients of mean and variance. Without an activation grad_y is also the residual's gradient.
NW_PUBLIC(nw_rows_backward)(int64_t rows, int64_t width, int threads, int center, NW_SPAN(const T, gy), NW_SPAN(const T, x),
                            NW_SPAN(const T, more), NW_SPAN(const T, residual), NW_SPAN(const void, weight),
                            NW_SPAN(const void, bias), int kept, int act, NW_SPAN(double, table),
                            NW_SPAN(const double, flow), NW_SPAN(T, gx), NW_SPAN(T, gr), NW_SPAN(void, gw),
                            NW_SPAN(void, gb)) {
  Sized check(rows, width, 1, threads);
  const int64_t values = check.values;
  check.may_have(NW_GIVEN(more), values).may_have(NW_GIVEN(residual), values);
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).has(NW_GIVEN(table), 2 * check.positions);
  check.may_have(NW_GIVEN(flow), 2 * check.positions).require(act != nw::kNone || !gr);
  check.may_have(NW_GIVEN(weight), width).may_have(NW_GIVEN(bias), width).kept(kept);
  check.may_have(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values);
  check.may_have(NW_GIVEN(gw), width).may_have(NW_GIVEN(gb), width);
  return with_rectified(check, act, [&](auto kind) {
    const nw::Parameter<T> weights(weight, kept, width), biases(bias, kept, width);
    nw::Gradient<T> to_weight(gw, kept, width), to_bias(gb, kept, width);
    nw::differentiate_rows<T, kind>({rows, width, threads, center != 0, x, weights.data, biases.data, table, table + rows,
                                     residual, act}, {gy, more, flow, gx, gr, to_weight.data(), to_bias.data()});
    to_weight.deliver();
    to_bias.deliver();
  });
}

// Rows of which every `per` share a scale and a shift, tables [rows / per, width]: y = (plus + scale) · z + shift.
NW_PUBLIC(nw_modulated)(int64_t rows, int64_t width, int64_t per, int threads, int center, double plus, double eps,
                        NW_SPAN(const T, x), NW_SPAN(const void, scale), NW_SPAN(const void, shift), int kept,
                        NW_SPAN(T, y), NW_SPAN(double, table)) {
  Sized check(rows, width, 1, threads);
  const int64_t values = check.values, maps = check.maps(per, rows, width);
  check.has(NW_GIVEN(x), values).has(NW_GIVEN(y), values).may_have(NW_GIVEN(table), 2 * check.positions);
  check.may_have(NW_GIVEN(scale), maps).may_have(NW_GIVEN(shift), maps).kept(kept);
  return guarded(check, [&] {
    nw::Buffer<double> own(table ? 0 : 2 * rows);
    double* mean = table ? table : own.data();
    const nw::RowCall<T> call{rows, width, threads, center != 0, x, nullptr, nullptr, mean, mean + rows, nullptr, nw::kNone};
    nw::normalize_modulated<T>(call, per, {scale, shift, kept, A(plus)}, eps, y);
  });
}

// If every row has its own map (per = 1), the gradient of the shift is gy and is not computed.
NW_PUBLIC(nw_modulated_backward)(int64_t rows, int64_t width, int64_t per, int threads, int center, double plus,
                                 NW_SPAN(const T, gy), NW_SPAN(const T, x), NW_SPAN(const void, scale), int kept,
                                 NW_SPAN(double, table), NW_SPAN(T, gx), NW_SPAN(void, gscale), NW_SPAN(void, gshift)) {
  Sized check(rows, width, 1, threads);
  const int64_t values = check.values, maps = check.maps(per, rows, width);
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).has(NW_GIVEN(table), 2 * check.positions);
  check.may_have(NW_GIVEN(scale), maps).kept(kept).may_have(NW_GIVEN(gx), values);
  check.may_have(NW_GIVEN(gscale), maps).may_have(NW_GIVEN(gshift), maps).require(per > 1 || !gshift);
  return guarded(check, [&] {
    const nw::RowCall<T> call{rows, width, threads, center != 0, x, nullptr, nullptr, table, table + rows, nullptr, nw::kNone};
    const nw::RowGradients<T> to{gy, nullptr, nullptr, gx, nullptr, nullptr, nullptr};
    nw::differentiate_modulated<T>(call, per, {scale, nullptr, kept, A(plus)}, to, {gscale, gshift});
  });
}

// Each position of [N, C, S] over its channels; the table, and flow, are [2, N, S].
NW_PUBLIC(nw_columns)(int64_t N, int64_t C, int64_t S, int threads, int center, double eps, NW_SPAN(const T, x),
                      NW_SPAN(const T, residual), NW_SPAN(const void, weight), NW_SPAN(const void, bias), int kept, int act,
                      NW_SPAN(T, y), NW_SPAN(double, table)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).has(NW_GIVEN(y), values).may_have(NW_GIVEN(table), 2 * check.positions);
  check.may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(weight), C).may_have(NW_GIVEN(bias), C).kept(kept);
  return with_rectified(check, act, [&](auto kind) {
    const nw::Parameter<T> weights(weight, kept, C), biases(bias, kept, C);
    nw::Buffer<double> own(table ? 0 : 2 * N * S);
    double* mean = table ? table : own.data();
    nw::normalize_positions<T, kind>({N, C, S, threads, center != 0, x, weights.data, biases.data, mean, mean + N * S,
                                      residual, act}, eps, y);
  });
}

NW_PUBLIC(nw_columns_backward)(int64_t N, int64_t C, int64_t S, int threads, int center, NW_SPAN(const T, gy),
                               NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const void, weight),
                               NW_SPAN(const void, bias), int kept, int act, NW_SPAN(double, table),
                               NW_SPAN(const double, flow), NW_SPAN(T, gx), NW_SPAN(T, gr), NW_SPAN(void, gw),
                               NW_SPAN(void, gb)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).has(NW_GIVEN(table), 2 * check.positions);
  check.may_have(NW_GIVEN(residual), values).may_have(NW_GIVEN(flow), 2 * check.positions);
  check.require(act != nw::kNone || !gr);
  check.may_have(NW_GIVEN(weight), C).may_have(NW_GIVEN(bias), C).kept(kept);
  check.may_have(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values);
  check.may_have(NW_GIVEN(gw), C).may_have(NW_GIVEN(gb), C);
  return with_rectified(check, act, [&](auto kind) {
    const nw::Parameter<T> weights(weight, kept, C), biases(bias, kept, C);
    nw::Gradient<T> to_weight(gw, kept, C), to_bias(gb, kept, C);
    nw::differentiate_positions<T, kind>({N, C, S, threads, center != 0, x, weights.data, biases.data, table,
                                          table + N * S, residual, act},
                                         {gy, nullptr, flow, gx, gr, to_weight.data(), to_bias.data()});
    to_weight.deliver();
    to_bias.deliver();
  });
}

// y = f(γ·c(αx + s) + β + residual) for [N, C, S], the channels in the middle.
NW_PUBLIC(nw_squash)(int64_t N, int64_t C, int64_t S, int threads, int curve, double alpha, double shift,
                     NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const void, weight),
                     NW_SPAN(const void, bias), int kept, int act, NW_SPAN(T, y)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values).has(NW_GIVEN(y), values);
  check.may_have(NW_GIVEN(weight), C).may_have(NW_GIVEN(bias), C).kept(kept);
  return with_curve(check, curve, act, [&](auto c, auto kind) {
    const nw::Parameter<T> weights(weight, kept, C), biases(bias, kept, C);
    nw::squash<T, c, kind>({N, C, S, threads, alpha, shift, x, residual, weights.data, biases.data, act}, y);
  });
}

// scalars: the gradients of α and s. Without an activation grad_y is also the residual's gradient.
NW_PUBLIC(nw_squash_backward)(int64_t N, int64_t C, int64_t S, int threads, int curve, double alpha, double shift,
                              NW_SPAN(const T, gy), NW_SPAN(const T, x), NW_SPAN(const T, residual),
                              NW_SPAN(const void, weight), NW_SPAN(const void, bias), int kept, int act, NW_SPAN(T, gx),
                              NW_SPAN(T, gr), NW_SPAN(void, gw), NW_SPAN(void, gb), NW_SPAN(double, scalars)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(weight), C).may_have(NW_GIVEN(bias), C).kept(kept).require(act != nw::kNone || !gr);
  check.may_have(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values).has(NW_GIVEN(scalars), 2);
  check.may_have(NW_GIVEN(gw), C).may_have(NW_GIVEN(gb), C);
  return with_curve(check, curve, act, [&](auto c, auto kind) {
    const nw::Parameter<T> weights(weight, kept, C), biases(bias, kept, C);
    nw::Gradient<T> to_weight(gw, kept, C), to_bias(gb, kept, C);
    nw::differentiate_squash<T, c, kind>({N, C, S, threads, alpha, shift, x, residual, weights.data, biases.data, act},
                                         {gy, gx, gr, to_weight.data(), to_bias.data(), scalars});
    to_weight.deliver();
    to_bias.deliver();
  });
}

// tables: the response's own, in their order.
NW_PUBLIC(nw_respond)(int last, int64_t N, int64_t C, int64_t S, int threads, int response, NW_SPAN(const T, x),
                      NW_SPAN(const T, residual), NW_SPAN(const nw::GivenTable, tables), NW_SPAN(T, y)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values).has(NW_GIVEN(y), values);
  return with_response(response, [&](auto known) {
    using R = decltype(known);
    return guarded(check.tables(NW_GIVEN(tables), R::kTables, 0, N, C), [&] {
      nw::respond<T, R>({N, C, S, last != 0, threads}, x, residual, y, response_tables<R>(tables));
    });
  });
}

// sums: [tables, N, C].
NW_PUBLIC(nw_respond_reduce)(int last, int64_t N, int64_t C, int64_t S, int threads, int response, NW_SPAN(const T, gy),
                             NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const nw::GivenTable, tables),
                             NW_SPAN(A, sums)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  return with_response(response, [&](auto known) {
    using R = decltype(known);
    check.tables(NW_GIVEN(tables), R::kTables, 0, N, C).has(NW_GIVEN(sums), R::kTables * check.planes);
    return guarded(check, [&] {
      const auto totals = nw::reduce_response<T, R>({N, C, S, last != 0, threads}, {gy, x, residual},
                                                    response_tables<R>(tables));
      std::copy_n(totals.values.data(), totals.values.size(), sums);
    });
  });
}

// tables: the response's own, then mean, slope and offset; the last two without data if the statistics were given.
NW_PUBLIC(nw_respond_backward)(int last, int64_t N, int64_t C, int64_t S, int threads, int response, NW_SPAN(const T, gy),
                               NW_SPAN(const T, x), NW_SPAN(const T, residual), NW_SPAN(const uint8_t, mask),
                               NW_SPAN(const nw::GivenTable, tables), NW_SPAN(T, gx), NW_SPAN(T, gr)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(mask), check.positions).has(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values);
  return with_response(response, [&](auto known) {
    using R = decltype(known);
    constexpr int K = R::kTables;
    return guarded(check.tables(NW_GIVEN(tables), K + 3, 2, N, C), [&] {
      nw::differentiate_response<T, R>({N, C, S, last != 0, threads}, {gy, x, residual}, mask, gx, gr,
                                       response_tables<R>(tables),
                                       {table_at(tables, K), table_at(tables, K + 1), table_at(tables, K + 2)});
    });
  });
}

// A program on tables alone, with its inputs and outputs.
NW_PUBLIC(nw_run)(const nw::Program* program, NW_SPAN(const nw::Span, entering), NW_SPAN(const nw::Span, leaving)) {
  nw::Check check;
  check.require(program && nw::fits(*program, NW_GIVEN(entering), NW_GIVEN(leaving)));
  return guarded(check, [&] { nw::run(*program, entering, leaving); });
}

// measured = 0: mean and variance, the first two inputs, are given, otherwise written. tables: [1 + tables, N, C].
NW_PUBLIC(nw_normalize)(int last, int64_t N, int64_t C, int64_t S, int threads, const nw::Formula* formula, int measured,
                        NW_SPAN(const nw::Span, entering), NW_SPAN(const nw::Span, leaving), NW_SPAN(const T, x),
                        NW_SPAN(const T, residual), NW_SPAN(const uint8_t, mask), int act, NW_SPAN(T, y),
                        NW_SPAN(A, tables)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values).may_have(NW_GIVEN(mask), check.positions);
  check.has(NW_GIVEN(y), values);
  check.require(check && formula && nw::fits_forward<T>(*formula, N, C, measured != 0, mask != nullptr, NW_GIVEN(entering),
                                                        NW_GIVEN(leaving)));
  if (!check || !check.has(NW_GIVEN(tables), (1 + formula->tables) * check.planes)) return kRefused;
  return with_step(*formula, check, act, [&](auto step) {
    nw::normalize<T>({N, C, S, last != 0, threads}, *formula, step,
                     {entering, leaving}, measured != 0, x, residual, mask,
                     y, tables);
  });
}

// The outputs are the gradients of the formula's arguments. gx and gr are not computed if they are null.
NW_PUBLIC(nw_normalize_backward)(int last, int64_t N, int64_t C, int64_t S, int threads, const nw::Formula* formula,
                                 int measured, NW_SPAN(const nw::Span, entering), NW_SPAN(const nw::Span, leaving),
                                 NW_SPAN(const T, gy), NW_SPAN(const T, x), NW_SPAN(const T, residual),
                                 NW_SPAN(const uint8_t, mask), int act, NW_SPAN(A, tables), NW_SPAN(T, gx),
                                 NW_SPAN(T, gr)) {
  Sized check(N, C, S, threads);
  const int64_t values = check.values;
  check.has(NW_GIVEN(gy), values).has(NW_GIVEN(x), values).may_have(NW_GIVEN(residual), values);
  check.may_have(NW_GIVEN(mask), check.positions).may_have(NW_GIVEN(gx), values).may_have(NW_GIVEN(gr), values);
  check.require(check && formula &&
                nw::fits_backward<T>(*formula, N, C, measured != 0, NW_GIVEN(entering), NW_GIVEN(leaving)));
  if (!check || !check.has(NW_GIVEN(tables), (1 + formula->tables) * check.planes)) return kRefused;
  return with_step(*formula, check, act, [&](auto step) {
    nw::differentiate_normalized<T>({N, C, S, last != 0, threads}, *formula, step,
                                    {entering, leaving}, measured != 0,
                                    {gy, x, residual}, mask, gx, gr, tables);
  });
}

// The kernels that small tensors call most.
NW_PACKED(nw_standardize)
NW_PACKED(nw_standardize_backward)
NW_PACKED(nw_remember)
NW_PACKED(nw_rows)
NW_PACKED(nw_rows_backward)
NW_PACKED(nw_modulated)
NW_PACKED(nw_modulated_backward)
NW_PACKED(nw_columns)
NW_PACKED(nw_columns_backward)
