// The activations of core/activations.py and their derivatives, on vectors. Their numbers are their order here; a library
// reports its names when it is loaded, and is refused if they are not those of the package.
#pragma once

#include <algorithm>

#include "elements.hpp"

namespace nw {

#define NW_ACTIVATIONS(X) \
  X(kNone, "none") X(kRelu, "relu") X(kRelu6, "relu6") X(kLeakyRelu, "leaky_relu") \
  X(kElu, "elu") X(kCelu, "celu") X(kSelu, "selu") X(kSilu, "silu") \
  X(kGelu, "gelu") X(kGeluTanh, "gelu_tanh") X(kMish, "mish") X(kHardswish, "hardswish") \
  X(kSigmoid, "sigmoid") X(kTanh, "tanh") X(kSoftplus, "softplus") X(kSoftsign, "softsign")

enum Activation { NW_ACTIVATIONS(NW_SYMBOL) kActivations };
constexpr const char* kActivationNames = NW_ACTIVATIONS(NW_NAME);

template <class V, size_t N>
NW_INLINE V polynomial(V x, const float (&c)[N]) {
  V y = V{} + c[0];
#pragma GCC unroll 16
  for (size_t i = 1; i < N; ++i) y = y * x + c[i];
  return y;
}

// bf16 keeps 8 bits of a result: shorter polynomials, off by at most 1 in 30,000, are accurate enough, also for sums of many
// results. Below, T is the element type.
template <class T>
constexpr bool kShort = std::is_same_v<T, bf16>;

template <class T, size_t N, size_t M>
NW_INLINE vec<float> polynomial(vec<float> x, const float (&to_all_digits)[N], const float (&to_few)[M]) {
  if constexpr (kShort<T>)
    return polynomial(x, to_few);
  else
    return polynomial(x, to_all_digits);
}
// The larger of the two, and the smaller; NaN for a NaN.
NW_INLINE vec<float> at_least(float low, vec<float> x) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_max_ps((__m512)splat(low), (__m512)x);
#elif defined(__AVX__)
  return (vec<float>)_mm256_max_ps((__m256)splat(low), (__m256)x);
#else
  return x < low ? splat(low) : x;
#endif
}
NW_INLINE vec<float> at_most(float high, vec<float> x) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_min_ps((__m512)splat(high), (__m512)x);
#elif defined(__AVX__)
  return (vec<float>)_mm256_min_ps((__m256)splat(high), (__m256)x);
#else
  return x > high ? splat(high) : x;
#endif
}

// 1 / v of a finite v: for bf16 an estimate of 14 bits and one Newton step. The estimate of AVX2 has 12 bits, and refining it
// takes as long as a division.
template <class T>
NW_INLINE vec<float> reciprocal(vec<float> v) {
#if defined(__AVX512F__)
  if constexpr (kShort<T>) {
    const vec<float> r = (vec<float>)_mm512_rcp14_ps((__m512)v);
    return r * (2.0f - v * r);
  }
#endif
  return 1.0f / v;
}

// The coefficients below interpolate at Chebyshev nodes; each result is within 2 units in the last place of fp32.
struct Exponent {
  vec<float> power, fraction;  // exp(x) = power · (1 + fraction)
};

// exp(x) up to 88.3, and infinity from there to 89.
template <class T>
NW_INLINE Exponent exponent(vec<float> x) {
  static constexpr float c[] = {1.39264006e-3f, 8.36335309e-3f, 4.16665524e-2f, 0.166665763f, 0.5f};
  static constexpr float few[] = {9.58285294e-3f, 0.0559064262f, 0.240240991f, 0.693124175f};  // (2^r - 1) / r
  x = at_least(-87.3f, x);
  // 1.5 · 2^23: adding it rounds to an integer, which is then in the last bits; 127 more make it an exponent.
  const float shifter = 12582912.0f + 127, to_power_of_2 = 1.44269504f;
  vec<float> shifted = x * to_power_of_2 + shifter, k = shifted - shifter;
  const vec<float> power = (vec<float>)((ints<float>)shifted << 23);
  if constexpr (kShort<T>) {
    const vec<float> r = x * to_power_of_2 - k;
    return {power, r * polynomial(r, few)};
  }
  const vec<float> r = (x - k * 0.693145752f) - k * 1.42860677e-6f;
  return {power, r + r * r * polynomial(r, c)};
}

// exp(x) for x <= 0; NaN stays NaN without a test.
template <class T>
NW_INLINE vec<float> exp_below(vec<float> x) {
  const Exponent e = exponent<T>(x);
  return x < -87.3f ? vec<float>{} : e.power * e.fraction + e.power;
}
template <class T>
NW_INLINE vec<float> expm1_below(vec<float> x) {
  const Exponent e = exponent<T>(x);
  return e.power * e.fraction + (e.power - 1.0f);
}
NW_INLINE vec<float> abs_(vec<float> x) { return (vec<float>)((ints<float>)x & 0x7fffffff); }
NW_INLINE vec<float> with_sign_of(vec<float> x, vec<float> magnitude) {
  return (vec<float>)((ints<float>)magnitude | ((ints<float>)x & int32_t(0x80000000)));
}
constexpr double kTwoOverRootPi = 1.1283791670955126;
// A function, and its slope with all digits.
template <class V>
struct WithSlope {
  V value, slope;
};
template <class T>
NW_INLINE WithSlope<vec<float>> tangent(vec<float> x) {
  const vec<float> e = expm1_below<T>(-2.0f * abs_(x)), i = reciprocal<T>(2.0f + e);
  return {with_sign_of(x, -e * i), 4.0f * (1.0f + e) * i * i};
}
// 1 / (1 + exp(-z)): a term that is too small beside 1, or too large, gives 1 and 0 without a test.
template <class T>
NW_INLINE vec<float> sigmoid(vec<float> z) {
  const Exponent e = exponent<T>(at_most(kShort<T> ? 88.0f : 89.0f, -z));
  return reciprocal<T>(e.power * (1.0f + e.fraction) + 1.0f);
}
// Φ(z) of the normal distribution, and exp(-z²/2).
template <class V>
struct Gaussian {
  V cdf, bell;
};
template <class T>
NW_INLINE Gaussian<vec<float>> gaussian(vec<float> z) {
  // Φ(-|z|) = bell · P(1 / (1 + a |z|)), in fp32 with a relative error below 5e-8: nothing cancels for negative z.
  static constexpr float c[] = {-0.0784099326f, 0.290121704f, -0.277491361f, 0.300702602f, -0.0323520415f,
                                0.119253226f, 0.0858355835f, 0.0923672393f, -2.70288583e-5f};
  static constexpr float few[] = {-0.103902049f, 0.295762599f, -6.40888699e-3f, 0.181177095f, 0.132957637f, 4.11371177e-4f};
  constexpr float a = kShort<T> ? 0.35f : 0.23f;
  const vec<float> bell = exp_below<T>(-0.5f * z * z);
  const vec<float> below = bell * polynomial<T>(reciprocal<T>(1.0f + a * at_most(1e4f, abs_(z))), c, few);
  return {z < 0 ? below : 1.0f - below, bell};
}
// erf(z), and its slope.
template <class T>
NW_INLINE WithSlope<vec<float>> error_function(vec<float> z) {
  // Near 0, where 1 - 2 Φ(-√2 |z|) would cancel, the power series: up to 0.7 its next term is below 1e-8.
  static constexpr float c[] = {-1.32275132e-5f, 1.06837607e-4f, -7.57575758e-4f, 4.62962963e-3f, -2.38095238e-2f,
                                0.1f, -0.333333333f, 1.0f};
  const vec<float> square = z * z, magnitude = abs_(z);
  const vec<float> near = z * float(kTwoOverRootPi) * polynomial(square, c);
  const Gaussian<vec<float>> normal = gaussian<T>(-1.41421356f * magnitude);
  const vec<float> far = with_sign_of(z, 1.0f - 2.0f * normal.cdf);
  return {magnitude < 0.7f ? near : far, float(kTwoOverRootPi) * normal.bell};
}
template <class T>
NW_INLINE vec<float> log1p_unit(vec<float> u) {  // for u in [0, 1]
  static constexpr float c[] = {-3.17605701e-3f, 1.95425283e-2f, -5.63736148e-2f, 0.105436236f, -0.152696669f,
                                0.196632743f, -0.249516159f, 0.333297104f, -0.499998927f, 1.0f};
  static constexpr float few[] = {-0.023443656f, 0.10013973f, -0.209079534f, 0.324849576f, -0.499314666f, 0.999990582f};
  return u * polynomial<T>(u, c, few);
}

template <class F>
NW_INLINE vec<double> by_lane(vec<double> x, F f) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = f(x[i]);
  return x;
}
NW_INLINE vec<double> exp_(vec<double> x) {
  return by_lane(x, [](double t) { return std::exp(t); });
}
template <class T>
NW_INLINE vec<double> exp_below(vec<double> x) {
  return exp_(x);
}
template <class T>
NW_INLINE vec<double> expm1_below(vec<double> x) {
  return by_lane(x, [](double t) { return std::expm1(t); });
}
template <class T>
NW_INLINE WithSlope<vec<double>> tangent(vec<double> x) {
  vec<double> t = by_lane(x, [](double t) { return std::tanh(t); });
  return {t, 1 - t * t};
}
template <class T>
NW_INLINE vec<double> sigmoid(vec<double> z) {
  return 1 / (1 + exp_(-z));
}
template <class T>
NW_INLINE Gaussian<vec<double>> gaussian(vec<double> z) {
  return {by_lane(z, [](double t) { return std::erfc(t * -0.7071067811865476) / 2; }), exp_(-0.5 * z * z)};
}
template <class T>
NW_INLINE WithSlope<vec<double>> error_function(vec<double> z) {
  return {by_lane(z, [](double t) { return std::erf(t); }), kTwoOverRootPi * exp_(-z * z)};
}
template <class T>
NW_INLINE vec<double> log1p_unit(vec<double> x) {
  return by_lane(x, [](double t) { return std::log1p(t); });
}
NW_INLINE vec<double> abs_(vec<double> x) {
  return by_lane(x, [](double t) { return std::fabs(t); });
}
NW_INLINE vec<double> at_most(double high, vec<double> x) { return x > high ? splat(high) : x; }
template <class T>
NW_INLINE vec<double> reciprocal(vec<double> v) {
  return 1 / v;
}

template <class V>
NW_INLINE V constant(double value) {
  V v{};
  return v + static_cast<std::remove_reference_t<decltype(v[0])>>(value);
}
// tanh(softplus(z)) = n / (n + 2) with n = e (e + 2) and e = exp(z), which does not overflow up to 20, where it is 1.
template <class T, class V>
NW_INLINE WithSlope<V> tanh_softplus(V z) {
  const V e = exp_below<T>(at_most(20, z)), n = e * (e + 2), i = reciprocal<T>(n + 2);
  return {n * i, 4 * e * (1 + e) * i * i};
}
template <class T, class V>
NW_INLINE V elu(V z) {
  return z > 0 ? z : expm1_below<T>(at_most(0, z));
}
template <class T, class V>
NW_INLINE V exp_of_negative(V z) {
  return exp_below<T>(at_most(0, z));
}

constexpr double kSeluScale = 1.0507009873554805, kSeluAlpha = 1.6732632423543772;
constexpr double kGeluScale = 0.7978845608028654, kGeluCubic = 0.044715;
constexpr double kDensity = 0.3989422804014327;

// 2·√(2/π)·(z + 0.044715 z³): (1 + tanh u) / 2 is sigmoid(2 u), and nothing cancels in it.
template <class V>
NW_INLINE V gelu_gate(V z) {
  using A = std::remove_reference_t<decltype(z[0])>;
  return A(2 * kGeluScale) * z + A(2 * kGeluScale * kGeluCubic) * z * z * z;
}

// If `act` is a constant, the compiler removes the switch.
template <class T, class V>
NW_INLINE V any_value(int act, V z) {
  using A = std::remove_reference_t<decltype(z[0])>;
  switch (act) {
    case kRelu: return z < 0 ? V{} : z;
    case kRelu6: return z < 0 ? V{} : (z > 6 ? constant<V>(6) : z);
    case kLeakyRelu: return z > 0 ? z : z * A(0.01);
    case kElu:
    case kCelu: return elu<T>(z);
    case kSelu: return A(kSeluScale) * (z > 0 ? z : A(kSeluAlpha) * elu<T>(z));
    case kSilu: return z * sigmoid<T>(z);
    case kGelu: return z * gaussian<T>(z).cdf;
    case kGeluTanh: return z * sigmoid<T>(gelu_gate(z));
    case kMish: return z * tanh_softplus<T>(z).value;
    case kHardswish: return z <= -3 ? V{} : (z >= 3 ? z : z * (z + 3) * A(1.0 / 6));
    case kSigmoid: return sigmoid<T>(z);
    case kTanh: return tangent<T>(z).value;
    case kSoftplus: return z > 20 ? z : (z < 0 ? V{} : z) + log1p_unit<T>(exp_below<T>(-abs_(z)));
    case kSoftsign: return z / (1 + abs_(z));
    default: return z;
  }
}

template <class T, class V>
NW_INLINE V any_slope(int act, V z) {
  using A = std::remove_reference_t<decltype(z[0])>;
  const V one = constant<V>(1), zero{};
  switch (act) {
    case kRelu: return z > 0 ? one : zero;
    case kRelu6: return ((z > 0) & (z < 6)) ? one : zero;
    case kLeakyRelu: return z > 0 ? one : constant<V>(0.01);
    case kElu:
    case kCelu: return exp_of_negative<T>(z);
    case kSelu: return A(kSeluScale) * (z > 0 ? one : A(kSeluAlpha) * exp_of_negative<T>(z));
    case kSilu: {
      V s = sigmoid<T>(z);
      return s * (1 + z * (1 - s));
    }
    case kGelu: {
      const Gaussian<V> normal = gaussian<T>(z);
      return normal.cdf + z * A(kDensity) * normal.bell;
    }
    case kGeluTanh: {
      const V s = sigmoid<T>(gelu_gate(z));
      return s + z * s * (1 - s) * (A(2 * kGeluScale) + A(6 * kGeluScale * kGeluCubic) * at_most(400, z * z));
    }
    case kMish: {
      const WithSlope<V> t = tanh_softplus<T>(z);
      return t.value + at_most(20, z) * t.slope;
    }
    case kHardswish: return z <= -3 ? zero : (z >= 3 ? one : z * A(1.0 / 3) + A(0.5));
    case kSigmoid: {
      V s = sigmoid<T>(z);
      return s * (1 - s);
    }
    case kTanh: return tangent<T>(z).slope;
    case kSoftplus: return sigmoid<T>(z);
    case kSoftsign: {
      V d = 1 + abs_(z);
      return 1 / (d * d);
    }
    default: return one;
  }
}

// The memory to prefetch after a block of values, `bytes` for each of its vectors. No processor prefetches so far ahead: without
// this the memory is idle while an activation is computed.
struct Next {
  const void *first, *second;
  int64_t bytes;
  NW_INLINE void fetch(int64_t i) const {
    __builtin_prefetch(static_cast<const char*>(first) + i * bytes);
    __builtin_prefetch(static_cast<const char*>(second) + i * bytes);
  }
};

// f(step, count) for the steps of n values, while `next` is prefetched. A whole step and the end of a run share one copy of
// the code.
template <class T, class F>
NW_INLINE void for_steps(int64_t n, Next next, F f) {
  for (int64_t i = 0; i * step<T> < n; ++i) {
    f(i, int(std::min<int64_t>(n - i * step<T>, step<T>)));
    for (int w = 0; w < ways<T>; ++w) next.fetch(i * ways<T> + w);
  }
}

// y = f(z) of n values: the activation is looked up once, and several vectors are computed at a time.
template <class T>
__attribute__((noinline)) void activate(int act, const Values<T>* z, T* y, int64_t n, Next next, bool stream) {
  switch (act) {
#define NW_CASE(symbol, name)                                                                             \
  case symbol:                                                                                            \
    return for_steps<T>(n, next, [&](int64_t i, int k) NW_LAMBDA {                                        \
      Values<T> v;                                                                                        \
      each_way<T>([&](int w) NW_LAMBDA { v.at[w] = any_value<T>(symbol, z[i].at[w]); });                  \
      k == step<T> ? store(y + i * step<T>, v, Full{}, stream) : store(y + i * step<T>, v, Part{k});      \
    });
    NW_ACTIVATIONS(NW_CASE)
#undef NW_CASE
  }
}

// g = gy · f'(z).
template <class T>
__attribute__((noinline)) void multiply_by_slopes(int act, const Values<T>* z, const T* gy, Values<T>* g, int64_t n, Next next) {
  switch (act) {
#define NW_CASE(symbol, name)                                                                              \
  case symbol:                                                                                             \
    return for_steps<T>(n, next, [&](int64_t i, int k) NW_LAMBDA {                                         \
      const Values<T> here = k == step<T> ? load(gy + i * step<T>, Full{}) : load(gy + i * step<T>, Part{k}); \
      each_way<T>([&](int w) NW_LAMBDA { g[i].at[w] = here.at[w] * any_slope<T>(symbol, z[i].at[w]); });   \
    });
    NW_ACTIVATIONS(NW_CASE)
#undef NW_CASE
  }
}

// What is known of the activation at compile time: none, relu or leaky_relu, whose cost is hidden by the memory traffic; any
// other is looked up once for a block of values; or grad_y · f'(z) was kept by the pass before.
enum Kind { kPlain, kRectified, kLeaky, kAny, kKept };
constexpr int activation_of(int kind) { return kind == kRectified ? kRelu : kLeakyRelu; }
template <class T, int K, class V>
NW_INLINE V times_slope(V g, V z) {
  if constexpr (K == kRectified) return z > 0 ? g : V{};  // a product would keep the NaN of an infinite g
  return g * any_slope<T>(activation_of(K), z);
}

}  // namespace nw
