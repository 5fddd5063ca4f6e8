"""The weight that is not clipped, by its role."""

import pytest
from clipping_cases import Heads, fill
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import normwise as nw
from normwise.optim import adaptive_clip_grad_


def excluded(model, **options):
    fill(model)
    return adaptive_clip_grad_(model, **options).excluded


def test_the_classifier_is_the_last_linear_layer_by_its_role():
    assert excluded(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))) == ("2.weight",)
    assert excluded(nw.nets.resnet(8)) == ("classifier.weight",)
    assert excluded(nn.Linear(4, 2)) == ("weight",)
    parametrized = nn.Sequential(nn.Linear(4, 4), nw.scaled_weight_standardization(nn.Linear(4, 2, bias=False)))
    assert excluded(parametrized) == ("1.parametrizations.weight.original",)
    assert excluded(nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(4, 2)))) == (
        "1.parametrizations.weight.original0",
        "1.parametrizations.weight.original1",
    )


def test_the_classifier_named_by_a_module():
    model = Heads()
    assert excluded(model, classifier=model.head) == ("head.weight",)
    assert excluded(model, classifier=[model.head, model.body]) == ("head.weight", "body.weight")
    assert excluded(model, classifier=None) == ()
    tied = nn.ModuleList([nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)])
    tied[1].weight = tied[0].weight
    assert excluded(tied) == ("0.weight",)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Heads(), r"the classifier of Heads cannot be told, since its last layer is a Conv1d.*classifier=model.head"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "its last layer is a LayerNorm"),
        (nn.ReLU(), "it has no parameters"),
    ],
)
def test_a_classifier_that_cannot_be_told(model, message):
    with pytest.raises(ValueError, match=message):
        adaptive_clip_grad_(model)
