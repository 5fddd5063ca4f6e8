"""Which normalizer should I use? The path of questions from which `docs/choose.md` and the command are made."""

from __future__ import annotations

from typing import NamedTuple


class Advice(NamedTuple):
    """The end of a path: ``norms`` are names for `compare`, ``command`` measures them on the user's own data."""

    use: str
    norms: tuple[str, ...]
    command: str


class Branch(NamedTuple):
    """An answer. ``because`` is the reason for the advice that follows, "" where the answer only sorts.

    ``evidence`` names experiments of `normwise evidence`; if empty, no experiment tested this.
    """

    answer: str
    because: str
    evidence: tuple[str, ...]
    then: Question | Advice


class Question(NamedTuple):
    """A question, ``text``, with its possible answers."""

    text: str
    branches: tuple[Branch, ...]


def _compare(norms: str, sizes: str, more: str = "--data photos/ --model timm:resnet18") -> str:
    return f"normwise compare {more} --norms {norms} --batch-sizes {sizes}"


def _advice(use: str, norms: str, sizes: str, more: str = "--data photos/ --model timm:resnet18") -> Advice:
    return Advice(use, tuple(norms.split(",")), _compare(norms, sizes, more))


_OWN_LOOP = "--train my_code:train --metric accuracy:max"

_DEPLOYMENT = Question(
    "Where will the trained net run?",
    (
        Branch(
            "Compiled or exported, and every millisecond counts",
            "In evaluation BatchNorm is a fixed scale and shift, which `normwise convert` folds into the convolutions; "
            "GroupNorm has to measure every picture.",
            (),
            _advice("BatchNorm, folded", "batch,group", "16,64"),
        ),
        Branch(
            "Anywhere, but on data that drift, or one picture at a time",
            "A layer without remembered statistics is the same function in training and evaluation.",
            ("E2", "E15"),
            _advice("GroupNorm", "group,batch,layer", "16,64"),
        ),
    ),
)

_BATCH = Question(
    "How many samples are on each device in a training step?",
    (
        Branch(
            "16 or more, drawn at random",
            "The batch stands for the data, and BatchNorm is usually among the most accurate.",
            ("E10", "E16", "E18"),
            _DEPLOYMENT,
        ),
        Branch(
            "16 or more, but each batch of one kind (a domain, a patient, a video)",
            "What BatchNorm remembers is then no kind's statistics, and evaluation falls apart.",
            ("E1b", "E5"),
            _advice(
                "a bank of statistics for each kind, Batch Renorm, or a normalizer without the batch",
                "batch,bank,renorm,group",
                "16,64",
                "--data scans/ --batches-by 'patient(\\d+)'",
            ),
        ),
        Branch(
            "2 to 15, on several devices, and the net must keep BatchNorm",
            "Statistics over all devices are those of the large batch.",
            ("E14", "E20"),
            Advice(
                "SyncBatchNorm (process_group='world')",
                ("sync", "group"),
                "normwise doctor timm:resnet18 --data photos/ --batch-size 4 --world-size 8",
            ),
        ),
        Branch(
            "2 to 15",
            "The statistics of so few samples fluctuate from draw to draw; GroupNorm does not look at the batch.",
            ("E1", "E18"),
            _advice("GroupNorm", "group,batch,renorm,nf", "2,8"),
        ),
        Branch(
            "1",
            "BatchNorm is InstanceNorm in training then, and something else in evaluation.",
            ("E1", "E2"),
            _advice("GroupNorm, or a normalizer-free net", "group,instance,filter-response,nf", "1,2"),
        ),
    ),
)

_STYLE = Question(
    "Does the style (contrast, colour, light) tell something?",
    (
        Branch("It does, or nobody knows", "Keep it: no InstanceNorm.", ("E6",), _BATCH),
        Branch(
            "It differs between the pictures, and only part of it tells something",
            "Batch-Instance Norm learns for every channel how much of it to keep.",
            ("E6",),
            _advice("BatchInstanceNorm, or IBN-a for other domains", "batch-instance,ibn,batch,instance", "16,64"),
        ),
        Branch(
            "It must not matter at all",
            "InstanceNorm takes mean and contrast out of every plane.",
            ("E3", "E6"),
            _advice("InstanceNorm", "instance,batch-instance,batch", "16,64"),
        ),
    ),
)

_MAKING = Question(
    "What decides about the style of the output?",
    (
        Branch(
            "One painting, or one domain",
            "With InstanceNorm the result does not depend on the contrast of the content.",
            ("E3", "E19", "E19b"),
            Advice(
                "InstanceNorm",
                ("instance", "batch"),
                "normwise stylize contrast photo.jpg --photos photos/ --style wave.jpg",
            ),
        ),
        Branch(
            "One of a list of styles or labels",
            "Conditional instance norm has a scale and a shift for each.",
            (),
            Advice(
                "ConditionalInstanceNorm",
                ("conditional-instance",),
                "normwise stylize train photos/ --style wave.jpg --style village.jpg --out two.pt",
            ),
        ),
        Branch(
            "Any painting, known only when it is used",
            "AdaIN gives the content the moments of the style.",
            (),
            Advice(
                "AdaptiveInstanceNorm",
                ("adaptive-instance",),
                "normwise stylize train photos/ --style paintings/ --any --out any.pt",
            ),
        ),
        Branch(
            "A GAN, and its discriminator wins",
            "Spectral normalization bounds what the discriminator does to a small change; it normalizes weights.",
            ("E7",),
            Advice(
                "spectral_norm in the discriminator",
                ("instance", "batch"),
                _compare("instance,batch", "16", "--train my_code:train --metric fid:min"),
            ),
        ),
    ),
)

_SEQUENCES = Question(
    "What kind of net is it?",
    (
        Branch(
            "A transformer",
            "LayerNorm and RMSNorm look at one token, so no length and no padding matters.",
            ("E12",),
            _advice("RMSNorm or LayerNorm", "token-layer,token-rms,token-tanh", "16", _OWN_LOOP),
        ),
        Branch(
            "A recurrent net",
            "LayerNorm is the same at every step; InstanceNorm of sequences is worth little here.",
            ("E12", "E12b"),
            _advice("LayerNorm", "token-layer,token-rms", "16", _OWN_LOOP),
        ),
        Branch(
            "Convolutions over sequences with padding",
            "With lengths= or mask= the padding takes no part in the statistics of a batch.",
            ("E12",),
            _advice("BatchNorm with lengths=, or GroupNorm with it", "batch,group,layer", "16,64", _OWN_LOOP),
        ),
    ),
)

PATH = Question(
    "What is the task?",
    (
        Branch("Classify, detect or segment pictures, volumes, signals", "", (), _STYLE),
        Branch("Generate pictures, or transfer style", "", (), _MAKING),
        Branch("Language, speech or other sequences", "", (), _SEQUENCES),
        Branch(
            "Any of these without normalizers",
            "Normalizer-free nets keep their signal by their weights: no batch, no statistics, exact gradients of "
            "each sample.",
            ("E8", "E9", "E9b", "E11"),
            _advice("nw.nets.nf_resnet50 and its like, or nw.normalizer_free(model)", "nf,batch,group", "2,64"),
        ),
    ),
)
