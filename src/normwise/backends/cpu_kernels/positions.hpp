// Normalization of each position over its channels, where these are planes: LayerNorm2d and RMSNorm2d of contiguous maps.
#pragma once

#include "fused.hpp"
#include "rows_backward.hpp"

namespace nw {

template <class T>
struct PositionCall {
  using A = acc<T>;
  int64_t N, C, S;
  int threads;
  bool center;
  const T* x;
  const A *weight, *bias;
  double *mean, *root;  // [N, S]
  const T* residual;
  int act;

  int workers() const { return N * C * S < kSerial ? 1 : threads; }
  // The positions that are processed together: their channels stay in the cache.
  int64_t block(size_t bytes_per_value) const {
    const int64_t most = tile_bytes() / 2 / (C * int64_t(bytes_per_value)) / step<T> * step<T>;
    return std::clamp<int64_t>(most, 4 * step<T>, 32 * step<T>);
  }
  A weight_of(int64_t c) const { return weight ? canonical<T>(weight[c]) : A(1); }
  A bias_of(int64_t c) const { return bias ? canonical<T>(bias[c]) : A(0); }
};

// The lines of a block of positions.
template <class T>
struct Normals {
  Buffer<acc<T>> mean, root, left;
  explicit Normals(int64_t size) : mean(size, 0), root(size, 0), left(size, 0) {}
  void set(int64_t i, const Normal& normal) {
    mean[i] = acc<T>(normal.mean);
    root[i] = acc<T>(normal.root);
    left[i] = normal.left<acc<T>>();
  }
  NW_INLINE NormalValues<T> at(int64_t i) const {
    return {load_line<T>(mean.data(), i), load_line<T>(root.data(), i), load_line<T>(left.data(), i)};
  }
};

// f(block, n, first, count) for every block of positions of every sample.
template <class T, class F>
void for_blocks(const PositionCall<T>& call, int64_t size, F f) {
  const int64_t blocks = (call.S + size - 1) / size;
  parallel(call.workers(), call.N * blocks, [&](int64_t i) {
    const int64_t n = i / blocks, first = i % blocks * size;
    f(i, n, first, std::min(size, call.S - first));
  });
}

template <class T>
void measure_positions(const PositionCall<T>& call, double eps, int64_t n, int64_t first, int64_t count,
                       Normals<T>& normals) {
  ColumnStats<T> columns(count, call.center);
  std::vector<const T*> planes;
  for (int64_t start = 0, end; start < call.C; start = end) {
    end = std::min(call.C, start + (columns.count == 0 ? first_rows<T>(count) : kBlockRows));
    planes.clear();
    for (int64_t c = start; c < end; ++c) planes.push_back(call.x + (n * call.C + c) * call.S + first);
    columns.take(planes);
  }
  const double inverse = 1 / double(call.C);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = place<T>(i);
    const Stats stats{double(call.C), columns.mean[at], columns.m2[at]};
    // Without centering the pilot stays 0, so that mean and m2 give the mean square.
    const double power = stats.var(inverse) + (call.center ? 0 : stats.mean * stats.mean);
    const Normal normal{call.center ? stats.mean : 0, 1 / std::sqrt(power + eps)};
    call.mean[n * call.S + first + i] = normal.mean;
    call.root[n * call.S + first + i] = normal.root;
    normals.set(at, normal);
  }
}

template <class T, int K>
void normalize_positions(const PositionCall<T>& call, double eps, T* y) {
  const int64_t size = call.block(sizeof(T));
  for_blocks(call, size, [&](int64_t, int64_t n, int64_t first, int64_t count) {
    Normals<T> normals(padded<T>(count));
    measure_positions(call, eps, n, first, count, normals);
    for (int64_t c = 0; c < call.C; ++c) {
      const int64_t at = (n * call.C + c) * call.S + first;
      const Values<T> w = everywhere<T>(call.weight_of(c)), b = everywhere<T>(call.bias_of(c));
      const T *x = call.x + at, *residual = shifted(call.residual, at);
      lean_or_not(!residual, [&](auto lean) NW_LAMBDA {
        const auto z = [&](int64_t i, auto part) NW_LAMBDA {
          return scaled(x + i, lean ? nullptr : shifted(residual, i), part, normals.at(i), w, b);
        };
        apply_steps<T, K>(count, z, x, residual, y + at, call.act, false);
      });
    }
  });
}

// A block of positions in the backward pass.
template <class T, int K>
struct PositionBlock {
  using A = acc<T>;
  const PositionCall<T>& call;
  const RowGradients<T>& to;
  int64_t n, first, count, length = padded<T>(count);
  Normals<T> normals{length};
  // Σ g·w of each position and Σ g·w·(the normalized value); then the gradient through its statistics for each value.
  Buffer<A> across{length, 0}, along{length, 0};
  Buffer<Values<T>> room = Slopes<T, K>::room(call.C * length);

  int64_t at(int64_t c) const { return (n * call.C + c) * call.S + first; }
  NW_INLINE Slopes<T, K> slopes(int64_t c) { return {to.gy + at(c), call.x + at(c), room.data() + c * (length / step<T>)}; }
  Normal normal(int64_t i) const {
    const int64_t position = n * call.S + first + i;
    return {call.mean[position], call.root[position]};
  }

  // The sums of every channel, too, for the parameters.
  void sum(double* to_weight, double* to_bias) {
    for (int64_t i = 0; i < count; ++i) normals.set(place<T>(i), normal(i));
    for (int64_t c = 0; c < call.C; ++c) {
      const T *x = call.x + at(c), *residual = shifted(call.residual, at(c));
      const Values<T> w = everywhere<T>(call.weight_of(c)), b = everywhere<T>(call.bias_of(c));
      const auto z = [&](int64_t i, auto part) NW_LAMBDA {
        return scaled(x + i, shifted(residual, i), part, normals.at(i), w, b);
      };
      const auto g_of = slopes(c);
      g_of.take(count, z, call.act);
      Sum<A> plain, product;
      sweep<T>(count, [&](int64_t i, int slot, auto part) NW_LAMBDA {
        Values<T> a = load_line<T>(across.data(), i), l = load_line<T>(along.data(), i);
        normalized_step(g_of.at(i, part), x + i, part, normals.at(i), [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
          const vec<A> turned = g * normalized;
          plain.slots[slot + k] += keep<T>(g, k, part);
          product.slots[slot + k] += turned;
          a.at[k] += g * w.at[k];
          l.at[k] += turned * w.at[k];
        });
        store_line<T>(across.data(), i, a);
        store_line<T>(along.data(), i, l);
      });
      to_weight[c] = product.total();
      to_bias[c] = plain.total();
    }
  }

  void differentiate() {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = n * call.S + first + i, p = place<T>(i);
      const double* flow = shifted(to.flow, position);
      const Back back({double(across[p]), double(along[p])}, normal(i), call.C, call.center, flow,
                      shifted(flow, call.N * call.S));
      across[p] = A(back.across);
      along[p] = A(back.along);
    }
    for (int64_t c = 0; c < call.C; ++c) {
      const T* x = call.x + at(c);
      T *gx = shifted(to.gx, at(c)), *gr = shifted(to.gr, at(c));
      const Values<T> w = everywhere<T>(call.weight_of(c));
      const auto g_of = slopes(c);
      lean_or_not(gx && !gr, [&](auto lean) NW_LAMBDA {
        each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
          const NormalValues<T> here = normals.at(i);
          const Values<T> constant = load_line<T>(across.data(), i), slope = load_line<T>(along.data(), i);
          const Values<T> g = g_of.at(i, part);
          Values<T> out;
          normalized_step(g, x + i, part, here, [&](int k, vec<A> g_k, vec<A> normalized) NW_LAMBDA {
            out.at[k] = g_k * w.at[k] * here.root.at[k] + (normalized * slope.at[k] + constant.at[k]);
          });
          if (lean || gx) store(gx + i, out, part);
          if (!lean && gr) store(gr + i, g, part);
        });
      });
    }
  }
};

template <class T, int K>
void differentiate_positions(const PositionCall<T>& call, const RowGradients<T>& to) {
  const int64_t size = call.block(2 * sizeof(T) + (K == kPlain ? 0 : sizeof(acc<T>)));
  const int64_t blocks = call.N * ((call.S + size - 1) / size);
  Buffer<double> to_weight(blocks * call.C), to_bias(blocks * call.C);
  for_blocks(call, size, [&](int64_t i, int64_t n, int64_t first, int64_t count) {
    PositionBlock<T, K> block{call, to, n, first, count};
    block.sum(&to_weight[i * call.C], &to_bias[i * call.C]);
    if (to.gx || to.gr) block.differentiate();
  });
  if (to.gw) sum_rows(to_weight, blocks, call.C, to.gw);
  if (to.gb) sum_rows(to_bias, blocks, call.C, to.gb);
}

}  // namespace nw
