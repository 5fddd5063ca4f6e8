// The same for a sheet of rows of channels, a part of a channels_last tensor: every column has its own numbers.
#pragma once

#include <numeric>
#include <vector>

#include "runs.hpp"
#include "sums.hpp"

namespace nw {

// Rows of channels, part of a channels_last tensor. Rows of few channels waste most of a step, so that k of them, where
// they are neighbours, are treated as one long row.
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
  int64_t left() const { return (rows - whole() * k) * channels; }  // values behind the whole long rows
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

// A table [N, C] with any strides; absent ones are zero.
template <class A>
struct Table {
  const A* data;
  int64_t of_sample, of_channel;
  A at(int64_t n, int64_t c) const { return data ? data[n * of_sample + c * of_channel] : A(0); }
};

// One row of a table in the order of the steps, repeated for as many rows of the sheet as are treated at once.
template <class T>
struct Line {
  Buffer<acc<T>> values;

  Line(const Table<acc<T>>& table, int64_t n, const Sheet<T>& sheet) : values(padded<T>(sheet.width())) {
    constexpr int L = lanes<acc<T>>;
    const int64_t channels = sheet.channels, k = sheet.k;
    // Behind the last value, too: what is multiplied by 0 there must not be the NaN that lay in the memory.
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

// f(row, integral_constant R) over all rows: R at a time, the rest one by one.
template <int R, class F>
NW_INLINE void in_groups(int64_t rows, F f) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) f(r, std::integral_constant<int, R>{});
  for (; r < rows; ++r) f(r, std::integral_constant<int, 1>{});
}

// Rows whose sums in fp32 are exact enough.
constexpr int64_t kBlockRows = 128;
// How many values ahead a pass that takes several rows at a time has the next ones fetched: the processor guesses less.
constexpr int64_t kAhead = 8192;
// The first rows are read twice, for their mean and around it: so few that they are still in the first cache.
template <class T>
inline int64_t first_rows(int64_t width) {
  return std::clamp<int64_t>(32768 / (width * int64_t(sizeof(T))), 8, kBlockRows);
}

template <class T, int R>
NW_INLINE void add_rows(const T* const* rows, int64_t width, const acc<T>* pilot, acc<T>* rest, acc<T>* squares) {
  const T* x[R];
  std::copy_n(rows, R, x);
  const int64_t ahead = R > 1 ? R * (x[1] - x[0]) : 0;  // to the next rows: the processor does not guess them
  each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
    const Values<T> p = load_line<T>(pilot, i);
    Values<T> s = load_line<T>(rest, i), q = load_line<T>(squares, i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Values<T> v = load(x[r] + i, part);
      __builtin_prefetch(x[r] + i + ahead, 0, 2);
      each_way<T>([&](int w) NW_LAMBDA {
        const auto d = v.at[w] - p.at[w];
        s.at[w] += d;
        q.at[w] += d * d;
      });
    }
    store_line<T>(rest, i, s);
    store_line<T>(squares, i, q);
  });
}

// Running statistics of every column, all with the same count, in the order of the steps.
template <class T>
struct ColumnStats {
  using A = acc<T>;
  int64_t width, size;
  bool centered;  // otherwise the pilot is 0, and mean and m2 give the mean square without a second reading
  double count = 0;
  Buffer<double> mean, m2;
  Buffer<A> pilot, rest, squares;

  explicit ColumnStats(int64_t w, bool center = true)
      : width(w), size(padded<T>(w)), centered(center), mean(size, 0), m2(size, 0), pilot(size, 0), rest(size),
        squares(size) {}

  // x points to the kept rows of one block.
  void take(const std::vector<const T*>& x) {
    if (x.empty()) return;
    if (count == 0 && centered) {
      add(x);
      for (int64_t c = 0; c < size; ++c) pilot[c] = A(double(rest[c]) / double(x.size()));
    }
    add(x);
    const double rows = double(x.size()), inverse = 1 / rows, sum = count + rows, share = rows / sum;
    const double weight = count * share;
    double *m = mean.data(), *squared = m2.data();
    A *p = pilot.data(), *s = rest.data(), *q = squares.data();
#pragma omp simd
    for (int64_t c = 0; c < size; ++c) {
      double off = double(s[c]) * inverse, delta = double(p[c]) + off - m[c];
      squared[c] += double(q[c]) - double(s[c]) * off + delta * delta * weight;
      m[c] += delta * share;
    }
    if (centered)
      for (int64_t c = 0; c < size; ++c) p[c] = A(m[c]);
    count = sum;
  }

 private:
  void add(const std::vector<const T*>& x) {
    std::fill_n(rest.data(), size, A(0));
    std::fill_n(squares.data(), size, A(0));
    in_groups<8>(int64_t(x.size()), [&](int64_t r, auto group) {
      add_rows<T, decltype(group)::value>(&x[size_t(r)], width, pilot.data(), rest.data(), squares.data());
    });
  }
};

// Merge columns, the same channels k times side by side, into their channels.
template <class T>
inline void merge_columns(MomentsRow stats, const ColumnStats<T>& columns, const Sheet<T>& sheet) {
  Buffer<double> mean(sheet.channels), m2(sheet.channels);
  for (int64_t j = 0; j < sheet.k; ++j) {
    for (int64_t c = 0; c < sheet.channels; ++c) {
      const int64_t at = place<T>(j * sheet.channels + c);
      mean[c] = columns.mean[at];
      m2[c] = columns.m2[at];
    }
    stats.merge(columns.count, mean.data(), m2.data());
  }
}

// Merge the statistics of a sheet into those of its channels.
template <class T>
inline void sheet_stats(MomentsRow stats, const T* x, const Sheet<T>& sheet, const uint8_t* mask) {
  const int64_t whole = sheet.whole();
  ColumnStats<T> columns(sheet.width());
  std::vector<const T*> kept;
  for (int64_t start = 0, end; start < whole; start = end) {
    end = std::min(whole, start + (columns.count == 0 ? first_rows<T>(sheet.width()) : kBlockRows));
    kept.clear();
    for (int64_t r = start; r < end; ++r)
      if (!mask || mask[r]) kept.push_back(x + r * sheet.stride());
    columns.take(kept);
  }
  merge_columns(stats, columns, sheet);
  const T* tail = x + whole * sheet.stride();
  Buffer<double> wide(sheet.left());
  each_step<T>(wide.size(), [&](int64_t i, auto part) {
    const Values<T> v = load(tail + i, part);
    for (int64_t j = i; j < std::min(wide.size(), i + step<T>); ++j) {
      const int64_t at = place<T>(j - i);
      wide[j] = double(v.at[at / lanes<acc<T>>][at % lanes<acc<T>>]);
    }
  });
  for (int64_t i = 0; i < wide.size(); i += sheet.channels) stats.merge(1, &wide[i], nullptr);
}

// f(offset, R, length) over the long rows, R of them at a time, the rest one by one, the last perhaps shorter.
template <class T, int R, class F>
NW_INLINE void for_rows(const Sheet<T>& sheet, F f) {
  in_groups<R>(sheet.whole(), [&](int64_t r, auto group) NW_LAMBDA { f(r * sheet.stride(), group, sheet.width()); });
  if (sheet.left()) f(sheet.whole() * sheet.stride(), std::integral_constant<int, 1>{}, sheet.left());
}

// Row by row, in the order of the memory: that is up to a fifth faster than four rows that share what is loaded of the
// line.
template <class T, int K>
inline void apply_sheet(const T* x, const T* residual, T* y, const Sheet<T>& sheet, const AffineLine<T>& line, int act,
                        bool stream) {
  for_rows<T, 1>(sheet, [&](int64_t at, auto, int64_t length) NW_LAMBDA {
    each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
      apply_step<T, K>(x + at + i, shifted(residual, at + i), y + at + i, part, line.at(i), act, stream);
    });
  });
}

// Add columns, the same channels k times side by side, to their channels.
template <class T>
inline void add_columns(double* to, const acc<T>* columns, const Sheet<T>& sheet) {
  for (int64_t j = 0; j < sheet.k; ++j)
#pragma omp simd
    for (int64_t c = 0; c < sheet.channels; ++c) to[c] += double(columns[place<T>(j * sheet.channels + c)]);
}

// Σ g and Σ g·(x - mean) of each channel are added to sum_g and sum_gd.
template <class T, int K>
inline void sheet_sums(const Incoming<T> in, const Sheet<T>& sheet, const AffineLine<T>& line, int act, double* sum_g,
                       double* sum_gd) {
  using A = acc<T>;
  const int64_t size = padded<T>(sheet.width()), block = kBlockRows * sheet.k;
  Buffer<A> s(size), t(size);
  for (int64_t start = 0; start < sheet.rows; start += block) {
    const int64_t first = start * sheet.distance;
    std::fill_n(s.data(), size, A(0));
    std::fill_n(t.data(), size, A(0));
    for_rows<T, 4>(sheet.part(start, block), [&](int64_t at, auto group, int64_t length) NW_LAMBDA {
      each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
        const Affine<T> f = line.at(i);
        Values<T> sum = load_line<T>(s.data(), i), product = load_line<T>(t.data(), i);
#pragma GCC unroll 4
        for (int r = 0; r < decltype(group)::value; ++r) {
          const Incoming<T> here = in.at(first + at + r * sheet.stride() + i), later = here.at(kAhead);
          __builtin_prefetch(later.x, 0, 2);
          __builtin_prefetch(later.gy, 0, 2);
          gradient_step<T, K>(here, part, f, act,
                              [&](int w, vec<A> g, vec<A> d) NW_LAMBDA {
                                sum.at[w] += keep<T>(g, w, part);
                                product.at[w] += keep<T>(g * d, w, part);
                              });
        }
        store_line<T>(s.data(), i, sum);
        store_line<T>(t.data(), i, product);
      });
    });
    add_columns<T>(sum_g, s.data(), sheet);
    add_columns<T>(sum_gd, t.data(), sheet);
  }
}

template <class T>
struct ThroughLine {
  Line<T> slope, offset;
  NW_INLINE Through<T> at(int64_t i) const { return {slope.at(i), offset.at(i)}; }
};

// The mask has a byte for each row, and needs k = 1.
template <class T, int K, bool Measured>
inline void grad_sheet(const Incoming<T> in, const uint8_t* mask, T* gx, T* gr, const Sheet<T>& sheet,
                       const AffineLine<T>& line, int act, const ThroughLine<T>& through, bool stream) {
  for_rows<T, 1>(sheet, [&](int64_t at, auto, int64_t length) NW_LAMBDA {
    const bool kept = Measured && (!mask || mask[at / sheet.distance]);
    each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
      const Incoming<T> here = in.at(at + i);
      T *to_x = gx + at + i, *to_residual = shifted(gr, at + i);
      if (kept)
        grad_step<T, K, true>(here, nullptr, to_x, to_residual, part, line.at(i), act, through.at(i), stream);
      else
        grad_step<T, K, false>(here, nullptr, to_x, to_residual, part, line.at(i), act, {}, stream);
    });
  });
}

}  // namespace nw
