// The activations and the responses as their definitions have them, one value at a time in double.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

namespace abi {

constexpr int kActivations = 16;  // with none

struct Point {
  double value, slope;
};

inline double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
// From 20 on the identity, as torch has it.
inline double softplus(double z) { return z > 20 ? z : z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z)); }

inline Point activation(int number, double z) {
  constexpr double kPi = 3.14159265358979323846, scale = 1.0507009873554805, alpha = 1.6732632423543772;
  const double s = sigmoid(z), t = std::tanh(z);
  switch (number) {
    case 1: return {std::max(z, 0.0), z > 0 ? 1.0 : 0.0};                                     // relu
    case 2: return {std::min(std::max(z, 0.0), 6.0), z > 0 && z < 6 ? 1.0 : 0.0};             // relu6
    case 3: return {z > 0 ? z : 0.01 * z, z > 0 ? 1.0 : 0.01};                                // leaky relu
    case 4:                                                                                   // elu, celu
    case 5: return {z > 0 ? z : std::expm1(z), z > 0 ? 1.0 : std::exp(z)};
    case 6: return {scale * (z > 0 ? z : alpha * std::expm1(z)), scale * (z > 0 ? 1.0 : alpha * std::exp(z))};  // selu
    case 7: return {z * s, s * (1 + z * (1 - s))};                                            // silu
    case 8: {                                                                                 // gelu
      const double below = 0.5 * std::erfc(-z / std::sqrt(2.0));
      return {z * below, below + z * std::exp(-z * z / 2) / std::sqrt(2 * kPi)};
    }
    case 9: {  // gelu by tanh
      const double k = std::sqrt(2 / kPi), c = 0.044715, u = std::tanh(k * (z + c * z * z * z));
      return {0.5 * z * (1 + u), 0.5 * (1 + u) + 0.5 * z * (1 - u * u) * k * (1 + 3 * c * z * z)};
    }
    case 10: {  // mish
      const double u = std::tanh(softplus(z));
      return {z * u, u + z * (1 - u * u) * s};
    }
    case 11: return {z * std::min(std::max(z + 3, 0.0), 6.0) / 6, z <= -3 ? 0.0 : z >= 3 ? 1.0 : z / 3 + 0.5};  // hardswish
    case 12: return {s, s * (1 - s)};                                                         // sigmoid
    case 13: return {t, 1 - t * t};                                                           // tanh
    case 14: return {softplus(z), s};                                                         // softplus
    case 15: return {z / (1 + std::fabs(z)), 1 / ((1 + std::fabs(z)) * (1 + std::fabs(z)))};  // softsign
    default: return {z, 1.0};
  }
}
// Of those, the ones made of exponentials.
inline bool exponential(int number) { return number >= 4 && number != 11 && number != 15; }
// Where some activation's slope jumps.
inline bool near_a_kink(double z) {
  for (double kink : {-3.0, 0.0, 3.0, 6.0})
    if (std::fabs(z - kink) < 1e-4) return true;
  return false;
}

constexpr int kResponses = 3;
constexpr int kTablesOf[kResponses] = {3, 3, 5};

struct Responded {
  double value, by_x;
  std::array<double, 5> by;  // each table
};

// t: the tables' values with the residual in the shift, t[1].
inline Responded response(int number, double x, const std::array<double, 5>& t) {
  if (number == 0) {  // max(x t0 + t1, t2)
    const double z = x * t[0] + t[1];
    const bool cut = z < t[2];
    return {cut ? t[2] : z, cut ? 0 : t[0], {cut ? 0 : x, cut ? 0.0 : 1.0, cut ? 1.0 : 0.0}};
  }
  if (number == 1) {  // x sigmoid(t2 x) t0 + t1
    const double s = sigmoid(t[2] * x), slope = s * (1 - s);
    return {x * s * t[0] + t[1], t[0] * (s + t[2] * x * slope), {x * s, 1, t[0] * x * x * slope}};
  }
  const double other = t[3] * x + t[4], most = std::max(t[2], other);  // x t0 / max(t2, t3 x + t4) + t1
  const double by_most = -x * t[0] / (most * most), share = other > t[2] ? 1 : 0;
  return {x * t[0] / most + t[1],
          t[0] / most + share * t[3] * by_most,
          {x / most, 1, (1 - share) * by_most, share * x * by_most, share * by_most}};
}
// Where a response's slope jumps.
inline bool near_a_kink(int number, double x, const std::array<double, 5>& t) {
  if (number == 0) return std::fabs(x * t[0] + t[1] - t[2]) < 1e-4;
  return number == 2 && std::fabs(t[3] * x + t[4] - t[2]) < 1e-4;
}

}  // namespace abi
