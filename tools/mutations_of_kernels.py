"""Behaviours of the C++ kernels, each broken once; see `mutants.py`."""

from __future__ import annotations

from mutation import Mutation

KERNELS = "backends/cpu_kernels/"
# Each element type is a library of its own to compile: fp32 stands for all where a test names it.
FUSED = "tests/backends/test_cpu_fused.py"
JUMPS = "tests/backends/test_cpu_kernels.py -k 'jumps and float32'"
MASKS = "tests/backends/test_cpu_kernels.py -k test_moments"
SLOPES = "tests/backends/test_cpu_kernels.py -k 'whole_range and hardswish and float32'"
ROWS = "tests/backends/test_cpu_rows.py -k 'forward_and_backward and float32'"
SETS = "tests/layers/test_modulated_norm.py -k 'sets_of_many_sizes and float32'"
RUNNING = "tests/backends/test_cpu_running.py -k 'not float64 and not float16'"

MUTATIONS = [
    Mutation(
        "the mean of data that jumps keeps its digits",
        KERNELS + "stats.hpp",
        "if (stats.count == 0 || jump * jump * found.count > found.m2)",
        "if (stats.count == 0)",
        JUMPS,
    ),
    Mutation(
        "what a mask hides is not measured",
        KERNELS + "stats.hpp",
        "d = m ? d : vec<acc<T>>{};",
        "",
        MASKS,
    ),
    Mutation(
        "sums are merged by Chan's formula",
        KERNELS + "stats.hpp",
        "m2 += other_m2 + delta * delta * count * share;",
        "m2 += other_m2;",
        JUMPS,
    ),
    Mutation(
        "momentum weighs the new value",
        KERNELS + "running.hpp",
        "return old[c] + momentum * (now[c] - old[c]);",
        "return now[c] + momentum * (old[c] - now[c]);",
        RUNNING,
    ),
    Mutation(
        "statistics that are not finite change nothing",
        KERNELS + "running.hpp",
        "if (!finite) return false;",
        "",
        RUNNING,
    ),
    Mutation(
        "epsilon is no part of a variance behind a root",
        KERNELS + "running.hpp",
        "std::max(1 / (var[c] * var[c]) - batch.eps, 0.0)",
        "1 / (var[c] * var[c])",
        RUNNING,
    ),
    Mutation(
        "what the rounding of a large mean leaves goes into the shift",
        KERNELS + "fused.hpp",
        "shift[i] = A(pool.bias[c] + (double(mean[i]) - spread.mean[i]) * factor);",
        "shift[i] = A(pool.bias[c]);",
        FUSED + " -k far_from_zero",
    ),
    Mutation(
        "known statistics are not measured",
        KERNELS + "fused.hpp",
        "if (!tile.pool.known) {",
        "if (true) {",
        FUSED,
    ),
    Mutation(
        "the gradient through the mean",
        KERNELS + "fused.hpp",
        "const double across = -root * to_mean * share - along",
        "const double across = - along",
        FUSED,
    ),
    Mutation(
        "a row's gradient sums to zero where it is centered",
        KERNELS + "rows.hpp",
        "call.center ? A(-sums.g * share) : A(0)",
        "A(0)",
        ROWS,
    ),
    Mutation(
        "rows wider than a block share their sums",
        KERNELS + "rows.hpp",
        "for (int64_t b = 1; b < blocks; ++b) {",
        "for (int64_t b = 1; b < 1; ++b) {",
        ROWS,
    ),
    Mutation(
        "the slope of hardswish",
        KERNELS + "activations.hpp",
        "(z >= 3 ? one : z / 3 + A(0.5))",
        "(z >= 3 ? one : z / 3)",
        SLOPES,
    ),
    Mutation(
        "a set's last part ends with it",
        KERNELS + "modulated.hpp",
        "std::min(per, (part + 1) * rows_each)",
        "(part + 1) * rows_each",
        SETS,
    ),
    Mutation(
        "1 is added to the scale of a token",
        KERNELS + "modulated.hpp",
        "const vec<A> weighted = g * (w.at[k] + plus);",
        "const vec<A> weighted = g * w.at[k];",
        SETS,
    ),
]
