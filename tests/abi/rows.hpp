// Rows over their width, and positions of maps over their channels.
#pragma once

#include "standardize.hpp"

namespace abi {

struct RowOptions {
  int center, kept;
  bool affine, added;
  int act;  // with an activation goes a residual
};

// `number` pools of `width` values: value j of pool p is at at(p, j), and parameters are [width]. What is normalized is in
// x after `forward`; `more` is added to its gradient.
template <class At, class Forward, class Backward>
void check_pools(Suite& suite, const std::string& name, const Case& c, int64_t number, int64_t width, const RowOptions& o,
                 const Tensor& x, const Tensor* more, At at, Forward forward, Backward backward) {
  const double eps = 1e-3;
  const Tensor y = suite.output(c), gy = suite.input(c, 0), gx = suite.output(c);
  const Kind of = kind_kept(suite.kind, o.kept);
  const Tensor weight = suite.table(of, width), bias = suite.table(of, width), gw(of, width), gb(of, width);
  Tensor table(kFp64, 2 * number);
  const auto optional = [&](const Tensor& t) { return o.affine ? Given(t) : kNone; };
  const Tensor residual = suite.input(c, 0), gr = suite.output(c);
  const auto finishing = [&](const Tensor& t) { return o.act ? Given(t) : kNone; };
  const Choice kept{o.kept}, act{o.act};
  forward(eps, finishing(residual), optional(weight), optional(bias), kept, act, Given(y), Given(table));
  Tensor flow(kFp64, 2 * number);
  flow.fill([&] { return o.center ? suite.random.normal() : 0; });
  backward(Given(gy), finishing(residual), optional(weight), optional(bias), kept, act, Given(table), Given(flow), Given(gx),
           finishing(gr), optional(gw), optional(gb));

  Values both = zeros(2 * number), y_want = zeros(c.values()), x_want = y_want, r_want = y_want, size = y_want;
  Values to_w = zeros(width), to_b = to_w, of_w = to_w;
  for (int64_t p = 0; p < number; ++p) {
    long double mean = 0, square = 0, level = 0, along = 0;
    for (int64_t j = 0; j < width && o.center; ++j) mean += x[at(p, j)] / static_cast<long double>(width);
    for (int64_t j = 0; j < width; ++j) square += (x[at(p, j)] - mean) * (x[at(p, j)] - mean) / double(width);
    const double root = 1 / std::sqrt(double(square) + eps);
    both[size_t(p)] = double(mean), both[size_t(number + p)] = root;
    const auto normal = [&](int64_t j) { return double(x[at(p, j)] - mean) * root; };
    const auto gain = [&](int64_t j) { return o.affine ? weight[j] : 1.0; };
    for (int64_t j = 0; j < width; ++j) {
      const size_t k = size_t(at(p, j));
      const double z = normal(j) * gain(j) + (o.affine ? bias[j] : 0) + (o.act ? residual[int64_t(k)] : 0);
      const Point point = activation(o.act, z);
      y_want[k] = point.value;
      const double g = r_want[k] = gy[int64_t(k)] * point.slope;
      level += o.center ? g * gain(j) / double(width) : 0, along += g * gain(j) * normal(j) / double(width);
      to_w[size_t(j)] += g * normal(j), to_b[size_t(j)] += g, of_w[size_t(j)] += 2 * std::fabs(g) * (2 + root * root);
    }
    for (int64_t j = 0; j < width; ++j) {
      const size_t k = size_t(at(p, j));
      x_want[k] = root * (r_want[k] * gain(j) - level - normal(j) * along) + (more ? (*more)[int64_t(k)] : 0);
      x_want[k] += (flow[p] + 2 * flow[number + p] * double(x[at(p, j)] - mean)) / double(width);
      size[k] = 4 * root * root + 4;
    }
  }
  suite.expect(name + " table", table, both, Values(both.size(), 40.0));
  const double off = suite.inexact(exponential(o.act));
  suite.expect(name, y, y_want, size, off);
  for (double& s : size) s *= 40;
  suite.expect(name + "_backward", gx, x_want, size, off);
  if (o.act) suite.expect(name + "_backward", gr, r_want, size, off);
  if (o.affine) suite.expect(name + "_backward", gw, to_w, of_w, off), suite.expect(name + "_backward", gb, to_b, of_w, off);
}

inline void check_rows(Suite& suite, const Case& c, const RowOptions& o) {
  const int64_t rows = c.N * c.S, width = c.C;
  const Tensor first = suite.input(c), second = suite.input(c), more = suite.input(c, 0);
  const Tensor sum = o.added ? suite.output(c) : first;
  check_pools(
      suite, "rows", c, rows, width, o, sum, o.added ? &more : nullptr, [&](int64_t p, int64_t j) { return p * width + j; },
      [&](double eps, auto... v) {
        const Given added = o.added ? Given(second) : kNone, to = o.added ? Given(sum) : kNone;
        suite.call("nw_rows", rows, width, Threads{c.threads}, o.center, eps, Given(first), added, to, v...);
      },
      [&](Given gy, auto... v) {
        const Given plus = o.added ? Given(more) : kNone;
        suite.call("nw_rows_backward", rows, width, Threads{c.threads}, o.center, gy, Given(sum), plus, v...);
      });
  if (!o.added) return;
  Values want;
  for (int64_t i = 0; i < c.values(); ++i) want.push_back(first[i] + second[i]);
  suite.expect("rows sum", sum, want, Values(want.size(), 1.0));
}

inline void check_columns(Suite& suite, Case c, const RowOptions& o) {
  c.last = 0;
  const Tensor x = suite.input(c);
  check_pools(
      suite, "columns", c, c.N * c.S, c.C, o, x, nullptr,
      [&](int64_t p, int64_t j) { return c.at(p / c.S, j, p % c.S); },
      [&](double eps, auto... v) {
        suite.call("nw_columns", c.N, c.C, c.S, Threads{c.threads}, o.center, eps, Given(x), v...);
      },
      [&](Given gy, auto... v) {
        suite.call("nw_columns_backward", c.N, c.C, c.S, Threads{c.threads}, o.center, gy, Given(x), v...);
      });
}

}  // namespace abi
