// Checks of the arguments of the C interface before anything is read: every pointer comes with the number of its values.
#pragma once

#include <cstdint>

#include "formula.hpp"
#include "parameters.hpp"

// A pointer and the number of values behind it, as two arguments and as one object. An absent tensor is a null
// pointer with no values.
#define NW_SPAN(type, name) type *name, int64_t name##_count
#define NW_GIVEN(name) name, name##_count

namespace nw {

// A table [N, C] of any strides; `count` values from `data` on may be read.
struct GivenTable {
  const void* data;
  int64_t count, of_sample, of_channel;
};

// Whether sizes and pointers are consistent. A refusal is never taken back.
class Check {
 public:
  explicit operator bool() const { return fine_; }
  Check& require(bool condition) {
    fine_ = fine_ && condition;
    return *this;
  }
  // Sizes that are not negative and whose product is a valid number of values.
  template <class... I>
  int64_t product(I... sizes) {
    int64_t result = 1;
    ((require(sizes >= 0 && !__builtin_mul_overflow(result, sizes, &result))), ...);
    return require(result <= kMost), fine_ ? result : 0;
  }
  Check& has(const void* data, int64_t count, int64_t wanted) {
    return require(count == wanted && (data != nullptr || count == 0));
  }
  Check& may_have(const void* data, int64_t count, int64_t wanted) {
    return data || count ? has(data, count, wanted) : *this;
  }
  // A pair of tensors of which both or none are there.
  Check& both(const void* one, const void* other) { return require((one == nullptr) == (other == nullptr)); }
  Check& kept(int type) { return require(type >= kWide && type <= kDouble); }
  Check& table(const GivenTable& t, int64_t samples, int64_t channels) {
    int64_t end = 1, rows = 0, columns = 0;
    require(t.of_sample >= 0 && t.of_channel >= 0);
    if (samples == 0 || channels == 0) return *this;
    require(!__builtin_mul_overflow(samples - 1, t.of_sample, &rows));
    require(!__builtin_mul_overflow(channels - 1, t.of_channel, &columns));
    require(!__builtin_add_overflow(end, rows, &end) && !__builtin_add_overflow(end, columns, &end));
    return require(t.data && end <= t.count);
  }
  // Tables; the last `optional` ones may all be absent.
  Check& tables(const GivenTable* given, int64_t count, int64_t wanted, int64_t optional, int64_t samples, int64_t channels) {
    has(given, count, wanted);
    for (int64_t i = 0; fine_ && i < count; ++i) {
      const bool may_lack = i >= wanted - optional;
      if (!may_lack || given[i].data)
        table(given[i], samples, channels);
      else
        require(given[i].count == 0 && !given[wanted - 1].data);
    }
    return *this;
  }

 private:
  static constexpr int64_t kMost = int64_t(1) << 60;  // so that the number of bytes does not overflow either
  bool fine_ = true;
};

// Whether a program stays inside its array, and its input and output tensors are as large as it says.
inline bool stays_inside(const Program& program) {
  Check check;
  const auto inside = [&](int64_t at, int64_t count) {
    check.require(at >= 0 && count >= 0 && at <= program.size && count <= program.size - at);
  };
  check.require(program.size >= 0 && program.number >= 0 && program.inputs >= 0 && program.outputs >= 0);
  check.require(program.instructions || !program.number).require(program.constants || !program.constant);
  check.require(program.ports || !(program.inputs || program.outputs));
  if (!check) return false;
  inside(0, program.constant);
  for (int64_t i = 0; i < program.inputs + program.outputs; ++i) inside(program.ports[i].at, program.ports[i].count);
  for (int64_t i = 0; i < program.number; ++i) {
    const Instruction& in = program.instructions[i];
    check.require(in.operation >= kCopy && in.operation < kOperations);
    const bool nothing = check.product(in.size[0], in.size[1], in.size[2], in.size[3]) == 0;
    for (const Operand* o : {&in.to, &in.of[0], &in.of[1], &in.of[2]}) {
      int64_t reach = 1;
      for (int d = 0; check && !nothing && d < kDimensions; ++d) {
        int64_t along = 0;
        check.require(o->stride[d] >= 0 && !__builtin_mul_overflow(in.size[d] - 1, o->stride[d], &along));
        check.require(!__builtin_add_overflow(reach, along, &reach));
      }
      inside(o->at, nothing ? 0 : reach);
    }
  }
  return bool(check);
}

// The tensors at the ports from `first` on.
inline void at_ports(Check& check, const Program& program, int64_t first, const Span* given, int64_t count) {
  check.require(given || count == 0);
  for (int64_t i = 0; check && i < count; ++i) check.has(given[i].data, given[i].count, program.ports[first + i].count);
}

// Tables of one type that the kernels themselves pass to the ports from `first` on.
template <class T>
void tables_at_ports(Check& check, const Program& program, int64_t first, int64_t number, int64_t size) {
  for (int64_t i = 0; check && i < number; ++i) {
    const Port& port = program.ports[first + i];
    check.require(port.count == size && (port.wide != 0) == (sizeof(T) == sizeof(double)));
  }
}

// A program alone, with its inputs and outputs.
inline bool fits(const Program& program, const Span* entering, int64_t entering_count, const Span* leaving,
                 int64_t leaving_count) {
  Check check;
  // The numbers first: they say how many ports are to be read.
  check.require(entering_count == program.inputs && leaving_count == program.outputs);
  if (!check || !check.require(stays_inside(program))) return false;
  at_ports(check, program, 0, entering, check ? entering_count : 0);
  at_ports(check, program, program.inputs, leaving, check ? leaving_count : 0);
  return bool(check);
}

// The first outputs of the forward program are the means that are subtracted and the formula's tables, [N, C] each. If the
// moments are measured they are its first inputs, in fp64.
template <class T>
bool fits_forward(const Formula& formula, int64_t N, int64_t C, bool measured, bool counted, const Span* entering,
                  int64_t entering_count, const Span* leaving, int64_t leaving_count) {
  const Program& program = formula.forward;
  Check check;
  if (!check.require(formula.tables >= 0 && formula.tables < program.outputs)) return false;
  const int64_t own = 1 + formula.tables;
  check.require(entering_count == program.inputs && leaving_count == program.outputs - own);
  if (!check || !check.require(stays_inside(program))) return false;
  if (measured) {
    check.require(program.inputs >= (counted ? 3 : 2));
    tables_at_ports<double>(check, program, 0, 2, N * C);
    if (counted) tables_at_ports<double>(check, program, 2, 1, N);
  }
  tables_at_ports<acc<T>>(check, program, program.inputs, check ? own : 0, N * C);
  at_ports(check, program, 0, entering, check ? entering_count : 0);
  at_ports(check, program, program.inputs + own, leaving, check ? leaving_count : 0);
  return bool(check);
}

// The inputs of the backward program are those of the forward program and the gradients of the tables; its last outputs are
// the slope and offset of the gradient through measured moments.
template <class T>
bool fits_backward(const Formula& formula, int64_t N, int64_t C, bool measured, const Span* entering,
                   int64_t entering_count, const Span* leaving, int64_t leaving_count) {
  const Program& program = formula.backward;
  Check check;
  if (!check.require(formula.tables >= 0 && program.inputs >= 0 && program.outputs >= 0)) return false;
  const int64_t given = program.inputs - formula.tables, gradients = program.outputs - (measured ? 2 : 0);
  check.require(given >= 0 && gradients >= 0 && entering_count == given && leaving_count == gradients);
  check.require(given == formula.forward.inputs);
  if (!check || !check.require(stays_inside(program))) return false;
  tables_at_ports<acc<T>>(check, program, given, check ? formula.tables : 0, N * C);
  tables_at_ports<acc<T>>(check, program, program.inputs + gradients, check && measured ? 2 : 0, N * C);
  at_ports(check, program, 0, entering, check ? entering_count : 0);
  at_ports(check, program, program.inputs, leaving, check ? leaving_count : 0);
  return bool(check);
}

}  // namespace nw
