// The four kernels over tables [N, C] of moments and coefficients, for contiguous and channels_last tensors.
#pragma once

#include "columns.hpp"

namespace nw {

// Tasks of about this many values: small enough to balance threads, independent of how many there are.
constexpr int64_t kGrain = 65536;
// Below this many values a second thread costs more than it saves.
constexpr int64_t kSerial = 32768;
// A channels_last task has at least so many rows, and where there are more at least so many tasks share them: what is
// prepared for each channel must be little beside the rows.
constexpr int64_t kLeastRows = 64, kLeastTasks = 8;

struct Shape {
  int64_t N, C, S;
  bool last;  // channels_last: [N, S, C]
  int threads;
  int64_t stride = C * S;  // from one sample to the next
  int64_t row = C;         // channels_last: from one position to the next
  bool tile = false;       // small, and on one thread: nothing is cut
  bool stream = false;     // results go past the caches
  bool backwards = false;  // from the last piece to the first

  int64_t numel() const { return N * C * S; }
  // A sheet is a plane, or a sample whose channels are last. It is cut into pieces of values, or of rows.
  int64_t sheets() const { return last ? N : N * C; }
  int64_t step() const {
    if (tile) return std::max<int64_t>(S, 1);
    return last ? std::max(kLeastRows, std::min(4 * kGrain / std::max<int64_t>(C, 1), S / kLeastTasks)) : kGrain;
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
  int64_t row;   // of a table [N · pieces, C]
  int64_t n, c;  // of the plane; c = 0 where the channels are last
  int64_t first, count;
  int64_t at;  // offset of its first value
};

// Outputs from this size on are written past the caches: the next reader finds less of them there, but reading the
// memory before it is overwritten takes longer than that (measured with 12.8 MB, which loses, and 25.7 MB, which gains).
constexpr int64_t kStreamBytes = 16 << 20;

template <class T>
bool may_stream(const Shape& s, const T* y, const T* other) {
  const int64_t line = (s.last ? s.C : s.S) * int64_t(sizeof(T));
  const auto aligned = [](const T* p) { return reinterpret_cast<uintptr_t>(p) % kBytes == 0; };
  return s.numel() * int64_t(sizeof(T)) >= kStreamBytes && line % kBytes == 0 && aligned(y) && aligned(other);
}

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
    const int64_t start = (shape.backwards ? tasks - 1 - task : task) * together, end = std::min(all, start + together);
    if (shape.last) {
      for (int64_t i = start; i < end; ++i) {
        const int64_t n = i / pieces, first = (i - n * pieces) * step;
        of_rows(Piece{i, n, 0, first, std::min(step, shape.S - first), n * shape.stride + first * shape.row});
      }
    } else {
      // Channel by channel, so that the pieces of a plane are neighbours.
      const int64_t n = start / pieces / shape.C, p = start % pieces;
      Piece piece{n * pieces + p, n, start / pieces % shape.C, p * step, 0, 0};
      for (int64_t i = start; i < end; ++i) {
        piece.count = std::min(step, shape.S - piece.first);
        piece.at = piece.n * shape.stride + piece.c * shape.S + piece.first;
        of_plane(piece);
        piece.first += step;
        ++piece.row;
        if (piece.first >= shape.S) {
          piece.first = 0;
          if (++piece.c == shape.C) piece.c = 0, ++piece.n;
          piece.row = piece.n * pieces;
        }
      }
    }
    if (shape.stream) streamed();
  });
}

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

template <class T, int K>
void apply(const Shape& shape, const T* x, const T* residual, T* y, const Coefficients<T>& table, int act) {
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at;
        apply_run<T, K>(x + at, shifted(residual, at), y + at, piece.count, table.plane(piece.n, piece.c), act,
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

// Whether planes are so short that several are treated together.
template <class T>
bool short_planes(const Shape& s) {
  return !s.last && s.S <= 4 * step<T>;
}

// f(n, c, planes) over all planes, at most a vector's lanes of one sample at a time.
template <class T, class F>
NW_INLINE void for_short_planes(const Shape& shape, F f) {
  constexpr int L = lanes<acc<T>>;
  const int64_t width = std::max<int64_t>(1, kGrain / 2 / shape.S / L) * L, parts = (shape.C + width - 1) / width;
  parallel(shape.numel() < kSerial ? 1 : shape.threads, shape.N * parts, [&](int64_t task) {
    const int64_t n = task / parts, first = task % parts * width, end = std::min(shape.C, first + width);
    for (int64_t c = first; c < end; c += L) f(n, c, std::min<int64_t>(L, end - c));
  });
}

template <class T, int K>
Sums reduce_short(const Shape& shape, const Incoming<T>& in, const Coefficients<T>& table, int act) {
  Sums sums(shape.N, shape.C);
  for_short_planes<T>(shape, [&](int64_t n, int64_t c, int64_t planes) NW_LAMBDA {
    sums_of_planes<T, K>(in.at(n * shape.stride + c * shape.S), shape.S, planes,
                         [&](int64_t p) NW_LAMBDA { return table.plane(n, c + p); }, act, sums.row(0, n) + c,
                         sums.row(1, n) + c);
  });
  return sums;
}

// Of every plane, [N, C].
template <class T, int K>
Sums reduce(const Shape& shape, const Incoming<T>& in, const Coefficients<T>& table, int act) {
  if (short_planes<T>(shape)) return reduce_short<T, K>(shape, in, table, act);
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
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t at = piece.at, n = piece.n, c = piece.c;
        const Through<T> through{everywhere<T>(back.slope.at(n, c)), everywhere<T>(back.offset.at(n, c))};
        grad_run<T, K, Measured>(in.at(at), shifted(mask, n * shape.S + piece.first), gx + at, shifted(gr, at),
                                 piece.count, table.plane(n, c), act, through, shape.stream);
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

// `reduce` and `differentiate` where nothing flows back through the statistics: then the gradient does not wait for the
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
        grad_run<T, K, false>(in.at(at), nullptr, gx + at, shifted(gr, at), piece.count, plane, act, {}, shape.stream);
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
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t c = 0; c < channels; ++c) sum[c] += table[n * channels + c];
  for (int64_t c = 0; c < channels; ++c) out[c] = A(sum[c]);
}

}  // namespace nw
