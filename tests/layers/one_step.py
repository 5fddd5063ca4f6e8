"""What the tests of a family share: data, a layer off its starting point, and one step of its training."""

import copy

import torch

#: Odd sizes for each rank; 8 samples of 6 channels.
SHAPES = {1: (8, 6, 7), 2: (8, 6, 5, 3), 3: (8, 6, 3, 2, 5)}


def data(shape, seed=0, dtype=torch.float64, mean=0.5, std=1.5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean).to(dtype)


def trained(layer, rate=0.3):
    """Parameters off their special starting points, within every valid range."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.rand(p.shape, generator=generator, dtype=p.dtype) * rate - rate).abs_()
    return layer


def step(layer, x, cotangent, **options):
    """Output and gradients of one pass; the layer's buffers move as they do in training."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    leaves = [x, *layer.parameters()]
    y = layer(x, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent, allow_unused=True)]


def derivatives_agree_with_finite_differences(layer, shape, order):
    """``order`` is gradcheck or gradgradcheck, over the input and every parameter."""
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *tensors):
        named = dict(zip(names, tensors, strict=True))
        return torch.func.functional_call(copy.deepcopy(layer), named, (x,))  # a copy: the memory must not move

    leaves = [data(shape), *(p.detach().clone() for p in layer.parameters())]
    assert order(call, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)
