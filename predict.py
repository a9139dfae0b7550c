"""A trained network at work: any video -> arousal and valence of the face in it, for every frame.

Reads   the network: best.pt of a run (mmpkd.py), or an .onnx file (export.py); of several, all of which end in .pt or
        .onnx, the mean of their predictions
        videos, or folders of videos; for networks with audio their sound track, or <name>.wav beside the video;
        for a network of audio alone also sound files
Writes  predictions/<name>.csv      per frame: time_s, arousal, valence (empty where there is no face), face (detected,
                                    tracked, missing, retained), score, box x1,y1,x2,y2 in pixels of the video;
                                    with --people all a row for everybody who is there, and the id in `person`
        predictions/<name>.png      both over time, with faces along the axis
        predictions/<name>.json     of which video, and what is wrong with it
        predictions/<name>_overlay.mp4      with --overlay: the video with box and predictions drawn into it

Frame rate, face crops and spectrograms are made as for the network's training. What is there is not made again.

    python predict.py data/runs/student_both_pseudo/best.pt clip.mp4 folder/
    python predict.py data/runs/visual_both_seed*/best.pt clip.mp4          the mean of several networks
    python predict.py data/runs/student_both_pseudo/best.pt --camera 0      live, in a window; nothing is written
    python predict.py data/runs/student_both_pseudo/best.pt --about         what the network is, and is not, for

In a notebook: from predict import predict_video; table = predict_video("best.pt", "clip.mp4")
"""
import dataclasses
import functools
import hashlib
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

from support.errors import SettingsError, UserError, run_script
from support.settings import answer_first, check_settings, parse_config

WORDS = "network", "videos"  # of the command line
OPTIONS = "network people postprocess level precision"  # that results depend on

answer_first(__name__, __file__, __doc__, words=WORDS)

import numpy as np

from config import Config
from inference import ONNX, MeanNetwork, check_use, describe, open_model, predictions
from support import columns
from support.checksums import digest
from support.files import named, regular, there, whole_file
from support.media import about_frames
from support.reading import read_json
from support.recordings import FACE, if_newer, keep_settings, made_with, natural_key, shard_of
from support.workers import for_each

VIDEOS = set(".mp4 .m4v .mov .qt .avi .mkv .webm .mpg .mpeg .mpe .m2v .ts .mts .m2ts .vob .wmv .asf .flv .f4v .3gp "
             ".3g2 .ogv .mxf .divx .dv .gif".split())  # endings by which videos in a folder are told from other files
IN_NOTEBOOKS = {"people", "postprocess", "level", "device", "precision"}  # settings that predict_video takes
WORTH_A_WORKER = 10000  # frames: a process that loads torch takes seconds to start


# ---- one video, in a notebook ----------------------------------------------------------------------------------------

def opened(paths, device, precision):
    """The Network in a file, or the mean of those in several, kept for the next video. Raises SettingsError for a file
    that is there twice."""
    states = {}
    for path in paths:
        file = Path(path).resolve()
        if file in states:
            raise SettingsError(f"network: {path} was named twice: their mean would count it twice")
        states[file] = (file.stat().st_size, file.stat().st_mtime_ns) if there(file) else None
    return _opened(tuple(paths), device, precision, tuple(states.items()))


@functools.lru_cache(1)
def _opened(paths, device, precision, _):  # of another folder, or written again: another network
    networks = {path: open_model(path, device, precision) for path in paths}
    return MeanNetwork(networks) if len(networks) > 1 else networks[paths[0]]


def predict_video(network, video, **options):
    """The table that predict.py writes for a video, as a DataFrame. Raises UserError if there is nothing to predict.

    network: best.pt of a run or an .onnx file, or a list of several: their mean; options: people, postprocess, level,
    device, precision, as the flags. Raises TypeError for any other.
    """
    if others := set(options) - IN_NOTEBOOKS:
        raise TypeError(f"predict_video takes {', '.join(sorted(IN_NOTEBOOKS))}, not {', '.join(sorted(others))}")
    cfg = check_settings(Config(**options))
    paths = [*map(str, [network] if isinstance(network, str | os.PathLike) else network)]
    if not paths:
        raise SettingsError("network: an empty list: best.pt of a run or an .onnx file, or several, were expected")
    one = opened(paths, cfg.device, cfg.precision)
    check_use(one, paths[0], cfg)
    table, _, damage = predictions(one, Path(video), cfg)
    if damage:
        warnings.warn("; ".join(damage), stacklevel=2)
    return table


# ---- files ----------------------------------------------------------------------------------------------------------

def networks_in(cfg):
    """(paths of networks, cfg without these among the videos) of the command line: the first word is a network, and
    every other that ends as one does."""
    more = [word for word in cfg.videos if Path(word).suffix.lower() in (".pt", ONNX)]
    return [cfg.network, *more], dataclasses.replace(cfg, videos=tuple(word for word in cfg.videos if word not in more))


def find_videos(words):
    """{name: path} of videos and of those in folders, in natural order. Raises UserError if two have the same name."""
    paths = []
    for path in map(Path, words):
        if path.is_dir():
            inside = [one for one in path.glob("[!.]*") if not one.is_dir()]
            inside.sort(key=lambda one: natural_key(one.name))
            videos = [one for one in inside if one.suffix.lower() in VIDEOS]
            others = [one.name for one in inside if one not in videos and one.suffix.lower() != ".wav"]
            others += [f"{one.name}/" for one in sorted(path.glob("[!.]*")) if one.is_dir()]
            if others:
                print(f"{path}: left out, no videos by their names: "
                      + ", ".join(others[:4]) + " ..." * (len(others) > 4))
            if not videos:
                inside = f"; if a network was meant: {path / 'best.pt'}" * there(path / "best.pt")
                raise UserError(f"{path}/ holds no videos{inside}")
            paths += videos
        elif there(path):
            paths.append(path)
        else:
            raise UserError(f"{path} is missing: a video or a folder of videos was expected")
    found = {}
    for path in dict.fromkeys(paths):
        if path.stem in found:
            raise UserError(f"{found[path.stem]} and {path} have the same name, and so would their results: rename one "
                            "of them, or predict them into different folders with --out")
        found[path.stem] = path
    return found


def prepare(cfg, network, networks, videos):
    """Makes the folder for the results, and notes in it of which network and options they are: settings.json.

    networks: paths of those that `network` is, or is the mean of.
    Raises UserError if it holds anything else, or results of another network, with other options, of other videos.
    """
    out, hint, known_as = Path(cfg.out), "or name another folder with --out", name_of(network, networks)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.glob("[!.]*")) and {"level", *made_with(out)} != {*OPTIONS.split()}:  # older: no level
            raise UserError(f"{out}/ holds other files and no results of predict.py: empty it")
        options = SimpleNamespace(network=known_as, people=cfg.people, postprocess=cfg.postprocess, level=cfg.level,
                                  precision=cfg.precision)
        keep_settings(out, options, OPTIONS)
        for name in videos if cfg.overlay else ():
            if (out / f"{name}_overlay.mp4").resolve() in [path.resolve() for path in videos.values()]:
                raise UserError(f"{out / name}_overlay.mp4 would be written over a video that is to be predicted")
        for name, path in videos.items():
            if there(out / f"{name}.csv"):
                check_note(out, name, path)
    except UserError as error:
        raise UserError(f"{error}, {hint}") from None
    except OSError as error:
        raise SettingsError(f"out: {out}/ cannot be written ({error.strerror or error}): name another folder") from None


def name_of(network, paths):
    """A text for the network in a file, or for the mean of those in several in any order, which tells it from all
    others. Raises SettingsError if two files hold the same network."""
    digests = {}
    for path in paths:
        with open(regular(path), "rb") as file, named(path):
            own = hashlib.file_digest(file, "sha1").hexdigest()[:16]
        if own in digests:
            raise SettingsError(f"network: {digests[own]} and {path} are copies: their mean would count it twice")
        digests[own] = path
    if len(paths) == 1:
        return f"{network.card['stage']} {own}"
    return f"mean of {len(paths)} {digest(' '.join(sorted(digests)).encode())}"


def note_of(video):
    """What tells a video from another of its name: path, size, and a hash of its first and last megabyte."""
    with open(regular(video), "rb") as file, named(video):
        size, ends = os.path.getsize(video), file.read(2**20)
        file.seek(max(0, size - 2**20))
        ends += file.read()
    return {"video": str(video.resolve()), "bytes": size, "sha1": hashlib.sha1(ends).hexdigest()}


def read_note(path):
    """The note beside a table, with `remarks`. Raises UserError if it is missing or damaged."""
    note = path.with_suffix(".json")
    again = f"it is not known which video {path} is of: delete both"
    if not there(note):
        raise UserError(f"{note} is missing: {again}")
    known = read_json(note, again)
    remarks = known.get("remarks")
    if type(known.get("video")) is not str or type(remarks) is not list or not all(type(one) is str for one in remarks):
        raise UserError(f"{note} is damaged (it names no video, or no remarks): {again}")
    return known


def check_note(out, name, video):
    """Raises UserError if there is a result of another video of that name."""
    path = Path(out, f"{name}.csv")
    known, now = read_note(path), note_of(video)
    if any(known.get(key) != now[key] for key in ("bytes", "sha1")):
        raise UserError(f"{path} was made of {known['video']}, not of {video} as it is now: delete it")


def read_table(path, targets=()):
    """A table that was written before. Raises UserError if it is missing or damaged, or lacks one of `targets`."""
    if not there(path):
        raise UserError(f"{path} is missing: run the same command again")
    table = columns.read_table(path, "delete it", ["time_s", *targets], ["face"])
    others = [name for name in table if name not in ("time_s", "face", *targets)]
    table = table.assign(**{name: columns.to_numbers(table[name], path, "delete it") for name in others})
    for row in np.flatnonzero(~(np.diff(table["time_s"], prepend=0) >= 0)):
        raise UserError(f"{path} line {row + 2}: its time is before that of the line before: delete it")
    return table.reset_index(drop=True)


def write_table(table, path):
    """Writes a table as CSV: an empty cell where there is no value."""
    table = table.assign(time_s=[f"{time_s:.10g}" for time_s in table["time_s"]])
    with whole_file(path) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")


def is_done(out, name):
    """Whether there are the table and the figure of a video."""
    return all(there(Path(out, f"{name}.{kind}")) for kind in ("csv", "png"))


def make(name, report, videos, networks, cfg):
    """Predicts one video, unless it is done: (line to print, None)."""
    video, path, overlay = videos[name], Path(cfg.out, f"{name}.csv"), Path(cfg.out, f"{name}_overlay.mp4")
    network = opened(networks, cfg.device, cfg.precision)
    if not is_done(cfg.out, name):
        import figures
        overlay.unlink(missing_ok=True)  # of another video, whose table was deleted
        table, strips, remarks = predictions(network, video, cfg, report)
        treated = "post-processed" if cfg.postprocess else f"level: {cfg.level}" if cfg.level != "raw" else "raw"
        about = f"{describe(network.card)}; predictions: {treated}"
        about = f"mean of {len(networks)} networks; the first: {about}" if len(networks) > 1 else about
        strips = {person: [*strip.values()] for person, strip in strips.items()}
        fig = figures.prediction_figure(table, network.targets, name, about, strips)
        figures.save_figure(fig, path.with_suffix(".png"))
        with whole_file(path.with_suffix(".json")) as part:
            part.write_text(json.dumps(note_of(video) | {"remarks": remarks}, indent=1) + "\n")
        write_table(table, path)
    else:
        table = read_table(path, network.targets)
        remarks = [f"done before{if_newer(video, path)}", *read_note(path)["remarks"]]
    if cfg.overlay and not there(overlay):
        from overlay import write_overlay
        write_overlay(video, table, network.targets, overlay, report)
    frames, faces = frames_in(table, network.card["frame_rate"])
    line = f"{name}: {frames} frames" + f", {faces} with a face" * ("frames" in network.inputs)
    beside = video.with_suffix(".wav")
    line += f", with the sound of {beside}" * ("specs" in network.inputs and beside != video and there(beside))
    line += f", persons: {table['person'].nunique()}" if "person" in table else ""
    return line + f" ({'; '.join(remarks)})" * bool(remarks), None


def frames_in(table, frame_rate):
    """(number of frames of a table up to the last one that has a row, how many of them have a face)."""
    return round(table["time_s"].max() * frame_rate) + 1, table.loc[table["face"].isin(FACE), "time_s"].nunique()


def summary(videos, out, targets, frame_rate):
    """The results of all videos as text, from their files; those that failed have none."""
    wide = max(len("video"), *map(len, videos)) + 2
    lines = [f"{'video':{wide}}{'frames':>8}{'with a face':>13}" + "".join(f"{f'mean {one}':>14}" for one in targets)
             + "  written to"]
    for name in videos:
        path = Path(out, f"{name}.csv")
        try:
            table = read_table(path, targets)
        except UserError:
            lines.append(f"{name:{wide}}{'failed, for the reason given above':>35}")
            continue
        frames, faces = frames_in(table, frame_rate)
        share = f"{faces / frames:.0%}" if table["face"].ne("").any() else "-"
        lines.append(f"{name:{wide}}{frames:8}{share:>13}"
                     + "".join(f"{table[one].mean():14.3f}" for one in targets) + f"  {path}")
    return "\n".join(lines)


# ---- main -----------------------------------------------------------------------------------------------------------

def watch(network, cfg):
    """Predicts the faces in front of a camera, live in a window, until it is closed. Nothing is written."""
    if cfg.videos or cfg.overlay or cfg.postprocess:
        raise SettingsError("camera: videos, --overlay and --postprocess are for files: leave them out, or the camera")
    if cfg.level == "recording":
        raise SettingsError("level: recording needs the whole recording, which a camera does not have: use causal")
    from camera import run
    session = run(network, cfg.camera, cfg.people, cfg.device, level=cfg.level)
    print(f"camera {cfg.camera}: {session.shown} frames shown, {session.dropped} dropped")
    return {}


def main(argv=None):
    """{name: path of the CSV} of the videos."""
    cfg = parse_config(argv, __file__, __doc__, WORDS)
    if not cfg.network:
        raise SettingsError("no network: best.pt of a run or an .onnx file, and then videos, were expected (--help)")
    networks, cfg = networks_in(cfg)
    if cfg.about:
        from model_card import card_text
        print(*(card_text(opened([path], cfg.device, cfg.precision).card) for path in networks), sep="\n\n")
        return {}
    network, several = opened(networks, cfg.device, cfg.precision), len(networks) > 1
    for path, one in zip(networks, network.networks if several else [network]):
        print(f"{path}: {describe(one.card)}")
    print(f"Predictions are the mean of these {len(networks)} networks'\n" * several, end="")
    check_use(network, networks[0], cfg)
    if cfg.camera >= 0:
        return watch(network, cfg)
    if not cfg.videos:
        raise SettingsError("no videos: one or more, or folders of videos, were expected after the network")
    videos = shard_of(find_videos(cfg.videos), cfg.shard)
    prepare(cfg, network, networks, videos)
    rate = network.card["frame_rate"]
    todo = {name: path for name, path in videos.items() if not is_done(cfg.out, name)}
    sizes = {name: about_frames(path, rate) * (1 + cfg.overlay) for name, path in todo.items()}
    try:
        make_one = functools.partial(make, videos=videos, networks=networks, cfg=cfg)
        for_each(videos, make_one, sizes, cfg.workers, worth=WORTH_A_WORKER)
    finally:
        print(summary(videos, cfg.out, network.targets, rate))
    return {name: Path(cfg.out, f"{name}.csv") for name in videos}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
