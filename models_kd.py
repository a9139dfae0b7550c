"""The networks: backbones, GRU, and the visual, audio, teacher and student models.

Shapes: B clips, T frames, S pixels of a crop's side, M mel bands, F spectrogram columns, D features, K targets.
Pictures come in as float in [0, 1]. `model.inputs` names what a model is fed; a student is fed no sound.
"""
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from support.errors import UserError

HINT = 128  # features that the student takes over from the teacher
WINDOW = 8  # frames that the cross-attention looks back over, this one included: as many as its authors' sequences have


class Output(NamedTuple):
    pred: torch.Tensor  # (B, T, K)
    feat: torch.Tensor  # (B, T, HINT), the hint of the distillation
    hidden: Any  # state of the GRUs after the last frame, to go on from


# ---- backbones: one picture -> D features ---------------------------------------------------------------------------

CNNS = {"small_cnn": [16, 32, 64, 64], "tiny_cnn": [8, 16, 32, 64]}  # channels out of each layer; the tiny one takes half the time


def cnn(name, channels):
    """A CNN for small pictures and few cores: (N, channels, H, W) -> (N, 64, ceil(H / 16), ceil(W / 16))."""
    layers, sizes = [], [channels, *CNNS[name]]
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _torchvision(name, channels):
    """A torchvision network without its classifier, whose names fit the weight files made for it."""
    net = torchvision.models.get_model(name, weights=None)
    if name == "resnet18":
        net.fc = nn.Identity()
        if channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        net.classifier = nn.Identity()
    if name == "vgg19_bn":
        net.avgpool = nn.Identity()  # 112 px -> 3 x 3 x 512, all of which go on
    return net


class Backbone(nn.Module):
    """Features of single pictures: (N, C, H, W) in [0, 1] -> (N, D)."""

    def __init__(self, name, weights, shape, size, norm):
        """shape: (C, H, W) of a picture; size: D; weights: "", "imagenet" or a file (load_weights).

        norm: centre and scale the features over the batch. All faces are alike, so what features share is far larger than
        what tells expressions apart, and saturates the GRU: without it, training can stay at a CCC of 0.
        """
        super().__init__()
        net = cnn(name, shape[0]) if name in CNNS else _torchvision(name, shape[0])
        self.net = net.to(memory_format=torch.channels_last)  # how CPUs and GPUs like convolutions best
        mean, std = load_weights(self.net, name, weights) if weights else ([0.5], [0.25])
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.net.eval()
        with torch.no_grad():
            width = self.net(torch.zeros(1, *shape)).flatten(1).shape[1]
        self.net.train()
        self.out = nn.Sequential(nn.Linear(width, size), *[nn.BatchNorm1d(size)] * norm)

    def _load_from_state_dict(self, state, prefix, *rest):
        for name in ("mean", "std"):  # of pretrained weights: one for each colour
            if prefix + name in state:
                setattr(self, name, getattr(self, name).new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, pictures):
        pictures = ((pictures - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.out(self.net(pictures).flatten(1))

    def each_frame(self, clips):
        """(B, T, C, H, W) -> (B, T, D), with time folded into the batch."""
        return self(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # mean and std of what torchvision's weights were trained on
AS_IT_IS = [0.0], [1.0]  # the FER2013 checkpoint was trained on pictures in [0, 1]


def load_weights(net, name, weights):
    """Loads pretrained weights into a backbone, prints which, and returns (mean, std) of the pictures they expect.

    weights: "imagenet" downloads torchvision's; otherwise a file with torchvision's names, or the paper's FER2013
    checkpoint, a dict whose `net` holds a VGG19. Raises UserError if nothing in it fits.
    """
    state, (mean, std) = _downloaded(name) if weights == "imagenet" else _read_weights(weights)
    own = net.state_dict()
    if "conv1.weight" in state and own.get("conv1.weight", state["conv1.weight"]).shape[1] == 1:  # grey spectrograms
        state["conv1.weight"] = state["conv1.weight"].sum(1, keepdim=True)  # as if red, green and blue were equal
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if not fits:
        raise UserError(f"{weights}: nothing in it fits {name}; it holds {_some(state)}")
    net.load_state_dict(fits, strict=False)
    print(f"{weights}: {len(fits)} of the {len(own)} tensors of {name} loaded; not in it and so random: "
          f"{_some(set(own) - set(fits))}; in it and left out: {_some(set(state) - set(fits))}")
    return mean, std


def _downloaded(name):
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True), IMAGENET
    except OSError as error:  # URLError is one
        raise UserError(f"the imagenet weights of {name} could not be downloaded ({error}): fetch the file by other means "
                        "and name it instead of imagenet") from None


def _read_weights(path):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state, scale = (state["net"], AS_IT_IS) if "net" in state else (state, IMAGENET)
        return {key.removeprefix("module."): value for key, value in state.items() if torch.is_tensor(value)}, scale
    except OSError:
        raise UserError(f"{path} is missing or unreadable: a file of weights was expected") from None
    except Exception as error:  # whatever the unpickler makes of a file that holds more, or other things, than tensors
        raise UserError(f"{path} is not a file of weights ({str(error).partition(chr(10))[0] or type(error).__name__})") from None


def _some(names):
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"


# ---- models ---------------------------------------------------------------------------------------------------------

def head(sizes, linear, before=False):
    """Linear layers through `sizes` with an activation between them (none in the original: `linear`), and one `before`."""
    layers = [nn.LeakyReLU(0.1)] if before and not linear else []
    for size, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(size, after)] + ([] if linear or after == sizes[-1] else [nn.LeakyReLU(0.1)])
    return nn.Sequential(*layers)


class Student(nn.Module):
    """Sees the face: crops -> backbone -> GRU -> hint -> prediction. Trained without a teacher it is the visual baseline."""
    inputs = ("frames",)

    def __init__(self, cfg, frame_shape, targets, weights=True):
        """cfg: Config; frame_shape: (3, S, S); targets: K; weights: load what cfg names (not needed for a checkpoint)."""
        super().__init__()
        self.visual = Backbone(cfg.visual_backbone, cfg.visual_weights if weights else "", frame_shape, cfg.feature_size, not cfg.linear_heads)
        self.dropout = nn.Dropout(cfg.dropout)
        self.gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True)
        self.hint = head([cfg.gru_size, 512, 256, HINT], cfg.linear_heads)
        self.out = head([HINT, 64, targets], cfg.linear_heads, before=True)

    def forward(self, frames, hidden=None):
        """frames (B, T, 3, S, S), hidden of the frames before -> Output."""
        seen, hidden = self.gru(self.dropout(self.visual.each_frame(frames)), hidden)
        feat = self.hint(seen)
        return Output(self.out(feat), feat, hidden)


class Audio(nn.Module):
    """Hears the voice: spectrograms -> backbone -> GRU -> hint -> prediction."""
    inputs = ("specs",)

    def __init__(self, cfg, spec_shape, targets, weights=True):
        """spec_shape: (1, M, F); the rest as Student."""
        super().__init__()
        self.audio = Backbone(cfg.audio_backbone, cfg.audio_weights if weights else "", spec_shape, cfg.feature_size, not cfg.linear_heads)
        self.gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True) if cfg.audio_gru else None
        self.hint = head([cfg.gru_size if cfg.audio_gru else cfg.feature_size, 256, HINT], cfg.linear_heads)
        self.out = head([HINT, 64, targets], cfg.linear_heads, before=True)

    def forward(self, specs, hidden=None):
        """specs (B, T, 1, M, F), hidden of the frames before -> Output."""
        heard = self.audio.each_frame(specs)
        if self.gru:
            heard, hidden = self.gru(heard, hidden)
        feat = self.hint(heard)
        return Output(self.out(feat), feat, hidden)


class CrossAttention(nn.Module):
    """Joint cross-attention: each modality weighed by how it goes with face and voice together (Praveen et al., 2022).

    With J the features of both and X those of one, C = tanh(X' W J / sqrt(D)), H = ReLU(W1 X + W2 C'), and out comes X + W3 H.
    Their sequences of L sub-clips are here, for every frame, the L frames up to it: nothing of the future is needed, and a recording
    gives the same whole or in pieces.
    """

    def __init__(self, sizes, frames=WINDOW, width=64):
        """sizes: features of each modality; frames: L; width: of H."""
        super().__init__()
        self.frames, joint = frames, sum(sizes)
        self.joint = nn.ModuleList(nn.Linear(size, joint, bias=False) for size in sizes)
        self.own = nn.ModuleList(nn.Linear(size, width, bias=False) for size in sizes)
        self.correlated = nn.ModuleList(nn.Linear(frames, width, bias=False) for _ in sizes)
        self.back = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)

    def forward(self, parts, past=None):
        """parts: (B, T, D) of each modality; past: what the call for the frames before gave -> attended parts, past."""
        joint = torch.cat(parts, 2)
        past = joint.new_zeros(len(joint), self.frames - 1, joint.shape[2]) if past is None else past
        along = torch.cat([past, joint], 1)
        windows = along.unfold(1, self.frames, 1)  # (B, T, D, L)
        attended = []
        for number, part in enumerate(parts):
            correlation = (torch.einsum("btd,btdl->btl", self.joint[number](part), windows) / joint.shape[2] ** 0.5).tanh()
            attended.append(part + self.back[number]((self.own[number](part) + self.correlated[number](correlation)).relu()))
        return attended, along[:, len(along[0]) - self.frames + 1:]


class Teacher(nn.Module):
    """Sees the face and hears the voice: both branches, attended or not, concatenated -> hint -> prediction."""
    inputs = ("frames", "specs")

    def __init__(self, cfg, frame_shape, spec_shape, targets, weights=True):
        super().__init__()
        self.visual = Backbone(cfg.visual_backbone, cfg.visual_weights if weights else "", frame_shape, cfg.feature_size, not cfg.linear_heads)
        self.audio = Backbone(cfg.audio_backbone, cfg.audio_weights if weights else "", spec_shape, cfg.feature_size, not cfg.linear_heads)
        self.dropout = nn.Dropout(cfg.dropout)
        self.gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True)
        self.audio_gru = nn.GRU(cfg.feature_size, cfg.gru_size, batch_first=True) if cfg.audio_gru else None
        self.seen = head([cfg.gru_size, 1024], cfg.linear_heads)
        heard = cfg.gru_size if cfg.audio_gru else cfg.feature_size
        self.hint = head([1024 + heard, 256, HINT], cfg.linear_heads, before=True)
        self.out = head([HINT, targets], cfg.linear_heads, before=True)
        self.attention = CrossAttention([1024, heard]) if cfg.fusion == "cross_attention" else None
        self.modality_dropout = cfg.modality_dropout

    def forward(self, frames, specs, hidden=None):
        """frames (B, T, 3, S, S), specs (B, T, 1, M, F), hidden of the frames before -> Output."""
        hidden_seen, hidden_heard, past = hidden or (None, None, None)
        seen, hidden_seen = self.gru(self.dropout(self.visual.each_frame(frames)), hidden_seen)
        heard = self.audio.each_frame(specs)
        if self.audio_gru:
            heard, hidden_heard = self.audio_gru(heard, hidden_heard)
        seen, heard = self._drop_a_modality(self.seen(seen), heard)
        if self.attention:
            (seen, heard), past = self.attention([seen, heard], past)
        feat = self.hint(torch.cat([seen, heard], dim=2))
        return Output(self.out(feat), feat, (hidden_seen, hidden_heard, past))

    def _drop_a_modality(self, seen, heard):
        """In training, zeros for the face or for the voice in a share of the clips: (B, T, D), (B, T, D) -> the same."""
        if not self.training or not self.modality_dropout:
            return seen, heard
        draw = torch.rand(len(seen), 1, 1, device=seen.device)
        return seen * (draw >= self.modality_dropout / 2), heard * (draw < 1 - self.modality_dropout / 2)


MODELS = {"visual": Student, "student": Student, "audio": Audio, "teacher": Teacher}


def build_model(stage, cfg, shapes, weights=True):
    """The model of a stage. shapes: {"frames": (3, S, S), "specs": (1, M, F)}; see Student for the rest."""
    kind = MODELS[stage]
    return kind(cfg, *[shapes[name] for name in kind.inputs], len(cfg.targets), weights)


def forward(model, batch, **state):
    """Output of a model on a batch: it is fed what its `inputs` name, and nothing else. state: hidden=, to go on from.

    A model in training computes in the precision of its run; what comes out is float32.
    """
    bare = getattr(model, "module", model)
    with torch.autocast(batch.gold.device.type, torch.bfloat16, enabled=bare.training and getattr(bare, "in_bfloat16", False)):
        output = model(*[getattr(batch, name) for name in bare.inputs], **state)
    return output._replace(pred=output.pred.float(), feat=output.feat.float())


def check_weights(name, path):  # STUB
    from pathlib import Path
    if not Path(path).is_file():
        from support.errors import SettingsError
        raise SettingsError(f"{path} is not there: a file of weights was expected")
