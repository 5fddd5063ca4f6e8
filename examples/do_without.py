"""Train without normalizers: scaled weights, skip gains, adaptive gradient clipping. python examples/do_without.py"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import normwise as nw

if __name__ == "__main__":
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    train, test = order[:1200], order[1200:]

    net = nw.nets.nf_resnet(8, width=8, num_classes=10, in_channels=1, skip_gain=1.0, stochastic_depth=0.0)
    print(nw.predict(net, x[:32]))  # the predicted signal, before any step

    optimizer = nw.AdaptiveGradientClipping(
        torch.optim.SGD(nw.param_groups(net, weight_decay=2e-5), lr=0.1, momentum=0.9, nesterov=True), net
    )
    for batch in torch.randint(len(train), (100, 32)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[train[batch]]), y[train[batch]]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (net.eval()(x[test]).argmax(1) == y[test]).float().mean().item()
    print(f"accuracy after 100 steps: {accuracy:.1%}")
    assert accuracy > 0.5
