"""What a frozen backbone saves: training steps on features that were computed once, against the backbone in every step.

Two drawn subjects, faces of 112 px. Features are computed as mmpkd.py does with --visual-lr-scale 0, both views, in
float32 and in bfloat16. Then whole training steps on them take turns with the same steps on images, in which the
backbone, frozen as well, computes its features each time. Both with the paper's sizes, and with those of
recola_cpu.json. RECOLA is extrapolated: 27 recordings of 7,500 frames, of which 9 are for validation and have one view.

    python bench/frozen.py                            3 minutes on 2 cores
    python bench/frozen.py --backbones resnet18       1 minute
    python bench/frozen.py --device cuda --seconds 20     on a GPU, as bash bench/gpu.sh frozen
"""
import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from corpus_bounds import write_pictures
from sides import PAPER, Ours, compare

import mmpkd
import scores
from config import Config
from data import Clips, load_recordings
from frozen import VIEWS, with_features
from runs import INPUTS
from support.errors import run_script, torch_device
from support.machine import describe
from support.prefetching import prefetch
from support.settings import read_settings
from training import choose_precision

SUBJECTS = {"train_1": "Train_Set", "train_2": "Train_Set"}
BACKBONES = ("vgg19_bn", "resnet18")
SIZES = {"the paper's sizes": ("", 3), "recola_cpu.json": ("recola_cpu.json", 1)}  # settings, turns
FRAMES, TRAINING, VALIDATION = 7500, 18, 9  # of RECOLA: of a recording; recordings, 9 of the first without ratings


class OnFeatures(Ours):
    """Steps as mmpkd.py does them, on features that were computed before."""

    def __init__(self, recordings, cfg, device):
        super().__init__("visual", recordings, cfg, device)
        self.recordings = with_features(recordings, self.training.model, augmented=True)
        clips = Clips(self.recordings, cfg.batch_size, cfg.clip_length, INPUTS["visual"], cfg.seed)
        batches = (batch for epoch in range(10 ** 6) for batch in clips.batches(epoch))
        self.batches = prefetch(batches, device.type == "cuda")


def config_of(backbone, settings, folder):
    preset = read_settings(Path(mmpkd.__file__).with_name(settings)) if settings else PAPER
    return Config(**preset | {"visual_backbone": backbone, "visual_weights": "", "visual_lr_scale": 0.0,
                              "data_dir": folder, "stage": "visual"})


def features_rate(recordings, model, precision):
    """Images per second whose features are computed and written, of the second recording: the first warms up."""
    model.in_bfloat16 = precision == "bfloat16"
    first, second = recordings
    with_features([first], model, augmented=True)
    began = time.perf_counter()
    with_features([second], model, augmented=True)
    return len(second) * len(VIEWS) / (time.perf_counter() - began)


def prediction_rate(side):
    """Frames per second that the network predicts from features."""
    began = time.perf_counter()
    scores.predict(side.training.model, side.recordings)
    side.training.model.train()
    return sum(map(len, side.recordings)) / (time.perf_counter() - began)


def hours(seconds):
    """A duration as text, in hours or minutes."""
    return f"{seconds / 3600:.1f} h" if seconds >= 1800 else f"{seconds / 60:.1f} min"


def lines_of(backbone, folder, device):
    """The lines of one backbone."""
    images = (TRAINING * len(VIEWS) + VALIDATION) * FRAMES
    for number, (label, (settings, turns)) in enumerate(SIZES.items()):
        cfg = config_of(backbone, settings, folder)
        with contextlib.redirect_stdout(io.StringIO()):
            recordings = load_recordings(cfg, "Train_Set", INPUTS["visual"])
            live = Ours("visual", recordings, cfg, device)
            rates = {one: features_rate(recordings, live.training.model, one)
                     for one in ("float32", "bfloat16")} if number == 0 else {}
            live.training.precision = choose_precision(cfg.precision, device)
            side = OnFeatures(recordings, cfg, device)
        for precision, rate in rates.items():
            yield (f"{backbone}: features in {precision:10} {rate:9.1f} images/s; RECOLA's {images:,} images "
                   + hours(images / rate) + f", {rate / rates['float32']:.2f} x float32" * (precision != "float32"))
        times = compare({"once": side, "every step": live}, 50 if device.type == "cuda" else 1, turns)
        frames, predicted = cfg.batch_size * cfg.clip_length, prediction_rate(side)
        epoch_s = 9 * FRAMES / frames * times["once"] + VALIDATION * FRAMES / predicted
        yield (f"{backbone}: {label}, {cfg.batch_size} x {cfg.clip_length} frames: {1 / times['once']:.1f} steps/s, "
               f"with the backbone in every step {1 / times['every step']:.3f}: "
               f"{times['every step'] / times['once']:.0f} x; RECOLA's visual run of {cfg.epochs} epochs "
               f"{cfg.epochs * epoch_s / 60:.0f} min")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="*", default=list(BACKBONES), help="names of config.py's choices")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--seconds", type=float, default=5, help="of video of each of the two subjects [5]")
    args = parser.parse_args(argv)
    device = torch_device(args.device)
    named = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    print(f"{named}{describe('torch')}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}\n")
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(folder, SUBJECTS, args.seconds, config_of(backbone, "", folder))
            for line in lines_of(backbone, folder, device):
                print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
