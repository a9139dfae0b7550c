"""Speed of predict.py from file to CSV, beside decoding alone and face_detector.py alone, in the same run.

On a 640 x 360 clip of a drawn subject, or on a given one, looped to a minute. Every picture is a frame (the frame rate
is set to the video's). The networks have random weights, and are loaded before. The sides take turns, and the best
round of each counts; on a CPU the large networks get the first sixth of the clip. A ratio above 1: predict.py is
faster.

    python bench/predict.py                 5 minutes on 2 cores
    python bench/predict.py clip.mp4
    python bench/predict.py --device cuda   networks and face detection on a GPU
"""
import argparse
import contextlib
import functools
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import pandas as pd
import torch
from crops import best_of, decode, frame_rate_of, loop_to

import face_detector
import predict
from checkpoints import bare_card, network_settings, save_checkpoint
from config import Config
from drawn.people import FRAME_RATE, Recording, write_video
from inference import open_model
from models_kd import build_model
from study.methods import FACES, NETWORKS
from support.devices import has_bfloat16
from support.errors import run_script
from support.machine import describe

DEMO = NETWORKS | FACES | {"visual_backbone": "tiny_cnn"}
STUDENTS = {"the demo's student (tiny_cnn, 48 px)": DEMO, "ResNet-18, 112 px": {"visual_backbone": "resnet18"},
            "VGG19, 112 px": {"visual_backbone": "vgg19_bn"}}
DETECTOR, DECODING = "face_detector.py", "decoding and nothing else (PyAV)"


def drawn_clip(path, seconds=10):
    """Writes a drawn subject at 640 x 360."""
    def widened(rgb):
        rgb = cv2.resize(rgb, (480, 360), interpolation=cv2.INTER_CUBIC)
        return cv2.copyMakeBorder(rgb, 0, 0, 80, 80, cv2.BORDER_REPLICATE)
    write_video(path, map(widened, Recording.draw((0, 0), seconds * FRAME_RATE).frames()))


def random_student(path, settings, frame_rate):
    """Writes a checkpoint of a student with random weights."""
    cfg = Config(stage="student", target="both", frame_rate=frame_rate, **settings)
    made = {"frames": (3, cfg.face_size, cfg.face_size)}
    settings = network_settings({name: value for name, value in vars(cfg).items() if name != "variant"})
    faces = {name: getattr(cfg, name) for name in face_detector.SETTINGS.split() if name != "frame_rate"}
    card = bare_card("student", settings | {"frame_rate": frame_rate}, cfg.targets, made)
    torch.manual_seed(0)
    save_checkpoint(path, {"stage": "student", "config": settings, "targets": cfg.targets, "shapes": made,
                           "model": build_model("student", cfg, made).state_dict(),
                           "card": card | {"faces": faces | {"retained": False}}})


def detect(video, size, device, folder):
    """Crops by face_detector.py, in one process, as it is called for one recording: number of frames."""
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / video.name).symlink_to(video)
    with contextlib.redirect_stdout(io.StringIO()):
        made = face_detector.main(["--data-dir", str(folder), "--frame-rate", str(frame_rate_of(video)), "--device",
                                   device, "--workers", "1", "--face-size", str(size)])
    return sum(made.values())


def file_to_csv(video, network, device, folder):
    """predict.py's table of a video, in one process: number of frames."""
    folder.mkdir()
    table, _, _ = predict.predictions(network, video, Config(device=device))
    predict.write_table(table, folder / "table.csv")
    return len(table)


def with_overlay(video, network, device, folder):
    """The same, and the video with box and predictions in it."""
    from overlay import write_overlay
    frames = file_to_csv(video, network, device, folder)
    write_overlay(video, pd.read_csv(folder / "table.csv"), network.targets, folder / "overlay.mp4", lambda n: None)
    return frames


def sides_of(video, short, device, scratch):
    """{name: side(folder) -> number of frames}; short: the clip for large networks on a CPU."""
    rate, sides = float(frame_rate_of(video)), {DECODING: functools.partial(decode, video)}
    for name, settings in STUDENTS.items():
        path, size = scratch / "student.pt", Config(**settings).face_size
        sides.setdefault(f"{DETECTOR}, {size} px", functools.partial(detect, video, size, device))
        random_student(path, settings, rate)
        for precision in ("float32", "bfloat16") if has_bfloat16(torch.device(device)) else ("float32",):
            network = open_model(path, device, precision)
            clip = short if device == "cpu" and settings is not DEMO else video
            sides[f"{name}, {precision}"] = functools.partial(file_to_csv, clip, network, device)
        if settings is DEMO and Path(predict.__file__).with_name("overlay.py").exists():
            sides[f"{name}, with --overlay"] = functools.partial(with_overlay, video, network, device)
    return sides


def print_rates(best, frame_rate):
    print(f"{'':52}{'frames/s':>10}{'x real time':>13}{'x detection':>13}{'x decoding':>12}")
    for name, rate in best.items():
        beside = best.get(f"{DETECTOR}, 48 px" if "48 px" in name or "overlay" in name else f"{DETECTOR}, 112 px")
        print(f"{name:52}{rate:10.0f}{rate / frame_rate:13.1f}{rate / beside:13.2f}{rate / best[DECODING]:12.2f}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, help="video to measure on [a drawn subject]")
    parser.add_argument("--seconds", type=float, default=60, help="to which the clip is looped [60]")
    parser.add_argument("--rounds", type=int, default=2, help="of each side, of which the best counts [2]")
    parser.add_argument("--device", default="cpu", help="of networks and face detection [cpu]")
    args = parser.parse_args(argv)
    named = f"{torch.cuda.get_device_name(args.device)}, " if args.device != "cpu" else ""
    print(f"{named}{describe('torch', 'av', 'numpy')}, OpenCV {cv2.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        clip, video, short = args.clip or Path(folder, "drawn.mp4"), Path(folder, "loop.mp4"), Path(folder, "short.mp4")
        if not args.clip:
            drawn_clip(clip)
        loop_to(args.seconds, clip, video)
        loop_to(args.seconds / 6, clip, short)
        print(f"{clip.name}: {frame_rate_of(video):g} frames/s, {args.seconds:g} s")
        sides = sides_of(video, short, args.device, Path(folder))
        print_rates(best_of(args.rounds, sides, folder), frame_rate_of(video))


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
