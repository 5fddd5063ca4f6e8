// Sums over the lanes of vectors.
#pragma once

#include "simd.hpp"

namespace nw {

#if defined(__AVX512F__)
NW_INLINE float total_of(vec<float> v) { return _mm512_reduce_add_ps((__m512)v); }
NW_INLINE double total_of(vec<double> v) { return _mm512_reduce_add_pd((__m512d)v); }
#else
template <class V>
NW_INLINE auto total_of(V v) {
  for (int half = int(sizeof v / sizeof v[0]) / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
#endif

// The totals of as many vectors as they have lanes, each in its lane; the vectors are overwritten.
template <class V, size_t N>
NW_INLINE V totals_of(V (&v)[N]) {
  V totals;
  for (size_t i = 0; i < N; ++i) totals[i] = total_of(v[i]);
  return totals;
}
#if defined(__AVX512F__)
// Which lanes of two vectors make one whose blocks of 2 H lanes have H of the first and H of the second: low is its
// first summand, high the other one.
template <int H>
struct Halves16 {
  alignas(64) int32_t low[16]{}, high[16]{};
  constexpr Halves16() {
    for (int l = 0; l < 16; ++l) {
      const int inside = l % (2 * H), block = l - inside;
      low[l] = inside < H ? block + inside : 16 + block + inside - H;
      high[l] = low[l] + H;
    }
  }
};
template <int H>
NW_INLINE void halve(vec<float>* v) {
  static constexpr Halves16<H> index;
  const __m512i low = _mm512_load_si512(index.low), high = _mm512_load_si512(index.high);
#pragma GCC unroll 8
  for (int i = 0; i < H; ++i) {
    const __m512 a = (__m512)v[i], b = (__m512)v[i + H];
    v[i] = (vec<float>)_mm512_permutex2var_ps(a, low, b) + (vec<float>)_mm512_permutex2var_ps(a, high, b);
  }
  if constexpr (H > 1) halve<H / 2>(v);
}
NW_INLINE vec<float> totals_of(vec<float> (&v)[16]) {
  halve<8>(v);
  return v[0];
}
#endif

}  // namespace nw
