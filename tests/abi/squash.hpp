// A bounded function of each value, of rows (S is 1) and of planes.
#pragma once

#include "rows.hpp"

namespace abi {

inline Point curve(int number, double u) {
  const double t = std::tanh(u), root_pi = std::sqrt(3.14159265358979323846);
  return number ? Point{std::erf(u), 2 / root_pi * std::exp(-u * u)} : Point{t, 1 - t * t};
}

inline void check_squash(Suite& suite, Case c, int number, const RowOptions& o) {
  c.last = 0;
  const double alpha = 0.7, shift = 0.2;
  const Tensor x = suite.input(c), residual = suite.input(c, 0), gy = suite.input(c, 0);
  const Tensor y = suite.output(c), gx = suite.output(c), gr = suite.output(c), scalars(kFp64, 2);
  const Kind of = kind_kept(suite.kind, o.kept);
  const Tensor weight = suite.table(of, c.C), bias = suite.table(of, c.C), gw(of, c.C), gb(of, c.C);
  const auto optional = [&](const Tensor& t) { return o.affine ? Given(t) : kNone; };
  const auto finishing = [&](const Tensor& t) { return o.act ? Given(t) : kNone; };
  const Choice kept{o.kept}, act{o.act}, which{number};
  const Threads threads{c.threads};
  suite.call("nw_squash", c.N, c.C, c.S, threads, which, alpha, shift, Given(x), finishing(residual), optional(weight),
             optional(bias), kept, act, Given(y));
  suite.call("nw_squash_backward", c.N, c.C, c.S, threads, which, alpha, shift, Given(gy), Given(x), finishing(residual),
             optional(weight), optional(bias), kept, act, Given(gx), finishing(gr), optional(gw), optional(gb),
             Given(scalars));
  Values y_want = zeros(c.values()), x_want = y_want, r_want = y_want, size(y_want.size(), 40.0);
  Values to_w = zeros(c.C), to_b = to_w, of_w = to_w, both = zeros(2), of_both = both;
  c.each([&](int64_t, int64_t channel, int64_t, int64_t i) {
    const double gain = o.affine ? weight[channel] : 1;
    const Point bent = curve(number, alpha * x[i] + shift);
    const double z = bent.value * gain + (o.affine ? bias[channel] : 0) + (o.act ? residual[i] : 0);
    const Point point = activation(o.act, z);
    const double g = gy[i] * point.slope, inside = g * gain * bent.slope;
    y_want[size_t(i)] = point.value, r_want[size_t(i)] = g, x_want[size_t(i)] = inside * alpha;
    to_w[size_t(channel)] += g * bent.value, to_b[size_t(channel)] += g, of_w[size_t(channel)] += 4 * std::fabs(g);
    both[0] += inside * x[i], both[1] += inside;
    of_both[0] += 4 * std::fabs(g * gain * x[i]), of_both[1] += 4 * std::fabs(g * gain);
  });
  const double off = suite.inexact(true);
  suite.expect("squash", y, y_want, size, off);
  suite.expect("squash_backward", gx, x_want, size, off);
  if (o.act) suite.expect("squash_backward", gr, r_want, size, off);
  suite.expect("squash_backward", scalars, both, of_both, off);
  if (o.affine) suite.expect("squash_backward", gw, to_w, of_w, off), suite.expect("squash_backward", gb, to_b, of_w, off);
}

}  // namespace abi
