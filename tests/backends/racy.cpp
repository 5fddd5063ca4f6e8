// What the thread sanitizer must and must not report: neighbours that write to one sum, or to places of their own which
// are added when all have ended. The loop is the kernels'.
#include <cstdio>
#include <vector>

int main() {
  const int tasks = 8;
  std::vector<long> own(tasks);
  long sum = 0;
#pragma omp parallel for num_threads(2) schedule(dynamic, 1)
  for (int i = 0; i < tasks; ++i) {
#if RACY
    sum += i;
#else
    own[i] = i;
#endif
  }
  for (long value : own) sum += value;
  std::printf("%ld\n", sum);
}
