// A layer's running statistics take in those of a batch.
#pragma once

#include "parameters.hpp"

namespace nw {

struct Running {
  void *mean, *var;
  int kept;
  int64_t* batches;  // or null
};

// Mean and variance of a batch, one of each channel; with a positive `eps` it is 1/√(variance + eps) instead.
struct Batch {
  const void *mean, *var;
  int kept;
  double eps;
  double bessel;  // what makes the variance unbiased
};

// running = running + momentum (batch - running), and the batch is counted. Not where one of its numbers is not finite:
// then nothing is changed.
template <class T>
bool remember(const Running& running, const Batch& batch, int64_t channels, double momentum) {
  Buffer<double> mean = read_kept<T, double>(batch.mean, batch.kept, channels);
  Buffer<double> var = read_kept<T, double>(batch.var, batch.kept, channels);
  bool finite = true;
  for (int64_t c = 0; c < channels; ++c) {
    if (batch.eps > 0) var[c] = std::max(1 / (var[c] * var[c]) - batch.eps, 0.0);
    finite &= std::isfinite(mean[c]) && std::isfinite(var[c]);
    var[c] *= batch.bessel;
  }
  if (!finite) return false;
  const auto take = [&](void* kept, const Buffer<double>& now) {
    const auto old = read_kept<T, double>(kept, running.kept, channels);
    set_kept<T>(kept, running.kept, channels, [&](int64_t c) { return old[c] + momentum * (now[c] - old[c]); });
  };
  take(running.mean, mean);
  take(running.var, var);
  if (running.batches) ++*running.batches;
  return true;
}

}  // namespace nw
