"""A normalizer of your own in five lines, tested and explained: python examples/own_normalizer.py"""

import torch

import normwise as nw


@nw.formula
def root_mean_square_of_groups(moments, weight, groups=2, eps=1e-6):
    """RMSNorm over groups of channels and space, which is not a layer of the package."""
    pooled = moments.over_groups(groups)
    return nw.Affine(0.0, weight * (pooled.var + pooled.mean.square() + eps).rsqrt(), 0.0)


if __name__ == "__main__":
    x = torch.randn(4, 6, 5, 5, requires_grad=True)
    y = nw.normalize(x, root_mean_square_of_groups, torch.ones(6), activation="silu")
    y.square().sum().backward()

    groups = x.reshape(4, 2, -1)
    expected = (groups / (groups.square().mean(2, keepdim=True) + 1e-6).sqrt()).reshape(x.shape)
    torch.testing.assert_close(y, torch.nn.functional.silu(expected))

    print(nw.explain(root_mean_square_of_groups))  # its cube, measured: two groups of channels in each sample
    print("right: the values are those of the definition")
