// Vectors of the accumulator's type, and loads and stores of every element type.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#define NW_INLINE inline __attribute__((always_inline))
#define NW_LAMBDA __attribute__((always_inline))

namespace nw {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

template <class A>
struct Pack;
template <>
struct Pack<float> {
  typedef float V __attribute__((vector_size(kBytes)));
  typedef int32_t I __attribute__((vector_size(kBytes)));
  typedef uint8_t B __attribute__((vector_size(kBytes / 4)));
};
template <>
struct Pack<double> {
  typedef double V __attribute__((vector_size(kBytes)));
  typedef int64_t I __attribute__((vector_size(kBytes)));
  typedef uint8_t B __attribute__((vector_size(kBytes / 8)));
};
typedef uint32_t Words __attribute__((vector_size(kBytes)));
typedef uint16_t Halves __attribute__((vector_size(kBytes / 2)));

template <class A>
using vec = typename Pack<A>::V;
template <class A>
using ints = typename Pack<A>::I;
template <class A>
constexpr int lanes = kBytes / int(sizeof(A));

// What an element type is accumulated in.
template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <class T>
using acc = typename Wide<T>::type;

// A whole vector, or the first k lanes of one at the end of a run.
struct Full {};
struct Part {
  int k;
};

template <class A>
NW_INLINE vec<A> splat(A value) {
  return vec<A>{} + value;
}

template <class A>
NW_INLINE ints<A> first_lanes(int k) {
  ints<A> index;
  for (int i = 0; i < lanes<A>; ++i) index[i] = i;
  return index < k;
}

template <class A>
NW_INLINE vec<A> keep(vec<A> v, Full) {
  return v;
}
template <class A>
NW_INLINE vec<A> keep(vec<A> v, Part part) {
  return first_lanes<A>(part.k) ? v : vec<A>{};
}

template <class V, class P>
NW_INLINE V raw_load(const P* p, Full) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class P>
NW_INLINE V raw_load(const P* p, Part part) {
  V v{};
  std::memcpy(&v, p, size_t(part.k) * sizeof(P));
  return v;
}
template <class V, class P>
NW_INLINE void raw_store(P* p, V v, Full) {
  std::memcpy(p, &v, sizeof v);
}
template <class V, class P>
NW_INLINE void raw_store(P* p, V v, Part part) {
  std::memcpy(p, &v, size_t(part.k) * sizeof(P));
}
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
// The end of a run in one masked instruction: planes of 7 x 7 have an end in every fourth vector.
template <>
NW_INLINE vec<float> raw_load<vec<float>, float>(const float* p, Part part) {
  return (vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << part.k) - 1), p);
}
template <>
NW_INLINE Halves raw_load<Halves, uint16_t>(const uint16_t* p, Part part) {
  return (Halves)_mm256_maskz_loadu_epi16(__mmask16((1u << part.k) - 1), p);
}
template <>
NW_INLINE void raw_store<vec<float>, float>(float* p, vec<float> v, Part part) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << part.k) - 1), (__m512)v);
}
template <>
NW_INLINE void raw_store<Halves, uint16_t>(uint16_t* p, Halves v, Part part) {
  _mm256_mask_storeu_epi16(p, __mmask16((1u << part.k) - 1), (__m256i)v);
}
#endif

// What the compiler makes of the portable forms of these on AVX-512 takes several times as long.
#if defined(__AVX512F__)
NW_INLINE Halves narrow(Words w) { return (Halves)_mm512_maskz_cvtepi32_epi16(__mmask16(0xffff), (__m512i)w); }
NW_INLINE Words widen(Halves h) { return (Words)_mm512_maskz_cvtepu16_epi32(__mmask16(0xffff), (__m256i)h); }
NW_INLINE float total_of(vec<float> v) { return _mm512_reduce_add_ps((__m512)v); }
NW_INLINE double total_of(vec<double> v) { return _mm512_reduce_add_pd((__m512d)v); }
#else
NW_INLINE Halves narrow(Words w) { return __builtin_convertvector(w, Halves); }
NW_INLINE Words widen(Halves h) { return __builtin_convertvector(h, Words); }
template <class V>
NW_INLINE auto total_of(V v) {
  for (int half = int(sizeof v / sizeof v[0]) / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
#endif

NW_INLINE vec<float> widen_bf16(Halves h) { return (vec<float>)(widen(h) << 16); }
NW_INLINE Halves round_bf16(vec<float> v) {
  Words u = (Words)v;
  Words rounded = u + 0x7fffu + ((u >> 16) & 1u);  // to nearest, ties to even
  rounded = (v != v) ? (Words{} + 0x7fc00000u) : rounded;
  return narrow(rounded >> 16);
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
  return narrow(h | sign);
}
#endif

template <class P>
NW_INLINE vec<float> load(const float* p, P part) {
  return raw_load<vec<float>>(p, part);
}
template <class P>
NW_INLINE vec<double> load(const double* p, P part) {
  return raw_load<vec<double>>(p, part);
}
template <class P>
NW_INLINE vec<float> load(const bf16* p, P part) {
  return widen_bf16(raw_load<Halves>(&p->bits, part));
}
template <class P>
NW_INLINE vec<float> load(const fp16* p, P part) {
  return widen_fp16(raw_load<Halves>(&p->bits, part));
}
template <class P>
NW_INLINE void store(float* p, vec<float> v, P part) {
  raw_store(p, v, part);
}
template <class P>
NW_INLINE void store(double* p, vec<double> v, P part) {
  raw_store(p, v, part);
}
template <class P>
NW_INLINE void store(bf16* p, vec<float> v, P part) {
  raw_store(&p->bits, round_bf16(v), part);
}
template <class P>
NW_INLINE void store(fp16* p, vec<float> v, P part) {
  raw_store(&p->bits, round_fp16(v), part);
}

// All ones in the lanes whose byte of the mask is not zero.
template <class A, class P>
NW_INLINE ints<A> load_mask(const uint8_t* p, P part) {
  auto bytes = raw_load<typename Pack<A>::B>(p, part);
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) return (ints<A>)_mm512_maskz_cvtepu8_epi32(__mmask16(0xffff), (__m128i)bytes) != 0;
#endif
  return __builtin_convertvector(bytes, ints<A>) != 0;
}

template <class A>
NW_INLINE double total(const vec<A> (&s)[4]) {
  return double(total_of((s[0] + s[1]) + (s[2] + s[3])));
}

// f(offset, slot, part) over n elements; four slots, so that four independent sums hide the latency of an addition.
template <class A, class F>
NW_INLINE void sweep(int64_t n, F f) {
  constexpr int L = lanes<A>;
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
#pragma GCC unroll 4
    for (int slot = 0; slot < 4; ++slot) f(i + slot * L, slot, Full{});
  for (; i + L <= n; i += L) f(i, 0, Full{});
  if (i < n) f(i, 0, Part{int(n - i)});
}

// f(offset, part) over n elements, where nothing is summed.
template <class A, class F>
NW_INLINE void each_vector(int64_t n, F f) {
  constexpr int L = lanes<A>;
  int64_t i = 0;
  for (; i + L <= n; i += L) f(i, Full{});
  if (i < n) f(i, Part{int(n - i)});
}

}  // namespace nw
