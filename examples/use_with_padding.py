"""Sequences of different lengths in one batch: statistics without the padding. python examples/use_with_padding.py"""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import normwise as nw


class Net(nn.Module):
    """A convolution over [N, C, L] whose normalizer knows how long each sequence is."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(4, 8, 3, padding=1), nw.BatchNorm1d(8, activation="relu")

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x), lengths=lengths)


if __name__ == "__main__":
    torch.manual_seed(0)
    sequences = [torch.randn(length, 4) + 3 for length in (20, 5, 12)]
    lengths = torch.tensor([len(s) for s in sequences])
    x = pad_sequence(sequences, batch_first=True).movedim(1, 2)  # [3, 4, 20], padded by zeros

    net = Net()
    net(x, lengths)
    more = nn.functional.pad(x, (0, 30))  # the same sequences beside a longer neighbour
    again = Net()
    again.load_state_dict({k: v for k, v in net.state_dict().items() if "running" not in k}, strict=False)
    again(more, lengths)
    torch.testing.assert_close(again.norm.running_mean, net.norm.running_mean)
    print("mean of the valid values, whatever the padding:", net.norm.running_mean[:3] * 10)
