"""Watch the signal of a net while it trains, and get findings in words: python examples/see_the_signal.py"""

import tempfile
from pathlib import Path

import torch

import normwise as nw

if __name__ == "__main__":
    torch.manual_seed(0)
    net = nw.nets.resnet(8, norm="batch", width=8)
    pairs = [torch.randn(2, 3, 16, 16) for _ in range(8)]

    print(nw.trace(net, torch.cat(pairs)))  # block by block: mean², variance, the branch's variance
    found = nw.diagnose(net, pairs)
    print(found)  # in words: batches of two are small for BatchNorm, and what to do
    assert found

    batches, good = [torch.randn(8, 3, 16, 16) for _ in range(4)], nw.nets.resnet(8, norm="group:4", width=8)
    optimizer = torch.optim.SGD(good.parameters(), lr=0.1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signal.csv"
        with nw.watch(good, file):
            for batch in batches:
                optimizer.zero_grad()
                good(batch).square().mean().backward()
                optimizer.step()
        print(f"watched: {len(file.read_text().splitlines()) - 1} rows")
