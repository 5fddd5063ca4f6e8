// The activations of core/activations.py and their derivatives, on vectors. Their numbers are their order here; a library
// tells its names when it is loaded, and one that has other names than the package does not serve.
#pragma once

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
  for (size_t i = 1; i < N; ++i) y = y * x + c[i];
  return y;
}

// The coefficients below interpolate at Chebyshev nodes; each result is within 2 units in the last place of fp32.
struct Exponent {
  vec<float> power, fraction;  // exp(x) = power · (1 + fraction)
};

NW_INLINE Exponent exponent(vec<float> x) {
  static constexpr float c[] = {1.98919704e-4f, 1.39345322e-3f, 8.33331048e-3f, 4.16664556e-2f, 0.166666672f, 0.5f};
  x = x < -87.3f ? (vec<float>{} - 87.3f) : x;
  x = x > 88.3f ? (vec<float>{} + 88.3f) : x;
  const float shifter = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  vec<float> k = (x * 1.44269504f + shifter) - shifter;
  vec<float> r = (x - k * 0.693145752f) - k * 1.42860677e-6f;
  ints<float> bits = (__builtin_convertvector(k, ints<float>) + 127) << 23;
  return {(vec<float>)bits, r + r * r * polynomial(r, c)};
}

NW_INLINE vec<float> exp_(vec<float> x) {
  Exponent e = exponent(x);
  vec<float> y = e.power * e.fraction + e.power;
  y = x > 88.72f ? (vec<float>{} + HUGE_VALF) : y;
  return x != x ? x : (x < -87.3f ? vec<float>{} : y);
}
NW_INLINE vec<float> expm1_(vec<float> x) {
  Exponent e = exponent(x);
  vec<float> y = e.power * e.fraction + (e.power - 1.0f);
  return x != x ? x : y;
}
NW_INLINE vec<float> abs_(vec<float> x) { return (vec<float>)((ints<float>)x & 0x7fffffff); }
NW_INLINE vec<float> with_sign_of(vec<float> x, vec<float> magnitude) {
  return (vec<float>)((ints<float>)magnitude | ((ints<float>)x & int32_t(0x80000000)));
}
NW_INLINE vec<float> tanh_(vec<float> x) {
  static constexpr float c[] = {2.26950157e-3f, -8.32318701e-3f, 2.17625033e-2f, -5.39584607e-2f, 0.133332998f, -0.333333343f};
  vec<float> square = x * x, small = x + x * square * polynomial(square, c);
  vec<float> large = with_sign_of(x, 1.0f - 2.0f / (exp_(2.0f * abs_(x)) + 1.0f));
  return square < 0.4f ? small : large;
}
NW_INLINE vec<float> erf_(vec<float> x) {
  static constexpr float near[] = {7.87587487e-5f, -8.0168643e-4f, 5.18908724e-3f, -2.68542115e-2f,
                                   0.112835944f, -0.37612626f, 1.12837911f};
  static constexpr float far[] = {1.64306368e-6f, -4.61638592e-5f, 5.97585749e-4f, -4.76262579e-3f, 2.64276378e-2f,
                                  -0.110087164f, -0.631823897f, -1.13023102f, 3.18539672e-4f};
  vec<float> t = abs_(x);
  vec<float> bounded = t > 4.0f ? (vec<float>{} + 4.0f) : t;  // erf(4) rounds to 1
  vec<float> large = with_sign_of(x, 1.0f - exp_(polynomial(bounded, far)));
  vec<float> y = t < 0.95f ? x * polynomial(x * x, near) : large;
  return x != x ? x : y;
}
NW_INLINE vec<float> log1p_unit(vec<float> u) {  // for u in [0, 1]
  static constexpr float c[] = {-3.17605701e-3f, 1.95425283e-2f, -5.63736148e-2f, 0.105436236f, -0.152696669f,
                                0.196632743f, -0.249516159f, 0.333297104f, -0.499998927f, 1.0f};
  return u * polynomial(u, c);
}

template <class F>
NW_INLINE vec<double> by_lane(vec<double> x, F f) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = f(x[i]);
  return x;
}
NW_INLINE vec<double> exp_(vec<double> x) {
  return by_lane(x, [](double t) { return std::exp(t); });
}
NW_INLINE vec<double> expm1_(vec<double> x) {
  return by_lane(x, [](double t) { return std::expm1(t); });
}
NW_INLINE vec<double> tanh_(vec<double> x) {
  return by_lane(x, [](double t) { return std::tanh(t); });
}
NW_INLINE vec<double> erf_(vec<double> x) {
  return by_lane(x, [](double t) { return std::erf(t); });
}
NW_INLINE vec<double> log1p_unit(vec<double> x) {
  return by_lane(x, [](double t) { return std::log1p(t); });
}
NW_INLINE vec<double> abs_(vec<double> x) {
  return by_lane(x, [](double t) { return std::fabs(t); });
}

template <class V>
NW_INLINE V constant(double value) {
  V v{};
  return v + static_cast<std::remove_reference_t<decltype(v[0])>>(value);
}
template <class V>
NW_INLINE V sigmoid(V z) {
  return 1 / (1 + exp_(-z));
}
// tanh(softplus(z)) without overflow and without cancellation.
template <class V>
NW_INLINE V tanh_softplus(V z) {
  V e = exp_(z > 20 ? constant<V>(20) : z), n = e * (e + 2);
  return n / (n + 2);
}
template <class V>
NW_INLINE V elu(V z) {
  return z > 0 ? z : expm1_(z > 0 ? V{} : z);
}
template <class V>
NW_INLINE V exp_of_negative(V z) {
  return exp_(z > 0 ? V{} : z);
}

constexpr double kSeluScale = 1.0507009873554805, kSeluAlpha = 1.6732632423543772;
constexpr double kGeluScale = 0.7978845608028654, kGeluCubic = 0.044715;
constexpr double kRootHalf = 0.7071067811865476, kDensity = 0.3989422804014327;

template <class V>
__attribute__((noinline)) V any_value(int act, V z) {
  using A = std::remove_reference_t<decltype(z[0])>;
  switch (act) {
    case kRelu: return z < 0 ? V{} : z;
    case kRelu6: return z < 0 ? V{} : (z > 6 ? constant<V>(6) : z);
    case kLeakyRelu: return z > 0 ? z : z * A(0.01);
    case kElu:
    case kCelu: return elu(z);
    case kSelu: return A(kSeluScale) * (z > 0 ? z : A(kSeluAlpha) * elu(z));
    case kSilu: return z / (1 + exp_(-z));
    case kGelu: return A(0.5) * z * (1 + erf_(z * A(kRootHalf)));
    case kGeluTanh: return A(0.5) * z * (1 + tanh_(A(kGeluScale) * (z + A(kGeluCubic) * z * z * z)));
    case kMish: return z * tanh_softplus(z);
    case kHardswish: return z <= -3 ? V{} : (z >= 3 ? z : z * (z + 3) / 6);
    case kSigmoid: return sigmoid(z);
    case kTanh: return tanh_(z);
    case kSoftplus: return z > 20 ? z : (z < 0 ? V{} : z) + log1p_unit(exp_(-abs_(z)));
    case kSoftsign: return z / (1 + abs_(z));
    default: return z;
  }
}

template <class V>
__attribute__((noinline)) V any_slope(int act, V z) {
  using A = std::remove_reference_t<decltype(z[0])>;
  const V one = constant<V>(1), zero{};
  switch (act) {
    case kRelu: return z > 0 ? one : zero;
    case kRelu6: return ((z > 0) & (z < 6)) ? one : zero;
    case kLeakyRelu: return z > 0 ? one : constant<V>(0.01);
    case kElu:
    case kCelu: return exp_of_negative(z);
    case kSelu: return A(kSeluScale) * (z > 0 ? one : A(kSeluAlpha) * exp_of_negative(z));
    case kSilu: {
      V s = sigmoid(z);
      return s * (1 + z * (1 - s));
    }
    case kGelu: return A(0.5) * (1 + erf_(z * A(kRootHalf))) + z * A(kDensity) * exp_(A(-0.5) * z * z);
    case kGeluTanh: {
      V t = tanh_(A(kGeluScale) * (z + A(kGeluCubic) * z * z * z));
      return A(0.5) * (1 + t) + A(0.5) * z * (1 - t * t) * A(kGeluScale) * (1 + A(3 * kGeluCubic) * z * z);
    }
    case kMish: {
      V t = tanh_softplus(z);
      return t + z * (1 - t * t) * sigmoid(z);
    }
    case kHardswish: return z <= -3 ? zero : (z >= 3 ? one : z / 3 + A(0.5));
    case kSigmoid: {
      V s = sigmoid(z);
      return s * (1 - s);
    }
    case kTanh: {
      V t = tanh_(z);
      return 1 - t * t;
    }
    case kSoftplus: return sigmoid(z);
    case kSoftsign: {
      V d = 1 + abs_(z);
      return 1 / (d * d);
    }
    default: return one;
  }
}

// Known at compile time: none, relu, or "look it up" (a predictable branch per vector, little against an exp).
enum Kind { kPlain, kRectified, kAny };

template <int K, class V>
NW_INLINE V value_of(int act, V z) {
  if constexpr (K == kPlain) return z;
  if constexpr (K == kRectified) return z < 0 ? V{} : z;
  return any_value(act, z);
}

template <int K, class V>
NW_INLINE V times_slope(int act, V g, V z) {
  if constexpr (K == kPlain) return g;
  if constexpr (K == kRectified) return z > 0 ? g : V{};
  return g * any_slope(act, z);
}

}  // namespace nw
