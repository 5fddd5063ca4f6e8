// The four kernels over tables [N, C] of moments and coefficients, for contiguous and channels_last tensors.
#pragma once

#include "sheets.hpp"

namespace nw {

// Tasks of about this many values: small enough to balance threads, independent of how many there are.
constexpr int64_t kGrain = 65536;
// Below this many values a second thread costs more than it saves.
constexpr int64_t kSerial = 32768;

struct Shape {
  int64_t N, C, S;
  bool last;  // channels_last: [N, S, C]
  int threads;
  int64_t stride = C * S;  // from one sample to the next

  // Where a piece of a sheet (a plane, or a sample whose channels are last) begins.
  int64_t at(int64_t sheet, int64_t first) const {
    if (last) return sheet * stride + first * C;
    return sheet * S + first + (stride == C * S ? 0 : sheet / C * (stride - C * S));
  }
  int64_t numel() const { return N * C * S; }
  // How planes (rows of a sample, where the channels are last) are cut into tasks.
  int64_t step() const { return std::max<int64_t>(1, last ? kGrain / std::max<int64_t>(C, 1) : kGrain); }
  int64_t pieces() const { return (S + step() - 1) / step(); }
  int64_t sheets() const { return last ? N : N * C; }
};

// f(task) for every task, on the threads of the process' one OpenMP pool. What a task computes depends on nothing
// but its number, so that the result does not depend on the threads.
template <class F>
inline void parallel(int threads, int64_t tasks, F f) {
  threads = int(std::min<int64_t>(threads, tasks));
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) f(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < tasks; ++i) f(i);
}

// f(sheet, first, count): every piece of every plane, or of every sample's rows; tiny ones share a task.
template <class F>
inline void for_pieces(const Shape& shape, F f) {
  int64_t pieces = shape.pieces(), step = shape.step(), all = shape.sheets() * pieces;
  int64_t size = std::max<int64_t>(1, std::min(step, shape.S) * (shape.last ? shape.C : 1));
  int64_t together = std::max<int64_t>(1, kGrain / 2 / size), tasks = (all + together - 1) / together;
  parallel(shape.numel() < kSerial ? 1 : shape.threads, tasks, [&](int64_t task) {
    for (int64_t i = task * together; i < std::min(all, (task + 1) * together); ++i) {
      int64_t sheet = pieces == 1 ? i : i / pieces, first = (i - sheet * pieces) * step;
      f(sheet, first, std::min(step, shape.S - first));
    }
  });
}

// A table [N, C] with any strides; absent ones are zero.
template <class A>
struct Table {
  const A* data;
  int64_t of_sample, of_channel;
  A at(int64_t n, int64_t c) const { return data ? data[n * of_sample + c * of_channel] : A(0); }
};
template <class A>
struct Coefficients {
  Table<A> mean, scale, shift;
  Affine<One<A>> plane(int64_t n, int64_t c) const { return {{mean.at(n, c)}, {scale.at(n, c)}, {shift.at(n, c)}}; }
};
template <class A>
struct RepeatedAffine {
  Repeated<A> mean, scale, shift;
  RepeatedAffine(const Coefficients<A>& table, int64_t n, int64_t channels, int64_t k)
      : mean(channels, k, [&](int64_t c) { return table.mean.at(n, c); }),
        scale(channels, k, [&](int64_t c) { return table.scale.at(n, c); }),
        shift(channels, k, [&](int64_t c) { return table.shift.at(n, c); }) {}
  Affine<Each<A>> each() const { return {mean.each(), scale.each(), shift.each()}; }
};

template <class T>
inline T* shifted(T* p, int64_t by) {
  return p ? p + by : nullptr;
}

// Statistics of every plane, [N, C].
template <class T>
std::vector<Stats> measure(const Shape& shape, const T* x, const uint8_t* mask) {
  int64_t pieces = shape.pieces(), step = shape.step(), wide = shape.last ? shape.C : 1;
  std::vector<Stats> partial(size_t(shape.sheets() * pieces * wide));
  for_pieces(shape, [&](int64_t sheet, int64_t first, int64_t count) {
    Stats* out = &partial[size_t((sheet * pieces + first / step) * wide)];
    const uint8_t* m = shifted(mask, (shape.last ? sheet : sheet / shape.C) * shape.S + first);
    if (shape.last)
      sheet_stats(out, x + shape.at(sheet, first), count, shape.C, m);
    else
      take_run(*out, x + shape.at(sheet, first), m, count);
  });
  if (pieces == 1) return partial;
  std::vector<Stats> whole(size_t(shape.N * shape.C));
  for (int64_t sheet = 0; sheet < shape.sheets(); ++sheet)
    for (int64_t p = 0; p < pieces; ++p)
      for (int64_t c = 0; c < wide; ++c) whole[size_t(sheet * wide + c)].merge(partial[size_t((sheet * pieces + p) * wide + c)]);
  return whole;
}

template <class T, int K>
void apply(const Shape& shape, const T* x, const T* residual, T* y, const Coefficients<acc<T>>& table, int act) {
  using A = acc<T>;
  for_pieces(shape, [&](int64_t sheet, int64_t first, int64_t count) {
    const int64_t at = shape.at(sheet, first);
    if (!shape.last) {
      apply_run<T, K>(x + at, shifted(residual, at), y + at, count, table.plane(sheet / shape.C, sheet % shape.C), act);
      return;
    }
    int64_t k = rows_at_once<A>(count, shape.C);
    RepeatedAffine<A> f(table, sheet, shape.C, k);
    for_rows(count, shape.C, k, [&](int64_t i, int64_t n) {
      apply_run<T, K>(x + at + i, shifted(residual, at + i), y + at + i, n, f.each(), act);
    });
  });
}

// Σ g and Σ g·(x - mean) of every plane, [N, C][2].
template <class T, int K>
std::vector<double> reduce(const Shape& shape, const T* gy, const T* x, const T* residual,
                           const Coefficients<acc<T>>& table, int act) {
  using A = acc<T>;
  int64_t pieces = shape.pieces(), step = shape.step(), wide = 2 * (shape.last ? shape.C : 1);
  std::vector<double> partial(size_t(shape.sheets() * pieces * wide));
  for_pieces(shape, [&](int64_t sheet, int64_t first, int64_t count) {
    double* out = &partial[size_t((sheet * pieces + first / step) * wide)];
    const int64_t at = shape.at(sheet, first);
    if (!shape.last) {
      sum_run<T, K>(gy + at, x + at, shifted(residual, at), count, table.plane(sheet / shape.C, sheet % shape.C), act, out);
      return;
    }
    int64_t k = rows_at_once<A>(count, shape.C);
    RepeatedAffine<A> f(table, sheet, shape.C, k);
    sheet_sums<T, K>(gy + at, x + at, shifted(residual, at), count, shape.C, k, f.each(), act, out);
  });
  if (pieces == 1) return partial;
  std::vector<double> whole(size_t(shape.N * shape.C * 2));
  for (int64_t sheet = 0; sheet < shape.sheets(); ++sheet)
    for (int64_t p = 0; p < pieces; ++p)
      for (int64_t c = 0; c < wide; ++c) whole[size_t(sheet * wide + c)] += partial[size_t((sheet * pieces + p) * wide + c)];
  return whole;
}

// What flows back through the statistics; without data where they were given.
template <class A>
struct Through {
  Table<A> slope, offset;
  bool measured() const { return slope.data != nullptr; }
};

template <class T, int K>
void differentiate(const Shape& shape, const T* gy, const T* x, const T* residual, const uint8_t* mask, T* gx, T* gr,
                   const Coefficients<acc<T>>& table, int act, const Through<acc<T>>& through) {
  using A = acc<T>;
  for_pieces(shape, [&](int64_t sheet, int64_t first, int64_t count) {
    const int64_t at = shape.at(sheet, first);
    if (!shape.last) {
      int64_t n = sheet / shape.C, c = sheet % shape.C;
      grad_run<T, K>(gy + at, x + at, shifted(residual, at), shifted(mask, n * shape.S + first), gx + at, shifted(gr, at),
                     count, table.plane(n, c), act, through.measured(), One<A>{through.slope.at(n, c)},
                     One<A>{through.offset.at(n, c)});
      return;
    }
    int64_t k = mask ? 1 : rows_at_once<A>(count, shape.C);
    RepeatedAffine<A> f(table, sheet, shape.C, k);
    Repeated<A> slope(shape.C, k, [&](int64_t c) { return through.slope.at(sheet, c); });
    Repeated<A> offset(shape.C, k, [&](int64_t c) { return through.offset.at(sheet, c); });
    for_rows(count, shape.C, k, [&](int64_t i, int64_t n) {
      bool counted = through.measured() && (!mask || mask[sheet * shape.S + first + i / shape.C]);
      grad_run<T, K>(gy + at + i, x + at + i, shifted(residual, at + i), nullptr, gx + at + i, shifted(gr, at + i), n,
                     f.each(), act, counted, slope.each(), offset.each());
    });
  });
}

}  // namespace nw
