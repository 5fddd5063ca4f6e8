// A layer's parameters and running statistics in their own type: the accumulator's, the element
// type, or fp64.
#pragma once

#include <algorithm>

#include "columns.hpp"

namespace nw {

enum Kept { kWide, kNarrow, kDouble };

// For fp32 and fp64 the accumulator's type is the element type.
template <class T>
constexpr bool is_wide(int kept) {
  return kept == kWide || (kept == kNarrow && std::is_same_v<T, acc<T>>);
}

template <class T>
constexpr size_t size_of_kept(int kept) {
  return is_wide<T>(kept) ? sizeof(acc<T>) : kept == kDouble ? sizeof(double) : sizeof(T);
}

// f(i, value) for each of n values, in fp64.
template <class T, class F>
void for_kept(const void* values, int kept, int64_t n, F f) {
  if (is_wide<T>(kept))
    for (int64_t i = 0; i < n; ++i) f(i, double(static_cast<const acc<T>*>(values)[i]));
  else if (kept == kDouble)
    for (int64_t i = 0; i < n; ++i) f(i, static_cast<const double*>(values)[i]);
  else
    each_step<T>(n, [&](int64_t start, auto part) {
      const Values<T> v = load(static_cast<const T*>(values) + start, part);
      const int size = int(std::min<int64_t>(step<T>, n - start));
      for (int w = 0; w < ways<T>; ++w)
        for (int l = 0; l < lanes<acc<T>>; ++l)
          if (value_at<T>(l, w) < size) f(start + value_at<T>(l, w), double(v.at[w][l]));
    });
}

// The same for writing.
template <class T, class F>
void set_kept(void* values, int kept, int64_t n, F value) {
  if (is_wide<T>(kept))
    for (int64_t i = 0; i < n; ++i) static_cast<acc<T>*>(values)[i] = acc<T>(value(i));
  else if (kept == kDouble)
    for (int64_t i = 0; i < n; ++i) static_cast<double*>(values)[i] = value(i);
  else
    each_step<T>(n, [&](int64_t start, auto part) {
      const int size = int(std::min<int64_t>(step<T>, n - start));
      Values<T> v{};
      for (int w = 0; w < ways<T>; ++w)
        for (int l = 0; l < lanes<acc<T>>; ++l)
          if (value_at<T>(l, w) < size) v.at[w][l] = canonical<T>(acc<T>(value(start + value_at<T>(l, w))));
      store(static_cast<T*>(values) + start, v, part);
    });
}

// A parameter in the type of B; empty if there is none.
template <class T, class B>
Buffer<B> read_kept(const void* values, int kept, int64_t n) {
  Buffer<B> wide(values ? n : 0);
  if (values) for_kept<T>(values, kept, n, [&](int64_t i, double value) { wide[i] = B(value); });
  return wide;
}

// A parameter as values of the accumulator's type, converted if its type is another; null if there is none.
template <class T>
struct Parameter {
  Buffer<acc<T>> converted;
  const acc<T>* data;

  Parameter(const void* values, int kept, int64_t n)
      : converted(read_kept<T, acc<T>>(is_wide<T>(kept) ? nullptr : values, kept, n)),
        data(is_wide<T>(kept) ? static_cast<const acc<T>*>(values) : (values ? converted.data() : nullptr)) {}
};

// The destination of a parameter's gradient, which is rounded to the parameter's type when it is complete.
template <class T>
class Gradient {
 public:
  Gradient(void* out, int kept, int64_t n)
      : out_(out), kept_(kept), own_(out && !is_wide<T>(kept) ? n : 0) {}
  acc<T>* data() { return is_wide<T>(kept_) ? static_cast<acc<T>*>(out_) : (out_ ? own_.data() : nullptr); }
  void deliver() {
    if (out_ && !is_wide<T>(kept_)) set_kept<T>(out_, kept_, own_.size(), [&](int64_t i) { return double(own_[i]); });
  }

 private:
  void* out_;
  int kept_;
  Buffer<acc<T>> own_;
};

}  // namespace nw
