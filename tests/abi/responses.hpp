// The responses: what is not affine in x.
#pragma once

#include "tables.hpp"

namespace abi {

using Coefficients = std::array<double, 5>;

inline Coefficients coefficients(const GivenTables& t, int number, int64_t n, int64_t c, double residual) {
  Coefficients found{};
  for (int k = 0; k < number; ++k) found[size_t(k)] = t.at(k, n, c);
  found[1] += residual;
  return found;
}

inline void check_response(Suite& suite, const Case& c, int number, bool added, bool masked, bool measured) {
  const int own = kTablesOf[number];
  const Tensor x = suite.input(c), residual = suite.input(c), mask = suite.mask(c), y = suite.output(c);
  GivenTables all(suite, c, own + 3, false), first = all;  // then mean, slope and offset
  first.given.resize(size_t(own));
  if (!measured) all.leave_out(own + 1);
  const auto at = [&](int64_t n, int64_t ch, int64_t i) {
    return coefficients(all, own, n, ch, added ? residual[i] : 0);
  };
  Tensor gy = suite.input(c, 0);
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    if (near_a_kink(number, x[i], at(n, ch, i))) gy.set(i, 0);
  });
  const Tensor gx = suite.output(c), gr = suite.output(c), sums(wide(suite.kind), own * c.planes());
  const Given r = added ? Given(residual) : kNone, m = masked && measured ? Given(mask) : kNone;
  const Threads threads{c.threads};
  suite.call("nw_respond", c.last, c.N, c.C, c.S, threads, Choice{number}, Given(x), r, Given(first), Given(y));
  suite.call("nw_respond_reduce", c.last, c.N, c.C, c.S, threads, Choice{number}, Given(gy), Given(x), r, Given(first),
             Given(sums));
  suite.call("nw_respond_backward", c.last, c.N, c.C, c.S, threads, Choice{number}, Given(gy), Given(x), r, m, Given(all),
             Given(gx), added ? Given(gr) : kNone);

  Values value = zeros(c.values()), to_x = value, to_r = value, totals = zeros(own * c.planes()), size = totals;
  c.each([&](int64_t n, int64_t ch, int64_t s, int64_t i) {
    const Responded f = response(number, x[i], at(n, ch, i));
    const bool through = measured && (!masked || mask[n * c.S + s] != 0);
    const double off = x[i] - all.at(own, n, ch);
    value[size_t(i)] = f.value, to_r[size_t(i)] = gy[i] * f.by[1];
    to_x[size_t(i)] = gy[i] * f.by_x + (through ? all.at(own + 1, n, ch) * off + all.at(own + 2, n, ch) : 0);
    for (int k = 0; k < own; ++k) {
      const size_t p = size_t(k * c.planes() + n * c.C + ch);
      totals[p] += gy[i] * f.by[size_t(k)], size[p] += std::fabs(gy[i]) * (1 + x[i] * x[i]) * 12;
    }
  });
  const std::string with = " " + std::to_string(number);
  const Values large(value.size(), 40.0);
  const double off = suite.inexact(number == 1);
  suite.expect("respond" + with, y, value, large, off);
  suite.expect("respond_reduce" + with, sums, totals, size, off);
  suite.expect("respond_backward" + with, gx, to_x, large, off);
  if (added) suite.expect("respond_backward" + with, gr, to_r, large, off);
  refuse_tables(suite, first, own, [&] {
    return suite.library.call("nw_respond", c.last, c.N, c.C, c.S, c.threads, number, Given(x), kNone, Given(first), Given(y));
  });
}

}  // namespace abi
