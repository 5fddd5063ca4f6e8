"""`swap`: what starts where, what survives, and the ways on and back."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import normwise as nw
from normwise.surgery.successors import groups_for


def randomized(model, seed=0):
    """Statistics, gains and biases as after training: nothing 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name in ("running_mean", "bias", "running_var", "weight"):
                t = getattr(module, name, None)
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)) and t is not None:
                    t.copy_(torch.rand(t.shape, generator=generator) * 2 + (0.5 if "v" in name or "w" in name else -1))
    return model


def net():
    torch.manual_seed(0)
    return randomized(
        nn.Sequential(
            *(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16, eps=1e-3, momentum=0.2), nn.ReLU()),
            *(nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(24, 5),
        )
    )


X = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def same_modules(model, before):
    return [id(m) for m in model.modules()] == before


@pytest.mark.parametrize(
    "norm", ["group", "group:4", "layer", "instance", "pixel-rms", "filter-response", "tanh", "renorm", "none"]
)
def test_at_zero_it_is_the_old_model_in_training_too_and_nothing_drifts(norm):
    model = net().eval()
    before, state = model(X), copy.deepcopy(model.state_dict())
    change = nw.swap(model.train(), norm)
    for _ in range(3):
        assert torch.equal(model(X), before)
    old = [transition.before for transition in (model[1], model[4])]
    assert all(not layer.training and layer.num_batches_tracked == 0 for layer in old)
    change.undo()
    assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert model[1].training


def test_in_between_it_is_the_mixture_and_at_one_the_new_layer():
    model = nn.Sequential(randomized(nn.BatchNorm2d(16)))
    change = nw.swap(model, "group:2")
    old, new = model[0].before, model[0].after
    x = torch.randn(4, 16, 5, 5)
    change.advance(0.25)
    assert change.t == 0.25
    assert_close(model(x), 0.75 * old(x) + 0.25 * new(x))
    change.advance(1)
    plain = change.finish()
    assert plain[0] is new
    assert type(plain[0]) is nw.GroupNorm
    assert_close(plain(x), F.group_norm(x, 2, new.weight, new.bias, 1e-5))
    assert list(plain.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("norm", ["group:4", "layer", "instance", "filter-response"])
def test_the_data_free_start_is_exact_where_each_sample_has_the_populations_moments(norm):
    """Every plane of x has just its channel's running mean and variance."""
    old = randomized(nn.BatchNorm2d(16)).double().eval()
    plane = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    plane = (plane - plane.mean((2, 3), keepdim=True)) / plane.var((2, 3), correction=0, keepdim=True).sqrt()
    x = plane * old.running_var.view(-1, 1, 1).sqrt() + old.running_mean.view(-1, 1, 1)
    model = nn.Sequential(old)
    expected = model(x)
    nw.swap(model, norm, start="data-free")
    assert_close(model(x), expected)


def test_the_formula_of_the_data_free_start():
    old = randomized(nn.BatchNorm2d(16, eps=1e-2))
    mean, var = old.running_mean.double().view(4, 4), old.running_var.double().view(4, 4)
    pooled_mean = mean.mean(1, keepdim=True)
    pooled_var = (var + (mean - pooled_mean).square()).mean(1, keepdim=True)
    scale = old.weight.double().view(4, 4) / (var + 1e-2).sqrt()
    gain = scale * (pooled_var + 1e-2).sqrt()
    bias = old.bias.double().view(4, 4) + scale * (pooled_mean - mean)
    model = nn.Sequential(old)
    nw.swap(model, "group", groups=4, start="data-free")
    assert_close(model[0].weight.double(), gain.flatten())
    assert_close(model[0].bias.double(), bias.flatten())
    assert model[0].eps == 1e-2


def test_a_copy_copies():
    model = net()
    gain, bias = model[1].weight.clone(), model[1].bias.clone()
    change = nw.swap(model, "group", start="copy")
    assert_close(model[1].weight, nn.Parameter(gain))
    assert_close(model[1].bias, nn.Parameter(bias))
    assert change.t == 1
    with pytest.raises(ValueError, match=r"Swap.advance needs a transition, .* start='exact'"):
        change.advance(0.5)


def test_batch_layers_take_the_running_statistics_along():
    model = net().eval()
    before = model(X)
    nw.swap(model, "renorm", start="data-free")
    assert isinstance(model[1], nw.BatchRenorm2d)
    assert model[1].momentum == 0.2
    assert_close(model(X), before)


def test_groups_auto_is_the_divisor_nearest_to_32_with_8_channels_each():
    for channels in range(1, 2050):
        groups = groups_for(channels)
        fits = [g for g in range(1, channels + 1) if channels % g == 0 and channels // g >= 8]
        if fits:
            assert groups in fits
            assert abs(groups - 32) == min(abs(g - 32) for g in fits)
        else:
            assert groups == 1
    change = nw.swap(net(), "group")
    assert [row.new for row in change.rows] == ["GroupNorm(2, 16)", "GroupNorm(3, 24)"]
    assert (
        "Groups: the divisor of the channels nearest to 32 that leaves at least 8 in each" in change.report().to_json()
    )


def test_channels_per_group_and_groups():
    assert [r.new for r in nw.swap(net(), "group", channels_per_group=4).rows] == [
        "GroupNorm(4, 16)",
        "GroupNorm(6, 24)",
    ]
    assert nw.swap(net(), "group", groups=8).rows[0].new == "GroupNorm(8, 16)"


def test_what_survives():
    model = nn.Sequential(nn.BatchNorm2d(16, bias=False), nn.BatchNorm2d(16, affine=False), nn.BatchNorm2d(16))
    model[2].weight.requires_grad_(False)
    model[0].eval()
    seen = []
    model[0].register_forward_hook(lambda module, arguments, output: seen.append(type(module).__name__))
    model.to(torch.bfloat16)
    nw.swap(model, "group", start="copy")
    assert (model[0].bias, model[1].weight, model[1].bias) == (None, None, None)
    assert [m.training for m in model] == [False, True, True]
    assert [p.requires_grad for p in model[2].parameters()] == [False, True]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model(torch.randn(2, 16, 3, 3, dtype=torch.bfloat16))
    assert seen == ["GroupNorm"]


def test_hooks_and_flags_survive_the_transition():
    model, seen = net(), []
    model[1].weight.requires_grad_(False)
    model[1].register_forward_hook(lambda module, arguments, output: seen.append(type(module).__name__))
    change = nw.swap(model, "group")
    model(X)
    change.advance(1)
    change.finish()
    model(X)
    assert [p.requires_grad for p in model[1].parameters()] == [False, True]
    assert all(p.requires_grad for p in model[4].parameters())
    change.undo()
    model(X)
    assert seen == ["Transition", "GroupNorm", "BatchNorm2d"]
    assert [p.requires_grad for p in model[1].parameters()] == [False, True]


def test_the_start_may_need_gamma_and_beta_and_says_so():
    model = nn.Sequential(randomized(nn.BatchNorm2d(16, affine=False)))
    change = nw.swap(model, "layer", start="data-free")
    assert model[0].bias is not None
    assert change.rows[0].reason == "γ added: the start needs it; β added: the start needs it"


def test_shared_layers_and_tied_parameters_stay_so():
    model = nn.Sequential(nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.BatchNorm2d(16))
    model[2] = model[0]
    model[1].weight = model[0].weight
    change = nw.swap(model, "group", start="data-free")
    assert model[2] is model[0]
    assert model[1].weight is model[0].weight
    assert "tied" in change.rows[0].reason


class Odd(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


def test_a_forward_of_its_own_is_left_with_the_reason():
    model = nn.Sequential(Odd(8), nn.BatchNorm2d(8), nw.ConditionalBatchNorm2d(8, 2), nw.EvoNormB0(8))
    kept = {row.name: row.reason for row in nw.swap(model, "layer").rows if row.outcome == "kept"}
    assert list(kept) == ["0", "2", "3"]
    assert kept["0"] == "Odd has a forward of its own, which would be lost"
    assert kept["2"] == "takes a condition besides x"
    assert "is its own activation" in kept["3"]
    assert type(model[0]) is Odd


def test_a_fused_activation_goes_along():
    model = nn.Sequential(nw.BatchNorm2d(16, activation="relu"))
    nw.swap(model, "group", start="copy")
    assert model[0].activation == "relu"


def test_where_chooses_and_sources_of_other_kinds():
    model = nn.Sequential(nn.BatchNorm2d(16), nn.InstanceNorm2d(16, affine=True), nn.GroupNorm(4, 16))
    nw.swap(model, "layer", where=lambda name, module: not isinstance(module, nn.BatchNorm2d), start="copy")
    assert [type(m).__name__ for m in model] == ["BatchNorm2d", "GroupNorm", "GroupNorm"]
    change = nw.swap(model, "batch", where="2", start="copy")
    assert "call recalibrate" in change.rows[0].reason


def test_a_root_and_ranks_without_a_class():
    root = randomized(nn.SyncBatchNorm(6)).eval()
    x = torch.randn(2, 6, 4, 4)
    before = root(x)
    change = nw.swap(root, "instance", example_inputs=x)
    assert_close(change.model(x), before)
    change.advance(1)
    assert isinstance(change.finish(), nw.InstanceNorm2d)
    assert change.undo() is root


def test_undo_after_training_gives_the_old_layers_with_their_old_values():
    model = net()
    modules, old = [id(m) for m in model.modules()], copy.deepcopy(model[1].state_dict())
    change = nw.swap(model, "group")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(4):
        change.advance(step / 3)
        model.train()(X).square().sum().backward()
        optimizer.step()
    change.finish()
    model(X).sum().backward()
    optimizer.step()
    assert change.undo() is model
    assert same_modules(model, modules)
    assert_close(dict(model[1].state_dict()), dict(old), rtol=0, atol=0)
    with pytest.raises(ValueError, match="nothing left to undo"):
        change.undo()
    with pytest.raises(ValueError, match="the swap was undone"):
        change.finish()


def test_the_optimizer_moves_along_and_back():
    model = net()
    norms = [*model[1].parameters(), *model[4].parameters()]
    others = [p for p in model.parameters() if all(p is not n for n in norms)]
    optimizer = torch.optim.Adam([{"params": others}, {"params": norms, "weight_decay": 0.0, "lr": 0.5}], lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    moment = optimizer.state[norms[0]]["exp_avg"].clone()
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    change = nw.swap(model, "group", optimizer=optimizer)
    new = [*model[1].after.parameters(), *model[4].after.parameters()]
    assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(p) for p in new]
    assert optimizer.param_groups[1]["lr"] == 0.5
    assert_close(optimizer.state[new[0]]["exp_avg"], moment)
    assert norms[0] not in optimizer.state
    change.advance(1)
    model(X).sum().backward()
    optimizer.step()
    change.undo()
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == groups
    assert_close(optimizer.state[norms[0]]["exp_avg"], moment)
    assert new[0] not in optimizer.state


def test_parameters_without_a_counterpart():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    change = nw.swap(model, "none", optimizer=optimizer, start="copy")
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}
    change.undo()
    change = nw.swap(model, "tanh", optimizer=optimizer, start="copy")
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}
    assert "γ and β dropped" in nw.swap(net(), "none").rows[0].reason


def test_without_a_normalizer_an_activation_in_place_does_not_reach_the_shortcut():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU(inplace=True)

        def forward(self, x):
            return x + self.act(self.norm(x))

    model, x = Block(), torch.randn(2, 3, 4, 4)
    change = nw.swap(model, "none", start="copy")
    assert_close(model(x.clone()), x + x.relu())
    assert "in place" in change.rows[0].reason
    assert change.undo().act.inplace


def test_a_normalizer_that_activates_says_so():
    assert "is its own activation" in nw.swap(net(), "evo-s0", start="copy").rows[0].reason


def test_the_report_measures_the_drift():
    model = net().eval()
    before = model(X)
    change = nw.swap(model, "layer", example_inputs=X)
    report = change.report()
    assert (report.drift, report.agreement, report.t) == (0.0, 1.0, 0.0)
    change.advance(1)
    after, report = model(X), change.report()
    assert report.drift == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-5)
    assert report.agreement == (after.argmax(1) == before.argmax(1)).double().mean()
    first = nn.Sequential(*net()[:2]).eval()(X)
    new = model[1].after(net()[0](X))
    assert change.rows[0].drift == pytest.approx(((new - first).norm() / first.norm()).item(), rel=1e-4)
    assert "2 of 2 normalizers swapped, t = 1" in str(change)
    assert nw.swap(net(), "layer").report().drift is None


def test_distillation_comes_nearer_without_labels_and_changes_nothing_else():
    model = net()
    modes = [m.training for m in model.modules()]
    data = torch.randn(64, 3, 9, 9)
    change = nw.swap(model, "layer", example_inputs=X)
    change.advance(1)
    start = change.report().drift
    change.advance(0)
    numbers = torch.get_rng_state()
    done = change.distill([(part, "no label") for part in data.split(16)], steps=60, lr=3e-3)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert len(done.losses) == 60
    assert change.t == 1
    assert change.report().drift < start / 2
    assert all(p.grad is None for p in model.parameters())
    change.finish()
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_distillation_that_fails_takes_all_back(error):
    model = net()
    change = nw.swap(model, "layer")
    change.advance(0.5)
    state = copy.deepcopy(model.state_dict())

    def loader():
        yield X
        yield X
        raise error("broken")

    with pytest.raises(error, match="broken"):
        change.distill(loader(), steps=5)
    assert change.t == 0.5
    assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    with pytest.raises(ValueError, match="the iterator ended after 1 of 5 steps"):
        change.distill(iter([X]), steps=5)
    with pytest.raises(ValueError, match="the loss of step 1 is nan"):
        change.distill([X * float("nan")], steps=5)
    assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


def test_the_old_model_is_gone_once_it_was_trained():
    model = net()
    old = copy.deepcopy(model)
    change = nw.swap(model, "layer")
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(ValueError, match="trained since the swap, so the old model is lost"):
        change.distill([X], steps=1)
    change.distill([X], steps=1, teacher=old)


def test_finish_before_the_end_is_an_error():
    change = nw.swap(net(), "layer")
    with pytest.raises(ValueError, match=r"at t = 0, .* call advance\(1.0\) first"):
        change.finish()
    with pytest.raises(ValueError, match=r"t must be from 0 to 1, received 1\.5"):
        change.advance(1.5)


def test_two_tools_on_one_model():
    model = net()
    first = nw.swap(model, "group")
    tools = (
        lambda: nw.swap(model, "layer"),
        lambda: nw.recalibrate(model, [X]),
        lambda: nw.adapt(model, [X]),
        lambda: nw.fold(model.eval(), X),
        lambda: nw.unsync(model),
    )
    for tool in tools:
        with pytest.raises(ValueError, match="1 is in the middle of a swap"):
            tool()
    first.advance(1)
    first.finish()
    second = nw.swap(model, "layer", start="copy")
    with pytest.raises(ValueError, match="swap cannot be undone: 1 holds another GroupNorm"):
        first.undo()
    second.undo()
    first.undo()


REFUSED = {
    "no module": (lambda: "net", {}, TypeError, "swap expects a torch.nn.Module"),
    "no normalizer": (lambda: nn.Linear(2, 2), {}, ValueError, "Linear has no BatchNorm, InstanceNorm or GroupNorm"),
    "where": (net, {"where": "head"}, ValueError, "where='head' matches none of the layers; there are 1, 4"),
    "norm": (net, {"norm": "grupp"}, ValueError, "Unknown normalizer 'grupp': did you mean 'group'"),
    "start": (net, {"start": "best"}, ValueError, "start must be 'copy', 'data-free', 'exact', received 'best'"),
    "groups": (net, {"groups": 5}, ValueError, "1 has 16 channels, which do not divide by groups=5"),
    "size": (
        net,
        {"channels_per_group": 5},
        ValueError,
        "1 has 16 channels, .* by channels_per_group=5",
    ),
    "both": (net, {"groups": 4, "channels_per_group": 4}, ValueError, "one of them; received"),
    "words": (net, {"groups": "many"}, ValueError, "groups must be 'auto' or a number, received 'many'"),
    "norm without groups": (net, {"norm": "layer", "groups": 4}, ValueError, "go with norm='group'"),
    "meta": (lambda: net().to("meta"), {}, ValueError, "meta device"),
    "wrapped": (lambda: nn.DataParallel(net()), {}, TypeError, "pass its attribute module"),
    "features": (
        lambda: nn.Sequential(nn.BatchNorm1d(16)),
        {"norm": "instance", "example_inputs": torch.randn(3, 16)},
        ValueError,
        r"0 has features \[N, C\] as input, with a single value per pool of InstanceNorm",
    ),
    "example": (net, {"example_inputs": torch.randn(2, 5, 4, 4)}, RuntimeError, "to have 3 channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_swapped_leaves_the_model_as_it_was(case):
    make, options, kind, words = REFUSED[case]
    model = make()
    before = [id(m) for m in model.modules()] if isinstance(model, nn.Module) else None
    with pytest.raises(kind, match=words):
        nw.swap(model, **{"norm": "group", **options})
    assert before is None or same_modules(model, before)
