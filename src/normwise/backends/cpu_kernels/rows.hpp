// Normalization over neighbours: each row over its width (LayerNorm and RMSNorm of tokens, or of pixels whose channels
// are last), with the operations that follow.
#pragma once

#include "tables.hpp"

namespace nw {

// mean and 1/σ of a row or position; for the root mean square the mean is 0. The rounded mean is subtracted from the values,
// and its rounding error is added in units of σ.
struct Normal {
  double mean, root;
  template <class A>
  A left() const {
    return A((double(A(mean)) - mean) * root);
  }
};

// The work is divided into tasks of the same size for any number of threads: few enough that their sums need little room, and
// so small that sums over a task's rows in fp32 are exact enough.
struct Tasks {
  int64_t size, number;
  Tasks(int64_t units, int64_t values_per_unit)
      : size(std::clamp<int64_t>(std::max((units + 63) / 64, kGrain / 4 / std::max<int64_t>(1, values_per_unit)), 1, kBlockRows)),
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

// The number of rows that are processed together, as registers allow: they share the loads of the columns, and one is computed
// while another waits for its sums.
constexpr int kRowsAtOnce = kBytes == 64 ? 4 : 2;
// Longer rows wait less, and the same columns of several rows, a power of two apart, would share a few sets of the first-level
// cache.
constexpr int64_t kShortRow = 4096;  // bytes

template <class T>
bool is_short_row(int64_t width) {
  return width * int64_t(sizeof(T)) < kShortRow;
}

// f(row, integral_constant R) over rows of this width.
template <class T, class F>
NW_INLINE void in_groups_of_rows(int64_t rows, int64_t width, F f) {
  if (is_short_row<T>(width))
    in_groups<kRowsAtOnce>(rows, f);
  else
    in_groups<1>(rows, f);
}

// Σ d and Σ d² of R rows, `distance` apart, with d = x - pilot.
template <class T, int R>
NW_INLINE void squares_of_rows(const T* x, int64_t distance, int64_t width, const acc<T>* pilots, double* rests, double* powers) {
  using A = acc<T>;
  vec<A> rest[R], squares[R], pilot[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) rest[r] = squares[r] = vec<A>{}, pilot[r] = splat(pilots[r]);
  each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Values<T> v = load(x + r * distance + i, part);
      each_way<T>([&](int k) NW_LAMBDA {
        const vec<A> d = keep<T>(v.at[k] - pilot[r], k, part);
        rest[r] += d;
        squares[r] += d * d;
      });
    }
  });
  totals_of_each(rest, rests);
  totals_of_each(squares, powers);
}

// The statistics of R rows, `distance` apart. A short row has the same bits in a group and alone.
template <class T, int R>
NW_INLINE void normals_of(const T* x, int64_t distance, int64_t width, double eps, bool center, Normal* normals) {
  using A = acc<T>;
  if (!is_short_row<T>(width)) {
    for (int r = 0; r < R; ++r) normals[r] = normal_of(x + r * distance, width, eps, center);
  } else {
    const double inverse = 1 / double(width);
    double rest[R], power[R];
    A pilot[R]{};
    if (center) {
      vec<A> sum[R]{};
      each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const Values<T> v = load(x + r * distance + i, part);
          __builtin_prefetch(x + (r + R) * distance + i, 0, 2);
          each_way<T>([&](int k) NW_LAMBDA { sum[r] += v.at[k]; });
        }
      });
      totals_of_each(sum, rest);
      for (int r = 0; r < R; ++r) pilot[r] = A(rest[r] * inverse);
    }
    squares_of_rows<T, R>(x, distance, width, pilot, rest, power);
    for (int r = 0; r < R; ++r) {
      const double off = center ? rest[r] * inverse : 0;
      const Stats stats{double(width), double(pilot[r]) + off, power[r] - rest[r] * off};
      normals[r] = {stats.mean, 1 / std::sqrt(stats.var(inverse) + eps)};
    }
  }
}

// A parameter of `channels` values as a line; `otherwise` if there is none.
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
  const T* residual;    // added to the normalized values, before the activation
  int act;
  // Forward: the tensor that is added to x first, and the destination of the sum, which is normalized. Or neither.
  const T* added = nullptr;
  T* sum = nullptr;

  const T* normalized() const { return added ? sum : x; }
  int workers() const { return rows * width < kSerial ? 1 : threads; }
  Normal normal(int64_t r) const { return {mean[r], root[r]}; }
};

// Wider rows are divided into blocks of columns, so that the data for every column stays in the first-level cache.
constexpr int64_t kWideRow = 16384;

// f(start, count) for every block of columns.
template <class F>
void for_blocks(int threads, int64_t width, F f) {
  parallel(threads, (width + kChunk - 1) / kChunk, [&](int64_t block) {
    f(block * kChunk, std::min(kChunk, width - block * kChunk));
  });
}

// f(begin, end) for every task's rows.
template <class T, class F>
void for_tasks(const RowCall<T>& call, F f) {
  const Tasks tasks(call.rows, call.width);
  parallel(call.workers(), tasks.number, [&](int64_t task) {
    f(task * tasks.size, std::min(call.rows, (task + 1) * tasks.size));
  });
}

// f(row, integral_constant R, normals) for the rows from `begin` on in groups, whose statistics are measured and written.
template <class T, class F>
NW_INLINE void for_measured_rows(const RowCall<T>& call, int64_t begin, int64_t end, double eps, F f) {
  in_groups_of_rows<T>(end - begin, call.width, [&](int64_t first, auto group) NW_LAMBDA {
    constexpr int R = decltype(group)::value;
    Normal normals[R];
    const int64_t row = begin + first;
    normals_of<T, R>(call.normalized() + row * call.width, call.width, call.width, eps, call.center, normals);
    for (int r = 0; r < R; ++r) call.mean[row + r] = normals[r].mean, call.root[row + r] = normals[r].root;
    f(row, group, normals);
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

// `Normal` as vectors: one value for a whole row, or one for each position.
template <class T>
struct NormalValues {
  Values<T> mean, root, left;
};
template <class T>
NW_INLINE NormalValues<T> everywhere(const Normal& normal) {
  using A = acc<T>;
  return {everywhere<T>(A(normal.mean)), everywhere<T>(A(normal.root)), everywhere<T>(normal.left<A>())};
}

// γ·((x - mean)/σ + left) + β, plus the residual if there is one: the value before the activation.
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
  const int64_t width = call.width;
  const auto measured = [&](int64_t begin, int64_t end, auto f) {
    if (call.added)
      for (int64_t r = begin, at = begin * width; r < end; ++r, at += width)
        add_part(call.x + at, call.added + at, call.sum + at, width);
    for_measured_rows(call, begin, end, eps, f);
  };
  if (width <= kWideRow) {
    const Line<T> weight = line_of<T>(call.weight, width, one), bias = line_of<T>(call.bias, width, zero);
    for_tasks(call, [&](int64_t begin, int64_t end) {
      measured(begin, end, [&](int64_t r, auto group, const Normal* normals) NW_LAMBDA {
        // Row by row, in the order of the memory, which makes the writes faster.
        for (int64_t i = 0, at = r * width; i < group; ++i, at += width)
          normalize_part<T, K>(x + at, shifted(call.residual, at), y + at, width, normals[i], weight, bias, call.act);
      });
    });
    return;
  }
  for_tasks(call, [&](int64_t begin, int64_t end) { measured(begin, end, [](int64_t, auto, const Normal*) {}); });
  for_blocks(call.workers(), width, [&](int64_t start, int64_t count) {
    const Line<T> weight = line_of<T>(shifted(call.weight, start), count, one);
    const Line<T> bias = line_of<T>(shifted(call.bias, start), count, zero);
    for (int64_t r = 0, at = start; r < call.rows; ++r, at += width)
      normalize_part<T, K>(x + at, shifted(call.residual, at), y + at, count, call.normal(r), weight, bias, call.act);
  });
}

}  // namespace nw
