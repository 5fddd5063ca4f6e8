// Tensors of any element type in memory that ends where they end: with a guard on both sides, or under the address
// sanitizer with its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "library.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define ABI_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ABI_WATCHED 1
#endif
#endif
#ifndef ABI_WATCHED
#define ABI_WATCHED 0
#endif

namespace abi {

enum Kind { kFp32, kFp64, kBf16, kFp16, kByte, kInt64 };

inline Kind kind_named(const std::string& name) {
  if (name == "fp32") return kFp32;
  if (name == "fp64") return kFp64;
  if (name == "bf16") return kBf16;
  if (name == "fp16") return kFp16;
  std::fprintf(stderr, "no element type %s\n", name.c_str());
  std::exit(3);
}
inline int64_t size_of(Kind kind) { return kind == kByte ? 1 : kind == kFp32 ? 4 : kind == kFp64 || kind == kInt64 ? 8 : 2; }
// Half a unit in the last place, relative.
inline double unit_of(Kind kind) {
  return std::ldexp(1, kind == kFp32 ? -24 : kind == kBf16 ? -8 : kind == kFp16 ? -11 : -53);
}
// What an element type is accumulated in.
inline Kind wide(Kind kind) { return kind == kFp64 ? kFp64 : kFp32; }

// To a binary format of 16 bits, to nearest and ties to even, by its definition.
inline uint16_t narrow(double value, int mantissa, int bias) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int most = 2 * bias + 1;
  if (std::isnan(value)) return uint16_t(most << mantissa | 1 << (mantissa - 1));
  value = std::fabs(value);
  int exponent = 0;
  std::frexp(value, &exponent);
  exponent = std::max(exponent - 1, 1 - bias);
  const double steps = value == 0 || std::isinf(value) ? 0 : std::nearbyint(std::ldexp(value, mantissa - exponent));
  double bits = steps + std::ldexp(double(exponent + bias - 1), mantissa);  // the leading one adds to the exponent
  if (std::isinf(value) || bits > std::ldexp(double(most), mantissa)) bits = std::ldexp(double(most), mantissa);
  return uint16_t(sign | uint16_t(value == 0 ? 0 : bits));
}
inline double widened(uint16_t bits, int mantissa, int bias) {
  const int exponent = (bits & 0x7fff) >> mantissa, rest = bits & ((1 << mantissa) - 1);
  double value = exponent == 0               ? std::ldexp(rest, 1 - bias - mantissa)
                 : exponent == 2 * bias + 1 ? (rest ? std::numeric_limits<double>::quiet_NaN() : HUGE_VAL)
                                            : std::ldexp((1 << mantissa) + rest, exponent - bias - mantissa);
  return bits & 0x8000 ? -value : value;
}

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u) {}
  double uniform() { return double(next() >> 11) * 0x1p-53; }
  double normal() {  // nearly
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  int64_t below(int64_t n) { return int64_t(next() % uint64_t(n)); }

 private:
  uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  uint64_t state_;
};

class Tensor {
 public:
  Tensor(Kind kind, int64_t count, int64_t unaligned = 0)
      : kind_(kind), count_(count), start_(kGuard + unaligned * size_of(kind)),
        memory_(new unsigned char[size_t(start_ + count * size_of(kind) + kGuard)], std::default_delete<unsigned char[]>()) {
    std::memset(memory_.get(), kPattern, size_t(start_ + count * size_of(kind) + kGuard));
    if (kind != kByte && kind != kInt64)
      for (int64_t i = 0; i < count; ++i) set(i, std::numeric_limits<double>::quiet_NaN());
  }
  double operator[](int64_t i) const {
    const unsigned char* at = data() + i * size_of(kind_);
    if (kind_ == kFp32) return value_at<float>(at);
    if (kind_ == kFp64) return value_at<double>(at);
    if (kind_ == kInt64) return double(value_at<int64_t>(at));
    if (kind_ == kByte) return *at;
    return kind_ == kBf16 ? widened(value_at<uint16_t>(at), 7, 127) : widened(value_at<uint16_t>(at), 10, 15);
  }
  void set(int64_t i, double value) {
    unsigned char* at = data() + i * size_of(kind_);
    if (kind_ == kFp32) put(at, float(value));
    if (kind_ == kFp64) put(at, value);
    if (kind_ == kInt64) put(at, int64_t(value));
    if (kind_ == kByte) *at = value != 0;
    if (kind_ == kBf16) put(at, narrow(value, 7, 127));
    if (kind_ == kFp16) put(at, narrow(value, 10, 15));
  }
  template <class F>
  Tensor& fill(F value) {
    for (int64_t i = 0; i < count_; ++i) set(i, value());
    return *this;
  }
  Kind kind() const { return kind_; }
  int64_t count() const { return count_; }
  unsigned char* data() const { return memory_.get() + start_; }
  operator Given() const { return {data(), count_, count_ * size_of(kind_)}; }
  // Whether nothing was written beside it.
  bool guarded() const {
    const unsigned char* end = data() + count_ * size_of(kind_);
    for (int64_t i = 0; i < start_; ++i)
      if (memory_.get()[i] != kPattern) return false;
    for (int64_t i = 0; i < kGuard; ++i)
      if (end[i] != kPattern) return false;
    return true;
  }

 private:
  static constexpr int64_t kGuard = ABI_WATCHED ? 0 : 64;
  static constexpr unsigned char kPattern = 0xa5;
  template <class V>
  static V value_at(const unsigned char* at) {
    V value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  template <class V>
  static void put(unsigned char* at, V value) {
    std::memcpy(at, &value, sizeof value);
  }
  Kind kind_;
  int64_t count_, start_;
  std::shared_ptr<unsigned char> memory_;
};

}  // namespace abi
