// Vectors of the accumulator's type, and loops over runs of values in steps of whole vectors.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define NW_INLINE inline __attribute__((always_inline))
#define NW_LAMBDA __attribute__((always_inline))

// From a list of pairs of symbol and name: the symbols for an enumeration, and all names in one text.
#define NW_SYMBOL(symbol, name) symbol,
#define NW_NAME(symbol, name) name " "

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

template <class A>
using vec = typename Pack<A>::V;
template <class A>
using ints = typename Pack<A>::I;
template <class A>
constexpr int lanes = kBytes / int(sizeof(A));

// The accumulator's type of an element type.
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

// A step is the content of one load: a vector of fp32 or fp64, or two vectors widened from one vector of halves. Those
// of bf16 hold its even and its odd values, which costs one operation each; those of fp16 its lower and upper ones.
template <class T>
constexpr int ways = sizeof(T) == 2 ? 2 : 1;
template <class T>
constexpr int step = ways<T> * lanes<acc<T>>;
template <class T>
struct Values {
  vec<acc<T>> at[ways<T>];
};

// f(w) for the vectors of a step; a loop would keep them in memory.
template <class T, class F>
NW_INLINE void each_way(F f) {
  f(0);
  if constexpr (ways<T> == 2) f(1);
}

// A whole step, or the first k values of one at the end of a run.
struct Full {};
struct Part {
  int k;
};

// The index in the step of the value in lane l of way w.
template <class T>
NW_INLINE int value_at(int l, int w) {
  return std::is_same_v<T, bf16> ? 2 * l + w : w * lanes<acc<T>> + l;
}
// The index of value i among the lanes of the steps, one vector after the other.
template <class T>
NW_INLINE int64_t place(int64_t i) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t inside = i % step<T>;
    return i - inside + inside % 2 * lanes<float> + inside / 2;
  }
  return i;
}
// How many lanes of way w hold one of the first k values.
template <class T>
NW_INLINE int lanes_of(Part part, int w) {
  if constexpr (std::is_same_v<T, bf16>) return (part.k + 1 - w) / 2;
  const int left = part.k - w * lanes<acc<T>>;
  return left < 0 ? 0 : (left < lanes<acc<T>> ? left : lanes<acc<T>>);
}

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

// v in the lanes of way w that hold a value, 0 elsewhere.
template <class T>
NW_INLINE vec<acc<T>> keep(vec<acc<T>> v, int, Full) {
  return v;
}
template <class T>
NW_INLINE vec<acc<T>> keep(vec<acc<T>> v, int w, Part part) {
  using A = acc<T>;
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4)
    return (vec<A>)_mm512_maskz_mov_ps(__mmask16((1u << lanes_of<T>(part, w)) - 1), (__m512)v);
#endif
  return first_lanes<A>(lanes_of<T>(part, w)) ? v : vec<A>{};
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
// The end of a run in one masked instruction: in planes of 7 x 7 every fourth vector is such an end.
template <>
NW_INLINE vec<float> raw_load<vec<float>, float>(const float* p, Part part) {
  return (vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << part.k) - 1), p);
}
template <>
NW_INLINE Words raw_load<Words, uint16_t>(const uint16_t* p, Part part) {
  return (Words)_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << part.k) - 1), p);
}
template <>
NW_INLINE void raw_store(float* p, vec<float> v, Part part) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << part.k) - 1), (__m512)v);
}
template <>
NW_INLINE void raw_store(uint16_t* p, Words v, Part part) {
  _mm512_mask_storeu_epi16(p, __mmask32((uint64_t(1) << part.k) - 1), (__m512i)v);
}
#endif

// A store that does not read the line first and leaves none in the caches; only `streamed` orders such stores.
template <class V, class P>
NW_INLINE void raw_stream(P* p, V v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  raw_store(p, v, Full{});
#endif
}
inline void streamed() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// f(offset, slot, part) over n values, step by step; the slots are four vectors, so that four independent sums hide the
// latency of an addition.
template <class T, class F>
NW_INLINE void sweep(int64_t n, F f) {
  constexpr int L = step<T>, kSlots = 4 / ways<T>;
  int64_t i = 0;
  for (; i + kSlots * L <= n; i += kSlots * L)
#pragma GCC unroll 4
    for (int slot = 0; slot < kSlots; ++slot) f(i + slot * L, slot * ways<T>, Full{});
#pragma GCC unroll 4
  for (int slot = 0; slot < kSlots - 1; ++slot)
    if (i + L <= n) {
      f(i, slot * ways<T>, Full{});
      i += L;
    }
  if (i < n) f(i, 4 - ways<T>, Part{int(n - i)});
}

// f(offset, part) over n values, for loops without sums.
template <class T, class F>
NW_INLINE void each_step(int64_t n, F f) {
  constexpr int L = step<T>;
  int64_t i = 0;
  for (; i + L <= n; i += L) f(i, Full{});
  if (i < n) f(i, Part{int(n - i)});
}

}  // namespace nw
