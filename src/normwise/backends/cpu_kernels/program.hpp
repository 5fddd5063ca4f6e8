// A formula on small tables as instructions on one array of fp64, run in a single call; PyTorch needs a microsecond or more
// for every operator.
#pragma once

#include "columns.hpp"

namespace nw {

// The operations by their names in core/program.py.
#define NW_OPERATIONS(X) \
  X(kCopy, "copy") X(kRound, "round") X(kNegate, "neg") X(kAbs, "abs") X(kSign, "sign") \
  X(kSqrt, "sqrt") X(kRsqrt, "rsqrt") X(kReciprocal, "reciprocal") X(kExp, "exp") X(kAdd, "add") \
  X(kSub, "sub") X(kMul, "mul") X(kDiv, "div") X(kPow, "pow") X(kLess, "lt") \
  X(kLessEqual, "le") X(kGreater, "gt") X(kGreaterEqual, "ge") X(kEqual, "eq") X(kAnd, "and") \
  X(kOr, "or") X(kWhere, "where") X(kSum, "sum") X(kLargest, "amax")

enum Operation : int64_t { NW_OPERATIONS(NW_SYMBOL) kOperations };
constexpr const char* kOperationNames = NW_OPERATIONS(NW_NAME);
constexpr int kDimensions = 4;

// The layout of both structures is filled in by Python: only 64-bit integers.
struct Operand {
  int64_t at, stride[kDimensions];
};
struct Instruction {
  int64_t operation, size[kDimensions];
  Operand to, of[3];
};
// Where a contiguous tensor is copied into or out of the array.
struct Port {
  int64_t at, count, wide;  // wide: the tensor is fp64, not fp32
};

// A contiguous tensor and the number of its values.
struct Span {
  void* data;
  int64_t count;
};

struct Program {
  const Instruction* instructions;
  int64_t number, size;
  const double* constants;
  int64_t constant;
  const Port* ports;  // first of the inputs, then of the outputs
  int64_t inputs, outputs;
};

// f(to, of...) over the last dimension, by vectors where values are neighbours or one value serves all.
template <class F>
NW_INLINE void along_line(const Instruction& in, double* to, const double* a, const double* b, const double* c, F f) {
  constexpr int last = kDimensions - 1;
  const int64_t n = in.size[last], t = in.to.stride[last], i = in.of[0].stride[last], j = in.of[1].stride[last],
                k = in.of[2].stride[last];
  if (t == 1 && i == 1 && j == 1 && k == 0) {
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) f(to[l], a[l], b[l], *c);
  } else if (t == 1 && i == 1 && j == 0 && k == 0) {
    const double value = *b;
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) f(to[l], a[l], value, *c);
  } else {
    for (int64_t l = 0; l < n; ++l) f(to[l * t], a[l * i], b[l * j], c[l * k]);
  }
}

// line(to, a, b, c) over all but the last dimension.
template <class F>
NW_INLINE void for_lines(const Instruction& in, double* values, F line) {
  const auto start = [&](const Operand& o, int64_t i, int64_t j, int64_t k) NW_LAMBDA {
    return values + o.at + i * o.stride[0] + j * o.stride[1] + k * o.stride[2];
  };
  for (int64_t i = 0; i < in.size[0]; ++i)
    for (int64_t j = 0; j < in.size[1]; ++j)
      for (int64_t k = 0; k < in.size[2]; ++k)
        line(start(in.to, i, j, k), start(in.of[0], i, j, k), start(in.of[1], i, j, k), start(in.of[2], i, j, k));
}

template <class F>
void each_value(const Instruction& in, double* values, F f) {
  for_lines(in, values, [&](double* to, const double* a, const double* b, const double* c) NW_LAMBDA {
    along_line(in, to, a, b, c, f);
  });
}

// to += a; the strides of `to` are 0 along the dimensions that are summed.
inline void add_up(const Instruction& in, double* values) {
  constexpr int last = kDimensions - 1;
  if (in.to.stride[last] != 0)
    return each_value(in, values, [](double& to, double a, double, double) NW_LAMBDA { to += a; });
  for_lines(in, values, [&](double* to, const double* a, const double*, const double*) NW_LAMBDA {
    const int64_t n = in.size[last], i = in.of[0].stride[last];
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < n; ++l) sum += a[l * i];
    *to += sum;
  });
}

inline void execute(const Instruction& in, double* values) {
#define NW_CASE(name, expression) \
  case name: \
    return each_value(in, values, [](double& to, double a, double b, double c) NW_LAMBDA { \
      (void)a, (void)b, (void)c; \
      to = (expression); \
    })
  switch (in.operation) {
    NW_CASE(kCopy, a);
    NW_CASE(kRound, double(float(a)));
    NW_CASE(kNegate, -a);
    NW_CASE(kAbs, std::abs(a));
    NW_CASE(kSign, a > 0 ? 1.0 : a < 0 ? -1.0 : 0.0);
    NW_CASE(kSqrt, std::sqrt(a));
    NW_CASE(kRsqrt, 1 / std::sqrt(a));
    NW_CASE(kReciprocal, 1 / a);
    NW_CASE(kExp, std::exp(a));
    NW_CASE(kAdd, a + b);
    NW_CASE(kSub, a - b);
    NW_CASE(kMul, a * b);
    NW_CASE(kDiv, a / b);
    NW_CASE(kPow, std::pow(a, b));
    NW_CASE(kLess, a < b ? 1.0 : 0.0);
    NW_CASE(kLessEqual, a <= b ? 1.0 : 0.0);
    NW_CASE(kGreater, a > b ? 1.0 : 0.0);
    NW_CASE(kGreaterEqual, a >= b ? 1.0 : 0.0);
    NW_CASE(kEqual, a == b ? 1.0 : 0.0);
    NW_CASE(kAnd, a != 0 && b != 0 ? 1.0 : 0.0);
    NW_CASE(kOr, a != 0 || b != 0 ? 1.0 : 0.0);
    NW_CASE(kWhere, a != 0 ? b : c);
    // The target starts as the first value; once it is NaN, it stays NaN.
    NW_CASE(kLargest, to >= a || to != to ? to : a);
    case kSum:
      return add_up(in, values);
  }
#undef NW_CASE
}

inline void run(const Program& program, const Span* entering, const Span* leaving) {
  Buffer<double> values(program.size);
  double* array = values.data();
  std::copy_n(program.constants, program.constant, array);
  for (int64_t i = 0; i < program.inputs; ++i) {
    const Port& port = program.ports[i];
    if (port.wide)
      std::copy_n(static_cast<const double*>(entering[i].data), port.count, array + port.at);
    else
      std::copy_n(static_cast<const float*>(entering[i].data), port.count, array + port.at);
  }
  for (int64_t i = 0; i < program.number; ++i) execute(program.instructions[i], array);
  for (int64_t i = 0; i < program.outputs; ++i) {
    const Port& port = program.ports[program.inputs + i];
    if (port.wide)
      std::copy_n(array + port.at, port.count, static_cast<double*>(leaving[i].data));
    else
      std::transform(array + port.at, array + port.at + port.count, static_cast<float*>(leaving[i].data),
                     [](double value) { return float(value); });
  }
}

}  // namespace nw
