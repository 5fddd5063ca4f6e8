// Normalization over neighbours: each row over its width (LayerNorm and RMSNorm of tokens, or of pixels whose channels
// are last), and each position over its channels, where these are planes.
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

template <class T>
void normalize_part(const T* x, T* y, int64_t count, const Normal& normal, const Line<T>& weight, const Line<T>& bias) {
  using A = acc<T>;
  const A mean = A(normal.mean), root = A(normal.root), left = normal.left<A>();
  each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
    const Values<T> v = load(x + i, part), w = weight.at(i), b = bias.at(i);
    Values<T> out;
    each_way<T>([&](int k) NW_LAMBDA { out.at[k] = ((v.at[k] - mean) * root + left) * w.at[k] + b.at[k]; });
    store(y + i, out, part);
  });
}

template <class T>
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
      normalize_part(x + at, y + at, call.width, normal, weight, bias);
    });
    return;
  }
  for_each_row(call, measured);
  for_blocks(call.workers(), call.width, [&](int64_t start, int64_t count) {
    const Line<T> weight = line_of<T>(shifted(call.weight, start), count, one);
    const Line<T> bias = line_of<T>(shifted(call.bias, start), count, zero);
    for (int64_t r = 0, at = start; r < call.rows; ++r, at += call.width)
      normalize_part(x + at, y + at, count, call.normal(r), weight, bias);
  });
}

// f(way, g, the normalized value) for each way.
template <class T, class P, class F>
NW_INLINE void normalized_step(const T* gy, const T* x, P part, const Values<T>& mean, const Values<T>& root,
                               const Values<T>& left, F f) {
  const Values<T> g = load(gy, part), v = load(x, part);
  each_way<T>([&](int k) NW_LAMBDA {
    f(k, g.at[k], keep<T>((v.at[k] - mean.at[k]) * root.at[k] + left.at[k], k, part));
  });
}

// Sums over the rows of a task in two arrays, in the order of the steps, that move to fp64 every kBlockRows rows.
template <class T>
struct LineSums {
  Buffer<acc<T>> product, plain;
  Buffer<double> to_weight, to_bias;
  int64_t filled = 0;

  explicit LineSums(int64_t width)
      : product(padded<T>(width), 0), plain(padded<T>(width), 0), to_weight(width, 0), to_bias(width, 0) {}
  void row_done() {
    if (++filled == kBlockRows) flush();
  }
  void flush() {
    for (int64_t i = 0; i < to_weight.size(); ++i) {
      to_weight[i] += double(product[place<T>(i)]);
      to_bias[i] += double(plain[place<T>(i)]);
    }
    std::fill_n(product.data(), product.size(), acc<T>(0));
    std::fill_n(plain.data(), plain.size(), acc<T>(0));
    filled = 0;
  }
};

// Σ g·w and Σ g·w·(the normalized value) of a row, or of a part of one; the columns' sums grow by it.
template <class T>
Pair row_sums(const T* gy, const T* x, int64_t count, const Normal& normal, const Line<T>& weight, LineSums<T>& sums) {
  using A = acc<T>;
  const Values<T> mean = everywhere<T>(A(normal.mean)), root = everywhere<T>(A(normal.root));
  const Values<T> left = everywhere<T>(normal.left<A>());
  Pair found;
  for (int64_t start = 0; start < count; start += kChunk) {
    Sum<A> plain, product;
    sweep<T>(std::min(kChunk, count - start), [&](int64_t at, int slot, auto part) NW_LAMBDA {
      const int64_t i = start + at;
      const Values<T> w = weight.at(i);
      Values<T> to_weight = load_line<T>(sums.product.data(), i), to_bias = load_line<T>(sums.plain.data(), i);
      normalized_step(gy + i, x + i, part, mean, root, left, [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
        const vec<A> weighted = g * w.at[k], turned = g * normalized;
        to_weight.at[k] += turned;
        to_bias.at[k] += g;
        plain.slots[slot + k] += weighted;
        product.slots[slot + k] += weighted * normalized;
      });
      store_line<T>(sums.product.data(), i, to_weight);
      store_line<T>(sums.plain.data(), i, to_bias);
    });
    found.g += plain.total();
    found.gd += product.total();
  }
  sums.row_done();
  return found;
}

// What the backward pass writes and reads beside the call: `more`, if there is any, is added to the gradient of x.
template <class T>
struct RowGradients {
  const T *gy, *more;
  T* gx;
  acc<T>*gw, *gb;
};

// The gradient of a row's part, from the sums of the whole row.
template <class T>
void row_gradient(const RowCall<T>& call, int64_t r, const RowGradients<T>& to, int64_t start, int64_t count,
                  const Pair& sums, const Line<T>& weight) {
  using A = acc<T>;
  const Normal normal = call.normal(r);
  const Values<T> mean = everywhere<T>(A(normal.mean)), root = everywhere<T>(A(normal.root));
  const Values<T> left = everywhere<T>(normal.left<A>());
  const double share = normal.root / double(call.width);
  const A constant = call.center ? A(-sums.g * share) : A(0), slope = A(-sums.gd * share);
  const int64_t first = r * call.width + start;
  each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
    const Values<T> w = weight.at(i), more = to.more ? load(to.more + first + i, part) : Values<T>{};
    Values<T> out;
    normalized_step(to.gy + first + i, call.x + first + i, part, mean, root, left,
                    [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
                      out.at[k] = g * w.at[k] * root.at[k] + (normalized * slope + constant) + more.at[k];
                    });
    store(to.gx + first + i, out, part);
  });
}

template <class T>
void differentiate_wide_rows(const RowCall<T>& call, const RowGradients<T>& to) {
  const acc<T> one = 1;
  const int64_t blocks = (call.width + kChunk - 1) / kChunk;
  Buffer<Pair> partial(call.rows * blocks);
  for_blocks(call.workers(), call.width, [&](int64_t start, int64_t count) {
    const Line<T> weight = line_of<T>(shifted(call.weight, start), count, one);
    LineSums<T> sums(count);
    for (int64_t r = 0, at = start; r < call.rows; ++r, at += call.width)
      partial[r * blocks + start / kChunk] = row_sums(to.gy + at, call.x + at, count, call.normal(r), weight, sums);
    sums.flush();
    if (to.gw) std::copy_n(sums.to_weight.data(), count, to.gw + start);
    if (to.gb) std::copy_n(sums.to_bias.data(), count, to.gb + start);
  });
  if (!to.gx) return;
  for (int64_t r = 0; r < call.rows; ++r)
    for (int64_t b = 1; b < blocks; ++b) {
      partial[r * blocks].g += partial[r * blocks + b].g;
      partial[r * blocks].gd += partial[r * blocks + b].gd;
    }
  for_blocks(call.workers(), call.width, [&](int64_t start, int64_t count) {
    const Line<T> weight = line_of<T>(shifted(call.weight, start), count, one);
    for (int64_t r = 0; r < call.rows; ++r) row_gradient(call, r, to, start, count, partial[r * blocks], weight);
  });
}

template <class T>
void differentiate_rows(const RowCall<T>& call, const RowGradients<T>& to) {
  if (call.width > kWideRow) return differentiate_wide_rows(call, to);
  const acc<T> one = 1;
  const Line<T> weight = line_of<T>(call.weight, call.width, one);
  const Tasks tasks(call.rows, call.width);
  Buffer<double> to_weight(tasks.number * call.width), to_bias(tasks.number * call.width);
  parallel(call.workers(), tasks.number, [&](int64_t task) {
    LineSums<T> sums(call.width);
    for (int64_t r = task * tasks.size; r < std::min(call.rows, (task + 1) * tasks.size); ++r) {
      const int64_t at = r * call.width;
      const Pair of_row = row_sums(to.gy + at, call.x + at, call.width, call.normal(r), weight, sums);
      if (to.gx) row_gradient(call, r, to, 0, call.width, of_row, weight);
    }
    sums.flush();
    std::copy_n(sums.to_weight.data(), call.width, &to_weight[task * call.width]);
    std::copy_n(sums.to_bias.data(), call.width, &to_bias[task * call.width]);
  });
  if (to.gw) sum_rows(to_weight, tasks.number, call.width, to.gw);
  if (to.gb) sum_rows(to_bias, tasks.number, call.width, to.gb);
}

}  // namespace nw
