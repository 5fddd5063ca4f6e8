// The update of a layer's running statistics by those of a batch.
#pragma once

#include <cstring>

#include "parameters.hpp"

namespace nw {

struct Running {
  void *mean, *var;
  int kept;
  int64_t* batches;  // or null
};

// Mean and variance of a batch, one of each channel.
struct Batch {
  const void *mean, *var;
  int kept;
  double bessel;  // the factor that makes the variance unbiased
};

// running = running + momentum (batch - running), and the batch is counted. If a number to be stored is not
// finite, nothing is changed.
template <class T>
bool remember(const Running& running, const Batch& batch, int64_t channels, double momentum) {
  Buffer<double> mean = read_kept<T, double>(batch.mean, batch.kept, channels);
  Buffer<double> var = read_kept<T, double>(batch.var, batch.kept, channels);
  for (int64_t c = 0; c < channels; ++c) var[c] *= batch.bessel;
  bool finite = true;
  const auto moved = [&](const void* kept, const Buffer<double>& now) {
    const auto old = read_kept<T, double>(kept, running.kept, channels);
    Buffer<double> next(channels);  // of values in the buffers' type, which is no wider
    set_kept<T>(next.data(), running.kept, channels, [&](int64_t c) { return old[c] + momentum * (now[c] - old[c]); });
    for_kept<T>(next.data(), running.kept, channels, [&](int64_t, double value) { finite &= std::isfinite(value); });
    return next;
  };
  const Buffer<double> next_mean = moved(running.mean, mean), next_var = moved(running.var, var);
  if (!finite) return false;
  const auto keep = [&](void* kept, const Buffer<double>& next) {
    std::memcpy(kept, next.data(), size_t(channels) * size_of_kept<T>(running.kept));
  };
  keep(running.mean, next_mean);
  keep(running.var, next_var);
  if (running.batches) ++*running.batches;
  return true;
}

}  // namespace nw
