// The kernels between a tensor and tables [N, C]: moments, apply, and their backward passes.
#pragma once

#include "suite.hpp"

namespace abi {

using Values = std::vector<double>;
inline Values zeros(int64_t n) { return Values(size_t(n), 0.0); }
// What is summed one by one, wider than the kernels' own sums: else its rounding is the larger one.
using Sums = std::vector<long double>;
inline Sums no_sums(int64_t n) { return Sums(size_t(n), 0.0L); }
inline Values rounded(const Sums& sums) { return Values(sums.begin(), sums.end()); }

// Tables [N, C] of one random value each, or shared by the samples, as the kernels take them.
struct GivenTables {
  std::vector<Tensor> tensors;
  std::vector<GivenTable> given;
  int64_t C;
  bool shared;

  GivenTables(Suite& suite, const Case& c, int number, bool shared) : C(c.C), shared(shared) {
    for (int k = 0; k < number; ++k) {
      tensors.push_back(suite.table(wide(suite.kind), shared ? c.C : c.planes()));
      given.push_back({tensors.back().data(), tensors.back().count(), shared ? 0 : c.C, 1});
    }
  }
  void leave_out(int first) {
    for (size_t k = size_t(first); k < given.size(); ++k) given[k] = {nullptr, 0, 0, 0};
  }
  double at(int k, int64_t n, int64_t c) const { return tensors[size_t(k)][(shared ? 0 : n * C) + c]; }
  operator Given() { return {given.data(), int64_t(given.size()), int64_t(given.size() * sizeof(GivenTable))}; }
};

// A table that ends too early, that nobody brings, or that is walked through backwards.
template <class F>
void refuse_tables(Suite& suite, GivenTables& tables, int required, F call) {
  if (!suite.refusing) return;
  for (int k = 0; k < required; ++k) {
    const GivenTable right = tables.given[size_t(k)];
    for (GivenTable wrong : {GivenTable{right.data, right.count - 1, right.of_sample, right.of_channel},
                             GivenTable{nullptr, right.count, right.of_sample, right.of_channel},
                             GivenTable{right.data, right.count, right.of_sample, -1},
                             GivenTable{right.data, right.count, int64_t(1) << 62, right.of_channel}}) {
      tables.given[size_t(k)] = wrong;
      if (call() != kRefused) suite.fail("table %d that does not fit is taken", k);
    }
    tables.given[size_t(k)] = right;
  }
}

inline void check_moments(Suite& suite, const Case& c, bool masked) {
  const Tensor x = suite.input(c), mask = masked ? suite.mask(c) : Tensor(kByte, 0);
  Tensor mean(kFp64, c.planes()), var(kFp64, c.planes()), count(kFp64, c.N);
  suite.call("nw_moments", c.last, c.N, c.C, c.S, Threads{c.threads}, Given(x), masked ? Given(mask) : kNone, Given(mean),
             Given(var), masked ? Given(count) : kNone);
  Sums means = no_sums(c.planes()), vars = means;
  Values counts = zeros(c.N);
  const Values sizes(means.size(), 2.0);
  const auto counted = [&](int64_t n, int64_t s) { return !masked || mask[n * c.S + s] != 0; };
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t s = 0; s < c.S; ++s) counts[size_t(n)] += counted(n, s);
  const auto averaged = [&](Sums& sums, auto term) {
    c.each([&](int64_t n, int64_t ch, int64_t s, int64_t i) {
      const size_t p = size_t(n * c.C + ch);
      if (counted(n, s)) sums[p] += term(x[i], p) / counts[size_t(n)];
    });
  };
  averaged(means, [](long double value, size_t) { return value; });
  averaged(vars, [&](long double value, size_t p) { return (value - means[p]) * (value - means[p]); });
  suite.expect("moments mean", mean, rounded(means), sizes);
  suite.expect("moments var", var, rounded(vars), sizes);
  if (masked) suite.expect("moments count", count, counts, zeros(c.N));
}

// z = (x - mean) scale + shift + residual, with tables in this order.
inline Values before_activation(const Case& c, const GivenTables& t, const Tensor& x, const Tensor* residual) {
  Values z = zeros(c.values());
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    z[size_t(i)] = (x[i] - t.at(0, n, ch)) * t.at(1, n, ch) + t.at(2, n, ch) + (residual ? (*residual)[i] : 0);
  });
  return z;
}
// A cotangent that asks nothing where roundings decide which slope it is.
inline Tensor cotangent(Suite& suite, const Case& c, const Values& z) {
  Tensor gy = suite.input(c, 0);
  for (int64_t i = 0; i < c.values(); ++i)
    if (near_a_kink(z[size_t(i)])) gy.set(i, 0);
  return gy;
}

inline void check_apply(Suite& suite, const Case& c, int act, bool added, bool shared) {
  const Tensor x = suite.input(c), residual = suite.input(c), y = suite.output(c);
  GivenTables tables(suite, c, 3, shared);
  const auto call = [&](auto... v) { return suite.library.call("nw_apply", v...); };
  suite.call("nw_apply", c.last, c.N, c.C, c.S, Threads{c.threads}, Given(x), added ? Given(residual) : kNone,
             Given(tables), Choice{act}, Given(y));
  const Values z = before_activation(c, tables, x, added ? &residual : nullptr);
  Values want = z;
  for (double& v : want) v = activation(act, v).value;
  suite.expect("apply " + std::to_string(act), y, want, Values(z.size(), 6.0), suite.inexact(exponential(act)));
  refuse_tables(suite, tables, 3, [&] {
    return call(c.last, c.N, c.C, c.S, c.threads, Given(x), kNone, Given(tables), act, Given(y));
  });
}

inline void check_backward(Suite& suite, const Case& c, int act, bool added, bool masked, bool measured) {
  const Tensor x = suite.input(c), residual = suite.input(c), mask = suite.mask(c);
  GivenTables tables(suite, c, 5, false), three = tables;
  three.given.resize(3);
  if (!measured) tables.leave_out(3);
  const Values z = before_activation(c, tables, x, added ? &residual : nullptr);
  const Tensor gy = cotangent(suite, c, z), gx = suite.output(c), gr = suite.output(c);
  Tensor sum_g(wide(suite.kind), c.planes()), sum_gx(wide(suite.kind), c.planes());
  const Given r = added ? Given(residual) : kNone, m = masked && measured ? Given(mask) : kNone;
  suite.call("nw_backward_reduce", c.last, c.N, c.C, c.S, Threads{c.threads}, Given(gy), Given(x), r, Given(three),
             Choice{act}, Given(sum_g), Given(sum_gx));
  suite.call("nw_backward_apply", c.last, c.N, c.C, c.S, Threads{c.threads}, Given(gy), Given(x), r, m, Given(tables),
             Choice{act}, Given(gx), added ? Given(gr) : kNone);
  Values sums = zeros(c.planes()), size = sums, sums_x = sums, size_x = sums, to_x = zeros(c.values()), to_r = to_x;
  c.each([&](int64_t n, int64_t ch, int64_t s, int64_t i) {
    const double g = gy[i] * activation(act, z[size_t(i)]).slope, off = x[i] - tables.at(0, n, ch);
    const size_t p = size_t(n * c.C + ch);
    sums[p] += g, size[p] += std::fabs(gy[i]), sums_x[p] += g * off, size_x[p] += std::fabs(gy[i]) * (std::fabs(off) + 1);
    const bool through = measured && (!masked || mask[n * c.S + s] != 0);
    to_x[size_t(i)] = g * tables.at(1, n, ch) + (through ? tables.at(3, n, ch) * off + tables.at(4, n, ch) : 0);
    to_r[size_t(i)] = g;
  });
  const std::string with = " " + std::to_string(act);
  const double off = suite.inexact(exponential(act));
  suite.expect("backward_reduce" + with, sum_g, sums, size, off);
  suite.expect("backward_reduce" + with, sum_gx, sums_x, size_x, off);
  suite.expect("backward_apply" + with, gx, to_x, Values(to_x.size(), 10.0), off);
  if (added) suite.expect("backward_apply" + with, gr, to_r, Values(to_r.size(), 6.0), off);
}

}  // namespace abi
