"""Behaviours of the C++ kernels, each broken once; see `mutants.py`."""

from __future__ import annotations

from mutation import Mutation

KERNELS = "backends/cpu_kernels/"

MUTATIONS = [
    Mutation(
        "the mean of data that jumps keeps its digits",
        KERNELS + "stats.hpp",
        "if (stats.count == 0 || jump * jump * found.count > found.m2)",
        "if (stats.count == 0)",
        "tests/backends/test_cpu_kernels.py -k jumps",
    ),
    Mutation(
        "what a mask empties measures 0",
        KERNELS + "stats.hpp",
        "if (count == 0) return {};",
        "",
        "tests/backends/test_cpu_kernels.py",
    ),
    Mutation(
        "sums are merged by Chan's formula",
        KERNELS + "stats.hpp",
        "m2 += other_m2 + delta * delta * count * share;",
        "m2 += other_m2;",
        "tests/backends/test_cpu_kernels.py",
    ),
    Mutation(
        "momentum weighs the new value",
        KERNELS + "running.hpp",
        "return old[c] + momentum * (now[c] - old[c]);",
        "return now[c] + momentum * (old[c] - now[c]);",
        "tests/backends/test_cpu_running.py",
    ),
    Mutation(
        "statistics that are not finite change nothing",
        KERNELS + "running.hpp",
        "if (!finite) return false;",
        "",
        "tests/backends/test_cpu_running.py",
    ),
    Mutation(
        "epsilon is no part of a variance behind a root",
        KERNELS + "running.hpp",
        "std::max(1 / (var[c] * var[c]) - batch.eps, 0.0)",
        "1 / (var[c] * var[c])",
        "tests/backends/test_cpu_running.py",
    ),
    Mutation(
        "what the rounding of a large mean leaves goes into the shift",
        KERNELS + "fused.hpp",
        "shift[i] = A(pool.bias[c] + (double(mean[i]) - spread.mean[i]) * factor);",
        "shift[i] = A(pool.bias[c]);",
        "tests/backends/test_cpu_fused.py",
    ),
    Mutation(
        "nothing flows back through known statistics",
        KERNELS + "fused.hpp",
        "if (pool.known) return;",
        "",
        "tests/backends/test_cpu_fused.py",
    ),
    Mutation(
        "the gradient through the mean",
        KERNELS + "fused.hpp",
        "const double across = -root * to_mean * share - along",
        "const double across = - along",
        "tests/backends/test_cpu_fused.py",
    ),
    Mutation(
        "a row's gradient sums to zero where it is centered",
        KERNELS + "rows.hpp",
        "call.center ? A(-sums.g * share) : A(0)",
        "A(0)",
        "tests/backends/test_cpu_rows.py",
    ),
    Mutation(
        "rows wider than a block share their sums",
        KERNELS + "rows.hpp",
        "for (int64_t b = 1; b < blocks; ++b) {",
        "for (int64_t b = 1; b < 1; ++b) {",
        "tests/backends/test_cpu_rows.py",
    ),
    Mutation(
        "the slope of hardswish",
        KERNELS + "activations.hpp",
        "(z >= 3 ? one : z / 3 + A(0.5))",
        "(z >= 3 ? one : z / 3)",
        "tests/backends/test_cpu_kernels.py",
    ),
]
