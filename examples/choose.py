"""Which normalizer fits my data and my own training loop? `nw.compare` judges: python examples/choose.py"""

import torch
from torch import nn

import normwise as nw


def data(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of your data: is the wave fast or slow? Its height and its mean carry no information."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (samples,), generator=g)
    t = torch.linspace(0, 6.28, 32)
    phase, height, mean = (torch.rand(samples, 1, generator=g) * size for size in (6.28, 3, 5))
    noise = torch.randn(samples, 32, generator=g) * 0.3
    wave = torch.sin((1 + y.unsqueeze(1)) * t + phase) * (height + 0.3) + mean + noise
    return wave.unsqueeze(1), y


def train(run) -> dict[str, float]:
    """One training: `run` has the normalizer, the batch size and the number of epochs."""
    x, y = data(400, seed=0)
    net = nn.Sequential(
        nn.Conv1d(1, 16, 5), run.norm(16, rank=1), nn.ReLU(),
        nn.Conv1d(16, 16, 5), run.norm(16, rank=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 24, 2),
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(run.epochs):
        for batch in torch.randperm(len(x)).split(run.batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        run.report(epoch + 1, train_loss=loss)
    held_out, answers = data(400, seed=1)
    with torch.no_grad():
        return {"accuracy": (net.eval()(held_out).argmax(1) == answers).float().mean().item()}


if __name__ == "__main__":
    for row in nw.compare(train=train, norms=["batch", "group:4"], batch_sizes=[8], seeds=2, epochs=6,
                          metric="accuracy", direction="max"):  # fmt: skip
        print(f"{row['norm']:8} seed {row['seed']}: {row['value']:.1%}")
