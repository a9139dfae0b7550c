"""The networks: backbones; the visual, student, audio and teacher models.

Shapes: B clips, T frames, S pixels of a face crop's side, M mel bands, F spectrogram columns, D features, K targets.
Images (face crops and spectrograms) come in as float in [0, 1]; features of other programs in their place, (B, T, F),
as those programs give them. `model.inputs` names what a model is given; a student is given no sound. A new backbone is
a name among config.py's choices, and a line in CNNS or what `_torchvision` needs to remove its classifier.
"""
from typing import Any, NamedTuple

import torch
from torch import nn

from support.errors import SettingsError
from support.recordings import MODALITIES
from weights import downloaded, fitting, load_weights, read_weights, without_prefix

HINT = 128  # size of the feature layer that is distilled (the "hint")


class Output(NamedTuple):
    pred: torch.Tensor  # (B, T, K)
    feat: torch.Tensor  # (B, T, HINT), the features that are distilled
    hidden: Any  # state of the GRUs after the last frame, for the frames that follow


# ---- backbones: one image -> D features -----------------------------------------------------------------------------

CNNS = {"small_cnn": [16, 32, 64, 64], "tiny_cnn": [8, 16, 32, 64]}  # channels of each layer; tiny takes half the time
CLASSIFIERS = ("fc", "classifier", "head", "heads")  # names of the last layer in torchvision's networks
OWN = [0.5], [0.25]  # mean and std of the images of networks without pretrained weights, and of CNNS
CLASSES = 1000  # of ImageNet: a layer of that size is a classifier


def cnn(name, channels):
    """A CNN for small images and few cores: (N, channels, H, W) -> (N, 64, ceil(H / 16), ceil(W / 16))."""
    layers, sizes = [], [channels, *CNNS[name]]
    for size, after in zip(sizes, sizes[1:]):
        convolution = nn.Conv2d(size, after, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _torchvision(name, channels):
    """A torchvision network without its classifier; its tensors have the names that torchvision's weight files have.

    Raises SettingsError for a network that keeps a classifier, or that cannot take this number of channels.
    """
    import torchvision  # here: the import takes seconds, and scripts that build no such network do without it
    net = torchvision.models.get_model(name, weights=None)
    for attribute in CLASSIFIERS:
        if hasattr(net, attribute):
            setattr(net, attribute, nn.Identity())
    if name == "vgg19_bn":
        net.avgpool = nn.Identity()  # keep all of the 3 x 3 x 512 features of a 112 px crop
    if channels != 3 and isinstance(net, torchvision.models.ResNet):
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    elif channels != 3:
        raise SettingsError(f"{name} takes images of 3 channels, not {channels}: replace its first layer in "
                            "_torchvision() of models_kd.py, or use another backbone")
    left = [layer for layer, module in net.named_modules() if _size_out(module) == CLASSES]
    if left:
        raise SettingsError(f"{name} would give {CLASSES} class scores instead of features (layer {left[-1]}): remove "
                            "its classifier in _torchvision() of models_kd.py, or use another backbone")
    return net


def _size_out(layer):
    """Number of outputs of a linear layer or convolution; None for other layers."""
    return getattr(layer, "out_features", getattr(layer, "out_channels", None))


def _network(name, channels):
    return cnn(name, channels) if name in CNNS else _torchvision(name, channels)


class Backbone(nn.Module):
    """Features of single images: (N, C, H, W) in [0, 1] -> (N, D).

    frozen: its network stays as its pretrained weights are, in evaluation mode; the layer after it alone is trained.
    What that layer is fed can then be computed once (frozen.py) and given in place of images, (N, F).
    """
    frozen = False

    def __init__(self, name, weights, shape, size, norm):
        """shape: (C, H, W) of an image; size: D; weights: "", "imagenet" or a file (load_weights).

        norm: centre and scale the features over the batch. All faces are similar: what they share is far larger than
        what distinguishes expressions, and saturates the GRU. Without norm, training can stay at a CCC of 0.
        """
        super().__init__()
        self.channels = shape[0]
        with torch.device("cpu"):  # also within torch.device("meta"), on which the first pass takes a second
            self.net = _network(name, shape[0]).to(memory_format=torch.channels_last)  # faster on CPUs and GPUs
            scale = load_weights(self.net, name, weights) if weights else OWN
            mean, std = OWN if name in CNNS else scale  # these exist here alone, whatever holds their weights
            self.net.eval()
            with torch.no_grad():
                width = self.net(torch.zeros(1, *shape)).flatten(1).shape[1]
            self.net.train()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.out = nn.Sequential(nn.Linear(width, size), *[nn.BatchNorm1d(size)] * norm)

    def _load_from_state_dict(self, state, prefix, *rest):
        for name in ("mean", "std"):  # pretrained weights have one value per colour, not one in all
            if prefix + name in state and state[prefix + name].shape == (self.channels, 1, 1):
                setattr(self, name, getattr(self, name).new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *rest)

    def freeze(self):
        """Keeps the pretrained network as it is from here on; returns the backbone."""
        self.frozen = True
        self.net.requires_grad_(False).eval()
        return self

    def train(self, mode=True):
        super().train(mode)
        self.net.train(mode and not self.frozen)
        return self

    def pretrained(self, images):
        """(N, C, H, W) in [0, 1] -> (N, F): what the network without the layer after it gives."""
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.net(images).flatten(1)

    def forward(self, images):
        """(N, C, H, W), or (N, F) of pretrained() -> (N, D)."""
        return self.out(images if images.ndim == 2 else self.pretrained(images))

    def each_frame(self, clips):
        """(B, T, ...) -> (B, T, D), with time folded into the batch."""
        return self(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])


class Standardised(nn.Module):
    """Features of other programs in place of a backbone's: standardised, then one layer: (N, F) -> (N, D)."""

    def __init__(self, shape, size, norm):
        """shape: (F,); size: D; norm: as for Backbone."""
        super().__init__()
        (width,) = shape
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.out = nn.Sequential(nn.Linear(width, size), *[nn.BatchNorm1d(size)] * norm)

    @torch.no_grad()
    def standardise(self, mean, std):
        """Takes over (F,) mean and standard deviation of the training subjects. Where the latter is 0, the feature was
        constant and is not used: its weights are 0, and stay so, as in training their gradient is."""
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))
        self.out[0].weight[:, self.std == 0] = 0
        self.std[self.std == 0] = 1

    def forward(self, features):
        """NaN, which is a missing value, counts as the mean."""
        return self.out(((features - self.mean) / self.std).nan_to_num(0))

    each_frame = Backbone.each_frame


def standardise(model, statistics):
    """Gives a new model the (mean, std) of features of the training subjects: {"frames": ..., "specs": ...}, or {}."""
    for name in set(model.inputs) & set(statistics):
        getattr(model, MODALITIES[name]).standardise(*statistics[name])


def visual_backbone(cfg, shape, weights):
    """The backbone of the faces that cfg names, for inputs of a shape; weights: load the file, too."""
    made_of = cfg.visual_backbone, cfg.visual_weights if weights else "", cfg.visual_lr_scale == 0
    return _backbone(*made_of, shape, cfg)


def audio_backbone(cfg, shape, weights):
    """As visual_backbone, of the voices."""
    made_of = cfg.audio_backbone, cfg.audio_weights if weights else "", cfg.audio_lr_scale == 0
    return _backbone(*made_of, shape, cfg)


def _backbone(name, weights, frozen, shape, cfg):
    size, norm = cfg.feature_size, not cfg.linear_heads
    if name == "features":
        return Standardised(shape, size, norm)
    backbone = Backbone(name, weights, shape, size, norm)
    return backbone.freeze() if frozen else backbone


def check_weights(name, weights):
    """Raises UserError if the setting `weights` cannot be loaded into the backbone `name`; imagenet is downloaded
    here."""
    if weights and name == "features":
        raise SettingsError(f"{weights}: features are fed as they are, to no backbone that has weights: leave it out")
    if weights == "imagenet":
        downloaded(name)  # now rather than hours later; it is kept in torch's own cache
    elif weights:
        with torch.device("meta"):  # names and shapes without values
            own = _network(name, 3).state_dict()
        fitting(own, without_prefix(own, read_weights(weights)[0]), name, weights)


# ---- models ---------------------------------------------------------------------------------------------------------

def head(sizes, linear, before=False):
    """Linear layers through `sizes` with an activation between them, and one `before`; no activations if `linear`."""
    layers = [nn.LeakyReLU(0.1)] if before and not linear else []
    for size, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(size, after)] + ([] if linear or after == sizes[-1] else [nn.LeakyReLU(0.1)])
    return nn.Sequential(*layers)


class Student(nn.Module):
    """Visual only: face crops -> backbone -> GRU -> hint -> prediction. Without a teacher it is the visual baseline."""
    inputs = ("frames",)

    def __init__(self, cfg, frame_shape, targets, weights=True):
        """frame_shape: (3, S, S), or (F,) of features; targets: K; weights: load the files that cfg names (a checkpoint
        needs none)."""
        super().__init__()
        self.visual = visual_backbone(cfg, frame_shape, weights)
        self.dropout = nn.Dropout(cfg.dropout)
        self.gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True)
        self.hint = head([cfg.gru_size, 512, 256, HINT], cfg.linear_heads)
        self.out = head([HINT, 64, targets], cfg.linear_heads, before=True)

    def forward(self, frames, hidden=None):
        """frames (B, T, 3, S, S) or (B, T, F), hidden state after the frames before -> Output."""
        visual, hidden = self.gru(self.dropout(self.visual.each_frame(frames)), hidden)
        feat = self.hint(visual)
        return Output(self.out(feat), feat, hidden)


class Audio(nn.Module):
    """Audio only: spectrograms -> backbone -> GRU -> hint -> prediction."""
    inputs = ("specs",)

    def __init__(self, cfg, spec_shape, targets, weights=True):
        """spec_shape: (1, M, F), of features (F,); the rest as for Student."""
        super().__init__()
        self.audio = audio_backbone(cfg, spec_shape, weights)
        self.gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True) if cfg.audio_gru else None
        self.hint = head([cfg.gru_size if cfg.audio_gru else cfg.feature_size, 256, HINT], cfg.linear_heads)
        self.out = head([HINT, 64, targets], cfg.linear_heads, before=True)

    def forward(self, specs, hidden=None):
        """specs (B, T, 1, M, F) or (B, T, F), hidden state after the frames before -> Output."""
        audio = self.audio.each_frame(specs)
        if self.gru:
            audio, hidden = self.gru(audio, hidden)
        feat = self.hint(audio)
        return Output(self.out(feat), feat, hidden)


class CrossAttention(nn.Module):
    """Joint cross-attention: each modality weighted by its correlation with both together (Praveen et al., 2022).

    With J the features of both modalities and X those of one: C = tanh(X' W J / sqrt(D)), H = ReLU(W1 X + W2 C'), and
    the output is X + W3 H. The authors' sequences of L sub-clips are, for every frame, the L frames up to it: no future
    frame is used, and a recording gives the same whole or in pieces.
    """

    def __init__(self, sizes, frames=8, width=64):
        """sizes: features of each modality; frames: L, the authors' 8 by default; width: of H."""
        super().__init__()
        self.frames, joint = frames, sum(sizes)
        self.joint = nn.ModuleList(nn.Linear(size, joint, bias=False) for size in sizes)
        self.own = nn.ModuleList(nn.Linear(size, width, bias=False) for size in sizes)
        self.correlated = nn.ModuleList(nn.Linear(frames, width, bias=False) for _ in sizes)
        self.back = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)

    def forward(self, parts, past=None):
        """parts: (B, T, D) of each modality; past: from the call for the frames before -> attended parts, past."""
        joint = torch.cat(parts, 2)
        past = joint.new_zeros(len(joint), self.frames - 1, joint.shape[2]) if past is None else past
        along = torch.cat([past, joint], 1)
        windows = along.unfold(1, self.frames, 1)  # (B, T, D, L)
        attended = []
        for k, part in enumerate(parts):
            correlation = torch.einsum("btd,btdl->btl", self.joint[k](part), windows) / joint.shape[2] ** 0.5
            attended.append(part + self.back[k]((self.own[k](part) + self.correlated[k](correlation.tanh())).relu()))
        return attended, along[:, len(along[0]) - self.frames + 1:]


class Teacher(nn.Module):
    """Audio-visual: both branches, with or without cross-attention, concatenated -> hint -> prediction."""
    inputs = ("frames", "specs")

    def __init__(self, cfg, frame_shape, spec_shape, targets, weights=True):
        """As for Student and Audio."""
        super().__init__()
        self.visual = visual_backbone(cfg, frame_shape, weights)
        self.audio = audio_backbone(cfg, spec_shape, weights)
        self.dropout = nn.Dropout(cfg.dropout)
        self.gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True)
        self.audio_gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True) if cfg.audio_gru else None
        self.seen = head([cfg.gru_size, 1024], cfg.linear_heads)  # visual branch; checkpoints hold this name
        audio_size = cfg.gru_size if cfg.audio_gru else cfg.feature_size
        self.hint = head([1024 + audio_size, 256, HINT], cfg.linear_heads, before=True)
        self.out = head([HINT, targets], cfg.linear_heads, before=True)
        self.attention = CrossAttention([1024, audio_size]) if cfg.fusion == "cross_attention" else None
        self.modality_dropout = cfg.modality_dropout

    def forward(self, frames, specs, hidden=None):
        """frames as for Student, specs as for Audio, hidden state after the frames before -> Output."""
        hidden_visual, hidden_audio, past = hidden or (None, None, None)
        visual, hidden_visual = self.gru(self.dropout(self.visual.each_frame(frames)), hidden_visual)
        audio = self.audio.each_frame(specs)
        if self.audio_gru:
            audio, hidden_audio = self.audio_gru(audio, hidden_audio)
        visual, audio = self._drop_a_modality(self.seen(visual), audio)
        if self.attention:
            (visual, audio), past = self.attention([visual, audio], past)
        feat = self.hint(torch.cat([visual, audio], dim=2))
        return Output(self.out(feat), feat, (hidden_visual, hidden_audio, past))

    def _drop_a_modality(self, visual, audio):
        """In training, zeros for one modality in a share of the clips: (B, T, D), (B, T, D) -> the same shapes."""
        if not self.training or not self.modality_dropout:
            return visual, audio
        draw = torch.rand(len(visual), 1, 1, device=visual.device)
        return visual * (draw >= self.modality_dropout / 2), audio * (draw < 1 - self.modality_dropout / 2)


# ---- building and calling a model -----------------------------------------------------------------------------------

MODELS = {"visual": Student, "student": Student, "audio": Audio, "teacher": Teacher}


def build_model(stage, cfg, shapes, weights=True):
    """The model of a stage. shapes: of data.image_shapes; see Student for the rest."""
    kind = MODELS[stage]
    model = kind(cfg, *[shapes[name] for name in kind.inputs], len(cfg.targets), weights)
    model.clip_stride = cfg.clip_stride  # frames between those that its GRU is given one after the other
    return model


def forward(model, batch, **state):
    """Output, float32, of a model on a batch of data.py; it is given what its `inputs` name and nothing else.

    state: hidden=, of the frames before. A model in training computes in the precision of its run (training.py).
    """
    bare = getattr(model, "module", model)  # inside DistributedDataParallel
    in_bfloat16 = bare.training and getattr(bare, "in_bfloat16", False)
    with torch.autocast(batch.gold.device.type, torch.bfloat16, enabled=in_bfloat16):
        output = model(*[getattr(batch, name) for name in bare.inputs], **state)
    return output._replace(pred=output.pred.float(), feat=output.feat.float())
