"""`doctor(model, ...)`: what it finds beside the diagnosis, the call that mends it, and that the call does."""

import copy
import functools

import pytest
import torch
from torch import nn

import normwise as nw
from normwise.surgery.doctor import RULES
from normwise.surgery.examination.subject import TARGETS, Subject

CALLS = ("nw.", ".eval()", ".train()", "layer.eps", "momentum=", "num_batches_tracked", "finish()")


def net(norm=nn.BatchNorm2d, **options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm(8, **options), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())


def rules(model, **options):
    """The rules that found something without data."""
    return {finding.rule for finding in nw.doctor(model, **options)}


def learned(model):
    for _ in range(20):
        model.train()(torch.randn(16, 3, 8, 8))
    return model


def with_momentum(model, momentum):
    model[1].momentum = momentum
    return model


def half_frozen():
    model = net().train()
    for p in model[1].parameters():
        p.requires_grad_(False)
    return model


def asleep():
    model = net().train()
    model[1].eval()
    return model


def awake():
    model = net().eval()
    model[1].train()
    return model


def restarted():
    model = with_momentum(learned(net()), None)
    model[1].num_batches_tracked.zero_()
    return model.eval()


def swapping():
    model = net()
    nw.swap(model, "group")
    return model


def negative():
    model = net().eval()
    model[1].running_var[0] = -0.5
    return model


def folded():
    model = nn.Sequential()
    model.conv1, model.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    return nw.fold(model.eval(), torch.randn(2, 3, 8, 8)).model.train()


def differing():
    return nn.Sequential(*net(), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)).eval()


def synced():
    return nn.SyncBatchNorm.convert_sync_batchnorm(net()).eval()


FAULTS = {
    "momentum 0": (lambda: with_momentum(net(), 0.0), {}),
    "eps 0": (lambda: net(eps=0.0), {}),
    "large eps": (lambda: net(eps=0.1), {}),
    "several eps": (differing, {}),
    "statistics in half precision": (lambda: net().bfloat16().eval(), {}),
    "tracked InstanceNorm": (lambda: net(nn.InstanceNorm2d, track_running_stats=True), {}),
    "lost count of batches": (restarted, {}),
    "mixed modes": (asleep, {}),
    "half frozen": (half_frozen, {}),
    "unfinished swap": (swapping, {}),
    "negative variance": (negative, {}),
    "folded and in training": (folded, {}),
    "small batch": (net, {"batch_size": 2}),
    "unsynchronized statistics": (net, {"batch_size": 8, "world_size": 4}),
    "SyncBatchNorm in one process": (synced, {}),
    "exported in training mode": (lambda: net().train(), {"target": "onnx"}),
    "exported SyncBatchNorm": (synced, {"target": "tensorrt"}),
    "eps below half precision": (lambda: net(eps=1e-9), {"target": "coreml"}),
    "weights made in each call": (lambda: nn.Sequential(nw.WSConv2d(3, 8, 3), nn.BatchNorm2d(8)), {"target": "onnx"}),
    "unfolded normalizers": (lambda: net().eval(), {"target": "openvino"}),
    "statistics of each input": (lambda: net(lambda c: nn.GroupNorm(2, c)), {"target": "quantization"}),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_each_fault_is_found_with_the_call_that_mends_it(rule):
    make, options = FAULTS[rule]
    findings = nw.doctor(make(), **options).of(rule)
    assert len(findings) == 1
    assert any(call in findings[0].remedy for call in CALLS)
    assert "{" not in str(findings[0])
    assert rule not in found_in_a_sound_net()


@functools.cache
def found_in_a_sound_net():
    return rules(net().eval())


def test_every_rule_has_a_fault():
    """Of each rule in the list there is at least one case above that only it can find."""
    found = set()
    for make, options in FAULTS.values():
        for function in RULES:
            subject = Subject(make(), options.get("batch_size"), options.get("world_size", 1), options.get("target"))
            found |= {function} if list(function(subject)) else set()
    assert found == set(RULES) - {r for r in RULES if r.__name__ == "training_within_evaluation"}
    assert rules(awake()) == {"mixed modes"}


def test_a_sound_model_is_silent():
    sound = [net().eval(), net(nw.BatchNorm2d).train(), net(lambda c: nn.GroupNorm(2, c)), nw.nets.nf_resnet(8)]
    assert [set(nw.doctor(model)) for model in sound] == [set()] * len(sound)


MENDED = {
    "momentum 0": lambda model: nw.freeze(model),
    "statistics in half precision": lambda model: model[1].float(),
    "mixed modes": lambda model: nw.freeze(model),
    "half frozen": lambda model: nw.freeze(model, affine=True),
    "negative variance": lambda model: nw.recalibrate(model, [torch.randn(64, 3, 8, 8) for _ in range(4)]),
    "SyncBatchNorm in one process": lambda model: nw.unsync(model),
    "exported SyncBatchNorm": lambda model: nw.unsync(model),
    "exported in training mode": lambda model: model.eval(),
    "weights made in each call": lambda model: nw.bake(model),
    "unfolded normalizers": lambda model: nw.fold(model, torch.randn(2, 3, 8, 8), inplace=True),
}


@pytest.mark.filterwarnings("ignore:recalibrate")
@pytest.mark.parametrize("rule", MENDED)
def test_the_call_mends_it(rule):
    make, options = FAULTS[rule]
    model = make()
    MENDED[rule](model)
    assert rule not in rules(model, **options)


def test_nothing_is_said_twice():
    """With data the diagnosis speaks of small batches, without it the number does."""
    by_data = nw.doctor(learned(net()), torch.randn(2, 3, 8, 8), batch_size=2)
    assert [f.rule for f in by_data].count("small batch") == 1
    every = nw.doctor(learned(net()), torch.randn(2, 3, 8, 8), batch_size=2, target="onnx")
    assert len({(f.rule, f.module) for f in every}) == len(every)


def test_it_has_the_findings_of_the_diagnosis():
    model = learned(net()).eval()
    data = 5 + torch.randn(64, 3, 8, 8)
    wanted = {f.rule for f in nw.diagnose(model, data)}
    assert "stale statistics" in wanted
    assert wanted <= {f.rule for f in nw.doctor(model, data)}
    assert "nw.recalibrate" in nw.doctor(model, data).of("stale statistics")[0].remedy


def test_unsynchronized_is_a_note_where_batches_are_large():
    (finding,) = nw.doctor(net(), batch_size=64, world_size=4).of("unsynchronized statistics")
    assert finding.severity == "note"
    assert "nw.recalibrate" in finding.remedy
    assert nw.doctor(synced(), batch_size=2, world_size=8).of("unsynchronized statistics") == ()


def test_a_model_that_says_nothing_about_its_input():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8, eps=0.0)

        def forward(self, x, y):
            return self.norm(x + y)

    findings = nw.doctor(Odd())
    assert [f.rule for f in findings] == ["eps 0"]
    assert "The signal was not measured" in str(findings)
    with pytest.raises(TypeError, match="missing"):
        nw.doctor(Odd(), torch.randn(4, 8, 2, 2))


def test_wrapped_models_are_looked_into():
    assert rules(nn.DataParallel(half_frozen())) == rules(half_frozen()) == {"half frozen"}
    assert rules(torch.compile(half_frozen(), backend="eager")) == {"half frozen"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tflite"}, f"target must be one of {', '.join(map(repr, TARGETS))}, received 'tflite'"),
        ({"batch_size": 0}, "doctor: batch_size must be at least 1, received 0"),
        ({"world_size": 0}, "doctor: world_size must be at least 1, received 0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        nw.doctor(net(), **options)


def test_the_model_is_given_back_as_it_was():
    model = half_frozen()
    before, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    nw.doctor(model, torch.randn(8, 3, 8, 8), batch_size=1, world_size=2, target="onnx")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(module.training for module in model.modules())


def test_doctor_is_a_function_and_the_module_is_gone():
    assert callable(nw.doctor)
    with pytest.raises(ModuleNotFoundError, match=r"normwise\.doctor"):
        __import__("normwise.doctor")
    assert callable(nw.doctor)
