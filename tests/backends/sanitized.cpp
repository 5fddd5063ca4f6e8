// Every kernel over sizes around its vectors and tiles, on buffers that end where the tensor ends; built with
// sanitizers, for one element type, by test_cpu_sanitized.py.
#define NW_VERSION 1
#include "kernels.cpp"

#include <cstdio>
#include <cstdlib>

#define CALL(name) NW_NAMED(name, NW_ELEMENT)

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

void exercise_responses(int last, int64_t N, int64_t C, int64_t S, int threads, const uint8_t* mask,
                        const void* const* tables, const int64_t* strides) {
  auto x = filled<T>(N * C * S), gy = x, residual = x, y = x, gx = x, gr = x;
  int failed = 0;
  for (int response = 0; response < 3; ++response) {
    std::vector<A> sums(size_t((response == 2 ? 5 : 3) * N * C));
    failed |= CALL(nw_respond)(last, N, C, S, threads, response, x.data(), residual.data(), tables, strides, y.data());
    failed |= CALL(nw_respond_reduce)(last, N, C, S, threads, response, gy.data(), x.data(), nullptr, tables, strides,
                                      sums.data());
    for (const uint8_t* m : {static_cast<const uint8_t*>(nullptr), mask})
      failed |= CALL(nw_respond_backward)(last, N, C, S, threads, response, gy.data(), x.data(), residual.data(), m,
                                          tables, strides, gx.data(), gr.data());
  }
  if (failed || CALL(nw_respond)(last, N, C, S, threads, 3, x.data(), nullptr, tables, strides, y.data()) != 2)
    std::abort();
}

void exercise(int64_t N, int64_t C, int64_t S, int threads, int act) {
  auto x = filled<T>(N * C * S), gy = x, residual = x, y = x, gx = x, gr = x;
  std::vector<uint8_t> mask(size_t(N * S), 1);
  for (size_t i = 0; i < mask.size(); i += 3) mask[i] = 0;
  std::vector<double> mean(size_t(N * C)), var(size_t(N * C)), count(static_cast<size_t>(N));
  std::vector<double> positions(size_t(2 * N * S));
  std::vector<A> table(size_t(N * C), A(0.5)), sum_g(size_t(N * C)), sum_gx(size_t(N * C));
  std::vector<A> weight(size_t(C), A(1)), gw(static_cast<size_t>(C)), gb(static_cast<size_t>(C));
  const void* tables[8];
  int64_t strides[16];
  for (int i = 0; i < 8; ++i) tables[i] = table.data(), strides[2 * i] = C, strides[2 * i + 1] = 1;
  int failed = 0;
  for (int last = 0; last < 2; ++last) {
    for (const uint8_t* m : {static_cast<const uint8_t*>(nullptr), static_cast<const uint8_t*>(mask.data())}) {
      failed |= CALL(nw_moments)(last, N, C, S, threads, x.data(), m, mean.data(), var.data(), count.data());
      failed |= CALL(nw_backward_apply)(last, N, C, S, threads, gy.data(), x.data(), residual.data(), m, tables, strides,
                                        act, gx.data(), gr.data());
    }
    failed |= CALL(nw_apply)(last, N, C, S, threads, x.data(), residual.data(), tables, strides, act, y.data());
    failed |= CALL(nw_backward_reduce)(last, N, C, S, threads, gy.data(), x.data(), nullptr, tables, strides, act,
                                       sum_g.data(), sum_gx.data());
    exercise_responses(last, N, C, S, threads, mask.data(), tables, strides);
    for (int64_t groups : {int64_t(0), int64_t(1), C}) {
      std::vector<double> moments(size_t(2 * (groups ? N * groups : C)));
      failed |= CALL(nw_standardize)(last, N, C, S, threads, groups, 1e-3, x.data(), residual.data(), weight.data(),
                                     nullptr, nw::kWide, nullptr, nullptr, 0, act, y.data(), moments.data());
      failed |= CALL(nw_standardize_backward)(last, N, C, S, threads, groups, 0, 1e-3, gy.data(), x.data(),
                                              residual.data(), weight.data(), nullptr, nw::kWide, act, moments.data(),
                                              gx.data(), gr.data(), gw.data(), gb.data());
    }
  }
  for (int center = 0; center < 2; ++center) {
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, x.data(), weight.data(), nullptr, nw::kWide, y.data(),
                            positions.data());
    failed |= CALL(nw_rows_backward)(N * S, C, threads, center, gy.data(), x.data(), weight.data(), nw::kWide,
                                     positions.data(), gx.data(), gw.data(), gb.data());
    failed |= CALL(nw_columns)(N, C, S, threads, center, 1e-3, x.data(), weight.data(), nullptr, nw::kWide, y.data(),
                               positions.data());
    failed |= CALL(nw_columns_backward)(N, C, S, threads, center, gy.data(), x.data(), nullptr, nw::kWide,
                                        positions.data(), gx.data(), gw.data(), gb.data());
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
  const T *narrow = weight.data() + 1, *known_mean = narrow, *known_var = narrow;
  std::vector<A> table(static_cast<size_t>(C), A(0.5)), sum_g(size_t(N * C)), sum_gx(size_t(N * C));
  const void* tables[5] = {table.data(), table.data(), table.data(), nullptr, nullptr};
  const int64_t strides[10] = {0, 1, 0, 1, 0, 1, 0, 0, 0, 0};
  int64_t groups = C;
  for (int64_t divisor = 2; divisor < C && groups == C; ++divisor)
    if (C % divisor == 0) groups = divisor;
  const T *in = x.data() + 1, *grad = gy.data() + 1;
  T *out = y.data() + 1, *grad_in = gx.data() + 1;
  int failed = 0;
  for (int last = 0; last < 2; ++last) {
    failed |= CALL(nw_moments)(last, N, C, S, threads, in, mask.data() + 1, mean.data(), var.data(), nullptr);
    failed |= CALL(nw_apply)(last, N, C, S, threads, in, nullptr, tables, strides, act, out);
    failed |= CALL(nw_backward_reduce)(last, N, C, S, threads, grad, in, nullptr, tables, strides, act, sum_g.data(),
                                       sum_gx.data());
    failed |= CALL(nw_backward_apply)(last, N, C, S, threads, grad, in, nullptr, nullptr, tables, strides, act, grad_in,
                                      nullptr);
    for (int64_t g : {int64_t(0), groups}) {
      std::vector<double> moments(size_t(2 * (g ? N * g : C)), 2);
      failed |= CALL(nw_standardize)(last, N, C, S, threads, g, 1e-3, in, nullptr, nullptr, nullptr, 0, nullptr, nullptr,
                                     0, act, out, nullptr);
      failed |= CALL(nw_standardize_backward)(last, N, C, S, threads, g, 0, 1e-3, grad, in, nullptr, nullptr, nullptr, 0,
                                              act, moments.data(), grad_in, nullptr, nullptr, nullptr);
    }
    std::vector<double> moments(size_t(2 * C));
    failed |= CALL(nw_standardize)(last, N, C, S, threads, 0, 1e-3, in, nullptr, narrow, narrow, nw::kNarrow, known_mean,
                                   known_var, nw::kNarrow, act, out, moments.data());
    failed |= CALL(nw_standardize_backward)(last, N, C, S, threads, 0, 1, 1e-3, grad, in, nullptr, narrow, narrow,
                                            nw::kNarrow, act, moments.data(), nullptr, nullptr, gw.data() + 1,
                                            gb.data() + 1);
  }
  auto running_mean = filled<T>(C + 1), running_var = running_mean;
  T *kept_mean = running_mean.data() + 1, *kept_var = running_var.data() + 1;
  int64_t batches = 0;
  var.assign(var.size(), 2);  // a root
  failed |= CALL(nw_remember)(C, mean.data(), var.data(), nw::kDouble, 1e-3, 1.5, 0.1, kept_mean, kept_var, nw::kNarrow,
                              &batches);
  failed |= CALL(nw_remember)(C, kept_mean, kept_var, nw::kNarrow, 0, 1.5, 0.1, mean.data(), var.data(), nw::kDouble,
                              nullptr);
  failed |= batches != 1;
  mean[0] = std::numeric_limits<double>::quiet_NaN();
  failed |= CALL(nw_remember)(C, mean.data(), var.data(), nw::kDouble, 0, 1.5, 0.1, kept_mean, kept_var, nw::kNarrow,
                              &batches) != 3;
  for (int center = 0; center < 2; ++center) {
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, in, nullptr, nullptr, 0, out, nullptr);
    failed |= CALL(nw_columns)(N, C, S, threads, center, 1e-3, in, narrow, narrow, nw::kNarrow, out, nullptr);
    failed |= CALL(nw_columns_backward)(N, C, S, threads, center, grad, in, nullptr, 0, positions.data(), grad_in, nullptr,
                                        nullptr);
    failed |= CALL(nw_rows)(N * S, C, threads, center, 1e-3, in, narrow, narrow, nw::kNarrow, out, positions.data());
    failed |= CALL(nw_rows_backward)(N * S, C, threads, center, grad, in, narrow, nw::kNarrow, positions.data(), grad_in,
                                     gw.data() + 1, gb.data() + 1);
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
  void* entering[] = {moments.data(), moments.data() + size, gamma.data()};
  void* leaving[] = {gradient.data()};
  int failed = 0;
  for (int last = 0; last < 2; ++last) {
    failed |= CALL(nw_normalize)(last, N, C, S, threads, &formula, 1, entering, nullptr, x.data(), residual.data(),
                                 nullptr, 1, y.data(), made.data());
    for (int measured = 0; measured < 2; ++measured)
      failed |= CALL(nw_normalize_backward)(last, N, C, S, threads, &formula, 1, entering, leaving, gy.data(), x.data(),
                                            residual.data(), mask.data(), 1, made.data(), measured ? gx.data() : nullptr,
                                            measured ? gr.data() : nullptr);
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
