// Every kernel over sizes around its vectors and tiles, on buffers that end where the tensor ends; built with
// sanitizers by test_cpu_sanitized.py.
#define NW_VERSION 1
#include "kernels.cpp"

#include <cstdio>
#include <cstdlib>

template <class T>
std::vector<T> filled(int64_t n) {
  std::vector<T> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    float value = float((i * 37) % 101) / 50.0f - 1.0f;
    if constexpr (sizeof(T) == 2) {
      v[size_t(i)].bits = uint16_t(0x3c00 + (i * 37) % 101);  // finite in both types of 16 bits
    } else {
      v[size_t(i)] = T(value);
    }
  }
  return v;
}

template <class T>
void exercise(int element, int64_t N, int64_t C, int64_t S, int act) {
  using A = acc<T>;
  for (int last = 0; last < 2; ++last)
    for (int threads = 1; threads < 3; ++threads) {
      auto x = filled<T>(N * C * S), gy = x, residual = x, y = x, gx = x, gr = x;
      std::vector<uint8_t> mask(size_t(N * S), 1);
      for (size_t i = 0; i < mask.size(); i += 3) mask[i] = 0;
      std::vector<double> mean(size_t(N * C)), var(size_t(N * C)), count(static_cast<size_t>(N));
      std::vector<A> table(size_t(N * C), A(0.5)), sum_g(size_t(N * C)), sum_gx(size_t(N * C));
      std::vector<A> weight(size_t(C), A(1)), gw(static_cast<size_t>(C)), gb(static_cast<size_t>(C));
      const void* tables[5] = {table.data(), table.data(), table.data(), table.data(), table.data()};
      const int64_t strides[10] = {C, 1, C, 1, C, 1, C, 1, C, 1};
      int failed = 0;
      for (const uint8_t* m : {static_cast<const uint8_t*>(nullptr), static_cast<const uint8_t*>(mask.data())}) {
        failed |= nw_moments(element, last, N, C, S, threads, x.data(), m, mean.data(), var.data(), count.data());
        failed |= nw_backward_apply(element, last, N, C, S, threads, gy.data(), x.data(), residual.data(), m, tables,
                                    strides, act, gx.data(), gr.data());
      }
      failed |= nw_apply(element, last, N, C, S, threads, x.data(), residual.data(), tables, strides, act, y.data());
      failed |= nw_backward_reduce(element, last, N, C, S, threads, gy.data(), x.data(), nullptr, tables, strides, act,
                                   sum_g.data(), sum_gx.data());
      for (int64_t groups : {int64_t(0), int64_t(1), C}) {
        failed |= nw_standardize(element, last, N, C, S, threads, groups, 0, 1e-3, x.data(), residual.data(),
                                 weight.data(), nullptr, act, y.data(), mean.data(), var.data());
        failed |= nw_standardize_backward(element, last, N, C, S, threads, groups, 0, 1e-3, gy.data(), x.data(),
                                          residual.data(), weight.data(), nullptr, act, mean.data(), var.data(),
                                          gx.data(), gr.data(), gw.data(), gb.data());
      }
      if (failed) std::abort();
    }
}

int main() {
  const int64_t sizes[][3] = {{1, 1, 1}, {2, 3, 1}, {1, 5, 49}, {3, 17, 63}, {2, 64, 5}, {1, 2, 70001}, {3, 40, 1100}, {2, 300, 33}};
  for (const auto& size : sizes)
    for (int act : {0, 1, 8}) {
      exercise<float>(0, size[0], size[1], size[2], act);
      exercise<double>(1, size[0], size[1], size[2], act);
      exercise<bf16>(2, size[0], size[1], size[2], act);
      exercise<fp16>(3, size[0], size[1], size[2], act);
    }
  std::puts("clean");
}
