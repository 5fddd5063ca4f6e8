// A sheet of rows of channels, part of a channels_last tensor, and lines of coefficients for its columns.
#pragma once

#include <numeric>

#include "runs.hpp"
#include "sums.hpp"

namespace nw {

// Rows of channels, part of a channels_last tensor. Rows of few channels waste most of a step, so k neighbouring rows
// are treated as one long row.
template <class T>
struct Sheet {
  int64_t rows, channels, distance;  // from one row to the next
  int64_t k = 1;

  Sheet(int64_t rows_, int64_t channels_, int64_t distance_, bool single = false)
      : rows(rows_), channels(channels_), distance(distance_) {
    if (single || distance != channels || channels >= 16 * step<T>) return;
    int64_t together = step<T> / std::gcd(channels, int64_t(step<T>));
    while (together * channels < 2 * step<T>) together *= 2;
    if (rows >= 2 * together) k = together;
  }
  int64_t width() const { return k * channels; }
  int64_t stride() const { return k * distance; }
  int64_t whole() const { return rows / k; }
  int64_t left() const { return (rows - whole() * k) * channels; }  // values after the whole long rows
  Sheet part(int64_t first, int64_t count) const {
    Sheet some = *this;
    some.rows = std::min(count, rows - first);
    return some;
  }
};

template <class T>
inline int64_t padded(int64_t n) {
  return (n + step<T> - 1) / step<T> * step<T>;
}

template <class T>
NW_INLINE Values<T> load_line(const acc<T>* line, int64_t i) {
  Values<T> v;
  each_way<T>([&](int w) NW_LAMBDA { v.at[w] = raw_load<vec<acc<T>>>(line + i + w * lanes<acc<T>>, Full{}); });
  return v;
}
template <class T>
NW_INLINE void store_line(acc<T>* line, int64_t i, const Values<T>& v) {
  each_way<T>([&](int w) NW_LAMBDA { raw_store(line + i + w * lanes<acc<T>>, v.at[w], Full{}); });
}

// A table [N, C] with any strides; an absent one is zero.
template <class A>
struct Table {
  const A* data;
  int64_t of_sample, of_channel;
  A at(int64_t n, int64_t c) const { return data ? data[n * of_sample + c * of_channel] : A(0); }
  // The entries of a sample from channel c on.
  struct Entries {
    const A* first;
    int64_t distance;
    A operator[](int64_t i) const { return first[i * distance]; }
  };
  Entries from(int64_t n, int64_t c) const {
    static constexpr A nothing = 0;
    return data ? Entries{data + n * of_sample + c * of_channel, of_channel} : Entries{&nothing, 0};
  }
};

// One row of a table in the order of the steps, repeated for as many rows of the sheet as are processed at once.
template <class T>
struct Line {
  Buffer<acc<T>> values;

  Line(const Table<acc<T>>& table, int64_t n, const Sheet<T>& sheet) : values(padded<T>(sheet.width())) {
    constexpr int L = lanes<acc<T>>;
    const int64_t channels = sheet.channels, k = sheet.k;
    // Also after the last value: there a multiplication by 0 must not meet a NaN from uninitialized memory.
    std::fill(values.data() + values.size() - std::min<int64_t>(values.size(), step<T>), values.data() + values.size(),
              acc<T>(0));
    const auto* row = table.data + n * table.of_sample;
    acc<T>* out = values.data();
    int64_t whole = 0;
    if (table.data && table.of_channel == 1 && k == 1) {
      whole = channels / step<T> * step<T>;
      for (int64_t i = 0; i < whole; i += step<T>)
#pragma omp simd
        for (int l = 0; l < L; ++l)
          for (int w = 0; w < ways<T>; ++w) out[i + w * L + l] = canonical<T>(row[i + value_at<T>(l, w)]);
    }
    for (int64_t j = 0; j < k; ++j)
      for (int64_t c = whole; c < channels; ++c) out[place<T>(j * channels + c)] = canonical<T>(table.at(n, c));
  }
  Values<T> at(int64_t i) const { return load_line<T>(values.data(), i); }
};
template <class T>
struct AffineLine {
  Line<T> mean, scale, shift;
  NW_INLINE Affine<T> at(int64_t i) const { return {mean.at(i), scale.at(i), shift.at(i)}; }
};
template <class T>
struct ThroughLine {
  Line<T> slope, offset;
  NW_INLINE Through<T> at(int64_t i) const { return {slope.at(i), offset.at(i)}; }
};

// f(row, integral_constant R) over all rows: R at a time, the rest one by one.
template <int R, class F>
NW_INLINE void in_groups(int64_t rows, F f) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) f(r, std::integral_constant<int, R>{});
  for (; r < rows; ++r) f(r, std::integral_constant<int, 1>{});
}

// f(offset, R, length) over the long rows, R of them at a time, the rest one by one, the last perhaps shorter.
template <class T, int R, class F>
NW_INLINE void for_rows(const Sheet<T>& sheet, F f) {
  in_groups<R>(sheet.whole(), [&](int64_t r, auto group) NW_LAMBDA { f(r * sheet.stride(), group, sheet.width()); });
  if (sheet.left()) f(sheet.whole() * sheet.stride(), std::integral_constant<int, 1>{}, sheet.left());
}

// Add columns, the same channels k times side by side, to their channels.
template <class T>
inline void add_columns(double* to, const acc<T>* columns, const Sheet<T>& sheet) {
  for (int64_t j = 0; j < sheet.k; ++j)
#pragma omp simd
    for (int64_t c = 0; c < sheet.channels; ++c) to[c] += double(columns[place<T>(j * sheet.channels + c)]);
}

}  // namespace nw
