// Loads and stores of the element types: values in memory are widened to the accumulator's type and rounded back.
#pragma once

#include "simd.hpp"

namespace nw {

typedef uint16_t Halves __attribute__((vector_size(kBytes / 2)));

// bf16 is the upper half of fp32: in a word of two values, the even one is in the lower half.
NW_INLINE Values<bf16> widen(Words pairs) {
  return {{(vec<float>)(pairs << 16), (vec<float>)(pairs & 0xffff0000u)}};
}
// To nearest, ties to even. A NaN from arithmetic, or widened from bf16, stays one; NaNs in the user's
// parameters go through `canonical` first.
NW_INLINE Words round_up(vec<float> v) {
  const Words u = (Words)v;
  return u + 0x7fffu + ((u >> 16) & 1u);
}
NW_INLINE Words narrow(const Values<bf16>& v) {
  return (round_up(v.at[1]) & 0xffff0000u) | (round_up(v.at[0]) >> 16);
}
template <class T>
NW_INLINE acc<T> canonical(acc<T> value) {
  if constexpr (!std::is_same_v<T, bf16>) return value;
  return value == value ? value : std::numeric_limits<acc<T>>::quiet_NaN();
}

#if defined(__AVX512F__)
NW_INLINE vec<float> widen_fp16(Halves h) { return (vec<float>)_mm512_maskz_cvtph_ps(__mmask16(0xffff), (__m256i)h); }
NW_INLINE Halves round_fp16(vec<float> v) {
  return (Halves)_mm512_maskz_cvtps_ph(__mmask16(0xffff), (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__F16C__)
NW_INLINE vec<float> widen_fp16(Halves h) { return (vec<float>)_mm256_cvtph_ps((__m128i)h); }
NW_INLINE Halves round_fp16(vec<float> v) {
  return (Halves)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
NW_INLINE vec<float> widen_fp16(Halves h) {
  Words u = __builtin_convertvector(h, Words);
  // The exponents differ by 112; the product also makes fp16's subnormal numbers normal ones.
  vec<float> magnitude = (vec<float>)((u & 0x7fffu) << 13) * 0x1p112f;
  Words bits = (Words)magnitude;
  bits = ((u & 0x7c00u) == 0x7c00u) ? (bits | 0x7f800000u) : bits;
  return (vec<float>)(bits | ((u & 0x8000u) << 16));
}
NW_INLINE Halves round_fp16(vec<float> v) {
  Words u = (Words)v, sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 1/2 leaves the subnormal number, rounded, in the low bits.
  Words small = (Words)((vec<float>)magnitude + 0.5f) - 0x3f000000u;
  Words h = (magnitude < 0x38800000u) ? small : normal;
  h = (magnitude >= 0x477ff000u) ? (Words{} + 0x7c00u) : h;
  h = (magnitude > 0x7f800000u) ? (Words{} + 0x7e00u) : h;
  return __builtin_convertvector(h | sign, Halves);
}
#endif

template <class P>
NW_INLINE Values<float> load(const float* p, P part) {
  return {{raw_load<vec<float>>(p, part)}};
}
template <class P>
NW_INLINE Values<double> load(const double* p, P part) {
  return {{raw_load<vec<double>>(p, part)}};
}
template <class P>
NW_INLINE Values<bf16> load(const bf16* p, P part) {
  return widen(raw_load<Words>(&p->bits, part));
}
template <class P>
NW_INLINE Values<fp16> load(const fp16* p, P part) {
  const Words pairs = raw_load<Words>(&p->bits, part);
  Halves halves[2];
  std::memcpy(halves, &pairs, sizeof pairs);
  return {{widen_fp16(halves[0]), widen_fp16(halves[1])}};
}
NW_INLINE vec<float> rounded(const Values<float>& v) { return v.at[0]; }
NW_INLINE vec<double> rounded(const Values<double>& v) { return v.at[0]; }
NW_INLINE Words rounded(const Values<bf16>& v) { return narrow(v); }
NW_INLINE Words rounded(const Values<fp16>& v) {
  const Halves halves[2] = {round_fp16(v.at[0]), round_fp16(v.at[1])};
  Words pairs;
  std::memcpy(&pairs, halves, sizeof pairs);
  return pairs;
}
template <class T>
NW_INLINE auto* raw(T* p) {
  if constexpr (sizeof(T) == 2)
    return &p->bits;
  else
    return p;
}
// Prefetches a line some way ahead for writing: the processor prefetches for reads, but hardly for writes,
// and a store to a line that is not in the cache waits for it (a tenth to a fifth of the time from 2 MB on).
constexpr int kAheadOfStores = 4096;  // bytes
template <class T, class P>
NW_INLINE void store(T* p, const Values<T>& v, P part) {
  if constexpr (std::is_same_v<P, Full>) __builtin_prefetch(reinterpret_cast<const char*>(p) + kAheadOfStores, 1, 3);
  raw_store(raw(p), rounded(v), part);
}
// Written past the caches if `stream` is set; p must be aligned then.
template <class T, class P>
NW_INLINE void store(T* p, const Values<T>& v, P part, bool stream) {
  if constexpr (std::is_same_v<P, Full>)
    if (stream) return raw_stream(raw(p), rounded(v));
  store(p, v, part);
}

// The values of a step in the accumulator's type, one vector after the other: values that a narrow type would round are kept
// in this form between two passes with the same steps.
template <class T, class F>
NW_INLINE void each_vector(Full, F f) {
  f(0, 0, Full{});
  f(1, lanes<acc<T>>, Full{});
}
template <class T, class F>
NW_INLINE void each_vector(Part part, F f) {
  const int first = lanes_of<T>(part, 0);
  f(0, 0, Part{first});
  f(1, first, Part{part.k - first});
}
template <class T, class P>
NW_INLINE void store_wide(acc<T>* p, const Values<T>& v, P part) {
  if constexpr (ways<T> == 1)
    store(p, v, part);
  else
    each_vector<T>(part, [&](int w, int at, auto some) NW_LAMBDA { raw_store(p + at, v.at[w], some); });
}
template <class T, class P>
NW_INLINE Values<T> load_wide(const acc<T>* p, P part) {
  if constexpr (ways<T> == 1) {
    return load(p, part);
  } else {
    Values<T> v;
    each_vector<T>(part, [&](int w, int at, auto some) NW_LAMBDA { v.at[w] = raw_load<vec<acc<T>>>(p + at, some); });
    return v;
  }
}

// All ones in the lanes of way w whose byte of the mask is not zero.
template <class T, class P>
NW_INLINE ints<acc<T>> load_mask(const uint8_t* p, P part, int w) {
  using Bytes = typename Pack<acc<T>>::B;
  if constexpr (std::is_same_v<T, bf16>) {
    const Halves pairs = raw_load<Halves>(p, part);
    return __builtin_convertvector(w ? pairs >> 8 : pairs & 0xff, ints<float>) != 0;
  } else if constexpr (ways<T> == 2) {
    const Halves all = raw_load<Halves>(p, part);
    Bytes bytes;
    std::memcpy(&bytes, reinterpret_cast<const uint8_t*>(&all) + w * sizeof bytes, sizeof bytes);
    return __builtin_convertvector(bytes, ints<float>) != 0;
  } else {
    return __builtin_convertvector(raw_load<Bytes>(p, part), ints<acc<T>>) != 0;
  }
}

}  // namespace nw
