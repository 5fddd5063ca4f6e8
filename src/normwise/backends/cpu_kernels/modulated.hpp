// Normalization of rows in sets with an affine map each: the tokens of a sample with its condition, or every token
// with its own gate.
#pragma once

#include "parameters.hpp"
#include "rows_backward.hpp"

namespace nw {

// Tables [sets, width] of the maps, either of which may be absent; a row is multiplied by plus + scale.
template <class T>
struct Modulation {
  const void *scale, *shift;
  int kept;
  acc<T> plus;
};

// The division of the sets into tasks, independent of the threads: some sets each, or some rows of one set each.
struct SetTasks {
  int64_t sets, per, sets_each = 1, rows_each, parts = 1;

  SetTasks(int64_t rows, int64_t per_, int64_t width) : sets(rows / per_), per(per_), rows_each(per_) {
    if (sets >= 64) {
      sets_each = Tasks(sets, per * width).size;
    } else {
      rows_each = std::max((per * sets + 63) / 64, Tasks(per, width).size);
      parts = (per + rows_each - 1) / rows_each;
    }
  }
  int64_t number() const { return (sets + sets_each - 1) / sets_each * parts; }
  // f(set, part of it, first row, end of the rows) for each part of a task.
  template <class F>
  void each(int64_t task, F f) const {
    const int64_t first = task / parts * sets_each, part = task % parts;
    for (int64_t set = first; set < std::min(sets, first + sets_each); ++set)
      f(set, part, set * per + part * rows_each, set * per + std::min(per, (part + 1) * rows_each));
  }
};

template <class T>
const void* set_of(const void* values, int kept, int64_t set, int64_t width) {
  return static_cast<const char*>(values) + size_t(set * width) * size_of_kept<T>(kept);
}

// A set's row of a table, `plus` in every value; a missing table has zeros.
template <class T>
Line<T> line_of_set(const void* values, int kept, int64_t set, int64_t width, const acc<T>& plus) {
  if (!values) return line_of<T>(nullptr, width, plus);
  const void* of_set = set_of<T>(values, kept, set, width);
  if (kept == kNarrow) {
    Line<T> line = line_of<T>(nullptr, width, plus);
    each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
      const Values<T> given = load(static_cast<const T*>(of_set) + i, part);
      Values<T> sum = line.at(i);
      each_way<T>([&](int w) NW_LAMBDA { sum.at[w] += given.at[w]; });
      store_line<T>(line.values.data(), i, sum);
    });
    return line;
  }
  const Parameter<T> wide(of_set, kept, width);
  Line<T> line = line_of<T>(wide.data, width, plus);
  if (plus != 0)
    for (int64_t i = 0; i < line.values.size(); ++i) line.values[i] += plus;
  return line;
}

// A row of a table in its type K, read and written in the order of the steps.
template <class T, class K>
struct KeptRow {
  K* data;

  template <class P>
  NW_INLINE Values<T> at(int64_t i, P part) const {
    if constexpr (std::is_same_v<std::remove_const_t<K>, T>) {
      return load(data + i, part);
    } else {
      Values<T> v{};
      each_value(part, [&](int w, int l, int k) NW_LAMBDA { v.at[w][l] = canonical<T>(acc<T>(data[i + k])); });
      return v;
    }
  }
  template <class P>
  NW_INLINE void put(int64_t i, const Values<T>& v, P part) const {
    if constexpr (std::is_same_v<std::remove_const_t<K>, T>)
      store(data + i, v, part);
    else
      each_value(part, [&](int w, int l, int k) NW_LAMBDA { data[i + k] = K(v.at[w][l]); });
  }

 private:
  template <class P, class F>
  static NW_INLINE void each_value(P part, F f) {
    int n = step<T>;
    if constexpr (std::is_same_v<P, Part>) n = part.k;
    for (int w = 0; w < ways<T>; ++w)
      for (int l = 0; l < lanes<acc<T>>; ++l)
        if (const int k = value_at<T>(l, w); k < n) f(w, l, k);
  }
};

// f(K()) for the type K of a table.
template <class T, class F>
void with_kept(int kept, F f) {
  if (is_wide<T>(kept))
    f(acc<T>());
  else if (kept == kDouble)
    f(double());
  else
    f(T());
}

// A row with its own map.
template <class T, class K>
void normalize_token(const T* x, T* y, int64_t width, const Normal& normal, KeptRow<T, const K> scale,
                     KeptRow<T, const K> shift, const acc<T>& plus) {
  using A = acc<T>;
  const A mean = A(normal.mean), root = A(normal.root), left = normal.left<A>();
  each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
    const Values<T> v = load(x + i, part), b = shift.data ? shift.at(i, part) : Values<T>{};
    Values<T> w = scale.data ? scale.at(i, part) : Values<T>{}, out;
    each_way<T>([&](int k) NW_LAMBDA { out.at[k] = ((v.at[k] - mean) * root + left) * (w.at[k] + plus) + b.at[k]; });
    store(y + i, out, part);
  });
}

// The gradients of such a row, gx and that of the scale, either of which may be null; that of the shift is gy.
template <class T, class K>
void token_gradients(const T* gy, const T* x, int64_t width, const Normal& normal, bool center,
                     KeptRow<T, const K> scale, const acc<T>& plus, T* gx, KeptRow<T, K> to_scale) {
  using A = acc<T>;
  const NormalValues<T> values = everywhere<T>(normal);
  Pair sums;
  for (int64_t start = 0; gx && start < width; start += kChunk) {
    Sum<A> plain, product;
    sweep<T>(std::min(kChunk, width - start), [&](int64_t at, int slot, auto part) NW_LAMBDA {
      const int64_t i = start + at;
      const Values<T> w = scale.data ? scale.at(i, part) : Values<T>{};
      normalized_step(load(gy + i, part), x + i, part, values, [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
        const vec<A> weighted = g * (w.at[k] + plus);
        plain.slots[slot + k] += weighted;
        product.slots[slot + k] += weighted * normalized;
      });
    });
    sums.g += plain.total();
    sums.gd += product.total();
  }
  const double share = normal.root / double(width);
  const A constant = center ? A(-sums.g * share) : A(0), slope = A(-sums.gd * share);
  each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
    const Values<T> w = scale.data ? scale.at(i, part) : Values<T>{};
    Values<T> out, turned;
    normalized_step(load(gy + i, part), x + i, part, values, [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA {
      out.at[k] = g * (w.at[k] + plus) * values.root.at[k] + (normalized * slope + constant);
      turned.at[k] = g * normalized;
    });
    if (gx) store(gx + i, out, part);
    if (to_scale.data) to_scale.put(i, turned, part);
  });
}

template <class T>
void normalize_modulated(const RowCall<T>& call, int64_t per, const Modulation<T>& by, double eps, T* y) {
  const SetTasks tasks(call.rows, per, call.width);
  const acc<T> plus = by.scale ? by.plus : acc<T>(1);
  if (per == 1)
    return with_kept<T>(by.kept, [&](auto kept) {
      using K = decltype(kept);
      for_tasks(call, [&](int64_t begin, int64_t end) {
        for_measured_rows(call, begin, end, eps, [&](int64_t row, auto group, const Normal* normals) {
          for (int r = 0; r < group; ++r) {
            const int64_t at = (row + r) * call.width;
            const KeptRow<T, const K> scale{by.scale ? static_cast<const K*>(by.scale) + at : nullptr};
            const KeptRow<T, const K> shift{by.shift ? static_cast<const K*>(by.shift) + at : nullptr};
            normalize_token(call.x + at, y + at, call.width, normals[r], scale, shift, plus);
          }
        });
      });
    });
  parallel(call.workers(), tasks.number(), [&](int64_t task) {
    tasks.each(task, [&](int64_t set, int64_t, int64_t row, int64_t end) {
      const Line<T> scale = line_of_set<T>(by.scale, by.kept, set, call.width, plus);
      const Line<T> shift = line_of_set<T>(by.shift, by.kept, set, call.width, 0);
      for_measured_rows(call, row, end, eps, [&](int64_t r, auto group, const Normal* normals) {
        for (int64_t i = 0, at = r * call.width; i < group; ++i, at += call.width)
          normalize_part<T, kPlain>(call.x + at, nullptr, y + at, call.width, normals[i], scale, shift, kNone);
      });
    });
  });
}

// The gradients of the tables, in the type that they are kept in.
struct ModulationGradients {
  void *scale, *shift;
};

template <class T>
void differentiate_modulated(const RowCall<T>& call, int64_t per, const Modulation<T>& by, const RowGradients<T>& to,
                             const ModulationGradients& out) {
  const acc<T> plus = by.scale ? by.plus : acc<T>(1);
  const int64_t width = call.width;
  if (per == 1)
    return with_kept<T>(by.kept, [&](auto kept) {
      using K = decltype(kept);
      for_tasks(call, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin, at = begin * width; row < end; ++row, at += width) {
          const KeptRow<T, const K> scale{by.scale ? static_cast<const K*>(by.scale) + at : nullptr};
          const KeptRow<T, K> to_scale{out.scale ? static_cast<K*>(out.scale) + at : nullptr};
          T* gx = to.gx ? to.gx + at : nullptr;
          token_gradients(to.gy + at, call.x + at, width, call.normal(row), call.center, scale, plus, gx, to_scale);
        }
      });
    });
  const SetTasks tasks(call.rows, per, width);
  const int64_t size = padded<T>(width), partial = tasks.sets * tasks.parts * size;
  Buffer<double> to_scale(partial, 0), to_shift(partial, 0);
  parallel(call.workers(), tasks.number(), [&](int64_t task) {
    tasks.each(task, [&](int64_t set, int64_t part, int64_t row, int64_t end) {
      const Line<T> scale = line_of_set<T>(by.scale, by.kept, set, width, plus);
      const int64_t at = (set * tasks.parts + part) * size;
      LineSums<T> sums(width, &to_scale[at], &to_shift[at]);
      const auto slopes_at = [&](int64_t r, int64_t) {
        return Slopes<T, kPlain>{to.gy + r * width, call.x + r * width, nullptr};
      };
      for_row_sums<T, kPlain>(call, row, end, width, scale, sums, slopes_at, [&](int64_t r, auto group, const Pair* found, auto slopes) {
        for (int i = 0; to.gx && i < group; ++i) row_gradient(call, r + i, to, slopes[i], 0, width, found[i], scale);
      });
      sums.flush();
    });
  });
  const auto deliver = [&](Buffer<double>& of, void* tables, int64_t set) {
    double* sum = &of[set * tasks.parts * size];
    for (int64_t part = 1; part < tasks.parts; ++part)
      for (int64_t i = 0; i < size; ++i) sum[i] += sum[part * size + i];
    set_kept<T>(const_cast<void*>(set_of<T>(tables, by.kept, set, width)), by.kept, width,
                [&](int64_t i) { return sum[place<T>(i)]; });
  };
  parallel(call.workers(), tasks.sets, [&](int64_t set) {
    if (out.scale) deliver(to_scale, out.scale, set);
    if (out.shift) deliver(to_shift, out.shift, set);
  });
}

}  // namespace nw
