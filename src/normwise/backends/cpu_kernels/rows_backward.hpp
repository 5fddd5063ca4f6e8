// The gradients of normalized rows, and of the operations that followed them.
#pragma once

#include "line_sums.hpp"
#include "rows.hpp"

namespace nw {

// f(way, g, the normalized value) for each way.
template <class T, class P, class F>
NW_INLINE void normalized_step(const Values<T>& g, const T* x, P part, const NormalValues<T>& normal, F f) {
  const Values<T> v = load(x, part);
  each_way<T>([&](int k) NW_LAMBDA {
    f(k, g.at[k], keep<T>((v.at[k] - normal.mean.at[k]) * normal.root.at[k] + normal.left.at[k], k, part));
  });
}

// grad_y · f'(z) of a run of values that two passes read: with an activation, the first pass keeps it for the second.
template <class T, int K>
struct Slopes {
  const T *gy, *x;
  Values<T>* kept;

  // Room to keep the products of `count` values.
  static Buffer<Values<T>> room(int64_t count) { return Buffer<Values<T>>(K == kPlain ? 0 : steps_of<T>(count)); }

  // z(i, part) is the value before the activation.
  template <class Z>
  NW_INLINE void take(int64_t count, Z z, int act) const {
    if constexpr (K == kAny)
      for_steps_in_blocks<T>(count, [&](int64_t start, int64_t length) NW_LAMBDA {
        const auto here = [&](int64_t i, auto part) NW_LAMBDA { return z(start + i, part); };
        block_of_gradients(gy + start, x + start, length, here, act, kept + start / step<T>);
      });
    else if constexpr (K != kPlain)
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        const Values<T> g = load(gy + i, part), v = z(i, part);
        __builtin_prefetch(gy + count + i), __builtin_prefetch(x + count + i);
        each_way<T>([&](int w) NW_LAMBDA { kept[i / step<T>].at[w] = times_slope<T, K>(g.at[w], v.at[w]); });
      });
  }
  template <class P>
  NW_INLINE Values<T> at(int64_t i, P part) const {
    if constexpr (K != kPlain) return kept[i / step<T>];
    return load(gy + i, part);
  }
};

// Σ g·w and Σ g·w·(the normalized value) of R rows, `distance` apart, or of a part of each; they are added to the columns' sums.
template <class T, int R, int K>
void row_sums(const Slopes<T, K>* rows, int64_t distance, int64_t count, const Normal* normals, const Line<T>& weight,
              LineSums<T>& sums, Pair* found) {
  using A = acc<T>;
  constexpr int64_t chunk = kChunk / 4;  // a row has one sum of each kind, not four
  A *to_weights = sums.product.data(), *to_biases = sums.plain.data();
  Slopes<T, K> slopes[R];
  NormalValues<T> values[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) slopes[r] = rows[r], values[r] = everywhere<T>(normals[r]), found[r] = {};
  for (int64_t start = 0; start < count; start += chunk) {
    vec<A> plain[R], product[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) plain[r] = product[r] = vec<A>{};
    each_step<T>(std::min(chunk, count - start), [&](int64_t at, auto part) NW_LAMBDA {
      const int64_t i = start + at;
      const Values<T> w = weight.at(i);
      Values<T> to_weight = load_line<T>(to_weights, i), to_bias = load_line<T>(to_biases, i);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const T* x = slopes[r].x + i;
        __builtin_prefetch(x + R * distance, 0, 2);
        if constexpr (K == kPlain) __builtin_prefetch(slopes[r].gy + i + R * distance, 0, 2);
        normalized_step(slopes[r].at(i, part), x, part, values[r], [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
          const vec<A> weighted = g * w.at[k];
          to_weight.at[k] += g * normalized;
          to_bias.at[k] += g;
          plain[r] += weighted;
          product[r] += weighted * normalized;
        });
      }
      store_line<T>(to_weights, i, to_weight);
      store_line<T>(to_biases, i, to_bias);
    });
    double plain_totals[R], product_totals[R];
    totals_of_each(plain, plain_totals);
    totals_of_each(product, product_totals);
    for (int r = 0; r < R; ++r) found[r].g += plain_totals[r], found[r].gd += product_totals[r];
  }
  sums.rows_done(R);
}

// f(row, integral_constant R, found, slopes) for the rows from `begin` on in groups, with their sums over `count` columns;
// slopes_at(r, place) has the slopes of row r, stored in the place of that number.
template <class T, int K, class S, class F>
void for_row_sums(const RowCall<T>& call, int64_t begin, int64_t end, int64_t count, const Line<T>& weight,
                  LineSums<T>& sums, S slopes_at, F f) {
  in_groups<kRowsAtOnce>(end - begin, [&](int64_t first, auto group) {
    constexpr int R = decltype(group)::value;
    Slopes<T, K> slopes[R];
    Normal normals[R];
    Pair found[R];
    for (int r = 0; r < R; ++r)
      slopes[r] = slopes_at(begin + first + r, r), normals[r] = call.normal(begin + first + r);
    row_sums<T, R>(slopes, call.width, count, normals, weight, sums, found);
    f(begin + first, group, found, slopes);
  });
}

// Further inputs and outputs of the backward pass: `more`, if there is any, is added to the gradient of x, and so
// is the gradient through the statistics, `flow` [2, rows] of mean and variance. Without an activation the residual's
// gradient is grad_y itself, and gr is null.
template <class T>
struct RowGradients {
  const T *gy, *more;
  const double* flow;
  T *gx, *gr;
  acc<T>*gw, *gb;
};

// The gradient through a row's statistics for each of its values: normalized · along + across.
struct Back {
  double along, across;
  Back(const Pair& sums, const Normal& normal, int64_t width, bool center, const double* to_mean, const double* to_var) {
    const double each = 1 / double(width), share = normal.root * each;
    along = -sums.gd * share;
    across = center ? -sums.g * share : 0;
    if (!to_mean) return;
    along += 2 * *to_var * each / normal.root;
    across += *to_mean * each;
  }
};

// The gradient of a row's part, from the sums of the whole row: g·w/σ + (x - mean)·along/σ + (left·along + across).
template <class T, int K>
void row_gradient(const RowCall<T>& call, int64_t r, const RowGradients<T>& to, const Slopes<T, K> slopes, int64_t start,
                  int64_t count, const Pair& sums, const Line<T>& weight) {
  using A = acc<T>;
  const Normal normal = call.normal(r);
  const Back back(sums, normal, call.width, call.center, shifted(to.flow, r), shifted(to.flow, call.rows + r));
  const Values<T> mean = everywhere<T>(A(normal.mean)), root = everywhere<T>(A(normal.root));
  const Values<T> along = everywhere<T>(A(normal.root * back.along));
  const Values<T> across = everywhere<T>(A(double(normal.left<A>()) * back.along + back.across));
  const int64_t first = r * call.width + start;
  const T *x = call.x + first, *more = shifted(to.more, first);
  T *gx = shifted(to.gx, first), *gr = shifted(to.gr, first);
  lean_or_not(gx && !more && !gr, [&](auto lean) NW_LAMBDA {
    each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
      const Values<T> w = weight.at(i), v = load(x + i, part), g = slopes.at(i, part);
      const Values<T> m = !lean && more ? load(more + i, part) : Values<T>{};
      Values<T> out;
      each_way<T>([&](int k) NW_LAMBDA {
        out.at[k] = g.at[k] * w.at[k] * root.at[k] + ((v.at[k] - mean.at[k]) * along.at[k] + across.at[k]) + m.at[k];
      });
      if (lean || gx) store(gx + i, out, part);
      if (!lean && gr) store(gr + i, g, part);
    });
  });
}

// The slopes of a row's part, which depend on the bias if there is an activation.
template <class T, int K>
NW_INLINE Slopes<T, K> slopes_of(const RowCall<T>& call, const T* gy, int64_t r, int64_t start, int64_t count,
                                 const Line<T>& weight, const Line<T>& bias, Values<T>* room) {
  const int64_t first = r * call.width + start;
  const NormalValues<T> values = everywhere<T>(call.normal(r));
  const T *x = call.x + first, *residual = shifted(call.residual, first);
  const Slopes<T, K> slopes{gy + first, x, room};
  const auto z = [&](int64_t i, auto part) NW_LAMBDA {
    return scaled(x + i, shifted(residual, i), part, values, weight.at(i), bias.at(i));
  };
  slopes.take(count, z, call.act);
  return slopes;
}

template <class T, int K>
void differentiate_wide_rows(const RowCall<T>& call, const RowGradients<T>& to) {
  const acc<T> one = 1, zero = 0;
  const int64_t blocks = (call.width + kChunk - 1) / kChunk;
  Buffer<Pair> partial(call.rows * blocks);
  // f(start, count, weight, slopes) for each block of columns; slopes(r, place) has those of the block's part of row r.
  const auto for_parts = [&](auto f) {
    for_blocks(call.workers(), call.width, [&](int64_t start, int64_t count) {
      const Line<T> weight = line_of<T>(shifted(call.weight, start), count, one);
      const Line<T> bias = line_of<T>(shifted(call.bias, start), count, zero);
      auto room = Slopes<T, K>::room(kRowsAtOnce * padded<T>(count));
      f(start, count, weight, [&](int64_t r, int64_t place) {
        return slopes_of<T, K>(call, to.gy, r, start, count, weight, bias, room.data() + place * steps_of<T>(count));
      });
    });
  };
  for_parts([&](int64_t start, int64_t count, const Line<T>& weight, auto slopes) {
    TaskLines<T> lines(1, count, 1);
    LineSums<T> sums = lines.sums(0);
    for_row_sums<T, K>(call, 0, call.rows, count, weight, sums, slopes, [&](int64_t row, auto group, const Pair* found, auto) {
      for (int r = 0; r < group; ++r) partial[(row + r) * blocks + start / kChunk] = found[r];
    });
    sums.flush();
    lines.deliver(shifted(to.gw, start), shifted(to.gb, start));
  });
  if (!to.gx && !to.gr) return;
  for (int64_t r = 0; r < call.rows; ++r)
    for (int64_t b = 1; b < blocks; ++b) {
      partial[r * blocks].g += partial[r * blocks + b].g;
      partial[r * blocks].gd += partial[r * blocks + b].gd;
    }
  for_parts([&](int64_t start, int64_t count, const Line<T>& weight, auto slopes) {
    for (int64_t r = 0; r < call.rows; ++r)
      row_gradient(call, r, to, slopes(r, 0), start, count, partial[r * blocks], weight);
  });
}

template <class T, int K>
void differentiate_rows(const RowCall<T>& call, const RowGradients<T>& to) {
  if (call.width > kWideRow) return differentiate_wide_rows<T, K>(call, to);
  const acc<T> one = 1, zero = 0;
  const Line<T> weight = line_of<T>(call.weight, call.width, one), bias = line_of<T>(call.bias, call.width, zero);
  const Tasks tasks(call.rows, call.width);
  TaskLines<T> lines(tasks.number, call.width, call.workers());
  parallel(call.workers(), tasks.number, [&](int64_t task) {
    LineSums<T> sums = lines.sums(task);
    auto room = Slopes<T, K>::room(kRowsAtOnce * padded<T>(call.width));
    const auto slopes_at = [&](int64_t r, int64_t place) {
      Values<T>* kept = room.data() + place * steps_of<T>(call.width);
      return slopes_of<T, K>(call, to.gy, r, 0, call.width, weight, bias, kept);
    };
    const int64_t begin = task * tasks.size, end = std::min(call.rows, begin + tasks.size);
    for_row_sums<T, K>(call, begin, end, call.width, weight, sums, slopes_at, [&](int64_t r, auto group, const Pair* found, auto slopes) {
      for (int i = 0; (to.gx || to.gr) && i < group; ++i)
        row_gradient(call, r + i, to, slopes[i], 0, call.width, found[i], weight);
    });
    sums.flush();
  });
  lines.deliver(to.gw, to.gb);
}

}  // namespace nw
