// Normalization over neighbours: each row over its width (LayerNorm and RMSNorm of tokens, or of pixels whose channels
// are last), with what follows it.
#pragma once

#include "tables.hpp"

namespace nw {

// mean and 1/σ of a row or position; of the root mean square, the mean is 0. Values are centered on the rounded mean,
// and what the rounding left over is added in units of σ.
struct Normal {
  double mean, root;
  template <class A>
  A left() const {
    return A((double(A(mean)) - mean) * root);
  }
};

// The work is cut into tasks of the same size whatever the threads, and into so few that their sums take little room.
struct Tasks {
  int64_t size, number;
  Tasks(int64_t units, int64_t values_per_unit)
      : size(std::max({(units + 63) / 64, kGrain / 4 / std::max<int64_t>(1, values_per_unit), int64_t(1)})),
        number((units + size - 1) / size) {}
};

template <class T>
Normal normal_of(const T* x, int64_t width, double eps, bool center) {
  const double inverse = 1 / double(width);
  if (center) {
    const Runs run{width};
    const Stats stats = width <= kChunk ? stats_of_chunk<T, false>(x, nullptr, run, inverse) : stats_of(x, run);
    return {stats.mean, 1 / std::sqrt(stats.var(inverse) + eps)};
  }
  double power = 0;
  for_chunks({width}, [&](int64_t at, const Runs& chunk) NW_LAMBDA {
    Sum<acc<T>> rest, squares;
    ints<acc<T>> kept{};
    add_squares<T, false>(rest, squares, kept, acc<T>(0), x + at, nullptr, chunk.length);
    power += squares.total();
  });
  return {0, 1 / std::sqrt(power * inverse + eps)};
}

// A parameter of `channels` values as a line: `otherwise` where there is none.
template <class T>
Line<T> line_of(const acc<T>* values, int64_t channels, const acc<T>& otherwise) {
  const Sheet<T> one(1, channels, channels, true);
  return Line<T>(values ? Table<acc<T>>{values, 0, 1} : Table<acc<T>>{&otherwise, 0, 0}, 0, one);
}

template <class T>
struct RowCall {
  int64_t rows, width;
  int threads;
  bool center;
  const T* x;
  const acc<T>*weight, *bias;
  double *mean, *root;  // [rows]
  const T* residual;    // is added to what was normalized, before the activation
  int act;
  // Forward: what is added to x before anything else, and where the sum goes, which is normalized. Or neither.
  const T* added = nullptr;
  T* sum = nullptr;

  const T* normalized() const { return added ? sum : x; }
  int workers() const { return rows * width < kSerial ? 1 : threads; }
  Normal normal(int64_t r) const { return {mean[r], root[r]}; }
};

// Rows wider than this are cut into blocks of columns, so that what is kept for every column stays in the first cache.
constexpr int64_t kWideRow = 16384;

// f(start, count) for every block of columns.
template <class F>
void for_blocks(int threads, int64_t width, F f) {
  parallel(threads, (width + kChunk - 1) / kChunk, [&](int64_t block) {
    f(block * kChunk, std::min(kChunk, width - block * kChunk));
  });
}

// f(row) for every row, in tasks.
template <class T, class F>
void for_each_row(const RowCall<T>& call, F f) {
  const Tasks tasks(call.rows, call.width);
  parallel(call.workers(), tasks.number, [&](int64_t task) {
    for (int64_t r = task * tasks.size; r < std::min(call.rows, (task + 1) * tasks.size); ++r) f(r);
  });
}

template <class T>
void add_part(const T* x, const T* added, T* sum, int64_t count) {
  each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
    const Values<T> v = load(x + i, part), a = load(added + i, part);
    Values<T> out;
    each_way<T>([&](int k) NW_LAMBDA { out.at[k] = v.at[k] + a.at[k]; });
    store(sum + i, out, part);
  });
}

// As vectors: the same of a whole row, or one of each position.
template <class T>
struct NormalValues {
  Values<T> mean, root, left;
};
template <class T>
NW_INLINE NormalValues<T> everywhere(const Normal& normal) {
  using A = acc<T>;
  return {everywhere<T>(A(normal.mean)), everywhere<T>(A(normal.root)), everywhere<T>(normal.left<A>())};
}

// γ·((x - mean)/σ + left) + β, and the residual, if there is one: before the activation.
template <class T, class P>
NW_INLINE Values<T> scaled(const T* x, const T* residual, P part, const NormalValues<T>& normal, const Values<T>& weight,
                           const Values<T>& bias) {
  const Values<T> v = load(x, part), r = residual ? load(residual, part) : Values<T>{};
  Values<T> z;
  each_way<T>([&](int k) NW_LAMBDA {
    z.at[k] = ((v.at[k] - normal.mean.at[k]) * normal.root.at[k] + normal.left.at[k]) * weight.at[k] + bias.at[k];
    if (residual) z.at[k] += r.at[k];
  });
  return z;
}

template <class T, int K>
void normalize_part(const T* x, const T* residual, T* y, int64_t count, const Normal& normal, const Line<T>& weight,
                    const Line<T>& bias, int act) {
  const NormalValues<T> values = everywhere<T>(normal);
  lean_or_not(!residual, [&](auto lean) NW_LAMBDA {
    const auto z = [&](int64_t i, auto part) NW_LAMBDA {
      return scaled(x + i, lean ? nullptr : shifted(residual, i), part, values, weight.at(i), bias.at(i));
    };
    apply_steps<T, K>(count, z, x, residual, y, act, false);
  });
}

template <class T, int K>
void normalize_rows(const RowCall<T>& call, double eps, T* y) {
  const acc<T> one = 1, zero = 0;
  const T* x = call.normalized();
  const auto measured = [&](int64_t r) {
    const int64_t at = r * call.width;
    if (call.added) add_part(call.x + at, call.added + at, call.sum + at, call.width);
    const Normal normal = normal_of(x + at, call.width, eps, call.center);
    call.mean[r] = normal.mean;
    call.root[r] = normal.root;
    return normal;
  };
  if (call.width <= kWideRow) {
    const Line<T> weight = line_of<T>(call.weight, call.width, one), bias = line_of<T>(call.bias, call.width, zero);
    for_each_row(call, [&](int64_t r) {
      const int64_t at = r * call.width;
      const Normal normal = measured(r);
      normalize_part<T, K>(x + at, shifted(call.residual, at), y + at, call.width, normal, weight, bias, call.act);
    });
    return;
  }
  for_each_row(call, measured);
  for_blocks(call.workers(), call.width, [&](int64_t start, int64_t count) {
    const Line<T> weight = line_of<T>(shifted(call.weight, start), count, one);
    const Line<T> bias = line_of<T>(shifted(call.bias, start), count, zero);
    for (int64_t r = 0, at = start; r < call.rows; ++r, at += call.width)
      normalize_part<T, K>(x + at, shifted(call.residual, at), y + at, count, call.normal(r), weight, bias, call.act);
  });
}

}  // namespace nw
