"""Speed of the face crops, beside MTCNN on every frame and decoding alone; and how well they agree with MTCNN's.

On a drawn subject of the demo, one minute, and on given videos, looped to a minute. Every picture is a frame (the frame
rate is set to the video's), and crops are written. The sides take turns, and the best round of each counts. A ratio
above 1: ours is faster. First in one process, as with one recording; then in one per core, as with a corpus.

    python bench/crops.py                           3 minutes on 2 cores
    python bench/crops.py clip.mp4 other.mpg
    python bench/crops.py --fidelity clip.mp4       only the table of agreement
"""
import argparse
import contextlib
import functools
import io
import itertools
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import av
import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

import face_detector
from config import Config
from drawn.people import FRAME_RATE, Recording, write_video
from face_detector import shots, steadied
from faces import FaceFinder, Follower, Tracker, alignment, one_thread
from support.errors import run_script
from support.machine import cores, describe
from support.media import picture_clock, read_frames

CFG = Config()
SECONDS, SHORT_S = 60, 20  # of a video whose speed is measured; of a drawn subject's that is only compared
SLOW = 100  # frames, evenly spread, on which MTCNN on every frame is timed


# ---- videos ---------------------------------------------------------------------------------------------------------

def loop_to(seconds, source, out):
    """Writes a video of that length that repeats the source's pictures."""
    with av.open(str(source)) as container:
        rate = container.streams.video[0].average_rate
        pictures = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0] * 2 // 3, "yuv420p"
        for n in range(round(seconds * rate)):
            frame = av.VideoFrame.from_ndarray(pictures[n % len(pictures)], format="yuv420p")
            frame.pts, frame.time_base = n, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@functools.cache
def frame_rate_of(video):
    """Frames per second at which every picture of a video is one frame."""
    clock = picture_clock(video)
    return round(len(clock.times_s) / clock.end_s, 3)


# ---- speed ----------------------------------------------------------------------------------------------------------

def ours(video, folder, pictures=()):
    """Crops by face_detector.py, in one process, as it is called for one recording."""
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / video.name).symlink_to(video)
    rate = str(frame_rate_of(video))
    with contextlib.redirect_stdout(io.StringIO()):
        made = face_detector.main(["--data-dir", str(folder), "--frame-rate", rate, "--device", "cpu",
                                   "--workers", "1"])
    return sum(made.values())


def detect_with(mtcnn):
    """A side: facenet-pytorch's own call on decoded pictures, without crops, alignment or files."""
    def detect(_video, pictures, folder):
        for rgb in pictures:
            mtcnn.detect(rgb, landmarks=True)
        return len(pictures)
    return detect


def decode(video, folder=None, pictures=()):
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return sum(1 for _ in container.decode(stream))


def decode_rgb(video, folder=None, pictures=()):
    capture, count = cv2.VideoCapture(str(video)), 0
    while capture.read()[0]:
        count += 1
    return count


ORIGINAL = "MTCNN.detect on every frame, its defaults"
DECODING = {"decoding into colour frames (OpenCV's read)": decode_rgb, "decoding and nothing else (PyAV)": decode}
SIDES = {"ours": ours,
         ORIGINAL: detect_with(MTCNN()),
         f"MTCNN.detect on every frame, faces from {CFG.min_face_size} px":
             detect_with(MTCNN(keep_all=True, min_face_size=CFG.min_face_size)),
         **DECODING}
AT_ONCE = ["ours", *DECODING]  # measured also in several processes at once


def rates(video, scratch, sides=SIDES, rounds=3):
    """{side: frames per second} in this process, the best of the rounds."""
    decoded = itertools.islice(read_frames(video, frame_rate_of(video)), 0, None, max(1, decode(video) // SLOW))
    pictures = [picture.rgb for _, picture in decoded]
    timed = {name: functools.partial(SIDES[name], video, pictures=pictures) for name in sides}
    return best_of(rounds, timed, scratch)


def rates_at_once(video, scratch, sides=AT_ONCE, rounds=3):
    """{side: frames per second} of as many processes together as there are cores, which do the same at once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), context, _begin, [context.Barrier(cores())]) as pool:
        def all_do(side, folder):
            work = [pool.submit(_do_at_once, side, video, folder / str(number)) for number in range(cores())]
            return sum(each.result() for each in work)
        timed = {name: functools.partial(all_do, SIDES[name]) for name in sides}
        return best_of(rounds + 1, timed, scratch)  # the networks are loaded in the first round


def _begin(barrier):
    global together
    together = barrier


def _do_at_once(side, video, folder):
    together.wait()  # otherwise one process could do it all
    with one_thread():
        return side(video, folder)


def best_of(rounds, sides, scratch):
    """{name: frames per second}, the best of the rounds, of {name: side(folder) -> number of pictures}."""
    best = dict.fromkeys(sides, 0)
    for turn in range(rounds):
        for name in list(sides)[::(-1) ** turn]:
            folder = Path(tempfile.mkdtemp(dir=scratch), "data")  # kept until the end: deleting slows file systems down
            began = time.perf_counter()
            count = sides[name](folder=folder)
            best[name] = max(best[name], count / (time.perf_counter() - began))
    return best


# ---- fidelity -------------------------------------------------------------------------------------------------------

def full_detection(video, find, frame_rate):
    """Yields (box, landmarks) or None of every picture: all of MTCNN on each."""
    follower = Follower()
    for ks, picture in read_frames(video, frame_rate):
        boxes, points, _ = find(picture.rgb)
        row = follower.choose(boxes, ks[0] / frame_rate)
        yield None if row is None else (boxes[row], points[row])


def overlap(a, b):
    """Intersection over union of two boxes."""
    inside = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside)


def eyes_apart(points, reference):
    """Largest distance of an eye, in a crop by `points`, from its place in the reference's own, in crop widths."""
    (ours, ours_at), (its, its_at) = ((m[:, :2], m[:, 2]) for m in map(alignment, (points, reference)))
    return np.hypot(*(reference[:2] @ (ours - its).T + ours_at - its_at).T).max()


def fidelity(video, find, look_every=CFG.look_every):
    """dict: pictures; shares in which both have a face or none, and that all of MTCNN searched; mean IoU of the
    boxes; distance of the eyes in the crop, median and 95th percentile."""
    rate = frame_rate_of(video)
    made = list(steadied(shots(read_frames(video, rate), Tracker(find), rate, look_every), rate))
    references = full_detection(video, find, rate)
    pairs = [(shot.face, points, its) for (shot, points), its in zip(made, references, strict=True)]
    both = [pair for pair in pairs if pair[0] and pair[2]]
    eyes = [eyes_apart(points, full[1]) for _, points, full in both] or [np.nan]
    return {"pictures": len(pairs), "alike": np.mean([(face is None) == (full is None) for face, _, full in pairs]),
            "overlap": np.mean([overlap(face.box, full[0]) for face, _, full in both] or [np.nan]),
            "eyes": np.median(eyes), "eyes_95": np.quantile(eyes, 0.95),
            "searched": np.mean([shot.found != "tracked" for shot, _ in made])}


# ---- tables ---------------------------------------------------------------------------------------------------------

def print_speed(videos):
    """Prints the tables of speed of videos, {name: path}: in one process, and in one per core."""
    for name, video in videos.items():
        print(f"\n{name}: {frame_rate_of(video):g} frames/s, {SECONDS} s\n{'':56}{'frames/s':>11}{'ours is':>10}")
        print_rates(rates(video, video.parent))
        print(f"{cores()} at once, each in a process of its own")
        print_rates(rates_at_once(video, video.parent))


def print_rates(best):
    for side, rate in best.items():
        print(f"{side:56}{rate:11.0f}" + ("" if side == "ours" else f"{best['ours'] / rate:8.2f} x"))


def print_fidelity(videos):
    """Prints the table of how well the crops of videos, {name: path}, agree with all of MTCNN's."""
    print(f"\n{'beside all of MTCNN on every frame':38}{'frames':>9}{'found alike':>12}{'IoU of boxes':>13}"
          f"{'eyes apart':>11}{'(95 %)':>8}{'searched':>9}")
    with one_thread():
        find = FaceFinder(CFG.min_face_size, CFG.face_score, torch.device("cpu"))
        for name, video in videos.items():
            row = fidelity(video, find)
            print(f"{name:38}{row['pictures']:9}{row['alike']:12.1%}{row['overlap']:13.3f}"
                  f"{row['eyes']:11.1%}{row['eyes_95']:8.1%}{row['searched']:9.1%}")
    print("eyes apart: median distance of an eye from where it is in MTCNN's own crop, in widths of the crop; "
          "searched: by all of MTCNN")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, help="videos to measure on, besides the drawn ones")
    parser.add_argument("--fidelity", action="store_true", help="only the table of agreement")
    parser.add_argument("--people", type=int, default=3, help="drawn subjects in the table of agreement [3]")
    args = parser.parse_args(argv)
    print(f"{describe('torch', 'av')}, OpenCV {cv2.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        drawn = {f"drawn subject {n}": Path(folder, f"drawn_{n}.mp4") for n in range(1, args.people + 1)}
        for number, path in enumerate(drawn.values()):  # the demo's own
            seconds = SHORT_S if number else SECONDS
            write_video(path, Recording.draw((0, number), seconds * FRAME_RATE).frames())
        if not args.fidelity:
            looped = {clip.name: Path(folder, f"loop_{clip.stem}.mp4") for clip in args.clips}
            for clip, path in zip(args.clips, looped.values()):
                loop_to(SECONDS, clip, path)
            print_speed({"drawn subject 1": drawn["drawn subject 1"], **looped})
        print_fidelity(drawn | {clip.name: clip for clip in args.clips})


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
