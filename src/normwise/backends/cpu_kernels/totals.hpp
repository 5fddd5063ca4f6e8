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

// The total of each of R vectors, in fp64: in one order, so that a sum does not depend on how many are totalled together.
template <class V, size_t R>
NW_INLINE void totals_of_each(const V (&v)[R], double* totals) {
#if defined(__AVX512F__)
  if constexpr (R == 1 && std::is_same_v<V, vec<float>>) {
    double same[4];
    totals_of_each({v[0], v[0], v[0], v[0]}, same);
    totals[0] = same[0];
    return;
  }
  if constexpr (R == 4 && std::is_same_v<V, vec<float>>) {
    // Four sums together take a third of the operations of four single ones.
    __m256 half[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      half[r] = _mm512_castps512_ps256((__m512)v[r]) + _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v[r]), 1));
    const __m256 quarters = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
    _mm256_storeu_pd(totals, _mm256_cvtps_pd(_mm256_castps256_ps128(quarters) + _mm256_extractf128_ps(quarters, 1)));
    return;
  }
#endif
#pragma GCC unroll 4
  for (size_t r = 0; r < R; ++r) totals[r] = double(total_of(v[r]));
}

// The totals of as many vectors as they have lanes, each in its lane; the vectors are overwritten.
template <class V, size_t N>
NW_INLINE V totals_of(V (&v)[N]) {
  V totals;
  for (size_t i = 0; i < N; ++i) totals[i] = total_of(v[i]);
  return totals;
}
#if defined(__AVX512F__)
// The lanes of two vectors a and b that form the blocks of 2 H lanes, H of a and H of b, of a third one: `low` selects its
// first summand, `high` the other one.
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
