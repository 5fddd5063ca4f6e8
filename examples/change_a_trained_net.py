"""Four changes of a trained net: recalibrate, freeze, fold, swap. python examples/change_a_trained_net.py"""

import torch

import normwise as nw

if __name__ == "__main__":
    torch.manual_seed(0)
    net = nw.nets.resnet(8, norm="batch", width=8)  # in place of a trained one
    loader = [torch.randn(16, 3, 16, 16) * 2 + 1 for _ in range(8)]
    example = loader[0]

    print(nw.recalibrate(net, loader))  # computes the running statistics from data

    nw.freeze(net)  # for fine-tuning with small batches
    frozen = net.stem.norm.running_mean.clone()
    net.train()(example)
    assert torch.equal(net.stem.norm.running_mean, frozen)
    nw.unfreeze(net)

    folded = nw.fold(net.eval(), example)  # for deployment: into the convolutions
    torch.testing.assert_close(folded.model(example), net(example), rtol=1e-3, atol=1e-4)
    print(f"folded; largest error {folded.max_error:.1e}")

    change = nw.swap(net, "group", example_inputs=example)  # begins as the same function
    torch.testing.assert_close(change.model(example), net(example), rtol=1e-3, atol=1e-4)
    change.undo()
