// Short planes, side by side: a run of them is processed in whole steps, some of which hold the end of a plane and the
// beginning of the next one. A plane of 7 x 7 has three steps and one value; alone it would take four, one of them masked.
#pragma once

#include "pieces.hpp"

namespace nw {

// Whether planes are short, and a step meets at most two of them.
template <class T>
bool joins(const Shape& s) {
  return !s.last && s.S >= step<T> && s.S <= std::max<int64_t>(256, 16 * step<T>) && s.C > 1;
}

// f(n, c, planes) for runs of neighbouring planes of a sample.
template <class F>
NW_INLINE void for_joined(const Shape& shape, F f) {
  const int64_t width = std::max<int64_t>(1, kGrain / 2 / shape.S), parts = (shape.C + width - 1) / width;
  const int64_t tasks = shape.N * parts;
  parallel(shape.numel() < kSerial ? 1 : shape.threads, tasks, [&](int64_t i) {
    const int64_t task = shape.backwards ? tasks - 1 - i : i, first = task % parts * width;
    f(task / parts, first, std::min(width, shape.C - first));
    if (shape.stream) streamed();
  });
}

// The lanes of `first` that hold one of the first k values of a step; the other lanes are those of `second`.
template <class T>
NW_INLINE vec<acc<T>> meeting(Part part, int w, vec<acc<T>> first, vec<acc<T>> second) {
  using A = acc<T>;
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4)
    return (vec<A>)_mm512_mask_mov_ps((__m512)second, __mmask16((1u << lanes_of<T>(part, w)) - 1), (__m512)first);
#endif
  return first_lanes<A>(lanes_of<T>(part, w)) ? first : second;
}
template <class T>
NW_INLINE Values<T> meeting(Part part, const Values<T>& first, const Values<T>& second) {
  Values<T> v;
  each_way<T>([&](int w) NW_LAMBDA { v.at[w] = meeting<T>(part, w, first.at[w], second.at[w]); });
  return v;
}
template <class T>
NW_INLINE Affine<T> meeting(Part part, const Affine<T>& first, const Affine<T>& second) {
  return {meeting<T>(part, first.mean, second.mean), meeting<T>(part, first.scale, second.scale),
          meeting<T>(part, first.shift, second.shift)};
}
template <class T>
NW_INLINE Through<T> meeting(Part part, const Through<T>& first, const Through<T>& second) {
  return {meeting<T>(part, first.slope, second.slope), meeting<T>(part, first.offset, second.offset)};
}

// Coefficients that are equal for all values of a plane, along a run of planes; of_plane(p) has those of plane p.
template <class T, class V, class F>
class Along {
 public:
  NW_INLINE Along(int64_t size, int64_t planes, F of_plane) : size_(size), planes_(planes), of_plane_(of_plane) { turn_to(0); }
  // For the step at i; steps come one after the other, each once, or begin again.
  NW_INLINE V at(int64_t i) {
    if (i < end_ - size_) turn_to(i / size_);
    if (i + step<T> <= end_ || plane_ + 1 == planes_) return here_;
    const Part first{int(end_ - i)};
    const V before = here_;
    turn_to(plane_ + 1);
    return first.k > 0 ? meeting<T>(first, before, here_) : here_;
  }

 private:
  NW_INLINE void turn_to(int64_t plane) {
    plane_ = plane;
    end_ = (plane + 1) * size_;
    here_ = of_plane_(plane);
  }
  int64_t size_, planes_, plane_ = 0, end_ = 0;
  F of_plane_;
  V here_;
};
template <class T, class V, class F>
NW_INLINE Along<T, V, F> along(int64_t size, int64_t planes, F of_plane) {
  return {size, planes, of_plane};
}

// Σ g and Σ g·(x - mean) of each plane of a run. As many planes as a vector has lanes are totalled together: the total of one
// vector costs as much as a plane of 7 x 7.
template <class T>
class PlaneSums {
  using A = acc<T>;

 public:
  NW_INLINE PlaneSums(int64_t size, int64_t planes, double* sum_g, double* sum_gd)
      : size_(size), left_(planes), end_(size), sum_g_(sum_g), sum_gd_(sum_gd) {}
  // The step at i, of which the values in `part` count; steps are called in order. each(f) calls f as `gradient_step` does.
  template <class P, class G>
  NW_INLINE void add(int64_t i, P part, G each) {
    if (i + step<T> <= end_ || left_ == 1) {
      each([&](int w, vec<A> g, vec<A> d, vec<A>) NW_LAMBDA { take(plain_, product_, keep<T>(g, w, part), keep<T>(g * d, w, part)); });
      if (i + step<T> == end_ && left_ > 1) done(vec<A>{}, vec<A>{});
      return;
    }
    const Part first{int(end_ - i)};
    vec<A> plain{}, product{};
    each([&](int w, vec<A> g, vec<A> d, vec<A>) NW_LAMBDA {
      const vec<A> all = keep<T>(g, w, part), all_d = keep<T>(g * d, w, part);
      take(plain_, product_, keep<T>(all, w, first), keep<T>(all_d, w, first));
      take(plain, product, meeting<T>(first, w, vec<A>{}, all), meeting<T>(first, w, vec<A>{}, all_d));
    });
    done(plain, product);
  }
  NW_INLINE void finish() {
    done(vec<A>{}, vec<A>{});
    if (filled_ > 0) deliver();
  }

 private:
  static NW_INLINE void take(vec<A>& plain, vec<A>& product, vec<A> g, vec<A> gd) { plain += g, product += gd; }
  NW_INLINE void done(vec<A> plain, vec<A> product) {
    of_g_[filled_] = plain_, of_gd_[filled_] = product_;
    plain_ = plain, product_ = product;
    end_ += size_, --left_;
    if (++filled_ == lanes<A>) deliver();
  }
  NW_INLINE void deliver() {
    const vec<A> g = totals_of(of_g_), gd = totals_of(of_gd_);
    for (int p = 0; p < filled_; ++p) *sum_g_++ = double(g[p]), *sum_gd_++ = double(gd[p]);
    filled_ = 0;
  }

  int64_t size_, left_, end_;
  double *sum_g_, *sum_gd_;
  vec<A> plain_{}, product_{}, of_g_[lanes<A>]{}, of_gd_[lanes<A>]{};
  int filled_ = 0;
};

}  // namespace nw
