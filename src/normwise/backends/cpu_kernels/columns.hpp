// The passes over a sheet: statistics, apply, and the two backward passes. Every column has its own coefficients.
#pragma once

#include <vector>

#include "sheets.hpp"
#include "sums.hpp"

namespace nw {

// The number of rows whose sums in fp32 are exact enough.
constexpr int64_t kBlockRows = 128;
// How many values ahead a pass over several rows at a time prefetches: the processor itself predicts less.
constexpr int64_t kAhead = 8192;
// The first rows are read twice, for their mean and around it: so few that they are still in the first-level cache.
template <class T>
inline int64_t first_rows(int64_t width) {
  return std::clamp<int64_t>(32768 / (width * int64_t(sizeof(T))), 8, kBlockRows);
}

template <class T, int R>
NW_INLINE void add_rows(const T* const* rows, int64_t width, const acc<T>* pilot, acc<T>* rest, acc<T>* squares) {
  const T* x[R];
  std::copy_n(rows, R, x);
  const int64_t ahead = R > 1 ? R * (x[1] - x[0]) : 0;  // to the next rows, which the processor does not predict
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

// The running moments of every column, all with the same count, in the order of the steps.
template <class T>
struct ColumnStats {
  using A = acc<T>;
  int64_t width, size;
  bool centered;  // otherwise the pilot is 0, and mean and m2 give the mean square without reading x again
  double count = 0;
  Buffer<double> mean, m2;
  Buffer<A> pilot, rest, squares;

  explicit ColumnStats(int64_t w, bool center = true)
      : width(w), size(padded<T>(w)), centered(center), mean(size, 0), m2(size, 0), pilot(size, 0), rest(size),
        squares(size) {}

  // x points to the retained rows of one block.
  void take(const std::vector<const T*>& x) {
    if (x.empty()) return;
    const double rows = double(x.size()), inverse = 1 / rows, sum = count + rows, share = rows / sum;
    const double weight = count * share;
    double *m = mean.data(), *squared = m2.data();
    A *p = pilot.data(), *s = rest.data(), *q = squares.data();
    if (count == 0 && centered) {
      add(x);
#pragma omp simd
      for (int64_t c = 0; c < size; ++c) p[c] = A(double(s[c]) * inverse);
    }
    add(x);
#pragma omp simd
    for (int64_t c = 0; c < size; ++c) {
      double off = double(s[c]) * inverse, delta = double(p[c]) + off - m[c];
      squared[c] += double(q[c]) - double(s[c]) * off + delta * delta * weight;
      m[c] += delta * share;
    }
    if (centered)
#pragma omp simd
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

// Row by row, in the order of the memory: a tenth to a fifth faster than four rows that share the loads of the coefficients.
template <class T, int K>
inline void apply_sheet(const T* x, const T* residual, T* y, const Sheet<T>& sheet, const AffineLine<T>& line, int act,
                        bool stream) {
  for_rows<T, 1>(sheet, [&](int64_t at, auto, int64_t length) NW_LAMBDA {
    const T* r = shifted(residual, at);
    const auto z = [&](int64_t i, auto part) NW_LAMBDA { return before(x + at + i, shifted(r, i), part, line.at(i)); };
    apply_steps<T, K>(length, z, x + at, r, y + at, act, stream);
  });
}

// g and g·(x - mean) of R rows, `stride` apart, are added to the columns' sums.
template <class T, int K, int R>
NW_INLINE void add_gradients(const Incoming<T> in, int64_t stride, int64_t length, const AffineLine<T>& line, int act,
                             acc<T>* s, acc<T>* t) {
  using A = acc<T>;
  const auto of_line = [&](int64_t i) NW_LAMBDA { return line.at(i); };
  const auto add = [&](int64_t at, auto part, auto each) NW_LAMBDA {
    Values<T> sum = load_line<T>(s, at), product = load_line<T>(t, at);
    each([&](int w, vec<A> g, vec<A> d, vec<A>) NW_LAMBDA {
      sum.at[w] += keep<T>(g, w, part);
      product.at[w] += keep<T>(g * d, w, part);
    });
    store_line<T>(s, at, sum);
    store_line<T>(t, at, product);
  };
  if constexpr (K == kAny) {
    with_gradients<T, K>(in, length, of_line, act, [&](int64_t start, int64_t count, auto gradient) NW_LAMBDA {
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        add(start + i, part, [&](auto take) NW_LAMBDA { gradient(i, part, take); });
      });
    });
  } else {
    each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
      const Affine<T> f = line.at(i);
      add(i, part, [&](auto take) NW_LAMBDA {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const Incoming<T> here = in.at(r * stride + i), later = here.at(kAhead);
          __builtin_prefetch(later.x, 0, 2);
          __builtin_prefetch(later.gy, 0, 2);
          gradient_step<T, K>(here, part, f, take);
        }
      });
    });
  }
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
    // An activation takes so much longer than a row's sums that several rows at a time would gain nothing.
    for_rows<T, K == kAny ? 1 : 4>(sheet.part(start, block), [&](int64_t at, auto group, int64_t length) NW_LAMBDA {
      add_gradients<T, K, decltype(group)::value>(in.at(first + at), sheet.stride(), length, line, act, s.data(), t.data());
    });
    add_columns<T>(sum_g, s.data(), sheet);
    add_columns<T>(sum_gd, t.data(), sheet);
  }
}

// The mask has a byte for each row, and needs k = 1.
template <class T, int K, bool Measured>
inline void grad_sheet(const Incoming<T> in, const uint8_t* mask, T* gx, T* gr, const Sheet<T>& sheet,
                       const AffineLine<T>& line, int act, const ThroughLine<T>& through, bool stream) {
  for_rows<T, 1>(sheet, [&](int64_t at, auto, int64_t length) NW_LAMBDA {
    const bool measured = Measured && (!mask || mask[at / sheet.distance]);
    const auto of_line = [&](int64_t i) NW_LAMBDA { return line.at(i); };
    with_gradients<T, K>(in.at(at), length, of_line, act, [&](int64_t start, int64_t count, auto gradient) NW_LAMBDA {
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        const int64_t c = start + i;
        T *to_x = gx + at + c, *to_residual = shifted(gr, at + c);
        if (measured)
          grad_step<T, true>(gradient, i, nullptr, to_x, to_residual, part, through.at(c), stream);
        else
          grad_step<T, false>(gradient, i, nullptr, to_x, to_residual, part, {}, stream);
      });
    });
  });
}

}  // namespace nw
