// Sums over the rows for every column: the gradients of weight and bias.
#pragma once

#include "rows.hpp"

namespace nw {

// Sums over rows in two lines of columns, in the order of the steps; every kBlockRows rows they are added to two lines in fp64.
template <class T>
struct LineSums {
  Buffer<acc<T>> product, plain;
  double *to_weight, *to_bias;
  int64_t filled = 0;

  LineSums(int64_t width, double* weights, double* biases)
      : product(padded<T>(width), 0), plain(padded<T>(width), 0), to_weight(weights), to_bias(biases) {}
  void rows_done(int64_t rows) {
    filled += rows;
    if (filled >= kBlockRows) flush();
  }
  void flush() {
    move(product, to_weight);
    move(plain, to_bias);
    filled = 0;
  }

 private:
  static void move(Buffer<acc<T>>& sums, double* to) {
    acc<T>* from = sums.data();
#pragma omp simd
    for (int64_t i = 0; i < sums.size(); ++i) to[i] += double(from[i]), from[i] = 0;
  }
};

// The tasks' lines in fp64, which are added in the order of the tasks. On one thread all tasks share one, with the same result:
// no task has more than kBlockRows rows, so that its sums are added there only once.
template <class T>
struct TaskLines {
  int64_t number, width, size = padded<T>(width);
  Buffer<double> weights, biases;

  TaskLines(int64_t tasks, int64_t columns, int workers)
      : number(workers == 1 ? 1 : tasks), width(columns), weights(number * size, 0), biases(number * size, 0) {}
  LineSums<T> sums(int64_t task) {
    const int64_t at = task % number * size;
    return {width, &weights[at], &biases[at]};
  }
  void deliver(acc<T>* gw, acc<T>* gb) const {
    deliver(weights, gw);
    deliver(biases, gb);
  }

 private:
  void deliver(const Buffer<double>& lines, acc<T>* out) const {
    if (!out) return;
    Buffer<double> sum(size);
    sum_rows(lines, number, size, sum.data());
    for (int64_t i = 0; i < width; ++i) out[i] = acc<T>(sum[place<T>(i)]);
  }
};

}  // namespace nw
