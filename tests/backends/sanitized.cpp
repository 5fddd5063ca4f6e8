// Every kernel over sizes around its vectors and tiles, on buffers that end where the tensor ends; built with
// sanitizers, for one element type, by test_cpu_sanitized.py.
#define NW_VERSION 1
#include "kernels.cpp"

#include <cstdio>
#include <cstdlib>

#define CALL(name) NW_NAMED(name, NW_ELEMENT)
// A vector, a vector from its second value on, and nothing, as the kernels take tensors.
#define ALL(v) (v).data(), int64_t((v).size())
#define TAIL(v) (v).data() + 1, int64_t((v).size()) - 1
#define NONE nullptr, 0

template <class E>
std::vector<E> filled(int64_t n) {
  std::vector<E> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof(E) == 2)
      v[size_t(i)].bits = uint16_t(0x3c00 + (i * 37) % 101);  // finite in both types of 16 bits
    else
      v[size_t(i)] = E((i * 37) % 101) / 50 - 1;
  }
  return v;
}

void exercise_responses(int last, int64_t N, int64_t C, int64_t S, int threads, const std::vector<uint8_t>& mask,
                        const nw::GivenTable* tables) {
  auto x = filled<T>(N * C * S), gy = x, residual = x, y = x, gx = x, gr = x;
  int failed = 0;
  for (int response = 0; response < 3; ++response) {
    const int own = response == 2 ? 5 : 3;
    std::vector<A> sums(size_t(own * N * C));
    failed |= CALL(nw_respond)(last, N, C, S, threads, response, ALL(x), ALL(residual), tables, own, ALL(y));
    failed |= CALL(nw_respond_reduce)(last, N, C, S, threads, response, ALL(gy), ALL(x), NONE, tables, own, ALL(sums));
    failed |= CALL(nw_respond_backward)(last, N, C, S, threads, response, ALL(gy), ALL(x), ALL(residual), NONE, tables,
                                        own + 3, ALL(gx), ALL(gr));
    failed |= CALL(nw_respond_backward)(last, N, C, S, threads, response, ALL(gy), ALL(x), ALL(residual), ALL(mask), tables,
                                        own + 3, ALL(gx), ALL(gr));
  }
  if (failed || CALL(nw_respond)(last, N, C, S, threads, 3, ALL(x), NONE, tables, 3, ALL(y)) != kRefused) std::abort();
}

void exercise(int64_t N, int64_t C, int64_t S, int threads, int act) {
  auto x = filled<T>(N * C * S), gy = x, residual = x, y = x, gx = x, gr = x;
  std::vector<uint8_t> mask(size_t(N * S), 1);
  for (size_t i = 0; i < mask.size(); i += 3) mask[i] = 0;
  std::vector<double> mean(size_t(N * C)), var(size_t(N * C)), count(static_cast<size_t>(N));
  std::vector<double> positions(size_t(2 * N * S));
  std::vector<A> table(size_t(N * C), A(0.5)), sum_g(size_t(N * C)), sum_gx(size_t(N * C));
  std::vector<A> weight(size_t(C), A(1)), gw(static_cast<size_t>(C)), gb(static_cast<size_t>(C));
  nw::GivenTable tables[8];
  for (auto& t : tables) t = {table.data(), N * C, C, 1};
  int failed = 0;
  for (int last = 0; last < 2; ++last) {
    failed |= CALL(nw_moments)(last, N, C, S, threads, ALL(x), NONE, ALL(mean), ALL(var), ALL(count));
    failed |= CALL(nw_moments)(last, N, C, S, threads, ALL(x), ALL(mask), ALL(mean), ALL(var), ALL(count));
    failed |= CALL(nw_backward_apply)(last, N, C, S, threads, ALL(gy), ALL(x), ALL(residual), NONE, tables, 5, act, ALL(gx),
                                      ALL(gr));
    failed |= CALL(nw_backward_apply)(last, N, C, S, threads, ALL(gy), ALL(x), ALL(residual), ALL(mask), tables, 5, act,
                                      ALL(gx), ALL(gr));
    failed |= CALL(nw_apply)(last, N, C, S, threads, ALL(x), ALL(residual), tables, 3, act, ALL(y));
    failed |= CALL(nw_backward_reduce)(last, N, C, S, threads, ALL(gy), ALL(x), NONE, tables, 3, act, ALL(sum_g),
                                       ALL(sum_gx));
    exercise_responses(last, N, C, S, threads, mask, tables);
    for (int64_t groups : {int64_t(0), int64_t(1), C}) {
      std::vector<double> moments(size_t(2 * (groups ? N * groups : C)));
      failed |= CALL(nw_standardize)(last, N, C, S, threads, groups, 1e-3, ALL(x), ALL(residual), ALL(weight), NONE,
                                     nw::kWide, NONE, NONE, 0, act, ALL(y), ALL(moments));
      failed |= CALL(nw_standardize_backward)(last, N, C, S, threads, groups, 0, 1e-3, ALL(gy), ALL(x), ALL(residual),
                                              ALL(weight), NONE, nw::kWide, act, ALL(moments), ALL(gx), ALL(gr), ALL(gw),
                                              ALL(gb));
    }
  }
  std::vector<double> scalars(2);
  for (int64_t rows = 0; rows < 2; ++rows)
    for (int curve = 0; curve < 2; ++curve) {
      const int64_t n = rows ? N * S : N, s = rows ? 1 : S;
      failed |= CALL(nw_squash)(n, C, s, threads, curve, 0.7, 0.1, ALL(x), ALL(residual), ALL(weight), NONE, nw::kWide, act,
                                ALL(y));
      failed |= CALL(nw_squash_backward)(n, C, s, threads, curve, 0.7, 0.1, ALL(gy), ALL(x), ALL(residual), ALL(weight), NONE,
                                         nw::kWide, act, ALL(gx), act ? gr.data() : nullptr, act ? int64_t(gr.size()) : 0,
                                         ALL(gw), ALL(gb), ALL(scalars));
    }
  for (int center = 0; center < 2; ++center) {
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, ALL(x), ALL(residual), ALL(gr), NONE, ALL(weight), NONE,
                            nw::kWide, 0, ALL(y), ALL(positions));
    failed |= CALL(nw_rows_backward)(N * S, C, threads, center, ALL(gy), ALL(gr), ALL(residual), NONE, ALL(weight), NONE,
                                     nw::kWide, 0, ALL(positions), ALL(positions), ALL(gx), NONE, ALL(gw), ALL(gb));
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, ALL(x), NONE, NONE, ALL(residual), ALL(weight), NONE,
                            nw::kWide, act, ALL(y), ALL(positions));
    failed |= CALL(nw_rows_backward)(N * S, C, threads, center, ALL(gy), ALL(x), NONE, ALL(residual), ALL(weight), NONE,
                                     nw::kWide, act, ALL(positions), NONE, ALL(gx), act ? gr.data() : nullptr,
                                     act ? int64_t(gr.size()) : 0, ALL(gw), ALL(gb));
    failed |= CALL(nw_columns)(N, C, S, threads, center, 1e-3, ALL(x), ALL(residual), ALL(weight), NONE, nw::kWide, act,
                               ALL(y), ALL(positions));
    failed |= CALL(nw_columns_backward)(N, C, S, threads, center, ALL(gy), ALL(x), ALL(residual), NONE, NONE, nw::kWide, act,
                                        ALL(positions), ALL(positions), ALL(gx), act ? gr.data() : nullptr,
                                        act ? int64_t(gr.size()) : 0, ALL(gw), ALL(gb));
  }
  if (failed) std::abort();
}

// What may be absent is, what may be known is, tables are shared by the samples, groups are a part of the channels, and
// every tensor starts where no vector is aligned to.
void exercise_without_options(int64_t N, int64_t C, int64_t S, int threads, int act) {
  auto x = filled<T>(N * C * S + 1), gy = x, y = x, gx = x;
  std::vector<uint8_t> mask(size_t(N * S) + 1, 0);
  std::vector<double> mean(size_t(N * C), 0.25), var(size_t(N * C), 2);
  std::vector<double> positions(size_t(2 * N * S));
  auto weight = filled<T>(C + 1), gw = weight, gb = weight;
  std::vector<A> table(static_cast<size_t>(C), A(0.5)), sum_g(size_t(N * C)), sum_gx(size_t(N * C));
  const nw::GivenTable shared{table.data(), C, 0, 1}, absent{nullptr, 0, 0, 0};
  const nw::GivenTable tables[5] = {shared, shared, shared, absent, absent};
  int64_t groups = C;
  for (int64_t divisor = 2; divisor < C && groups == C; ++divisor)
    if (C % divisor == 0) groups = divisor;
  int failed = 0;
  for (int last = 0; last < 2; ++last) {
    failed |= CALL(nw_moments)(last, N, C, S, threads, TAIL(x), TAIL(mask), ALL(mean), ALL(var), NONE);
    failed |= CALL(nw_apply)(last, N, C, S, threads, TAIL(x), NONE, tables, 3, act, TAIL(y));
    failed |= CALL(nw_backward_reduce)(last, N, C, S, threads, TAIL(gy), TAIL(x), NONE, tables, 3, act, ALL(sum_g),
                                       ALL(sum_gx));
    failed |= CALL(nw_backward_apply)(last, N, C, S, threads, TAIL(gy), TAIL(x), NONE, NONE, tables, 5, act, TAIL(gx), NONE);
    for (int64_t g : {int64_t(0), groups}) {
      std::vector<double> moments(size_t(2 * (g ? N * g : C)), 2);
      failed |= CALL(nw_standardize)(last, N, C, S, threads, g, 1e-3, TAIL(x), NONE, NONE, NONE, 0, NONE, NONE, 0, act,
                                     TAIL(y), NONE);
      failed |= CALL(nw_standardize_backward)(last, N, C, S, threads, g, 0, 1e-3, TAIL(gy), TAIL(x), NONE, NONE, NONE, 0,
                                              act, ALL(moments), TAIL(gx), NONE, NONE, NONE);
    }
    std::vector<double> moments(size_t(2 * C));
    failed |= CALL(nw_standardize)(last, N, C, S, threads, 0, 1e-3, TAIL(x), NONE, TAIL(weight), TAIL(weight), nw::kNarrow,
                                   TAIL(weight), TAIL(weight), nw::kNarrow, act, TAIL(y), ALL(moments));
    failed |= CALL(nw_standardize_backward)(last, N, C, S, threads, 0, 1, 1e-3, TAIL(gy), TAIL(x), NONE, TAIL(weight),
                                            TAIL(weight), nw::kNarrow, act, ALL(moments), NONE, NONE, TAIL(gw), TAIL(gb));
  }
  auto running_mean = filled<T>(C + 1), running_var = running_mean;
  std::vector<int64_t> batches{0};
  std::vector<double> of_mean(mean.begin(), mean.begin() + C), of_var(size_t(C), 2);
  failed |= CALL(nw_remember)(C, ALL(of_mean), ALL(of_var), nw::kDouble, 1.5, 0.1, TAIL(running_mean),
                              TAIL(running_var), nw::kNarrow, ALL(batches));
  failed |= CALL(nw_remember)(C, TAIL(running_mean), TAIL(running_var), nw::kNarrow, 1.5, 0.1, ALL(of_mean), ALL(of_var),
                              nw::kDouble, NONE);
  failed |= batches[0] != 1;
  of_mean[0] = std::numeric_limits<double>::quiet_NaN();
  failed |= CALL(nw_remember)(C, ALL(of_mean), ALL(of_var), nw::kDouble, 1.5, 0.1, TAIL(running_mean),
                              TAIL(running_var), nw::kNarrow, ALL(batches)) != kNotFinite;
  std::vector<double> scalars(2);
  failed |= CALL(nw_squash)(N, C, S, threads, 1, 0.7, 0.1, TAIL(x), NONE, NONE, NONE, 0, act, TAIL(y));
  failed |= CALL(nw_squash_backward)(N, C, S, threads, 1, 0.7, 0.1, TAIL(gy), TAIL(x), NONE, TAIL(weight), TAIL(weight),
                                     nw::kNarrow, act, NONE, NONE, TAIL(gw), TAIL(gb), ALL(scalars));
  for (int center = 0; center < 2; ++center) {
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, TAIL(x), NONE, NONE, NONE, NONE, NONE, 0, act, TAIL(y), NONE);
    failed |= CALL(nw_columns)(N, C, S, threads, center, 1e-3, TAIL(x), NONE, TAIL(weight), TAIL(weight), nw::kNarrow, act,
                               TAIL(y), NONE);
    failed |= CALL(nw_columns_backward)(N, C, S, threads, center, TAIL(gy), TAIL(x), NONE, NONE, NONE, 0, act,
                                        ALL(positions), NONE, TAIL(gx), NONE, NONE, NONE);
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, TAIL(x), TAIL(x), TAIL(gx), NONE, TAIL(weight), TAIL(weight),
                            nw::kNarrow, act, TAIL(y), ALL(positions));
    failed |= CALL(nw_rows_backward)(N * S, C, threads, center, TAIL(gy), TAIL(x), TAIL(gy), TAIL(x), TAIL(weight),
                                     TAIL(weight), nw::kNarrow, act, ALL(positions), NONE, TAIL(gx), NONE, TAIL(gw),
                                     TAIL(gb));
  }
  if (failed) std::abort();
}

nw::Operand at(int64_t start, int64_t of_sample, int64_t of_channel) { return {start, {0, 0, of_sample, of_channel}}; }

// A formula that centers on the mean, whose every table is γ/√(σ² + ε), in programs written by hand: γ is [C].
void exercise_formula(int64_t N, int64_t C, int64_t S, int threads, int64_t response) {
  using namespace nw;
  const int64_t size = N * C, wide = sizeof(A) == 8, tables = response < 0 ? 2 : response == 2 ? 5 : 3;
  const double constants[] = {0, 1e-3};
  const int64_t mean = 2, var = mean + size, weight = var + size, around = weight + C, scale = around + size;
  const int64_t grads = scale + size, gw = grads + tables * size, of_sample = gw + C;
  const auto step = [&](int64_t operation, Operand to, Operand a, Operand b) {
    return Instruction{operation, {1, 1, N, C}, to, {a, b, at(0, 0, 0)}};
  };
  const Instruction forward[] = {
      step(kRound, at(around, C, 1), at(mean, C, 1), at(0, 0, 0)),
      step(kAdd, at(scale, C, 1), at(var, C, 1), at(1, 0, 0)),
      step(kRsqrt, at(scale, C, 1), at(scale, C, 1), at(0, 0, 0)),
      step(kMul, at(scale, C, 1), at(scale, C, 1), at(weight, 0, 1)),
  };
  const Instruction backward[] = {
      step(kCopy, at(gw, 0, 1), at(0, 0, 0), at(0, 0, 0)),
      step(kSum, at(gw, 0, 1), at(grads, C, 1), at(0, 0, 0)),
      step(kCopy, at(of_sample, 1, 0), at(grads, C, 1), at(0, 0, 0)),
      step(kLargest, at(of_sample, 1, 0), at(grads, C, 1), at(0, 0, 0)),
      step(kSum, at(of_sample, 1, 0), at(grads + size, C, 1), at(0, 0, 0)),
  };
  std::vector<Port> ports{{mean, size, 1}, {var, size, 1}, {weight, C, wide}};
  std::vector<Port> more = ports;
  ports.push_back({around, size, wide});
  for (int64_t k = 0; k < tables; ++k) {
    ports.push_back({scale, size, wide});
    more.push_back({grads + k * size, size, wide});
  }
  more.insert(more.end(), {{gw, C, wide}, {grads, size, wide}, {grads + size, size, wide}});
  const int64_t room = of_sample + N;
  const Formula formula{{forward, 4, room, constants, 2, ports.data(), 3, 1 + tables},
                        {backward, 5, room, constants, 2, more.data(), 3 + tables, 3},
                        tables, response};
  auto x = filled<T>(N * C * S), gy = x, residual = x, y = x, gx = x, gr = x;
  std::vector<uint8_t> mask(size_t(N * S), 1);
  std::vector<double> moments(size_t(2 * size)), count(static_cast<size_t>(N));
  std::vector<A> gamma(size_t(C), A(1)), made(size_t((1 + tables) * size)), gradient(static_cast<size_t>(C));
  const Span entering[] = {{moments.data(), size}, {moments.data() + size, size}, {gamma.data(), C}};
  const Span leaving[] = {{gradient.data(), C}};
  int failed = 0;
  for (int last = 0; last < 2; ++last) {
    const int plain = response < 0 ? 1 : 0;  // the activation: a response takes none
    failed |= CALL(nw_normalize)(last, N, C, S, threads, &formula, 1, entering, 3, NONE, ALL(x), ALL(residual), NONE, plain,
                                 ALL(y), ALL(made));
    failed |= CALL(nw_normalize_backward)(last, N, C, S, threads, &formula, 1, entering, 3, leaving, 1, ALL(gy), ALL(x),
                                          ALL(residual), ALL(mask), plain, ALL(made), NONE, NONE);
    failed |= CALL(nw_normalize_backward)(last, N, C, S, threads, &formula, 1, entering, 3, leaving, 1, ALL(gy), ALL(x),
                                          ALL(residual), ALL(mask), plain, ALL(made), ALL(gx), ALL(gr));
  }
  if (failed) std::abort();
}

// The arguments are numbers of threads.
int main(int count, char** arguments) {
  // From one value to several tasks of each kind: long planes, many planes, many samples, wide rows.
  const int64_t sizes[][3] = {{1, 1, 1},     {2, 3, 1},    {1, 5, 49},     {3, 17, 63},  {2, 64, 5},    {1, 2, 70001},
                              {3, 40, 1100}, {2, 300, 65}, {1, 1280, 130}, {700, 6, 11}, {1, 5000, 9}, {33, 1037, 1},
                              {3, 20003, 1}};
  for (const auto& size : sizes)
    for (int i = 1; i < count; ++i) {
      const int threads = std::atoi(arguments[i]);
      for (int act : {0, 1, 8}) exercise(size[0], size[1], size[2], threads, act);
      for (int64_t response = -1; response < 3; ++response)
        exercise_formula(size[0], size[1], size[2], threads, response);
      for (int act : {0, 5}) exercise_without_options(size[0], size[1], size[2], threads, act);
    }
  std::puts("clean");
}
