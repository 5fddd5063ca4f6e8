"""Faults planted one at a time: each is named, and stands first in the list, whatever it leads to."""

import pytest
import torch
from faulty_nets import FAULTS, SoundBlock, by_domain, images, learned, plain, residual
from torch import nn

from normwise.signal import diagnose, trace
from normwise.signal.diagnosing import RULES
from normwise.signal.diagnosis.evidence import Evidence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("make", "rule", "module"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_first_in_the_list(make, rule, module, seed):
    torch.manual_seed(seed)
    findings = diagnose(*make())
    assert findings
    assert findings[0].rule == rule, str(findings)
    assert module in (None, findings[0].module), str(findings)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.3, 1.0, 3.0])
def test_growth_that_adds_is_sound(share, seed):
    """1, 2, 3, ... after k blocks: of any length, and of a branch of any size."""
    torch.manual_seed(seed)
    for blocks in (3, 8, 20):
        net = residual(blocks, share, SoundBlock)
        assert not diagnose(net, (8, 3, 12, 12)), f"{blocks} blocks"
    variances = [tap.variance for tap in trace(net, (8, 3, 12, 12)).blocks]
    assert variances[-1] > 5 * variances[0]


def test_batches_that_are_fair_samples_are_no_domains():
    """Samples of several domains in every batch, noise with heavy tails, and the same data batch by batch."""
    for seed in range(6):
        torch.manual_seed(seed)
        together = torch.cat([batch for batch, _ in by_domain(shift=1.5, gain=0.2, batch=32)])
        fair = together[torch.randperm(len(together))]
        heavy = torch.distributions.StudentT(3.0).sample((128, 3, 12, 12)) * torch.rand(128, 1, 1, 1).exp()
        for data, size in ((fair, 16), (fair, 48), (fair[:40], 5), (heavy, 16)):
            findings = diagnose(plain(), [(batch, None) for batch in data.split(size)])
            assert not findings.of("mixed domains"), f"seed {seed}, {size} samples: {findings}"


def test_domains_do_not_matter_to_a_net_without_batch_norm():
    torch.manual_seed(0)
    assert not diagnose(plain(lambda width: nn.GroupNorm(4, width)), by_domain(shift=1.5)).of("mixed domains")


def test_the_scatter_of_domains_is_told_in_deviations():
    """Two batches of 0 and two of 4, each of unit variance: the channel's own deviation is 1, that of 0, 4, 0, 4 is
    sqrt(16/3) with 3 degrees of freedom."""
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    torch.manual_seed(0)
    batches = [(torch.randn(4000, 3) + 4 * (i % 2), None) for i in range(4)]
    (finding,) = diagnose(net, batches).of("mixed domains")
    assert finding.value == pytest.approx((16 / 3) ** 0.5, rel=0.03)
    assert "The means of its 4 batches scatter by 2.3 channel deviations" in finding.what
    assert "statistics_bank" in finding.remedy


def test_the_loss_of_a_trained_net_is_not_its_output():
    """Losses of batches hardly differ, and the difference between the modes looked large beside that."""
    torch.manual_seed(0)
    net = learned(plain(), images(256))
    batches = [(images(64), torch.arange(64) % 5) for _ in range(4)]
    assert not diagnose(net, batches)
    assert not diagnose(net, batches, forward=lambda model, b: nn.functional.cross_entropy(model(b[0]), b[1]))


def test_a_gap_shows_through_the_loss():
    torch.manual_seed(0)
    net = learned(plain(), images(64))
    with torch.no_grad():
        net[4].running_mean += 3 * net[4].running_var.sqrt()
    batches = [(images(64), torch.arange(64) % 5) for _ in range(2)]
    findings = diagnose(net, batches, forward=lambda model, b: nn.functional.cross_entropy(model(b[0]), b[1]))
    assert [f.rule for f in findings] == ["stale statistics", "train-eval gap"]


def test_nan_of_the_loss_is_told_as_such():
    net, batches = plain(), [(images(), torch.arange(16) % 5)]
    findings = diagnose(net, batches, forward=lambda model, b: model(b[0]).sum() * float("nan"))
    assert (findings[0].rule, findings[0].module) == ("not finite", "forward")


def test_constant_embeddings_are_not_dead():
    """All tokens of one type, as in every BERT that is given one sentence."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.types, self.norm = nn.Embedding(50, 16), nn.Embedding(2, 16), nn.LayerNorm(16)
            self.head = nn.Linear(16, 3)

        def forward(self, ids, types=None):
            types = torch.zeros_like(ids) if types is None else types
            return self.head(self.norm(self.words(ids) + self.types(types)))

    net, ids = Tokens(), torch.randint(50, (8, 12))
    assert not diagnose(net, ids)
    with torch.no_grad():
        net.words.weight[:] = 1.0
    first = diagnose(net, ids)[0]
    assert (first.rule, first.module) == ("dead layer", "words")


def test_a_bias_that_somebody_else_reads_is_of_use():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.body = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False)

        def forward(self, x):
            x = self.conv(x)
            return x + self.body(torch.relu(self.norm(x)))

    assert not diagnose(Stem(), images())


def test_dropout_behind_the_last_batch_norm_is_sound():
    net = plain()
    net.insert(8, nn.Dropout(0.5))
    assert not diagnose(net, images())
    small = plain(between=[nn.Dropout(0.05)])
    assert not diagnose(small, images())
    assert not diagnose(plain(lambda width: nn.GroupNorm(4, width), between=[nn.Dropout(0.5)]), images())


def test_momentum_that_remembers_enough():
    for momentum, batch in ((0.1, 8), (0.01, 8), (0.4, 16), (None, 8)):
        assert not diagnose(plain(lambda width, m=momentum: nn.BatchNorm2d(width, momentum=m)), images(batch))


def test_rules_say_nothing_of_what_was_not_looked_at():
    """And some need no run: settings alone are enough."""
    assert not [finding for rule in RULES for finding in rule(Evidence(plain(bias=True)))]
    for net, expected in (
        (plain(lambda width: nn.BatchNorm2d(width, momentum=0.99)), "high momentum"),
        (plain(lambda width: nn.BatchNorm2d(width, track_running_stats=False)), "no running statistics"),
    ):
        assert [finding.rule for rule in RULES for finding in rule(Evidence(net))] == [expected]


def test_a_remedy_says_what_the_normalizer_has():
    assert "affine=True" in diagnose(plain(nn.InstanceNorm2d, bias=True), images())[0].remedy
    assert "a bias of its own" in diagnose(plain(bias=True), images())[0].remedy


def test_order_is_that_of_causes():
    """A warning that an error may follow from stands before it."""
    net = learned(plain(lambda width: nn.BatchNorm2d(width, momentum=0.9)), images())
    with torch.no_grad():
        net[1].running_var.fill_(float("nan"))
    rules = [finding.rule for finding in diagnose(net, [(images(), torch.arange(16))])]
    assert rules[:3] == ["poisoned statistics", "high momentum", "train-eval gap"]
