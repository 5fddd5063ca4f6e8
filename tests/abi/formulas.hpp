// Programs on tables, and whole recorded formulas: measure, run, apply, and back.
#pragma once

#include "responses.hpp"

namespace abi {

constexpr int kDimensions = 4;
struct Operand {
  int64_t at, stride[kDimensions];
};
struct Instruction {
  int64_t operation, size[kDimensions];
  Operand to, of[3];
};
struct Port {
  int64_t at, count, wide;
};
struct Program {
  const Instruction* instructions;
  int64_t number, size;
  const double* constants;
  int64_t constant;
  const Port* ports;
  int64_t inputs, outputs;
};
struct Formula {
  Program forward, backward;
  int64_t tables, response;
};
// In the order of core/program.py.
enum Operation : int64_t {
  kCopy, kRound, kNegate, kAbs, kSign, kSqrt, kRsqrt, kReciprocal, kExp, kAdd, kSub, kMul, kDiv, kPow, kLess, kLessEqual,
  kGreater, kGreaterEqual, kEqual, kAnd, kOr, kWhere, kSum, kLargest, kOperations
};

// What is at a place of the array, by its strides along the samples and the channels.
inline Operand place(int64_t at, int64_t of_sample, int64_t of_channel) { return {at, {0, 0, of_sample, of_channel}}; }

// A program that is put together step by step, over [N, C].
struct Assembly {
  int64_t N, C;
  Values constants;
  std::vector<Instruction> steps;
  std::vector<Port> ports;
  int64_t size, inputs = 0;

  Assembly(int64_t N, int64_t C, Values constants) : N(N), C(C), constants(constants), size(int64_t(constants.size())) {}
  Operand table() { return size += N * C, place(size - N * C, C, 1); }
  Operand of_channels() { return size += C, place(size - C, 0, 1); }
  Operand constant(int64_t i) const { return place(i, 0, 0); }
  void enters(const Operand& o, bool wide) { leaves(o, wide), ++inputs; }
  void leaves(const Operand& o, bool wide) { ports.push_back({o.at, o.stride[2] ? N * C : C, wide}); }
  void step(Operation what, Operand to, Operand a, Operand b = place(0, 0, 0), Operand c = place(0, 0, 0)) {
    steps.push_back({what, {1, 1, N, C}, to, {a, b, c}});
  }
  Program program() const {
    return {steps.data(), int64_t(steps.size()), size, constants.data(), int64_t(constants.size()), ports.data(), inputs,
            int64_t(ports.size()) - inputs};
  }
};

inline double applied(int64_t operation, double a, double b, double c) {
  const double of[] = {a, double(float(a)), -a, std::fabs(a), double((a > 0) - (a < 0)), std::sqrt(a), 1 / std::sqrt(a), 1 / a,
                       std::exp(a), a + b, a - b, a * b, a / b, std::pow(a, b), double(a < b), double(a <= b), double(a > b),
                       double(a >= b), double(a == b), double(a != 0 && b != 0), double(a != 0 || b != 0), a != 0 ? b : c};
  return of[operation];
}

inline void refused_spans(Suite& suite, const Program& program, Span* entering, Span* leaving) {
  for (Span* span : {&entering[0], &entering[2], &leaving[0]}) {
    const Span right = *span;
    for (const Span& wrong : {Span{right.data, right.count - 1}, Span{right.data, right.count + 1}, Span{nullptr, right.count}}) {
      *span = wrong;
      if (suite.library.call("nw_run", static_cast<const void*>(&program), Given{entering, 3, 0}, Given{leaving, 1, 0}) != kRefused)
        suite.fail("run: a tensor of another size is taken");
    }
    *span = right;
  }
}

// Every operation on tables and on a row of channels; the sum and the largest over the samples.
inline void check_operations(Suite& suite, int64_t N, int64_t C) {
  for (int64_t operation = 0; operation < kOperations; ++operation) {
    Assembly made(N, C, {0});
    const Operand a = made.table(), b = made.of_channels(), c = made.table();
    const bool pools = operation == kSum || operation == kLargest;
    const Operand to = pools ? made.of_channels() : made.table();
    made.enters(a, true), made.enters(b, false), made.enters(c, true), made.leaves(to, true);
    if (pools) made.step(kCopy, to, operation == kSum ? made.constant(0) : place(a.at, 0, 1));
    made.step(Operation(operation), to, a, b, c);
    const Tensor of_a = suite.table(kFp64, N * C), of_b = suite.table(kFp32, C), of_c = suite.table(kFp64, N * C);
    Tensor result(kFp64, pools ? C : N * C);
    Span entering[] = {{of_a.data(), N * C}, {of_b.data(), C}, {of_c.data(), N * C}}, leaving[] = {{result.data(), result.count()}};
    const Program program = made.program();
    suite.call("nw_run", static_cast<const void*>(&program), Given{entering, 3, sizeof entering},
               Given{leaving, 1, sizeof leaving});
    Values want = zeros(result.count());
    if (operation == kLargest) want.assign(want.size(), -HUGE_VAL);
    for (int64_t i = 0; i < N * C; ++i) {
      double& w = want[size_t(pools ? i % C : i)];
      w = operation == kSum ? w + of_a[i] : operation == kLargest ? std::max(w, of_a[i]) : applied(operation, of_a[i], of_b[i % C], of_c[i]);
    }
    suite.expect("run " + std::to_string(operation), result, want, zeros(int64_t(want.size())));
    if (!suite.refusing) continue;
    const auto refused = [&](const Program& wrong, const char* why) {
      if (suite.library.call("nw_run", static_cast<const void*>(&wrong), Given{entering, 3, 0}, Given{leaving, 1, 0}) != kRefused)
        suite.fail("run: %s is taken", why);
    };
    Program wrong = program;
    wrong.size -= 1, refused(wrong, "an array that ends too early");
    wrong = program, wrong.inputs += 1, refused(wrong, "an input that is not there");
    for (int which = 0; which < 4; ++which) {
      auto steps = made.steps;
      Operand& bad = which ? steps.back().of[which - 1] : steps.back().to;
      wrong = program, wrong.instructions = steps.data();
      bad.at += made.size, refused(wrong, "an operand behind the array");
      bad.at = -1, refused(wrong, "an operand before the array");
      steps = made.steps, steps.back().size[0] = int64_t(1) << 62, steps.back().size[1] = 8;
      refused(wrong, "more steps than there are numbers");
      steps = made.steps, steps.back().operation = kOperations, refused(wrong, "an unknown operation");
    }
    refused_spans(suite, program, entering, leaving);
  }
}

// Centered on the mean, and every table is s = γ/√(σ² + ε): for the affine map (response -1) and for the responses.
inline void check_formula(Suite& suite, const Case& c, int number, int act, bool added, bool masked) {
  const double eps = 1e-3;
  const bool wide_tables = wide(suite.kind) == kFp64;
  const int64_t size = c.planes(), tables = number < 0 ? 2 : kTablesOf[number];
  Assembly there(c.N, c.C, {0, eps}), back(c.N, c.C, {0, eps, -1.0 / double(c.S)});
  const auto enter = [&](Assembly& a) {
    std::vector<Operand> found{a.table(), a.table()};
    a.enters(found[0], true), a.enters(found[1], true);
    if (masked) a.size += c.N, a.ports.push_back({a.size - c.N, c.N, 1}), ++a.inputs, found.push_back(place(a.size - c.N, 1, 0));
    found.insert(found.begin() + 2, a.of_channels());
    a.enters(found[2], wide_tables);
    return found;
  };
  const auto scale_of = [&](Assembly& a, const std::vector<Operand>& in, Operand root) {
    const Operand s = a.table();
    a.step(kAdd, root, in[1], a.constant(1)), a.step(kRsqrt, root, root), a.step(kMul, s, root, in[2]);
    return s;
  };
  const auto in = enter(there);
  const Operand center = there.table(), s = scale_of(there, in, there.table());
  there.step(wide_tables ? kCopy : kRound, center, in[0]);
  there.leaves(center, wide_tables);
  for (int64_t k = 0; k < tables; ++k) there.leaves(s, wide_tables);

  // D = Σ of the tables' gradients: γ gets Σ_n D root, σ² gets -D γ root³ / 2, whose share in x is (x - μ) · 2 / S.
  const auto again = enter(back);
  const Operand root = back.table(), scale = scale_of(back, again, root), all = back.table(), slope = back.table();
  const Operand offset = back.table(), gamma = back.of_channels();
  back.step(kCopy, all, back.constant(0)), back.step(kCopy, gamma, back.constant(0)), back.step(kCopy, offset, back.constant(0));
  std::vector<Operand> grads;
  for (int64_t k = 0; k < tables; ++k) grads.push_back(back.table()), back.enters(grads.back(), wide_tables), back.step(kAdd, all, all, grads.back());
  back.step(kMul, slope, all, root), back.step(kSum, gamma, slope);
  for (const Operand& factor : {root, root, again[2], masked ? back.constant(0) : back.constant(2)}) back.step(kMul, slope, slope, factor);
  if (number < 0) back.step(kMul, offset, scale, grads[1]), back.step(kMul, offset, offset, masked ? back.constant(0) : back.constant(2));
  back.leaves(gamma, wide_tables), back.leaves(slope, wide_tables), back.leaves(offset, wide_tables);
  const Formula formula{there.program(), back.program(), tables, number};

  const Tensor x = suite.input(c), residual = suite.input(c), mask = suite.mask(c), y = suite.output(c);
  const Tensor weight = suite.table(wide(suite.kind), c.C), gw(wide(suite.kind), c.C), gx = suite.output(c), gr = suite.output(c);
  const Tensor mean(kFp64, size), var(kFp64, size), count(kFp64, c.N), made(wide(suite.kind), (1 + tables) * size);
  std::vector<Span> entering{{mean.data(), size}, {var.data(), size}}, leaving{{gw.data(), c.C}};
  if (masked) entering.push_back({count.data(), c.N});
  entering.push_back({weight.data(), c.C});
  const Given given{entering.data(), int64_t(entering.size()), int64_t(entering.size() * sizeof(Span))};
  const Given m = masked ? Given(mask) : kNone, r = added ? Given(residual) : kNone;
  const Choice activated{number < 0 ? act : 0};
  const void* recorded = &formula;
  suite.call("nw_normalize", c.last, c.N, c.C, c.S, Threads{c.threads}, recorded, 1, given, kNone, Given(x), r, m, activated,
             Given(y), Given(made));

  Values want = zeros(c.values()), to_x = want, to_r = want, sums = zeros(tables * size), large = want, large_s = zeros(c.C);
  Tensor gy = suite.input(c, 0);
  const auto s_of = [&](int64_t n, int64_t ch) { return weight[ch] / std::sqrt(var[n * c.C + ch] + eps); };
  const auto responded = [&](int64_t n, int64_t ch, int64_t i) -> Responded {
    const double scale_here = s_of(n, ch), plus = added ? residual[i] : 0, off = x[i] - mean[n * c.C + ch];
    if (number >= 0) {
      const Coefficients t{scale_here, scale_here + plus, scale_here, scale_here, scale_here};
      if (near_a_kink(number, x[i], t)) gy.set(i, 0);
      return response(number, x[i], t);
    }
    const double z = off * scale_here + scale_here + plus;
    if (near_a_kink(z)) gy.set(i, 0);
    const Point f = activation(act, z);
    return {f.value, f.slope * scale_here, {f.slope * off, f.slope}};
  };
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const Responded f = responded(n, ch, i);
    want[size_t(i)] = f.value, to_r[size_t(i)] = gy[i] * f.by[1], large[size_t(i)] = 40 * (1 + s_of(n, ch)) * (1 + s_of(n, ch));
    for (int64_t k = 0; k < tables; ++k) sums[size_t(k * size + n * c.C + ch)] += gy[i] * f.by[size_t(k)];
  });
  const std::string with = " " + std::to_string(number) + " " + std::to_string(act);
  const double off = suite.inexact(number < 0 ? exponential(act) : number == 1);
  suite.expect("normalize" + with, y, want, large, off);
  suite.call("nw_normalize_backward", c.last, c.N, c.C, c.S, Threads{c.threads}, recorded, 1, given,
             Given{leaving.data(), 1, sizeof(Span)}, Given(gy), Given(x), r, m, activated, Given(made), Given(gx), added ? Given(gr) : kNone);
  Values to_gamma = zeros(c.C);
  const auto total = [&](int64_t n, int64_t ch) {
    double sum = 0;
    for (int64_t k = 0; k < tables; ++k) sum += sums[size_t(k * size + n * c.C + ch)];
    return sum;
  };
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t ch = 0; ch < c.C; ++ch) {
      to_gamma[size_t(ch)] += total(n, ch) * s_of(n, ch) / weight[ch];
      large_s[size_t(ch)] += double(c.S * tables) * 40 * (1 + s_of(n, ch)) * (1 + s_of(n, ch)) / weight[ch];
    }
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const double s3 = std::pow(s_of(n, ch), 3) / (weight[ch] * weight[ch]), here = masked ? 0 : -1.0 / double(c.S);
    const double offset_here = number < 0 ? here * s_of(n, ch) * sums[size_t(size + n * c.C + ch)] : 0;
    to_x[size_t(i)] = gy[i] * responded(n, ch, i).by_x + here * total(n, ch) * s3 * (x[i] - mean[n * c.C + ch]) + offset_here;
    large[size_t(i)] *= (1 + s3) * 10;
  });
  suite.expect("normalize_backward" + with, gw, to_gamma, large_s, off);
  suite.expect("normalize_backward" + with, gx, to_x, large, off);
  if (added) suite.expect("normalize_backward" + with, gr, to_r, large, off);
}

}  // namespace abi
