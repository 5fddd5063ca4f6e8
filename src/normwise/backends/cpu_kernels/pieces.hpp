// The division of a tensor into tasks: pieces of planes, or rows of a sample whose channels are last.
#pragma once

#include "columns.hpp"

namespace nw {

// Tasks of about this many values: small enough to balance threads, independent of their number.
constexpr int64_t kGrain = 65536;
// Below this many values a second thread costs more than it saves.
constexpr int64_t kSerial = 32768;
// A channels_last task has at least this many rows, and more rows are divided into at least this many tasks: the preparation
// for each channel must be little compared with the rows.
constexpr int64_t kLeastRows = 64, kLeastTasks = 8;
// How tasks go to threads. The thread sanitizer's test gives neighbouring ones to different threads.
#ifndef NW_SCHEDULE
#define NW_SCHEDULE static
#endif

struct Shape {
  int64_t N, C, S;
  bool last;  // channels_last: [N, S, C]
  int threads;
  int64_t stride = C * S;  // from one sample to the next
  int64_t row = C;         // channels_last: from one position to the next
  bool tile = false;       // small, and on one thread: not divided
  bool stream = false;     // results are written past the caches
  bool backwards = false;  // from the last piece to the first

  int64_t numel() const { return N * C * S; }
  // A sheet is a plane, or a sample whose channels are last. It is divided into pieces of values, or of rows.
  int64_t sheets() const { return last ? N : N * C; }
  int64_t step() const {
    if (tile) return std::max<int64_t>(S, 1);
    return last ? std::max(kLeastRows, std::min(4 * kGrain / std::max<int64_t>(C, 1), S / kLeastTasks)) : kGrain;
  }
  int64_t pieces() const { return (S + step() - 1) / step(); }
};

// f(task) for every task, on the threads of the process' one OpenMP pool. A task's result depends only on
// its number, so that it does not depend on the threads. Each thread gets one run of neighbouring tasks, as in torch's own
// operators: with tasks in turn, two threads write lines of neighbouring channels' planes, and what one prefetches for writing
// (see store) is taken away from the other (BatchNorm of [8, 256, 28, 28] on two threads: 1.7 ms, and 0.2 with runs).
template <class F>
inline void parallel(int threads, int64_t tasks, F f) {
  auto run = [&](int64_t i) __attribute__((noinline)) { f(i); };  // compiled once for both loops
  threads = int(std::min<int64_t>(threads, tasks));
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) run(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(NW_SCHEDULE)
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
// memory before it is overwritten takes longer than that (measured: slower with 12.8 MB, faster with 25.7 MB).
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

// of_plane(piece) or, if the channels are last, of_rows(piece) for every piece; tiny pieces share a task. Inlined, since a
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

}  // namespace nw
