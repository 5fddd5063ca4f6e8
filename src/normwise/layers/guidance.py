"""What users need to know of every normalizer besides its code: the paper's equation, when to use it, and its trap."""

from __future__ import annotations

from typing import NamedTuple


class Guidance(NamedTuple):
    """``equation`` is the paper's, in plain text; ``when_to_use`` and ``trap`` are a sentence or two each.

    ``formula`` names the function of `core.formulas` that computes it; "" for a layer without a table of moments.
    """

    equation: str
    when_to_use: str
    trap: str
    formula: str = ""


_SHAPED = "y = γ (x − μ) / √(σ² + ε) + β"
_SCALED = "y = γ x / √(mean x² + ε)"
_CONDITIONED = "y = γ_k (x − μ) / √(σ² + ε) + β_k"

GUIDANCE: dict[str, Guidance] = {
    "batch": Guidance(
        f"{_SHAPED};  μ, σ² of channel c over N and space",
        "Images with 16 samples or more on each device, drawn at random; nets that are folded for inference.",
        "Evaluation is another function than training. With small batches, or batches of one kind each, the two "
        "differ much.",
        "batch_norm",
    ),
    "group": Guidance(
        f"{_SHAPED};  μ, σ² of sample n over the C/G channels of a group and space",
        "Few samples on each device: detection, segmentation, video, 3-d data; the same in training and evaluation.",
        "A group of one value gives the bias and no gradient: with 1×1 maps leave several channels in each group. It "
        "cannot be folded into a convolution.",
        "group_norm",
    ),
    "instance": Guidance(
        f"{_SHAPED};  μ, σ² of one plane (n, c) over space",
        "Style transfer and image generation, where the contrast of the input must not matter; nnU-Net's default.",
        "It erases mean and contrast of every channel: a task that depends on them is lost. torch's default has no γ "
        "and β.",
        "instance_norm",
    ),
    "layer": Guidance(
        f"{_SHAPED};  μ, σ² of sample n over C and space",
        "Images whose samples must not depend on each other and whose channels are alike; the GroupNorm paper calls it "
        "LayerNorm.",
        "Three layers are called LayerNorm for images: this one, LayerNorm([C, H, W]) with γ for each position, and "
        "LayerNorm2d over the channels at each position.",
        "group_norm",
    ),
    "ghost": Guidance(
        f"{_SHAPED};  μ, σ² of channel c over chunks of N and space",
        "Large batches that should keep the noise of small ones.",
        "The last chunk is smaller where the chunk size does not divide the batch; evaluation is plain BatchNorm.",
        "ghost_batch_norm",
    ),
    "sync": Guidance(
        f"{_SHAPED};  μ, σ² of channel c over N of all processes and space",
        "Few samples on each of several devices, where the net must keep BatchNorm.",
        "Every process waits for the slowest in each layer; all must call the layer equally often.",
        "batch_norm",
    ),
    "renorm": Guidance(
        "y = γ ((x − μ_B)/σ_B · r + d) + β;  r = clip(σ_B/σ, 1/r_max, r_max), d = clip((μ_B − μ)/σ, −d_max, d_max)",
        "Nets made for BatchNorm, where batches are small or of one kind each.",
        "The limits follow a schedule in steps, made for the paper's long run; scale it to yours. No gradient passes "
        "through r and d.",
        "batch_renorm",
    ),
    "switchable": Guidance(
        "y = γ (x − Σ w_k μ_k) / √(Σ w'_k σ²_k + ε) + β;  k = instance, layer, batch; w, w' are softmaxes",
        "When it is not known which statistics suit the task, and the batch is not tiny.",
        "In training it depends on the batch as much as its weight for the batch says. The authors' code starts the "
        "running variance at 0, this layer at 1.",
        "switchable_norm",
    ),
    "batch-instance": Guidance(
        "y = γ (ρ x̂_batch + (1 − ρ) x̂_instance) + β;  ρ of each channel in [0, 1]",
        "Images in several styles, where some of the style matters to the task and some does not.",
        "The gates need a larger learning rate (the authors' is 10 times) and no weight decay, and start as pure "
        "BatchNorm.",
        "batch_instance_norm",
    ),
    "ibn": Guidance(
        f"the first half of the channels: {_SHAPED} of each plane; the other half: of the batch",
        "Nets for pictures of another appearance than the training data (day and night, games and streets).",
        "It belongs behind the first convolution of a residual block of the early stages, not everywhere.",
    ),
    "filter-response": Guidance(
        "z = γ x / √(ν² + ε) + β, ν² = mean of x² of a plane over space;  y = max(z, τ)",
        "Convolutional nets at one or few samples on each device, trained with a warm-up of the learning rate.",
        "No mean is subtracted. On planes of a single value only the sign of x is left. Its own threshold replaces "
        "the ReLU.",
        "filter_response_norm",
    ),
    "global-response": Guidance(
        "y = γ x N + β + x;  N = G / (mean of G over C + ε), G = ‖x‖₂ of a plane",
        "Behind the activation of a ConvNeXt V2 block, so that channels compete.",
        "It starts as the identity (γ = β = 0), and it does not normalize: it sharpens the contrast between channels.",
        "global_response_norm",
    ),
    "evo-b0": Guidance(
        "y = γ x / max(√(σ²_batch + ε), v x + √(σ²_instance + ε)) + β",
        "Residual nets with large batches, instead of BatchNorm and activation.",
        "The activation is inside: no ReLU behind it. The instance's variance stays the input's in evaluation.",
        "evo_norm_b0",
    ),
    "evo-s0": Guidance(
        "y = γ x sigmoid(v x) / √(σ²_group + ε) + β",
        "Residual nets with small batches, instead of GroupNorm and activation.",
        "The activation is inside: no ReLU behind it. The mean is not subtracted.",
        "evo_norm_s0",
    ),
    "pixel-layer": Guidance(
        f"{_SHAPED};  μ, σ² of one position over C",
        "ConvNeXt and other nets of maps built like transformers.",
        "It is neither GroupNorm(1, C) nor LayerNorm([C, H, W]), which pool over space as well.",
        "instance_norm",
    ),
    "pixel-rms": Guidance(
        f"{_SCALED};  over C at one position",
        "Nets of maps built like transformers, where LayerNorm2d is too slow.",
        "The mean stays: inputs far from zero are not centred.",
        "rms_norm",
    ),
    "positional": Guidance(
        "y = (x − μ) / √(σ² + ε);  μ, σ² of one position over C, σ² unbiased",
        "Encoders of generative nets whose decoder gets the moments back at the same resolution (MomentShortcut).",
        "Without the shortcut the structure of the picture, which is in the moments, is lost.",
        "positional_norm",
    ),
    "tanh": Guidance(
        "y = γ tanh(α x) + β",
        "Nets of maps without statistics; compare it with LayerNorm2d by normwise compare.",
        "It normalizes nothing: scaling the input scales the argument of tanh, and α must fit the signal.",
    ),
    "erf": Guidance(
        "y = γ erf(α x + s) + β",
        "As DynamicTanh; its authors report better results than DynamicTanh and LayerNorm in transformers.",
        "It normalizes nothing, as DynamicTanh.",
    ),
    "adaptive-instance": Guidance(
        "y = σ(s) (x − μ(x)) / √(σ²(x) + ε) + μ(s);  moments of planes of content x and style s",
        "Style transfer to styles that were not in the training data.",
        "An even style gives an even picture. The common port to PyTorch takes unbiased variances, which shows on "
        "small maps.",
    ),
    "conditional-instance": Guidance(
        f"{_CONDITIONED};  μ, σ² of one plane",
        "One net for a list of styles, or for labels in image generation.",
        "A condition that is rare in the data has a γ and a β that have hardly been trained.",
        "instance_norm",
    ),
    "conditional-batch": Guidance(
        f"{_CONDITIONED};  μ, σ² of channel c over N and space",
        "Generators of class-conditional GANs with large batches.",
        "In training a batch of one condition is normalized by that condition's statistics alone, in evaluation by "
        "those of all.",
        "batch_norm",
    ),
    "spade": Guidance(
        "y = (1 + γ(m)) norm(x) + β(m);  γ, β are maps, predicted from the segmentation m",
        "Pictures generated from segmentation maps.",
        "The inner normalizer decides what is pooled: the default is the batch, so small batches need norm='sync' or "
        "'instance'.",
        "batch_norm",
    ),
    "token-layer": Guidance(
        f"{_SHAPED};  μ, σ² of one token over its C features",
        "Transformers and recurrent nets; sequences of any length.",
        "γ and β have the shape of normalized_shape: for images that is not what GroupNorm's paper calls LayerNorm.",
        "instance_norm",
    ),
    "token-rms": Guidance(
        f"{_SCALED};  over the C features of one token",
        "Large language models: LayerNorm's stability with less work.",
        "eps=None is the machine epsilon, too small for tokens near zero; Llama's is 1e-5 or 1e-6.",
        "rms_norm",
    ),
    "token-layer-zero": Guidance(
        "y = (1 + w) (x − μ) / √(σ² + ε) + β;  over the C features of one token",
        "Checkpoints of Megatron-LM (LayerNorm1P), and where weight decay should pull γ to 1.",
        "Its weight is γ − 1: loaded into an ordinary LayerNorm it nearly switches the layer off.",
        "instance_norm",
    ),
    "token-rms-zero": Guidance(
        "y = (1 + w) x / √(mean x² + ε);  over the C features of one token",
        "Checkpoints of Gemma and Qwen3-Next.",
        "Its weight is γ − 1: loaded into an ordinary RMSNorm it nearly switches the layer off.",
        "rms_norm",
    ),
    "adaptive-layer": Guidance(
        "y = (1 + γ(k)) (x − μ) / √(σ² + ε) + β(k);  γ, β are linear in the condition k",
        "Diffusion transformers, conditioned on time and class.",
        "The order of the linear layer's rows (shift, scale, gate) differs between libraries.",
        "modulated_layer_norm",
    ),
    "adaptive-rms": Guidance(
        "y = (1 + γ(k)) x / √(mean x² + ε) + β(k);  γ, β are linear in the condition k",
        "Diffusion transformers that use RMSNorm.",
        "The order of the linear layer's rows (shift, scale, gate) differs between libraries.",
        "modulated_rms_norm",
    ),
    "gated-rms": Guidance(
        "y = γ x / √(mean x² + ε) · silu(z);  over C or groups of C features of one token",
        "Mamba-2 and its like, behind the state space layer.",
        "The checkpoint does not say whether the gate comes before or after the norm: set norm_before_gate.",
        "gated_rms_norm",
    ),
    "token-tanh": Guidance(
        "y = γ tanh(α x) + β",
        "Transformers without statistics.",
        "It normalizes nothing: in large language models α must be tuned, separately for attention and the rest.",
    ),
    "token-erf": Guidance(
        "y = γ erf(α x + s) + β",
        "Transformers without statistics; its authors report better results than DynamicTanh.",
        "It normalizes nothing, as DynamicTanh.",
    ),
    "none": Guidance(
        "y = x",
        "Nets that keep their signal by their weights (normalizer-free, Fixup); the baseline of a comparison.",
        "Taken out of a net that was made for a normalizer, the signal grows with every block; see normalizer_free.",
    ),
}
