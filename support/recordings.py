"""The recordings of a corpus on disk: ids, frames, sound, and the settings that a folder was made with."""
import glob
import json
import os
import re
import unicodedata
import zlib
from pathlib import Path

import numpy as np

from support.checksums import checked, read_list
from support.errors import UserError
from support.files import is_claimed, there, whole_file
from support.media import frame_count, open_media, picture_clock
from support.reading import clipped, read_bytes, read_json
from support.settings import fits, part_of

TARGETS = ["arousal", "valence"]
PARTITIONS = {"train": "Train_Set", "val": "Val_Set"}
UNLABELLED = "Unlabelled_Set"  # recordings without ratings
MODALITIES = {"frames": "visual", "specs": "audio"}  # of what networks are fed: in settings, folders, parts of networks
SUMMARIES = ["mean", "concatenated"]  # rows of score tables below those of the recordings
MEDIA = set(".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg "
            ".mpg .mts .mxf .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m "
            ".aac .ac3 .aif .aifc .aiff .amr .ape .au .caf .flac .m4a .mka .mp2 .mp3 .oga .ogg .opus .ra .snd .sph "
            ".w64 .wav .wma .wv".split())  # endings of video and sound files
SYSTEM_FOLDERS = {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__",
                  "lost+found", "system volume information"}  # of file managers, NAS and file systems
FOLDERS = "Cropped_Aligned", "audio_segments", "specs"  # of the preprocessing, with a settings.json each
SIDES = {"_left": "left", "_right": "right"}  # ends of the ids of the two subjects of one video
FACE = ["detected", "tracked"]  # `found` in faces.csv, of frames with a face; others: "missing" (black), "retained"
SLACK = 0.01  # share by which the numbers of ratings, pictures and frames of a recording may differ
LONGEST_ID = 220  # bytes: file systems take 255, and files are named after ids with up to 29 more (cache/)


# ---- which recordings there are -------------------------------------------------------------------------------------

def find_recordings(folders, wanted, missing, annotations_dir=None):
    """{id: path} of every recording in `folders`, in natural order (train_2 before train_10). The first folder wins.

    wanted: only these ids, if any; annotations_dir: where files <video>_left and <video>_right make two recordings of a
    video (by_subject). Raises UserError if there are none (`missing` says what to do), if a wanted id is missing, if a
    folder has two files of one id, or if an id is that of a summary row in score tables. Of video and sound that is an
    error of the one recording (refuse_unusable), which must not stop the others.
    """
    found = {}
    for folder in folders:
        here = {}
        for path in sorted(Path(folder).glob("[!.]*")):
            if not is_recording(path):
                continue
            in_place_of_media = annotations_dir and path.suffix.lower() in MEDIA  # of its id, as refuse_unusable says
            name = path.name if path.is_dir() and not in_place_of_media else path.stem
            if not is_media(path):  # media: one recording's fault, see refuse_unusable
                if name in here and not is_media(here[name]):
                    raise UserError(f"{here[name]} and {path} have the same id: keep one of them")
                refuse_summary(name, path)
            here[name] = path
        found = here | found
    found = by_subject(found, annotations_dir) if annotations_dir else found
    places, names = " or ".join(f"{folder}/" for folder in folders), sorted(found, key=natural_key)
    first = ", ".join(names[:6]) + " ..." * (len(names) > 6)
    if not found:
        raise UserError(f"no recordings in {places}: {missing}")
    for name in wanted:
        if name not in found:
            raise UserError(f"no recording {name!r} in {places}; there are {first}")
    return {name: found[name] for name in names if name in wanted or not wanted}


def video_of(name):
    """The id of the video of a subject: the same, or without _left or _right."""
    return next((name.removesuffix(side) for side in SIDES if name.endswith(side)), name)


def by_subject(found, annotations_dir):
    """{id: path} with <video>_left and <video>_right, where they have annotations, in place of <video>, which stays if
    it has annotations, too. Those without a file of their own have that of the video."""
    annotated = {path.stem for path in Path(annotations_dir).glob("*/[!.]*.csv")}
    shared = {name: found[video_of(name)] for name in annotated - {*found} if video_of(name) in found}
    videos = {video_of(name) for name in annotated} - annotated
    return {name: path for name, path in found.items() if name not in videos} | shared


def side_of(name, video, annotations_dir):
    """Which of the two subjects of a video a recording is of: "left", "right", or "" if the video is of one subject.

    It shares its video if that lacks the _left or _right of its id, or if one of <id>_left and <id>_right has
    annotations and no video of its own: then <id> is the other one.
    """
    if video.stem != name:
        return next(side for end, side in SIDES.items() if name.endswith(end))
    others = [side for end, side in SIDES.items()
              if any(Path(annotations_dir).glob(f"*/{glob.escape(name + end)}.csv"))
              and not own_file(name + end, video.parent)]
    return next(iter({*SIDES.values()} - {*others})) if len(others) == 1 else ""


def is_recording(path):
    """Whether something in a folder is a recording by its name: video, sound, a table, a folder of images.

    Subtitles, thumbnails, notes and what file managers leave are not.
    """
    return is_media(path) or path.suffix == ".csv" or path.is_dir() and path.name.lower() not in SYSTEM_FOLDERS


def is_media(path):
    """Whether a file is video or sound by its name."""
    return path.suffix.lower() in MEDIA and not path.is_dir()


def fault_of_id(name):
    """Why a name cannot be the id of a recording; "" if it can. Files are named after it, inside the data folder."""
    length = len(os.fsencode(name))
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "its name is not UTF-8: rename it"
    if length > LONGEST_ID:
        return f"its name is too long ({length} bytes): make it shorter, {LONGEST_ID} bytes at most"
    strange = any(letter in "/\\" for letter in name) or not is_one_line(name)
    if strange or not name.strip() or name.startswith("."):
        return "its name is no name of a file (a dot at the beginning, a slash, a control character): rename it"
    return f"{name!r} is a row of the score tables and cannot be an id: rename it" if name in SUMMARIES else ""


def is_one_line(text):
    """Whether text has no control character and no end of a line; invisible ones, such as those in emoji, are none."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def refuse_unusable(path):
    """Raises UserError if a video or sound file, or its folder, cannot be a recording: for its name, because another
    one beside it has the same id, or as it is a folder."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, video or sound was expected: put what is in it into {path.parent}/")
    if why := fault_of_id(path.stem):
        raise UserError(f"{path}: {why}")
    same = sorted(str(one) for one in path.parent.glob(f"{glob.escape(path.stem)}.*")
                  if one.stem == path.stem and is_media(one))
    if len(same) > 1:
        raise UserError(f"{' and '.join(same)} have the same id: keep one of them there (sound beside a video belongs "
                        "into audio/)")


def is_inside(path):
    """Whether a relative path, as text, is one, and stays inside the folder that it is relative to."""
    parts = path.replace("\\", "/").split("/")
    possible = is_one_line(path) and all(len(os.fsencode(part)) < 256 for part in parts) and len(parts) < 9
    return possible and ".." not in parts and parts[0] != "" and ":" not in parts[0][1:2]


def refuse_summary(name, path):
    """Raises UserError if the id of a recording is that of a summary row in score tables."""
    if name in SUMMARIES:
        raise UserError(f"{path}: {name!r} is a row of the score tables and cannot be the id of a recording: rename it")


def natural_key(name):
    """Sorting key of an id with its numbers as numbers: train_2 before train_10."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]


def shard_of(recordings, shard):
    """Every n-th of `recordings` from the i-th on, for the shard "i/n"; all of them for ""."""
    i, n = part_of(shard) or (1, 1)
    return {name: recordings[name] for name in list(recordings)[i - 1::n]}


def subjects_of(data_dir, names):
    """{id: subject} of recordings: what subjects.csv says (recording,subject), else each is a subject of its own.

    Raises UserError, naming the line, if that file is not as expected.
    """
    path, subjects, again = Path(data_dir, "subjects.csv"), {}, "a table of recording,subject was expected"
    if not there(path):
        return {name: name for name in names}
    from support.columns import read_table  # here: pandas, which comes with it, takes its time
    table = read_table(path, again, whole=False)
    if [name.strip().lower() for name in table] != ["recording", "subject"]:
        raise UserError(f"{path} line 1: the header recording,subject was expected")
    for line, row in zip(table.index, table.to_numpy().tolist()):
        recording, subject = (cell.strip() for cell in row)
        if not recording or not subject or subjects.setdefault(recording, subject) != subject:
            raise UserError(f"{path} line {line}: {clipped(','.join(row))!r}: a recording and its subject were "
                            "expected")
    unknown = {*names} - {*subjects}
    if wrong := next((one for one in subjects if is_media(Path(one)) and Path(one).stem in unknown), None):
        raise UserError(f"{path}: {clipped(wrong)!r} is the name of a file: that of the recording, without its ending, "
                        "was expected")
    return {name: subjects.get(name, name) for name in names}


def unknown_subjects(data_dir, names):
    """Lines for the user: what subjects.csv says of no recording there is, and which recordings it does not name."""
    path = Path(data_dir, "subjects.csv")
    if not there(path):
        return
    from support.columns import read_table  # here: pandas, which comes with it, takes its time
    said = {name.strip() for name in read_table(path, "", whole=False).iloc[:, 0]}
    for those, what in ((said - {*names}, "recordings that are not there"),
                        ({*names} - said, "recordings left out, each of which counts as a subject of its own")):
        if those:
            first = ", ".join(sorted(those, key=natural_key)[:3]) + f" and {len(those) - 3} more" * (len(those) > 3)
            yield f"WARNING: {path}: {what}: {first}"


# ---- the settings that a folder was made with -----------------------------------------------------------------------

def keep_settings(folder, cfg, names, made_of=None):
    """The settings of everything in `folder`, as a dict; they are written to `folder`/settings.json.

    names: of the fields of `cfg`, separated by spaces; made_of: the folder that the script reads: its settings.json, if
    there is one, must agree with `cfg` and is copied. Raises UserError if something was made with other settings.
    """
    settings = {name: getattr(cfg, name) for name in names.split()}
    source = made_with(made_of) if made_of else {}
    check_agrees(made_of, source, {name: settings[name] for name in settings if name in source})
    settings = source | settings
    made = any(path.is_dir() or path.suffix in (".npy", ".csv") for path in Path(folder).glob("[!.]*"))
    if made or any(is_claimed(path) for path in Path(folder).glob(".*.part")):  # by another process, now
        check_agrees(folder, made_with(folder) or settings, settings)
        if made and not made_with(folder):
            print(f"{folder}/ has no settings.json: what is in it is taken for made with the settings of today "
                  f"({', '.join(f'{name} {settings[name]}' for name in names.split())})")
    if made_with(folder) != settings:  # nothing has been made yet
        with whole_file(Path(folder, "settings.json")) as part:
            part.write_text(json.dumps(settings | {"crc32": _crc_of(settings, folder)}, indent=1) + "\n")
    return settings


def made_with(folder):
    """The settings in `folder`/settings.json, as a dict; {} without one. Raises UserError if it is damaged."""
    note = Path(folder, "settings.json")
    again = (f"delete {folder}/ and run the same command again (or, if you know with which settings it was made, "
             "delete this file alone, and give them)")
    if not there(note):
        return {}
    settings = read_json(note, again)
    if settings.pop("crc32", crc := _crc_of(settings, folder)) != crc:  # older versions noted none
        raise UserError(f"{note} is damaged, or was changed after it was written (its checksum is another): {again}")
    if wrong := next((name for name, value in settings.items() if not fits(name, value)), None):
        raise UserError(f"{note} is damaged ({clipped(wrong)} is {clipped(settings[wrong])}): {again}")
    return settings


def _crc_of(settings, folder):
    """Checksum of the settings in the settings.json of a folder, apart from itself: eight hexadecimal digits."""
    told = {name: value for name, value in settings.items() if name != "crc32"}
    if Path(folder).name in FOLDERS:  # that of another step is wrong there; others may be renamed
        told["folder"] = Path(folder).name
    return f"{zlib.crc32(json.dumps(told, sort_keys=True).encode()):08x}"


def if_newer(source, made):
    """A remark for the user if `source` was written after what was made from it; else ""."""
    newer = source.stat().st_mtime_ns > made.stat().st_mtime_ns
    return f"; {source} has changed since: delete {made} if it should be redone" if newer else ""


def check_agrees(folder, before, now):
    """Raises UserError if a setting of `folder` differs from `before` to `now`."""
    before = {"spec_files": "pictures", "audio_channel": 0, "level": "raw"} | before  # older versions did not note it
    for name, value in now.items():
        if before.get(name) != value:
            old, new = (f"{one:.12g}" if isinstance(one, float) else str(one) for one in (before.get(name), value))
            a_flag = name in before and " " not in old
            give = f"give --{name.replace('_', '-')} {old}" if a_flag else "use the old value"
            raise UserError(f"{folder}/ was made with {name} {old}, now it is {new}: {give}, or delete {folder}/")


# ---- what is known of a recording -----------------------------------------------------------------------------------

def known_frames(name, frame_rate, crops_dir, videos_dir, annotations_dir=None):
    """(number of frames of a recording, file that it is known from: faces.csv, video, annotations), or (None, None)."""
    faces = Path(crops_dir, name, "faces.csv")
    if there(faces):
        return faces_table(faces).count(b"\n") - 1, faces
    if video := media_file(name, videos_dir):
        refuse_unusable(video)
        return frame_count(picture_clock(video).end_s, frame_rate), video
    for table in Path(annotations_dir).glob(f"*/{glob.escape(name)}.csv") if annotations_dir else []:
        return _lines(table) - 1, table
    return None, None


def is_near(count, other):
    """Whether two counts differ by one at most, or by 1 % of the second."""
    return abs(count - other) <= max(1, SLACK * other)


def faces_table(path):
    """The bytes of a faces.csv. Raises UserError if they are not those that face_detector.py wrote.

    Without a checksum of an older version its rows are counted: one for every crop.
    """
    folder, again = path.parent, f"delete {path.parent}/ and run face_detector.py"
    sums = read_list(folder)
    if not there(path):
        raise UserError(f"{path} is missing: {again}")
    content = checked(path, read_bytes(path), sums, again)
    rows, crops = content.count(b"\n") - 1, 0 if sums else len(list(folder.glob("[!.]*.jpg")))
    if crops and rows != crops:
        raise UserError(f"{path} has {rows} rows for {crops} crops: {again}")
    return content


def media_file(name, folder):
    """The video or sound file of a recording in a folder, else that of the video that it is a subject of, or None."""
    return own_file(name, folder) or own_file(video_of(name), folder)


def sound_file(name, audio_dir, videos_dir):
    """The file with the sound of a recording, as audio_extract.py takes it: its own, audio before video, else that of
    the video that it is a subject of; None if there is none."""
    files = (own_file(one, folder) for one in (name, video_of(name)) for folder in (audio_dir, videos_dir))
    return next((path for path in files if path), None)


def own_file(name, folder):
    """The video or sound file of a recording's own name in a folder, None if there is none."""
    files = Path(folder).glob(f"{glob.escape(name)}.*")
    return next((path for path in files if path.stem == name and is_media(path)), None)


def has_sound(name, audio_dir, videos_dir, *made_dirs):
    """Whether a recording has sound: something made of it in `made_dirs`, its file in audio/, or its video's track.

    Raises UserError if that file cannot be read.
    """
    if any(there(Path(folder, made)) for folder in made_dirs for made in (name, f"{name}.npy")):
        return True
    path = sound_file(name, audio_dir, videos_dir)
    if not path:
        return False
    refuse_unusable(path)
    with open_media(path) as container:
        return bool(container.streams.audio) and any(packet.size for packet in container.demux(audio=0))


def audible(tables, inputs, cfg):
    """Those annotation files whose recordings have sound, if `inputs` have "specs"; else all.

    Prints which are left out: their file has no sound, so that no spectrogram was made of it.
    """
    if "specs" not in inputs:
        return tables
    kept = []
    for table in tables:
        made = any(there(Path(cfg.specs_dir, name)) for name in (table.stem, f"{table.stem}.npy"))
        source = made or sound_file(table.stem, cfg.audio_dir, cfg.videos_dir)
        if made or not source or has_sound(table.stem, cfg.audio_dir, cfg.videos_dir):
            kept.append(table)
        else:
            print(f"{table.stem}: left out, as {source} has no sound")
    return kept


def _lines(path):
    return len(read_bytes(path).splitlines())


def uses_features(cfg, kind):
    """Whether networks are fed features in place of "frames" or "specs"."""
    return getattr(cfg, f"{MODALITIES[kind]}_backbone") == "features"


def valid_labels(labels):
    """Mask of the valid ratings, those in [-1, 1] and not NaN. Same shape as `labels`."""
    return np.abs(labels) <= 1  # False for NaN
