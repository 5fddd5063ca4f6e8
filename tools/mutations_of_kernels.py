"""Behaviours of the C++ kernels, each broken once; see `mutants.py`."""

from __future__ import annotations

from mutation import Mutation

KERNELS = "backends/cpu_kernels/"
# Each element type is a library of its own to compile, and `mutants.py` compiles that of fp32 alone: name its tests.
FUSED = "tests/backends/test_cpu_fused.py"
IN_TILES = FUSED + " -k 'in_tiles or past_the_caches'"
JUMPS = "tests/backends/test_cpu_kernels.py -k 'jumps and float32'"
SLOPES = "tests/backends/test_cpu_kernels.py -k 'whole_range and hardswish and float32'"
POSITIONS = "tests/layers/test_positional_norm.py"
FINISHED = "tests/operations/test_finished_rows.py -k 'automatic and pixels and float32'"
ROWS = "tests/backends/test_cpu_rows.py -k 'forward_and_backward and float32'"
SETS = "tests/layers/test_modulated_norm.py -k 'sets_of_many_sizes and float32'"
RUNNING = "tests/backends/test_cpu_running.py -k 'float32 or finite'"
SUMS = "tests/operations/test_rows_of_sums.py -k 'float32 or layers_add_first'"

MUTATIONS = [
    Mutation(
        "the mean of data that jumps keeps its digits",
        KERNELS + "stats.hpp",
        "if (stats.count == 0 || jump * jump * found.count > found.m2)",
        "if (stats.count == 0)",
        JUMPS,
    ),
    Mutation(
        "masked values are not measured",
        KERNELS + "stats.hpp",
        "d = m ? d : vec<acc<T>>{};",
        "",
        JUMPS,
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
        "statistics that are not finite change no running statistics",
        KERNELS + "running.hpp",
        "if (!finite) return false;",
        "",
        RUNNING,
    ),
    Mutation(
        "the running variance is unbiased",
        KERNELS + "running.hpp",
        "var[c] *= batch.bessel;",
        "var[c] *= 1;",
        RUNNING,
    ),
    Mutation(
        "epsilon is no part of the variance that is kept",
        KERNELS + "fused.hpp",
        "pool.var[p] = Stats{count, sum, inside + count * between}.var(inverse);",
        "pool.var[p] = Stats{count, sum, inside + count * between}.var(inverse) + pool.eps;",
        FUSED + " -k moments_are_those",
    ),
    Mutation(
        "the rounding error of a large mean goes into the shift",
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
        IN_TILES,
    ),
    Mutation(
        "the gradient through the mean",
        KERNELS + "fused.hpp",
        "const double across = -root * to_mean * share - along",
        "const double across = - along",
        IN_TILES,
    ),
    Mutation(
        "a row's gradient sums to zero where it is centered",
        KERNELS + "rows_backward.hpp",
        "center ? -sums.g * share : 0",
        "0",
        ROWS,
    ),
    Mutation(
        "rows wider than a block share their sums",
        KERNELS + "rows_backward.hpp",
        "for (int64_t b = 1; b < blocks; ++b) {",
        "for (int64_t b = 1; b < 1; ++b) {",
        ROWS,
    ),
    Mutation(
        "a loss on the mean of a position reaches its values",
        KERNELS + "rows_backward.hpp",
        "across += *to_mean * each;",
        "",
        POSITIONS,
    ),
    Mutation(
        "the gradient of a residual passes the activation",
        KERNELS + "positions.hpp",
        "if (!lean && gr) store(gr + i, g, part);",
        "if (!lean && gr) store(gr + i, load(to.gy + at(c) + i, part), part);",
        FINISHED,
    ),
    Mutation(
        "erf near 0 keeps its digits",
        KERNELS + "activations.hpp",
        "magnitude < 0.7f ? near : far",
        "far",
        "tests/operations/test_squash_kernels.py -k 'every_digit and float32'",
    ),
    Mutation(
        "the slope of hardswish",
        KERNELS + "activations.hpp",
        "(z >= 3 ? one : z * A(1.0 / 3) + A(0.5))",
        "(z >= 3 ? one : z * A(1.0 / 3))",
        SLOPES,
    ),
    Mutation(
        "the gradient of a sum is added to both terms' gradients",
        KERNELS + "rows_backward.hpp",
        "+ across.at[k]) + m.at[k];",
        "+ across.at[k]);",
        SUMS,
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
