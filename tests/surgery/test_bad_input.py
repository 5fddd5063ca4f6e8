"""Every tool on everything that it cannot work on: one clear sentence, and the model as it was, bit for bit."""

import re
import warnings

import pytest
import torch
from torch import nn

import normwise as nw

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ONE_SENTENCE = re.compile(r"[^\n]+\Z")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Block(), nn.Flatten(), nn.Linear(288, 4))
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8))
    return model.eval()


TOOLS = {
    "fold": lambda model: nw.fold(model, X, inplace=True),
    "swap": lambda model: nw.swap(model, "group", example_inputs=X),
    "recalibrate": lambda model: nw.recalibrate(model, [X] * 2),
    "freeze": lambda model: nw.freeze(model),
    "unsync": lambda model: nw.unsync(model, X),
    "adapt": lambda model: nw.adapt(model, [X] * 2),
    "adapt, entropy": lambda model: nw.adapt(model, [X] * 2, method="entropy"),
    "normalizer_free": lambda model: nw.normalizer_free(model, X, inplace=True),
    "tiles": lambda model: nw.tiles(model, X, tile=4, overlap=2),
    "bake": lambda model: nw.bake(model),
    "load_foreign": lambda model: nw.load_foreign(model, {}, source="torch<0.4.1"),
    "doctor": lambda model: nw.doctor(model, X),
}


def everything(model):
    """What must not move: modules, modes, tensors, flags, hooks, gradients, and the world outside of the model."""
    modules = dict(model.named_modules())
    hooks = {(n, key): dict(v) for n, m in modules.items() for key, v in vars(m).items() if key.endswith("_hooks")}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {n: t.detach().clone() for n, t in tensors.items() if not t.is_meta and not nn.parameter.is_lazy(t)}
    return {
        "modules": {n: id(m) for n, m in modules.items()},
        "modes": {n: m.training for n, m in modules.items()},
        "tensors": {n: id(t) for n, t in tensors.items()},
        "flags": {n: (t.requires_grad, t.grad) for n, t in tensors.items()},
        "hooks": hooks,
        "values": values,
        "momentum": {n: getattr(m, "momentum", None) for n, m in modules.items()},
        "random": torch.get_rng_state(),
        "grad": torch.is_grad_enabled(),
    }


def assert_unchanged(model, before):
    after = everything(model)
    for what in ("modules", "modes", "tensors", "flags", "hooks", "momentum", "grad"):
        assert after[what] == before[what], what
    assert torch.equal(after["random"], before["random"])
    for name, value in before["values"].items():
        assert torch.equal(after["values"][name].nan_to_num(7.0), value.nan_to_num(7.0)), name


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval())


def swapping():
    model = net()
    nw.swap(model, "group")
    return model


def raising():
    model = net()

    def fail(*_):
        raise RuntimeError("out of luck")

    model[3].register_forward_hook(fail)
    return model


def poisoned():
    model = net()
    model[1].running_var[0] = torch.nan
    return model


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


NO_RUN = {"bake", "freeze"}
IN_PLACE_OF_MODULES = {"fold", "swap", "unsync", "normalizer_free"}
EVERY = set(TOOLS)  # a net with a linear head takes no tiles, which are its own affair
#: Each kind of model, and the tools that take it all the same; what they do to it is tested with each tool.
MODELS = {
    "no module": (lambda: "resnet18", set()),
    "meta": (lambda: net().to("meta"), {"bake"}),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d()), {"bake"}),
    "scripted": (scripted, {"bake"}),
    "exported": (lambda: torch.export.export(net(), (X,)).module(), {"bake"}),
    "in a swap": (swapping, {"freeze", "bake", "doctor", "tiles"}),
    "compiled": (lambda: torch.compile(net(), backend="eager"), EVERY - IN_PLACE_OF_MODULES),
    "wrapped": (lambda: nn.DataParallel(net()), EVERY - IN_PLACE_OF_MODULES),
    "quantized": (quantized, EVERY - IN_PLACE_OF_MODULES),
    "raising": (raising, NO_RUN),
    "NaN in statistics": (poisoned, EVERY - {"normalizer_free"}),
}
REFUSALS = [(kind, tool) for kind, (_, takes) in MODELS.items() for tool in TOOLS if tool not in takes]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "tool"), REFUSALS)
def test_what_a_tool_cannot_work_on_is_said_and_stays_as_it_was(kind, tool):
    model = MODELS[kind][0]()
    before = everything(model) if isinstance(model, nn.Module) else None
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        TOOLS[tool](model)
    said = str(caught.value)
    assert ONE_SENTENCE.match(said), said
    assert said.startswith(tool.partition(",")[0]) or "out of luck" in said
    if before is not None:
        assert_unchanged(model, before)


TAKEN = [
    (kind, tool) for kind, (_, takes) in MODELS.items() for tool in ("recalibrate", "adapt", "doctor") if tool in takes
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "tool"), TAKEN)
def test_what_a_tool_takes_it_treats_as_the_plain_model(kind, tool):
    """Oracle: the same call on the model without its wrapper; quantized layers and NaN have their own values."""
    model, plain = MODELS[kind][0](), net()
    TOOLS[tool](model), TOOLS[tool](plain)
    found = {name.replace("module.", "").replace("_orig_mod.", ""): b for name, b in model.named_buffers()}
    wanted = dict(plain.named_buffers())
    if tool == "doctor" and kind in ("NaN in statistics", "in a swap"):
        rules = {finding.rule for finding in nw.doctor(model, X)}
        assert {"NaN in statistics": "poisoned statistics", "in a swap": "unfinished swap"}[kind] in rules
        return
    for name in ("1.running_mean", "3.norm.running_var"):
        torch.testing.assert_close(found[name], wanted[name])


class RaisingLoader:
    """It can be read again, and raises again."""

    def __iter__(self):
        yield X
        raise OSError("the disk is gone")


LOADERS = {
    "empty": (lambda: [], ValueError, "no batches|empty|batch"),
    "raising half-way": (RaisingLoader, OSError, "the disk is gone"),
    "of the wrong shape": (lambda: [torch.ones(4, 5, 8, 8)] * 2, RuntimeError, "channels"),
    "of NaN": (lambda: [torch.full_like(X, torch.nan)] * 2, ValueError, "finite|NaN|nan"),
    "a number": (lambda: 3, TypeError, "int"),
}
READING = {
    "recalibrate": lambda model, loader: nw.recalibrate(model, loader),
    "recalibrate, evalnorm": lambda model, loader: nw.recalibrate(model, loader, method="evalnorm"),
    "adapt": lambda model, loader: nw.adapt(model, loader),
    "adapt, bank": lambda model, loader: nw.adapt(model, loader, bank="night"),
    "adapt, entropy": lambda model, loader: nw.adapt(model, loader, method="entropy"),
    "distill": lambda model, loader: nw.swap(model, "group").distill(loader, steps=4),
    "doctor": lambda model, loader: nw.doctor(model, loader),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("tool", READING)
def test_loaders_that_are_no_use(tool, loader):
    make, kind, said = LOADERS[loader]
    if (tool, loader) == ("doctor", "of NaN"):
        assert nw.doctor(net(), make()).errors  # which is what it is for
        return
    model = net()
    change = nw.swap(model, "group") if tool == "distill" else None
    before = everything(model)
    with pytest.raises(kind, match=said):
        change.distill(make(), steps=4) if change else READING[tool](model, make())
    assert_unchanged(model, before)


def test_undo_after_the_user_changed_the_model():
    model = net()
    change = nw.swap(model, "group")
    model[1] = nn.Identity()
    before = everything(model)
    with pytest.raises(ValueError, match=r"swap cannot be undone: 1 holds another Identity by now"):
        change.undo()
    assert_unchanged(model, before)


@pytest.mark.parametrize("tool", [lambda m: nw.swap(m, "group", where="head"), lambda m: nw.freeze(m, where="head")])
def test_predicates_that_match_nothing(tool):
    model = net()
    before = everything(model)
    with pytest.raises(ValueError, match=r"where='head' matches none of the layers; there are 1, 3.norm"):
        tool(model)
    assert_unchanged(model, before)


ON_AN_EXAMPLE = {
    "swap": lambda model, x: nw.swap(model, "group", example_inputs=x),
    "normalizer_free": nw.normalizer_free,
}
SHOWS_NOTHING = {"NaN": (X * torch.nan, "NaN"), "one NaN": (X.index_fill(0, torch.tensor(2), torch.nan), "NaN")}
SHOWS_NOTHING["empty"] = (X[:0], "is empty")


@pytest.mark.parametrize("example", SHOWS_NOTHING)
@pytest.mark.parametrize("tool", ON_AN_EXAMPLE)
def test_an_example_on_which_nothing_can_be_compared(tool, example):
    model = net()
    before = everything(model)
    x, words = SHOWS_NOTHING[example]
    with pytest.raises(ValueError, match=words) as raised:
        ON_AN_EXAMPLE[tool](model, x)
    assert ONE_SENTENCE.match(str(raised.value))
    assert_unchanged(model, before)
