// The four kernels over tables [N, C] of moments and coefficients, for contiguous and channels_last tensors.
#pragma once

#include "joined.hpp"

namespace nw {

template <class T>
NW_INLINE Values<T> everywhere(acc<T> value) {
  Values<T> v;
  for (auto& lanes : v.at) lanes = splat(canonical<T>(value));
  return v;
}
template <class T>
struct Coefficients {
  Table<acc<T>> mean, scale, shift;
  NW_INLINE Affine<T> plane(int64_t n, int64_t c) const {
    return {everywhere<T>(mean.at(n, c)), everywhere<T>(scale.at(n, c)), everywhere<T>(shift.at(n, c))};
  }
  // f(p) has the coefficients of the p-th plane from there on.
  NW_INLINE auto planes_from(int64_t n, int64_t c) const {
    return [m = mean.from(n, c), a = scale.from(n, c), b = shift.from(n, c)](int64_t p) NW_LAMBDA {
      return Affine<T>{everywhere<T>(m[p]), everywhere<T>(a[p]), everywhere<T>(b[p])};
    };
  }
  AffineLine<T> line(int64_t n, const Sheet<T>& sheet) const {
    return {{mean, n, sheet}, {scale, n, sheet}, {shift, n, sheet}};
  }
};

// Slope and offset of the gradient through the statistics; without data if those were given.
template <class T>
struct Backflow {
  Table<acc<T>> slope, offset;
  bool measured() const { return slope.data != nullptr; }
  NW_INLINE Through<T> plane(int64_t n, int64_t c) const {
    return {everywhere<T>(slope.at(n, c)), everywhere<T>(offset.at(n, c))};
  }
  NW_INLINE auto planes_from(int64_t n, int64_t c) const {
    return [a = slope.from(n, c), b = offset.from(n, c)](int64_t p) NW_LAMBDA {
      return Through<T>{everywhere<T>(a[p]), everywhere<T>(b[p])};
    };
  }
};

// Statistics of every plane, [N, C].
template <class T>
Moments measure(const Shape& shape, const T* x, const uint8_t* mask) {
  Moments partial(shape.N * shape.pieces(), shape.C);
  auto kept = [&](const Piece& piece) { return shifted(mask, piece.n * shape.S + piece.first); };
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const Stats stats = mask ? stats_of(x + piece.at, kept(piece), piece.count)
                                 : stats_of(x + piece.at, Runs{piece.count});
        const MomentsRow row = partial.row(piece.row);
        if (piece.c == 0) *row.count = stats.count;
        row.mean[piece.c] = stats.mean;
        row.m2[piece.c] = stats.m2;
      },
      [&](const Piece& piece) {
        sheet_stats(partial.row(piece.row), x + piece.at, sheet_of<T>(shape, piece, mask != nullptr), kept(piece));
      });
  return std::move(partial).folded(shape.N);
}

// The table as mean and variance, [rows, C], and count, [rows] or null.
inline void put(const Moments& moments, double* mean, double* var, double* count) {
  for (int64_t r = 0, i = 0; r < moments.rows; ++r)
    for (int64_t c = 0; c < moments.channels; ++c, ++i) {
      mean[i] = moments.mean[i];
      var[i] = Stats{moments.count[r], mean[i], moments.m2[i]}.var();
    }
  if (count) std::copy_n(moments.count.data(), moments.rows, count);
}

template <class T, int K>
void apply(const Shape& shape, const T* x, const T* residual, T* y, const Coefficients<T>& table, int act) {
  if (joins<T>(shape))
    return for_joined(shape, [&](int64_t n, int64_t c, int64_t planes) {
      const int64_t at = n * shape.stride + c * shape.S;
      auto affine = along<T, Affine<T>>(shape.S, planes, table.planes_from(n, c));
      apply_run<T, K>(x + at, shifted(residual, at), y + at, planes * shape.S, [&](int64_t i) NW_LAMBDA { return affine.at(i); },
                      act, shape.stream);
    });
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at;
        apply_run<T, K>(x + at, shifted(residual, at), y + at, piece.count, same(table.plane(piece.n, piece.c)), act,
                        shape.stream);
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        const int64_t at = piece.at;
        apply_sheet<T, K>(x + at, shifted(residual, at), y + at, sheet, table.line(piece.n, sheet), act, shape.stream);
      });
}

// Σ g and Σ g·(x - mean) of every channel.
using Sums = Totals<2>;

inline void put(Sums& sums, const Piece& piece, const Pair& pair) {
  sums.row(0, piece.row)[piece.c] = pair.g;
  sums.row(1, piece.row)[piece.c] = pair.gd;
}

template <class T, int K>
Sums reduce_joined(const Shape& shape, const Incoming<T>& in, const Coefficients<T>& table, int act) {
  Sums found(shape.N, shape.C);
  for_joined(shape, [&](int64_t n, int64_t c, int64_t planes) {
    auto affine = along<T, Affine<T>>(shape.S, planes, table.planes_from(n, c));
    PlaneSums<T> sums(shape.S, planes, found.row(0, n) + c, found.row(1, n) + c);
    with_gradients<T, K>(in.at(n * shape.stride + c * shape.S), planes * shape.S,
                         [&](int64_t i) NW_LAMBDA { return affine.at(i); }, act,
                         [&](int64_t start, int64_t count, auto gradient) NW_LAMBDA {
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        sums.add(start + i, part, [&](auto take) NW_LAMBDA { gradient(i, part, take); });
      });
    });
    sums.finish();
  });
  return found;
}

// The sums of every plane, [N, C].
template <class T, int K>
Sums reduce(const Shape& shape, const Incoming<T>& in, const Coefficients<T>& table, int act) {
  if (joins<T>(shape)) return reduce_joined<T, K>(shape, in, table, act);
  Sums partial(shape.N * shape.pieces(), shape.C);
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        put(partial, piece, sums_of<T, K>(in.at(piece.at), Runs{piece.count}, table.plane(piece.n, piece.c), act));
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        sheet_sums<T, K>(in.at(piece.at), sheet, table.line(piece.n, sheet), act, partial.row(0, piece.row),
                         partial.row(1, piece.row));
      });
  return std::move(partial).folded(shape.N);
}

template <class T, int K, bool Measured>
void differentiate_pieces(const Shape& shape, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr,
                          const Coefficients<T>& table, int act, const Backflow<T>& back) {
  if (joins<T>(shape) && !mask)
    return for_joined(shape, [&](int64_t n, int64_t c, int64_t planes) {
      const int64_t at = n * shape.stride + c * shape.S;
      auto affine = along<T, Affine<T>>(shape.S, planes, table.planes_from(n, c));
      auto through = along<T, Through<T>>(shape.S, planes, back.planes_from(n, c));
      grad_run<T, K, Measured>(in.at(at), nullptr, gx + at, shifted(gr, at), planes * shape.S,
                               [&](int64_t i) NW_LAMBDA { return affine.at(i); }, act,
                               [&](int64_t i) NW_LAMBDA { return through.at(i); }, shape.stream);
    });
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at, n = piece.n, c = piece.c;
        grad_run<T, K, Measured>(in.at(at), shifted(mask, n * shape.S + piece.first), gx + at, shifted(gr, at),
                                 piece.count, same(table.plane(n, c)), act, same(back.plane(n, c)), shape.stream);
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece, mask != nullptr);
        const int64_t at = piece.at, n = piece.n;
        const ThroughLine<T> through{{back.slope, n, sheet}, {back.offset, n, sheet}};
        grad_sheet<T, K, Measured>(in.at(at), shifted(mask, n * shape.S + piece.first), gx + at, shifted(gr, at), sheet,
                                   table.line(n, sheet), act, through, shape.stream);
      });
}

template <class T, int K>
void differentiate(const Shape& shape, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr,
                   const Coefficients<T>& table, int act, const Backflow<T>& back) {
  if (back.measured())
    differentiate_pieces<T, K, true>(shape, in, mask, gx, gr, table, act, back);
  else
    differentiate_pieces<T, K, false>(shape, in, nullptr, gx, gr, table, act, back);
}

// `reduce` and `differentiate` for given statistics: then the gradient does not wait for the
// sums, and a piece is read once.
template <class T, int K>
Sums reduce_and_differentiate(const Shape& shape, const Incoming<T>& in, T* gx, T* gr, const Coefficients<T>& table,
                              int act) {
  Sums partial(shape.N * shape.pieces(), shape.C);
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at;
        const Affine<T> plane = table.plane(piece.n, piece.c);
        put(partial, piece, sums_of<T, K>(in.at(at), Runs{piece.count}, plane, act));
        grad_run<T, K, false>(in.at(at), nullptr, gx + at, shifted(gr, at), piece.count, same(plane), act,
                              same(Through<T>{}), shape.stream);
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        const AffineLine<T> line = table.line(piece.n, sheet);
        const ThroughLine<T> nothing{{{}, 0, sheet}, {{}, 0, sheet}};
        const int64_t at = piece.at;
        sheet_sums<T, K>(in.at(at), sheet, line, act, partial.row(0, piece.row), partial.row(1, piece.row));
        grad_sheet<T, K, false>(in.at(at), nullptr, gx + at, shifted(gr, at), sheet, line, act, nothing, shape.stream);
      });
  return std::move(partial).folded(shape.N);
}

// The sum of a table's rows, in their order.
template <class A>
void sum_rows(const Buffer<double>& table, int64_t rows, int64_t channels, A* out) {
  Buffer<double> sum(channels, 0);
  double* total = sum.data();
  for (int64_t n = 0; n < rows; ++n) {
    const double* row = table.data() + n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) total[c] += row[c];
  }
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) out[c] = A(total[c]);
}

}  // namespace nw
