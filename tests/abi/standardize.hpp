// Standardization in one call, over groups of channels or over the batch, and what a layer remembers.
#pragma once

#include "tables.hpp"

namespace abi {

// Options of one call; `kept` is a number of the interface: in the accumulator's type, in the element type, in fp64.
struct Standardization {
  int64_t groups;
  int act, kept;
  bool affine, added, known;
};
inline Kind kind_kept(Kind element, int kept) { return kept == 0 ? wide(element) : kept == 1 ? element : kFp64; }
inline Choice none_or(bool there, int kept) { return {there ? kept : 0}; }

// The pool of a channel in a sample.
inline int64_t pool_of(const Case& c, int64_t groups, int64_t n, int64_t ch) {
  return groups ? n * groups + ch / (c.C / groups) : ch;
}

inline void check_standardize(Suite& suite, const Case& c, const Standardization& o) {
  const double eps = 1e-3;
  const int64_t pools = o.groups ? c.N * o.groups : c.C;
  const Tensor x = suite.input(c), residual = suite.input(c), y = suite.output(c);
  const Kind of = kind_kept(suite.kind, o.kept);
  const Tensor weight = suite.table(of, c.C), bias = suite.table(of, c.C);
  const Tensor known_mean = suite.table(of, pools), known_var = suite.table(of, pools);
  Tensor table(kFp64, 2 * pools);
  const auto optional = [](bool there, const Tensor& t) { return there ? Given(t) : kNone; };
  const Given r = optional(o.added, residual), w = optional(o.affine, weight), b = optional(o.affine, bias);
  suite.call("nw_standardize", c.last, c.N, c.C, c.S, Threads{c.threads}, o.groups, eps, Given(x), r, w, b, Choice{o.kept},
             optional(o.known, known_mean), optional(o.known, known_var), Choice{o.kept}, Choice{o.act}, Given(y),
             Given(table));

  Sums mean = no_sums(pools), var = mean, count = mean;
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const size_t p = size_t(pool_of(c, o.groups, n, ch));
    mean[p] += x[i], count[p] += 1;
  });
  for (size_t p = 0; p < mean.size(); ++p) mean[p] = o.known ? known_mean[int64_t(p)] : mean[p] / count[p];
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const size_t p = size_t(pool_of(c, o.groups, n, ch));
    var[p] += (x[i] - mean[p]) * (x[i] - mean[p]) / count[p];
  });
  Values both = rounded(mean), size(size_t(2 * pools), 2.0);
  for (size_t p = 0; p < var.size(); ++p) both.push_back(o.known ? known_var[int64_t(p)] : double(var[p]));
  suite.expect("standardize table", table, both, size);

  Values z = zeros(c.values()), normal = z, root = zeros(pools), large = z;
  for (size_t p = 0; p < root.size(); ++p) root[p] = 1 / std::sqrt(both[size_t(pools) + p] + eps);
  const auto gain = [&](int64_t ch) { return o.affine ? weight[ch] : 1.0; };
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const size_t p = size_t(pool_of(c, o.groups, n, ch)), k = size_t(i);
    normal[k] = (x[i] - mean[p]) * root[p];
    z[k] = normal[k] * gain(ch) + (o.affine ? bias[ch] : 0) + (o.added ? residual[i] : 0);
    large[k] = 4 * root[p] * root[p] + 4;
  });
  Values want = z;
  for (double& v : want) v = activation(o.act, v).value;
  const double off = suite.inexact(exponential(o.act));
  suite.expect("standardize " + std::to_string(o.act), y, want, large, off);

  const Tensor gy = cotangent(suite, c, z), gx = suite.output(c), gr = suite.output(c);
  const Tensor gw(of, c.C), gb(of, c.C);
  suite.call("nw_standardize_backward", c.last, c.N, c.C, c.S, Threads{c.threads}, o.groups, int(o.known), eps, Given(gy),
             Given(x), r, w, b, Choice{o.kept}, Choice{o.act}, Given(table), Given(gx), optional(o.added, gr),
             optional(o.affine, gw), optional(o.affine, gb));
  Sums to_w = no_sums(c.C), to_b = to_w, along = no_sums(pools), level = along;
  Values of_w = zeros(c.C), of_b = of_w, to_x = z, to_r = z;
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const size_t p = size_t(pool_of(c, o.groups, n, ch)), k = size_t(i);
    const double g = gy[i] * activation(o.act, z[k]).slope, large_z = std::fabs(gy[i]) * (1 + std::fabs(normal[k]) + root[p]);
    to_r[k] = g, to_b[size_t(ch)] += g, to_w[size_t(ch)] += g * normal[k];
    // An activation's slope has the roundings of z.
    of_b[size_t(ch)] += o.act ? large_z : std::fabs(gy[i]), of_w[size_t(ch)] += 2 * large_z;
    level[p] += g * gain(ch) / count[p], along[p] += g * gain(ch) * normal[k] / count[p];
  });
  c.each([&](int64_t n, int64_t ch, int64_t, int64_t i) {
    const size_t p = size_t(pool_of(c, o.groups, n, ch)), k = size_t(i);
    const double through = o.known ? 0 : level[p] + normal[k] * along[p];
    to_x[k] = root[p] * (to_r[k] * gain(ch) - through);
    large[k] *= 4 * root[p];
  });
  const std::string with = "standardize_backward " + std::to_string(o.act);
  suite.expect(with, gx, to_x, large, off);
  if (o.added) suite.expect(with, gr, to_r, Values(to_r.size(), 8.0), off);
  if (o.affine) suite.expect(with, gw, rounded(to_w), of_w, off), suite.expect(with, gb, rounded(to_b), of_b, off);
}

// Running statistics take in a batch's, by momentum; numbers that are not finite change nothing.
inline void check_remember(Suite& suite, int64_t channels, int kept, int running_kept) {
  const double bessel = 1.25, momentum = 0.1;
  Tensor mean = suite.table(kind_kept(suite.kind, kept), channels), var = suite.table(mean.kind(), channels);
  Tensor running_mean = suite.table(kind_kept(suite.kind, running_kept), channels);
  Tensor running_var = suite.table(running_mean.kind(), channels), batches(kInt64, 1);
  batches.set(0, 4);
  Values means, vars;
  for (int64_t i = 0; i < channels; ++i) {
    means.push_back(running_mean[i] + momentum * (mean[i] - running_mean[i]));
    vars.push_back(running_var[i] + momentum * (var[i] * bessel - running_var[i]));
  }
  suite.call("nw_remember", channels, Given(mean), Given(var), Choice{kept}, bessel, momentum, Given(running_mean),
             Given(running_var), Choice{running_kept}, Given(batches));
  const Values size(means.size(), 1e-3);
  suite.expect("remember mean", running_mean, means, size);
  suite.expect("remember var", running_var, vars, size);
  suite.expect("remember batches", batches, {5}, {0});
  mean.set(channels - 1, HUGE_VAL);
  const int answer = suite.library.call("nw_remember", channels, Given(mean), Given(var), kept, bessel, momentum,
                                        Given(running_mean), Given(running_var), running_kept, Given(batches));
  if (answer != kNotFinite) suite.fail("remember: an infinite mean is answered by %d", answer);
  suite.expect("remember mean", running_mean, means, size);
  suite.expect("remember batches", batches, {5}, {0});
}

}  // namespace abi
