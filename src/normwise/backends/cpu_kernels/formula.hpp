// A recorded formula over the whole tensor, in one call each way: measure, run the program, apply; reduce, run the
// program, differentiate.
#pragma once

#include "program.hpp"
#include "respond.hpp"

namespace nw {

struct Formula {
  Program forward, backward;
  int64_t tables;    // without the means that are subtracted
  int64_t response;  // its number; -1: affine
};

// The tables that a program made: [1 + tables, N, C]; the first one holds the means that are subtracted.
template <class T>
struct Made {
  acc<T>* data;
  int64_t N, C;
  Table<acc<T>> operator[](int64_t k) const { return {data + k * N * C, C, 1}; }
};

template <class T, int K>
struct AffineStep {
  int act;

  void apply(Shape shape, const T* x, const T* residual, T* y, const Made<T>& made) const {
    shape.stream = may_stream(shape, y, y);
    nw::apply<T, K>(shape, x, residual, y, {made[0], made[1], made[2]}, act);
  }
  // The gradients of the tables, [2, N, C].
  void reduce(const Shape& shape, const Incoming<T>& in, const Made<T>& made, acc<T>* sums) const {
    const Sums found = nw::reduce<T, K>(shape, in, {made[0], made[1], made[2]}, act);
    const int64_t size = shape.N * shape.C;
    std::copy_n(found.row(1), size, sums);
    std::copy_n(found.row(0), size, sums + size);
  }
  void differentiate(Shape shape, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr, const Made<T>& made,
                     const Backflow<T>& back) const {
    shape.stream = may_stream(shape, gx, gr);
    nw::differentiate<T, K>(shape, in, mask, gx, gr, {made[0], made[1], made[2]}, act, back);
  }
};

template <class T, class R>
struct ResponseStep {
  static Tables<T, R> tables(const Made<T>& made) {
    Tables<T, R> found;
    for (int k = 0; k < R::kTables; ++k) found.of[k] = made[1 + k];
    return found;
  }
  void apply(const Shape& shape, const T* x, const T* residual, T* y, const Made<T>& made) const {
    respond<T, R>(shape, x, residual, y, tables(made));
  }
  void reduce(const Shape& shape, const Incoming<T>& in, const Made<T>& made, acc<T>* sums) const {
    const ResponseSums<R> found = reduce_response<T, R>(shape, in, tables(made));
    std::copy_n(found.values.data(), found.values.size(), sums);
  }
  void differentiate(const Shape& shape, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr, const Made<T>& made,
                     const Backflow<T>& back) const {
    differentiate_response<T, R>(shape, in, mask, gx, gr, tables(made), {made[0], back.slope, back.offset});
  }
};

// The inputs of the program: mean and variance, with a mask the counts, then the formula's arguments; and its outputs
// besides the tables.
struct Ends {
  const Span *entering, *leaving;
};

template <class T, class Step>
void normalize(const Shape& shape, const Formula& formula, const Step& step, const Ends& ends, bool measured, const T* x,
               const T* residual, const uint8_t* mask, T* y, acc<T>* tables) {
  if (measured) {
    const auto of = [&](int i) { return static_cast<double*>(ends.entering[i].data); };
    put(measure<T>(shape, x, mask), of(0), of(1), mask ? of(2) : nullptr);
  }
  const Made<T> made{tables, shape.N, shape.C};
  std::vector<Span> leaving;
  const int64_t size = shape.N * shape.C;
  for (int64_t k = 0; k <= formula.tables; ++k) leaving.push_back({tables + k * size, size});
  leaving.insert(leaving.end(), ends.leaving, ends.leaving + (formula.forward.outputs - 1 - formula.tables));
  run(formula.forward, ends.entering, leaving.data());
  step.apply(shape, x, residual, y, made);
}

// gx and gr are not computed where they are null.
template <class T, class Step>
void differentiate_normalized(const Shape& shape, const Formula& formula, const Step& step, const Ends& ends,
                              bool measured, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr, acc<T>* tables) {
  const int64_t size = shape.N * shape.C, given = formula.forward.inputs;
  const int64_t gradients = formula.backward.outputs - (measured ? 2 : 0);
  const Made<T> made{tables, shape.N, shape.C};
  Buffer<acc<T>> sums(formula.tables * size), back(measured ? 2 * size : 0);
  step.reduce(shape, in, made, sums.data());
  std::vector<Span> entering(ends.entering, ends.entering + given), leaving(ends.leaving, ends.leaving + gradients);
  for (int64_t k = 0; k < formula.tables; ++k) entering.push_back({sums.data() + k * size, size});
  for (int64_t k = 0; measured && k < 2; ++k) leaving.push_back({back.data() + k * size, size});
  run(formula.backward, entering.data(), leaving.data());
  if (!gx) return;
  Backflow<T> through{};
  if (measured) through = {{back.data(), shape.C, 1}, {back.data() + size, shape.C, 1}};
  step.differentiate(shape, in, mask, gx, gr, made, through);
}

}  // namespace nw
