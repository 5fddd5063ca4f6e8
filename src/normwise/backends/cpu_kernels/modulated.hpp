// Normalization of rows in sets that have an affine map each: the tokens of a sample under its condition, or every token
// under a gate of its own.
#pragma once

#include "parameters.hpp"
#include "rows.hpp"

namespace nw {

// Tables [sets, width] of the maps, either of which may be missing; a row is multiplied by plus + scale.
template <class T>
struct Modulation {
  const void *scale, *shift;
  int kept;
  acc<T> plus;
};

// How the sets go into tasks, whatever the threads: some sets each, or some rows of one set each.
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
  // f(set, part of it, its first row, behind its last row) for what is a task's.
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

template <class T>
void normalize_modulated(const RowCall<T>& call, int64_t per, const Modulation<T>& by, double eps, T* y) {
  const SetTasks tasks(call.rows, per, call.width);
  parallel(call.workers(), tasks.number(), [&](int64_t task) {
    tasks.each(task, [&](int64_t set, int64_t, int64_t row, int64_t end) {
      const Line<T> scale = line_of_set<T>(by.scale, by.kept, set, call.width, by.scale ? by.plus : acc<T>(1));
      const Line<T> shift = line_of_set<T>(by.shift, by.kept, set, call.width, 0);
      for (; row < end; ++row) {
        const int64_t at = row * call.width;
        const Normal normal = normal_of(call.x + at, call.width, eps, call.center);
        call.mean[row] = normal.mean;
        call.root[row] = normal.root;
        normalize_part(call.x + at, y + at, call.width, normal, scale, shift);
      }
    });
  });
}

// The gradients of the tables, in the type that they are kept in.
struct ModulationGradients {
  void *scale, *shift;
};

// Of a set of one row the gradient of the scale is no sum.
template <class T>
void token_gradient(const T* gy, const T* x, int64_t width, const Normal& normal, int kept, void* out) {
  using A = acc<T>;
  const Values<T> mean = everywhere<T>(A(normal.mean)), root = everywhere<T>(A(normal.root));
  const Values<T> left = everywhere<T>(normal.left<A>());
  Buffer<A> wide(is_wide<T>(kept) || kept == kNarrow ? 0 : padded<T>(width));
  Buffer<A> ordered(is_wide<T>(kept) && !std::is_same_v<T, A> ? padded<T>(width) : 0);
  A* line = wide.size() ? wide.data() : ordered.size() ? ordered.data() : nullptr;
  each_step<T>(width, [&](int64_t i, auto part) NW_LAMBDA {
    Values<T> turned;
    normalized_step(gy + i, x + i, part, mean, root, left,
                    [&](int k, vec<A> g, vec<A> normalized) NW_LAMBDA { turned.at[k] = g * normalized; });
    if (line)
      store_line<T>(line, i, turned);
    else
      store(static_cast<T*>(out) + i, turned, part);
  });
  if (line) set_kept<T>(out, kept, width, [&](int64_t i) { return double(line[place<T>(i)]); });
}

template <class T>
void differentiate_modulated(const RowCall<T>& call, int64_t per, const Modulation<T>& by, const RowGradients<T>& to,
                             const ModulationGradients& out) {
  const SetTasks tasks(call.rows, per, call.width);
  const int64_t width = call.width, partial = per > 1 ? tasks.sets * tasks.parts * width : 0;
  Buffer<double> to_scale(out.scale ? partial : 0), to_shift(out.shift ? partial : 0);
  parallel(call.workers(), tasks.number(), [&](int64_t task) {
    LineSums<T> sums(width);
    tasks.each(task, [&](int64_t set, int64_t part, int64_t row, int64_t end) {
      const Line<T> scale = line_of_set<T>(by.scale, by.kept, set, width, by.scale ? by.plus : acc<T>(1));
      for (; row < end; ++row) {
        const T *gy = to.gy + row * width, *x = call.x + row * width;
        const Pair of_row = row_sums(gy, x, width, call.normal(row), scale, sums);
        if (to.gx) row_gradient(call, row, to, 0, width, of_row, scale);
        if (per == 1 && out.scale)
          token_gradient(gy, x, width, call.normal(row), by.kept,
                         const_cast<void*>(set_of<T>(out.scale, by.kept, set, width)));
      }
      if (per == 1) return;
      sums.flush();
      const int64_t at = (set * tasks.parts + part) * width;
      if (out.scale) std::copy_n(sums.to_weight.data(), width, &to_scale[at]);
      if (out.shift) std::copy_n(sums.to_bias.data(), width, &to_shift[at]);
      std::fill_n(sums.to_weight.data(), width, 0.0);
      std::fill_n(sums.to_bias.data(), width, 0.0);
    });
  });
  if (per == 1) return;
  const auto deliver = [&](Buffer<double>& of, void* tables, int64_t set) {
    double* sum = &of[set * tasks.parts * width];
    for (int64_t part = 1; part < tasks.parts; ++part)
      for (int64_t i = 0; i < width; ++i) sum[i] += sum[part * width + i];
    set_kept<T>(const_cast<void*>(set_of<T>(tables, by.kept, set, width)), by.kept, width,
                [&](int64_t i) { return sum[i]; });
  };
  parallel(call.workers(), tasks.sets, [&](int64_t set) {
    if (out.scale) deliver(to_scale, out.scale, set);
    if (out.shift) deliver(to_shift, out.shift, set);
  });
}

}  // namespace nw
