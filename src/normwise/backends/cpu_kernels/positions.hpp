// Normalization of each position over its channels, where these are planes: LayerNorm2d and RMSNorm2d of contiguous maps.
#pragma once

#include "fused.hpp"
#include "rows.hpp"

namespace nw {

template <class T>
struct PositionCall {
  int64_t N, C, S;
  int threads;
  bool center;
  const T* x;
  const acc<T>*weight, *bias;
  double *mean, *root;  // [N, S]

  int workers() const { return N * C * S < kSerial ? 1 : threads; }
  // Positions that are treated together: their channels stay in the cache.
  int64_t block(int64_t tensors) const {
    const int64_t most = tile_bytes() / 2 / (C * int64_t(sizeof(T)) * tensors) / step<T> * step<T>;
    return std::clamp<int64_t>(most, 4 * step<T>, 32 * step<T>);
  }
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
  NW_INLINE Values<T> mean_at(int64_t i) const { return load_line<T>(mean.data(), i); }
  NW_INLINE Values<T> root_at(int64_t i) const { return load_line<T>(root.data(), i); }
  NW_INLINE Values<T> left_at(int64_t i) const { return load_line<T>(left.data(), i); }
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
    // Not centered, the pilot stays 0, so that mean and m2 give the mean square.
    const double power = stats.var(inverse) + (call.center ? 0 : stats.mean * stats.mean);
    const Normal normal{call.center ? stats.mean : 0, 1 / std::sqrt(power + eps)};
    call.mean[n * call.S + first + i] = normal.mean;
    call.root[n * call.S + first + i] = normal.root;
    normals.set(at, normal);
  }
}

template <class T>
void normalize_positions(const PositionCall<T>& call, double eps, T* y) {
  using A = acc<T>;
  const int64_t size = call.block(1);
  for_blocks(call, size, [&](int64_t, int64_t n, int64_t first, int64_t count) {
    Normals<T> normals(padded<T>(count));
    measure_positions(call, eps, n, first, count, normals);
    for (int64_t c = 0; c < call.C; ++c) {
      const int64_t at = (n * call.C + c) * call.S + first;
      const A w = call.weight ? canonical<T>(call.weight[c]) : A(1), b = call.bias ? canonical<T>(call.bias[c]) : A(0);
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        const Values<T> v = load(call.x + at + i, part), mean = normals.mean_at(i), root = normals.root_at(i);
        const Values<T> left = normals.left_at(i);
        Values<T> out;
        each_way<T>([&](int k) NW_LAMBDA {
          out.at[k] = ((v.at[k] - mean.at[k]) * root.at[k] + left.at[k]) * w + b;
        });
        store(y + at + i, out, part);
      });
    }
  });
}

template <class T>
void differentiate_positions(const PositionCall<T>& call, const T* gy, T* gx, acc<T>* gw, acc<T>* gb) {
  using A = acc<T>;
  const int64_t size = call.block(2), blocks = call.N * ((call.S + size - 1) / size);
  Buffer<double> to_weight(blocks * call.C), to_bias(blocks * call.C);
  for_blocks(call, size, [&](int64_t block, int64_t n, int64_t first, int64_t count) {
    const int64_t length = padded<T>(count);
    Normals<T> normals(length);
    Buffer<A> across(length, 0), along(length, 0);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = n * call.S + first + i;
      normals.set(place<T>(i), {call.mean[position], call.root[position]});
    }
    for (int64_t c = 0; c < call.C; ++c) {
      const int64_t at = (n * call.C + c) * call.S + first;
      const A w = call.weight ? canonical<T>(call.weight[c]) : A(1);
      Sum<A> plain, product;
      sweep<T>(count, [&](int64_t i, int slot, auto part) NW_LAMBDA {
        Values<T> a = load_line<T>(across.data(), i), l = load_line<T>(along.data(), i);
        normalized_step(gy + at + i, call.x + at + i, part, normals.mean_at(i), normals.root_at(i), normals.left_at(i),
                        [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
                          const vec<A> turned = g * normalized;
                          plain.slots[slot + k] += g;
                          product.slots[slot + k] += turned;
                          a.at[k] += g * w;
                          l.at[k] += turned * w;
                        });
        store_line<T>(across.data(), i, a);
        store_line<T>(along.data(), i, l);
      });
      to_weight[block * call.C + c] = product.total();
      to_bias[block * call.C + c] = plain.total();
    }
    if (!gx) return;
    for (int64_t i = 0; i < length; ++i) {
      const A share = normals.root[i] / A(-call.C);
      across[i] = call.center ? across[i] * share : A(0);
      along[i] *= share;
    }
    for (int64_t c = 0; c < call.C; ++c) {
      const int64_t at = (n * call.C + c) * call.S + first;
      const A w = call.weight ? canonical<T>(call.weight[c]) : A(1);
      each_step<T>(count, [&](int64_t i, auto part) NW_LAMBDA {
        const Values<T> root = normals.root_at(i), constant = load_line<T>(across.data(), i);
        const Values<T> slope = load_line<T>(along.data(), i);
        Values<T> out;
        normalized_step(gy + at + i, call.x + at + i, part, normals.mean_at(i), root, normals.left_at(i),
                        [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
                          out.at[k] = g * w * root.at[k] + (normalized * slope.at[k] + constant.at[k]);
                        });
        store(gx + at + i, out, part);
      });
    }
  });
  if (gw) sum_rows(to_weight, blocks, call.C, gw);
  if (gb) sum_rows(to_bias, blocks, call.C, gb);
}

}  // namespace nw
