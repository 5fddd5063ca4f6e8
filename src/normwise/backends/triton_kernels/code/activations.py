"""The activations of `core.activations` and their derivatives, by name."""

import triton
import triton.language as tl

# Constants of the language; the interpreter accepts them only on the right of an operator.
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)  # 1/√(2π)
_TANH_SCALE = tl.constexpr(0.7978845608028654)  # √(2/π)
_TANH_CUBE = tl.constexpr(0.044715)
_SELU_SCALE = tl.constexpr(1.0507009873554805)
_SELU_ALPHA = tl.constexpr(1.6732632423543772)


@triton.jit
def activate(z, NAME: tl.constexpr):
    """f(z); the empty name is the identity."""
    if NAME == "relu":
        y = tl.where(z <= 0, 0.0, z)  # a comparison that lets NaN through
    elif NAME == "relu6":
        y = tl.where(z <= 0, 0.0, tl.where(z >= 6, 6.0, z))
    elif NAME == "leaky_relu":
        y = tl.where(z > 0, z, 0.01 * z)
    elif NAME == "elu" or NAME == "celu":
        y = tl.where(z > 0, z, expm1(tl.where(z > 0, 0.0, z)))
    elif NAME == "selu":
        y = tl.where(z > 0, z, expm1(tl.where(z > 0, 0.0, z)) * _SELU_ALPHA) * _SELU_SCALE
    elif NAME == "silu":
        y = z * sigmoid(z)
    elif NAME == "gelu":
        y = 0.5 * z * (1 + tl.erf(z * _SQRT_HALF))
    elif NAME == "gelu_tanh":
        y = 0.5 * z * (1 + tanh((z + z * z * z * _TANH_CUBE) * _TANH_SCALE))
    elif NAME == "mish":
        y = z * tanh_of_softplus(z)
    elif NAME == "hardswish":
        y = tl.where(z <= -3, 0.0, tl.where(z >= 3, z, z * (z + 3) / 6))
    elif NAME == "sigmoid":
        y = sigmoid(z)
    elif NAME == "tanh":
        y = tanh(z)
    elif NAME == "softplus":
        y = tl.where(z > 20, z, tl.where(z > 0, z, 0.0) + log1p(tl.exp(-tl.abs(z))))
    elif NAME == "softsign":
        y = z / (1 + tl.abs(z))
    else:
        tl.static_assert(NAME == "", "an activation without a kernel")
        y = z
    return y


@triton.jit
def slope(z, NAME: tl.constexpr):
    """f'(z)."""
    if NAME == "relu":
        d = tl.where(z > 0, 1.0, 0.0)
    elif NAME == "relu6":
        d = tl.where((z > 0) & (z < 6), 1.0, 0.0)
    elif NAME == "leaky_relu":
        d = tl.where(z > 0, 1.0, tl.full(z.shape, 0.01, z.dtype))  # two numbers would be fp32
    elif NAME == "elu" or NAME == "celu":
        d = tl.exp(tl.where(z > 0, 0.0, z))
    elif NAME == "selu":
        d = tl.where(z > 0, 1.0, tl.exp(tl.where(z > 0, 0.0, z)) * _SELU_ALPHA) * _SELU_SCALE
    elif NAME == "silu":
        s = sigmoid(z)
        d = s * (1 + z * (1 - s))
    elif NAME == "gelu":
        d = 0.5 * (1 + tl.erf(z * _SQRT_HALF)) + z * _DENSITY * tl.exp(-0.5 * z * z)
    elif NAME == "gelu_tanh":
        t = tanh((z + z * z * z * _TANH_CUBE) * _TANH_SCALE)
        d = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * _TANH_SCALE * (1 + z * z * 3 * _TANH_CUBE)
    elif NAME == "mish":
        t = tanh_of_softplus(z)
        d = t + z * (1 - t * t) * sigmoid(z)
    elif NAME == "hardswish":
        d = tl.where(z <= -3, 0.0, tl.where(z >= 3, 1.0, z / 3 + 0.5))
    elif NAME == "sigmoid":
        s = sigmoid(z)
        d = s * (1 - s)
    elif NAME == "tanh":
        t = tanh(z)
        d = 1 - t * t
    elif NAME == "softplus":
        d = sigmoid(z)
    elif NAME == "softsign":
        d = 1 / ((1 + tl.abs(z)) * (1 + tl.abs(z)))
    else:
        tl.static_assert(NAME == "", "an activation without a kernel")
        d = tl.full(z.shape, 1.0, z.dtype)
    return d


@triton.jit
def sigmoid(z):
    e = tl.exp(-tl.abs(z))  # never overflows
    return tl.where(z < 0, e, 1.0) / (1 + e)


@triton.jit
def tanh(z):
    """The quotient cancels near 0, where a series is used instead (its next term is below 1e-14)."""
    e = tl.exp(-2 * tl.abs(z))
    far = (1 - e) / (1 + e)
    small = tl.abs(z) < 0.06
    q = tl.where(small, z * z, 0.0)
    near = z * (1 - q * (1 / 3 - q * (2 / 15 - q * (17 / 315 - q * (62 / 2835)))))
    return tl.where(small, near, tl.where(z < 0, -far, far))


@triton.jit
def expm1(z):
    """For z ≤ 0: eᶻ - 1 = tanh(z/2) (eᶻ + 1), which does not cancel."""
    return tanh(0.5 * z) * (tl.exp(z) + 1)


@triton.jit
def log1p(u):
    """For 0 ≤ u ≤ 1: log(1 + u) = 2 artanh(u / (2 + u)), a series in at most (1/3)²."""
    v = u / (2 + u)
    q = v * v
    terms: tl.constexpr = 17 if u.dtype == tl.float64 else 8
    total = tl.zeros_like(u)
    for k in tl.static_range(terms):
        total = total * q + 1 / (2 * (terms - k) - 1)
    return 2 * v * total


@triton.jit
def tanh_of_softplus(z):
    """tanh(log(1 + eᶻ)) = (e² + 2e) / (e² + 2e + 2) with e = eᶻ."""
    e = tl.exp(tl.where(z > 20, 20.0, z))
    n = e * (e + 2)
    return n / (n + 2)
