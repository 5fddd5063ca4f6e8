"""Models that normalize tokens: their layers give way to those of the contestants."""

import pytest
import torch
from torch import nn

from normwise.comparison import SweepStarted, compare
from normwise.comparison.contestants.replacement import replace_in_place
from normwise.comparison.contestants.token_layers import token_layer, token_layers
from normwise.layers import DynamicTanh, LayerNorm, RMSNorm

LLAMA = {"__module__": "transformers.models.llama.modeling_llama"}


class _Rms(nn.Module):
    """As transformers has it: a weight and `variance_epsilon`."""

    def __init__(self, width: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.full((width,), start)), 1e-6


def library_layer(name, width, **more):
    return type(name, (_Rms,), LLAMA)(width, **more)


class Tokens(nn.Module):
    """Rows of a picture as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(8, eps=1e-3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.block(self.embed(x.flatten(1, 2)))).mean(1))


def test_token_contestants_are_compared_in_our_loop():
    events = []
    norms = ["token-layer", "token-rms", "token-tanh", "token-erf", "none", "group"]
    sweep = {"batch_sizes": [8], "seeds": 1, "epochs": 1, "data": "small_problems:blobs"}
    rows = compare(Tokens, norms=norms, **sweep, on_event=events.append)
    assert [row["norm"] for row in rows] == norms[:-1]
    assert [len(row["layers"]) for row in rows] == [3] * 5
    assert len({row["test_loss"] for row in rows}) == 5
    (note,) = next(event for event in events if isinstance(event, SweepStarted)).about["left_out"]
    assert note == (
        "GroupNorm ('group') is left out: it normalizes maps [N, C, *space], and Tokens normalizes tokens; "
        "normalizers of tokens: token-layer, token-rms, token-layer-zero, token-rms-zero, token-tanh, token-erf."
    )


def test_a_model_of_maps_has_no_place_for_tokens():
    events = []
    sweep = {"batch_sizes": [8], "seeds": 1, "epochs": 1, "data": "small_problems:blobs"}
    compare("small_problems:fixed_net", norms=["token-rms", "batch"], **sweep, on_event=events.append)
    (note,) = next(event for event in events if isinstance(event, SweepStarted)).about["left_out"]
    assert "it normalizes tokens [*, C], and small_problems:fixed_net has no layer that does" in note


def test_the_same_normalizer_is_the_same_function():
    model, x = Tokens(), torch.randn(4, 1, 6, 6)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.normal_()
    expected = model(x)
    replace_in_place(model, "token-layer")
    assert type(model.norm) is LayerNorm
    assert model.norm.eps == 1e-3
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("norm", ["token-rms", "token-tanh", "none"])
def test_torch_encoders_compute_the_new_norm_in_evaluation_too(norm):
    """Their fast path would compute LayerNorm from what it finds of weight, bias and eps."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    replace_in_place(model, norm)
    x, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[:, 4:] = True
    expected = model(x, src_key_padding_mask=padding)
    with torch.no_grad():
        found = model.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[:, :4], expected[:, :4])


def test_none_takes_the_norms_of_tokens_out_where_there_are_no_others():
    model = Tokens()
    replace_in_place(model, "none")
    assert not token_layers(model)
    assert model(torch.randn(2, 1, 6, 6)).shape == (2, 3)


@pytest.mark.parametrize("name", ["LlamaRMSNorm", "T5LayerNorm", "MistralRMSNorm"])
def test_layers_of_transformers_are_found_and_keep_eps_and_weight(name):
    model = nn.Sequential(nn.Linear(4, 8), library_layer(name, 8))
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
    weight = model[1].weight.detach().clone()
    replace_in_place(model, "token-rms")
    assert type(model[1]) is RMSNorm
    assert model[1].eps == 1e-6
    torch.testing.assert_close(model[1].weight, nn.Parameter(weight))


@pytest.mark.parametrize("start", [0.0, 0.25])
def test_weights_kept_as_distance_from_one_become_plain_ones(start):
    new = token_layer("token-rms", library_layer("GemmaRMSNorm", 8, start=start))
    assert new.weight.tolist() == [1 + start] * 8


def test_zero_centered_layers_come_and_go():
    """γ stays what it was, stored as its distance from 1 or not."""
    plain = LayerNorm(6)
    nn.init.normal_(plain.weight)
    zero = token_layer("token-layer-zero", plain)
    back = token_layer("token-layer", zero)
    x = torch.randn(4, 6)
    torch.testing.assert_close(zero(x), plain(x))
    torch.testing.assert_close(back(x), plain(x))
    assert zero.zero_centered
    assert not back.zero_centered


def test_a_layer_without_weights_has_a_successor_without():
    new = token_layer("token-layer", nn.LayerNorm(8, elementwise_affine=False))
    assert (new.weight, new.bias) == (None, None)
    assert token_layer("token-layer", nn.LayerNorm(8, bias=False)).bias is None
    assert isinstance(token_layer("token-tanh", nn.LayerNorm(8, elementwise_affine=False)), DynamicTanh)


def test_layers_over_several_dimensions_and_strangers_stay():
    class Own(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.transpose(1, -1)).transpose(1, -1)

    model = nn.Sequential(nn.LayerNorm((4, 8)), Own(8), type("RMSNorm", (_Rms,), {"__module__": "somebody"})(8))
    assert not token_layers(model)


def test_device_and_dtype_follow_the_old_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)).to(torch.bfloat16)
    replace_in_place(model, "token-rms")
    assert model[1].weight.dtype == torch.bfloat16
