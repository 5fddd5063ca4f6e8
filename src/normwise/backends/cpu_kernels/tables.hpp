// The four kernels over tables [N, C] of moments and coefficients, for contiguous and channels_last tensors.
#pragma once

#include "columns.hpp"

namespace nw {

// Tasks of about this many values: small enough to balance threads, independent of how many there are.
constexpr int64_t kGrain = 65536;
// Below this many values a second thread costs more than it saves.
constexpr int64_t kSerial = 32768;
// Rows of a channels_last task: what is prepared for each channel must be little beside them.
constexpr int64_t kLeastRows = 64;

struct Shape {
  int64_t N, C, S;
  bool last;  // channels_last: [N, S, C]
  int threads;
  int64_t stride = C * S;  // from one sample to the next
  int64_t row = C;         // channels_last: from one position to the next
  bool tile = false;       // small, and on one thread: nothing is cut

  int64_t numel() const { return N * C * S; }
  // A sheet is a plane, or a sample whose channels are last. It is cut into pieces of values, or of rows.
  int64_t sheets() const { return last ? N : N * C; }
  int64_t step() const {
    if (tile) return std::max<int64_t>(S, 1);
    return last ? std::max(kLeastRows, kGrain / std::max<int64_t>(C, 1)) : kGrain;
  }
  int64_t pieces() const { return (S + step() - 1) / step(); }
};

// f(task) for every task, on the threads of the process' one OpenMP pool. What a task computes depends on nothing
// but its number, so that the result does not depend on the threads.
template <class F>
inline void parallel(int threads, int64_t tasks, F f) {
  auto run = [&](int64_t i) __attribute__((noinline)) { f(i); };  // compiled once for both loops
  threads = int(std::min<int64_t>(threads, tasks));
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) run(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < tasks; ++i) run(i);
}

// Part of a plane, or rows of a sample.
struct Piece {
  int64_t index;  // among all pieces
  int64_t n, c;   // of the plane; c = 0 where the channels are last
  int64_t first, count;
  int64_t at;  // offset of its first value
};

template <class T>
Sheet<T> sheet_of(const Shape& shape, const Piece& piece, bool single = false) {
  return {piece.count, shape.C, shape.row, single};
}

// of_plane(piece) or, where the channels are last, of_rows(piece) for every piece; tiny ones share a task. Inlined: a
// plane of 7 x 7 takes less time than a call that passes vectors.
template <class Plane, class Rows>
NW_INLINE void for_pieces(const Shape& shape, Plane of_plane, Rows of_rows) {
  const int64_t pieces = shape.pieces(), step = shape.step(), all = shape.sheets() * pieces;
  const int64_t size = std::max<int64_t>(1, std::min(step, shape.S) * (shape.last ? shape.C : 1));
  const int64_t together = std::max<int64_t>(1, kGrain / 2 / size), tasks = (all + together - 1) / together;
  parallel(shape.numel() < kSerial ? 1 : shape.threads, tasks, [&](int64_t task) {
    const int64_t start = task * together, end = std::min(all, start + together);
    if (shape.last) {
      for (int64_t i = start; i < end; ++i) {
        const int64_t n = i / pieces, first = (i - n * pieces) * step;
        of_rows(Piece{i, n, 0, first, std::min(step, shape.S - first), n * shape.stride + first * shape.row});
      }
      return;
    }
    Piece piece{start, start / pieces / shape.C, start / pieces % shape.C, start % pieces * step, 0, 0};
    for (; piece.index < end; ++piece.index) {
      piece.count = std::min(step, shape.S - piece.first);
      piece.at = piece.n * shape.stride + piece.c * shape.S + piece.first;
      of_plane(piece);
      piece.first += step;
      if (piece.first >= shape.S) {
        piece.first = 0;
        if (++piece.c == shape.C) piece.c = 0, ++piece.n;
      }
    }
  });
}

template <class T>
NW_INLINE Values<T> everywhere(acc<T> value) {
  Values<T> v;
  for (auto& lanes : v.at) lanes = splat(value);
  return v;
}
template <class T>
struct Coefficients {
  Table<acc<T>> mean, scale, shift;
  NW_INLINE Affine<T> plane(int64_t n, int64_t c) const {
    return {everywhere<T>(mean.at(n, c)), everywhere<T>(scale.at(n, c)), everywhere<T>(shift.at(n, c))};
  }
  AffineLine<T> line(int64_t n, const Sheet<T>& sheet) const {
    return {{mean, n, sheet}, {scale, n, sheet}, {shift, n, sheet}};
  }
};

// What flows back through the statistics; without data where they were given.
template <class T>
struct Backflow {
  Table<acc<T>> slope, offset;
  bool measured() const { return slope.data != nullptr; }
};

// From the pieces' numbers, `wide` for each, to the planes', [N, C].
template <class P>
Buffer<P> join(const Shape& shape, Buffer<P> partial) {
  const int64_t pieces = shape.pieces(), wide = shape.last ? shape.C : 1;
  if (pieces == 1) return partial;
  Buffer<P> whole(shape.N * shape.C);
  for (int64_t sheet = 0; sheet < shape.sheets(); ++sheet)
    for (int64_t p = 0; p < pieces; ++p)
      for (int64_t c = 0; c < wide; ++c) whole[sheet * wide + c].merge(partial[(sheet * pieces + p) * wide + c]);
  return whole;
}
template <class P>
Buffer<P> for_each_piece(const Shape& shape) {
  return Buffer<P>(shape.sheets() * shape.pieces() * (shape.last ? shape.C : 1));
}

// Statistics of every plane, [N, C].
template <class T>
Buffer<Stats> measure(const Shape& shape, const T* x, const uint8_t* mask) {
  Buffer<Stats> partial = for_each_piece<Stats>(shape);
  auto kept = [&](const Piece& piece) { return shifted(mask, piece.n * shape.S + piece.first); };
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        partial[piece.index] = mask ? stats_of(x + piece.at, kept(piece), piece.count)
                                    : stats_of(x + piece.at, Runs{piece.count});
      },
      [&](const Piece& piece) {
        sheet_stats(&partial[piece.index * shape.C], x + piece.at, sheet_of<T>(shape, piece, mask != nullptr), kept(piece));
      });
  return join(shape, std::move(partial));
}

template <class T, int K>
void apply(const Shape& shape, const T* x, const T* residual, T* y, const Coefficients<T>& table, int act) {
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at;
        apply_run<T, K>(x + at, shifted(residual, at), y + at, piece.count, table.plane(piece.n, piece.c), act);
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        const int64_t at = piece.at;
        apply_sheet<T, K>(x + at, shifted(residual, at), y + at, sheet, table.line(piece.n, sheet), act);
      });
}

// Σ g and Σ g·(x - mean) of every plane, [N, C].
template <class T, int K>
Buffer<Pair> reduce(const Shape& shape, const Incoming<T>& in, const Coefficients<T>& table, int act) {
  Buffer<Pair> partial = for_each_piece<Pair>(shape);
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        partial[piece.index] =
            sums_of<T, K>(in.at(piece.at), Runs{piece.count}, table.plane(piece.n, piece.c), act);
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        sheet_sums<T, K>(in.at(piece.at), sheet, table.line(piece.n, sheet), act, &partial[piece.index * shape.C]);
      });
  return join(shape, std::move(partial));
}

template <class T, int K, bool Measured>
void differentiate_pieces(const Shape& shape, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr,
                          const Coefficients<T>& table, int act, const Backflow<T>& back) {
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at, n = piece.n, c = piece.c;
        const Through<T> through{everywhere<T>(back.slope.at(n, c)), everywhere<T>(back.offset.at(n, c))};
        grad_run<T, K, Measured>(in.at(at), shifted(mask, n * shape.S + piece.first), gx + at, shifted(gr, at),
                                 piece.count, table.plane(n, c), act, through);
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece, mask != nullptr);
        const int64_t at = piece.at, n = piece.n;
        const ThroughLine<T> through{{back.slope, n, sheet}, {back.offset, n, sheet}};
        grad_sheet<T, K, Measured>(in.at(at), shifted(mask, n * shape.S + piece.first), gx + at, shifted(gr, at), sheet,
                                   table.line(n, sheet), act, through);
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

// `reduce` and `differentiate` where nothing flows back through the statistics: then the gradient does not wait for the
// sums, and a piece is read once.
template <class T, int K>
Buffer<Pair> reduce_and_differentiate(const Shape& shape, const Incoming<T>& in, T* gx, T* gr,
                                      const Coefficients<T>& table, int act) {
  Buffer<Pair> partial = for_each_piece<Pair>(shape);
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at;
        const Affine<T> plane = table.plane(piece.n, piece.c);
        partial[piece.index] = sums_of<T, K>(in.at(at), Runs{piece.count}, plane, act);
        grad_run<T, K, false>(in.at(at), nullptr, gx + at, shifted(gr, at), piece.count, plane, act, {});
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        const AffineLine<T> line = table.line(piece.n, sheet);
        const ThroughLine<T> nothing{{{}, 0, sheet}, {{}, 0, sheet}};
        const int64_t at = piece.at;
        sheet_sums<T, K>(in.at(at), sheet, line, act, &partial[piece.index * shape.C]);
        grad_sheet<T, K, false>(in.at(at), nullptr, gx + at, shifted(gr, at), sheet, line, act, nothing);
      });
  return join(shape, std::move(partial));
}

// The sum of a table's rows, in their order.
template <class A>
void sum_rows(const Buffer<double>& table, int64_t rows, int64_t channels, A* out) {
  Buffer<double> sum(channels, 0);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t c = 0; c < channels; ++c) sum[c] += table[n * channels + c];
  for (int64_t c = 0; c < channels; ++c) out[c] = A(sum[c]);
}

}  // namespace nw
