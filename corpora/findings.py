"""What can be wrong with a recording, as findings with what to do about each. Arrays and counts in, findings out.

Every kind of finding is one line of KINDS. What cannot be told from the data is not guessed: then there is no finding.
"""
import itertools
from typing import NamedTuple

import numpy as np

from support.recordings import TARGETS, valid_labels

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")  # unusable or misleading | look at it | good to know


class Kind(NamedTuple):
    """A kind of finding."""
    level: str
    title: str
    do: str


KINDS = {
    "corpus": Kind(ERROR, "The ratings as a whole cannot be used",
                   "Until this is corrected, annotations.py stops at it."),
    "ratings": Kind(ERROR, "Ratings that cannot be used",
                    "Repair or replace the file that is named. Until then annotations.py leaves the recording out."),
    "name": Kind(ERROR, "Names that cannot be used",
                 "Rename the files. Until then the scripts leave the recording out."),
    "media": Kind(ERROR, "Video or sound that cannot be used",
                  "Replace or convert the file that is named. Until then the scripts leave the recording out."),
    "unrated": Kind(ERROR, "No valid rating at all",
                    "Look for the right file, or take the recording out of train_ids and val_ids."),
    "clock": Kind(ERROR, "A clock or a counter in place of ratings",
                  "The wrong column was read: write a header that names the columns, such as time;arousal;valence."),
    "equal": Kind(ERROR, "Arousal and valence are the same numbers",
                  "One of the files or columns was taken twice: put the right one there."),
    "counts": Kind(ERROR, "Numbers of frames that do not agree",
                   "Delete what is named and run the script that makes it again; rows come from annotations.py, crops "
                   "from face_detector.py, segments from audio_extract.py, spectrograms from audio_melspec.py."),
    "features": Kind(ERROR, "Features that cannot be used",
                     "Repair or replace the file that is named; all recordings need the same columns."),
    "faceless": Kind(ERROR, "No face in any frame",
                     "Look at the video; if there is a face in it, lower --min-face-size or --face-score and make its "
                     "crops again. Else leave the recording out."),
    "copies_apart": Kind(ERROR, "The same recording in different sets",
                         "Keep one of them: a result on a recording that is also trained on means nothing."),
    "copies": Kind(WARNING, "The same recording twice",
                   "Keep one of them, unless both are meant: it has twice the weight in training."),
    "same_sound": Kind(WARNING, "The same sound, but other pictures or none",
                       "Two people of one conversation? Then put them into one set, with subjects.csv. Else one of the "
                       "files is the wrong one."),
    "constant": Kind(WARNING, "Ratings that never change",
                     "If nobody rated this recording, take its ratings out. A constant cannot be followed: its CCC is "
                     "0, whatever a network predicts."),
    "swapped_all": Kind(WARNING, "Arousal and valence may be exchanged in all recordings",
                        "Look at the order of the columns and at the names of the folders. If they are right, ignore "
                        "this."),
    "swapped": Kind(WARNING, "Arousal and valence may be exchanged in this recording",
                    "Compare its traces with the others' below, and its file with theirs. If it is right, ignore "
                    "this."),
    "invalid": Kind(WARNING, "Many invalid ratings",
                    "Frames without a valid rating are masked in training and in the CCC. Make sure that so many are "
                    "meant to be, and that the scale is right (--label-range)."),
    "frozen": Kind(WARNING, "Ratings that stand still for long",
                   "Look at the trace: a rater who stopped, or a gap that was filled with the last value? Make the "
                   "rows nan if so."),
    "clipped": Kind(WARNING, "Ratings at the end of their scale",
                    "Look at the trace: did the scale end too early, or was --label-range too narrow?"),
    "positive": Kind(WARNING, "Ratings that are never negative",
                     "If their scale is 0 to 1, name it: --label-range 0 1. If it is -1 to 1, ignore this."),
    "jumps": Kind(WARNING, "Ratings that jump",
                  "Look at the trace there: rows are missing, or single values are wrong; make wrong ones nan."),
    "unordered": Kind(WARNING, "Ratings without relation from one frame to the next",
                      "The rows are not in the order of time, or are not ratings in time at all."),
    "coarse": Kind(NOTE, "Ratings on a coarse scale",
                   "Nothing, if raters had only so many steps."),
    "short": Kind(WARNING, "A very short recording",
                  "Make sure that it is complete. Less than clip_length frames cannot be trained on."),
    "faces": Kind(WARNING, "Many frames without a face",
                  "Look at its contact sheet, Cropped_Aligned/<id>.jpg. Black frames are trained on as they are."),
    "lengths": Kind(WARNING, "Sound and pictures of different length",
                    "Make sure that both are of the same recording, begin at the same time and are complete."),
    "silent": Kind(WARNING, "Silent sound",
                   "A wrong channel (--audio-channel) or a file without signal: replace it, or put the right sound "
                   "into audio/."),
    "offset": Kind(NOTE, "Sound that begins at another time than the pictures",
                   "Nothing: the scripts go by the time stamps. Make sure that these are right if lips and voice do "
                   "not agree."),
    "rate": Kind(NOTE, "Videos at another rate than the ratings",
                 "Nothing: frame k is what the video shows at k / frame_rate seconds. Make sure that --frame-rate is "
                 "the rate of the ratings."),
    "remark": Kind(NOTE, "What is not as usual in a file",
                   "Nothing, unless it surprises you."),
    "unmade": Kind(NOTE, "What is not made yet",
                   "Run the scripts of the README in their order."),
}


class Finding(NamedTuple):
    """One finding."""
    kind: str  # key of KINDS
    recordings: tuple  # ids; () if it is about the whole corpus
    detail: str


def ordered(findings):
    """[(Kind, [Finding ...])] of the kinds found, the worst first."""
    by_kind = {kind: [one for one in findings if one.kind == kind] for kind in KINDS}
    found = [(KINDS[kind], those) for kind, those in by_kind.items() if those]
    return sorted(found, key=lambda pair: LEVELS.index(pair[0].level))


# ---- traces ---------------------------------------------------------------------------------------------------------

MANY_INVALID = 0.25  # share of the frames
SHORT_S = 5.0
FROZEN_S, FROZEN = 30.0, 0.5  # seconds, or share of the recording, without any change
CLIPPED, ENDS = 0.05, 0.99  # share of the frames at the same highest or lowest value, if that is near an end
REACH = 0.8  # how high ratings without negative ones must reach to be on a scale from 0 to 1
JUMP, USUAL = 0.5, 10  # change from frame to frame, on the scale [-1, 1]; by how much it exceeds the usual one
COARSE = 12  # so few different values are steps of a scale
UNRELATED = 0.5  # correlation of neighbouring frames below which they have little to do with each other
RAMP = 0.9999  # correlation of a trace with a straight line from which on it is one: ratings bend


def trace_findings(target, values, rate):
    """[(kind, detail)] of the ratings (N,) of one target, `rate` per second; NaN or outside [-1, 1]: invalid."""
    valid = valid_labels(values)
    share = 1 - valid.mean() if len(values) else 1.0
    if share == 1:
        return [("unrated", f"{target}: {len(values)} rows, none of them valid")]
    found = [("invalid", f"{target}: {share:.0%} of {len(values)} rows")] if share > MANY_INVALID else []
    rated = values[valid]
    if rated.max() == rated.min():
        return [*found, ("constant", f"{target}: {rated[0]:g} in all {len(rated)} valid rows")]
    if is_ramp(values):
        rise = rated[-1] - rated[0]
        return [*found, ("clock", f"{target}: a straight line from {rated[0]:g} to {rated[-1]:g}"
                                  f" ({rise / (len(values) - 1):+.3g} a row)")]
    return found + _still(target, values, rate) + _at_ends(target, rated) + _steps(target, values, rate)


def is_ramp(values):
    """Whether a trace (N,) is one straight line, as clocks and counters are. Raters draw none."""
    if len(values) < 10 or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()):
        return False
    return bool(np.corrcoef(values, np.arange(len(values)))[0, 1] ** 2 > RAMP ** 2)


def longest_run(values):
    """(first row, length) of the longest run of equal values of (N,); NaN is equal to nothing."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    longest = np.argmax(np.diff(edges))
    return int(edges[longest]), int(np.diff(edges)[longest])


def _still(target, values, rate):
    first, length = longest_run(values)
    if length < max(2, min(FROZEN_S * rate, FROZEN * len(values))):
        return []
    return [("frozen", f"{target}: {values[first]:g} for {length / rate:.1f} s from {first / rate:.1f} s on")]


def _at_ends(target, rated):
    return [("clipped", f"{target}: {value:g} in {share:.0%} of the rows") for value in (rated.max(), rated.min())
            if abs(value) >= ENDS and (share := (rated == value).mean()) > CLIPPED]


def _steps(target, values, rate):
    """Findings about how the ratings change from row to row."""
    changes = np.abs(np.diff(values))
    changes = changes[np.isfinite(changes)]
    if len(changes) < 10:
        return []
    both = np.isfinite(values[1:]) & np.isfinite(values[:-1])
    if rate >= 4 and np.corrcoef(values[1:][both], values[:-1][both])[0, 1] < UNRELATED:
        return [("unordered", f"{target}: neighbouring rows correlate at "
                              f"{np.corrcoef(values[1:][both], values[:-1][both])[0, 1]:.2f}")]
    levels = len(np.unique(values[np.isfinite(values)]))
    if levels <= COARSE:
        return [("coarse", f"{target}: {levels} different values")]
    limit = max(JUMP, USUAL * np.median(changes[changes > 0]))
    jumps = np.flatnonzero(np.abs(np.diff(np.nan_to_num(values))) * both > limit)
    if not len(jumps):
        return []
    at = ", ".join(f"{(k + 1) / rate:.1f} s ({values[k]:+.2f} to {values[k + 1]:+.2f})" for k in jumps[:3])
    return [("jumps", f"{target}: at {at}" + f" and {len(jumps) - 3} more" * (len(jumps) > 3))]


def never_negative(golds):
    """A sentence if the ratings [(N, 2)] of a whole corpus are all above 0 and reach high, as from 0 to 1."""
    valid = np.concatenate([gold[valid_labels(gold)] for gold in golds])
    if len(golds) < 2 or not len(valid) or valid.min() < 0 or valid.max() < REACH:
        return ""
    return f"both dimensions of {len(golds)} recordings reach from {valid.min():.2f} to {valid.max():.2f}"


def gold_findings(gold, rate):
    """[(kind, detail)] of the ratings (N, 2) of a recording."""
    found = [one for target, values in zip(TARGETS, gold.T) for one in trace_findings(target, values, rate)]
    if len(gold) < SHORT_S * rate:
        found.append(("short", f"{len(gold)} rows, {len(gold) / rate:.1f} s"))
    if len(gold) > 1 and not any(kind in ("unrated", "constant") for kind, _ in found) and \
            np.array_equal(*gold.T, equal_nan=True):
        found.append(("equal", f"in all {len(gold)} rows"))
    return found


# ---- arousal and valence exchanged ----------------------------------------------------------------------------------

ENOUGH = 6  # recordings
TOLD, USUALLY = -1.0, -6.0  # log likelihood ratio (exchanged : as it is) of a recording that is as the others are: of
                            # nine of ten, and of the median one, where the corpus shows which is which
SHOWN = 4.5  # ratio of one that is exchanged
# mean and standard deviation of RECOLA's gold standard, in its train and its dev partition
RECOLA = {"arousal": ((0.027, 0.181), (-0.049, 0.194)), "valence": ((0.113, 0.133), (0.094, 0.125))}


def differences(gold, rate, energy=None):
    """(4,) in what arousal differs from valence in a recording: mean, log spread, log pace, correlation with loudness.

    gold: (N, 2); energy: (E,) log energy of the sound, 10 per second, None without sound. NaN where undefined.
    """
    valid = valid_labels(gold).all(axis=1)
    if valid.sum() < 20:
        return np.full(4, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = gold[valid].std(axis=0)
        changes = np.abs(np.diff(np.where(valid[:, None], gold, np.nan), axis=0))
        pace = np.nanmean(changes, axis=0) * rate / spread if np.isfinite(changes).any() else np.full(2, np.nan)
        follows = loudness_followed(gold, rate, energy)
        found = [np.diff(gold[valid].mean(axis=0))[0], np.diff(np.log(spread))[0], np.diff(np.log(pace))[0],
                 follows[1] - follows[0]]
    return -np.array([value if np.isfinite(value) else np.nan for value in found])


LAG_S, AROUND_S = 2.0, 3.0  # how late raters react, about; seconds over which loudness is averaged


def loudness_followed(gold, rate, energy):
    """(2,) correlations of arousal and valence with the loudness LAG_S before, averaged over AROUND_S."""
    if energy is None or len(energy) < 100 or np.ptp(energy) < 1:
        return np.full(2, np.nan)
    width = int(AROUND_S * 10)
    smooth = np.convolve(np.pad(energy, width // 2, mode="edge"), np.ones(width) / width, "valid")
    times_s = np.arange(len(gold)) / rate - LAG_S
    loud = np.interp(times_s, np.arange(len(smooth)) / 10, smooth)
    use = valid_labels(gold).all(axis=1) & (times_s >= 0) & (times_s < len(energy) / 10)
    if use.sum() < 20:
        return np.full(2, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([np.corrcoef(loud[use], gold[use, k])[0, 1] for k in range(2)])


def swapped(features):
    """{id: log likelihood ratio} of recordings in which arousal and valence look exchanged; {} if it cannot be told.

    features: {id: differences()}. Exchanged, a recording's differences have the other sign. They are compared with
    those of all other recordings, leaving itself out. What is found counts only if nearly all recordings are clearly as
    the others are: else this corpus does not show which is which.
    """
    names = [name for name, each in features.items() if np.isfinite(each[:3]).all()]
    if len(names) < ENOUGH:
        return {}
    table = np.array([features[name] for name in names])
    table = table[:, np.isfinite(table).all(axis=0)]
    ratios = np.array([_ratio(np.delete(table, row, 0), table[row]) for row in range(len(names))])
    if (ratios < TOLD).sum() < min(len(names) - 1, 0.9 * len(names)) or np.median(ratios) > USUALLY:
        return {}
    return {name: float(ratio) for name, ratio in zip(names, ratios) if ratio > SHOWN}


def _ratio(others, own):
    """log p(own, exchanged) - log p(own, as it is), given others (R, F) that are as they should be."""
    spread = others.std(axis=0, ddof=1)
    spread = np.maximum(spread, 0.05 * np.abs(others).mean(axis=0) + 1e-9)
    unlike, like = (np.abs(own + others.mean(axis=0)) / spread), (np.abs(own - others.mean(axis=0)) / spread)
    free = len(others) - 1  # Student's t: with few others, outliers are no surprise
    return float(((free + 1) / 2 * (np.log1p(like ** 2 / free) - np.log1p(unlike ** 2 / free))).sum())


def swapped_all(golds, frame_rate, follows):
    """A sentence if arousal and valence look exchanged in the whole corpus, "" if not, or if it cannot be told.

    golds: [(N, 2)]; follows: [loudness_followed()]. RECOLA is told by its rows (7500 or 7501 at 25 per second) and its
    published means and spreads; any corpus by its sound: loudness goes with arousal more than with valence (Scherer,
    2003, Vocal communication of emotion).
    """
    if len(golds) >= ENOUGH and frame_rate == 25 and all(len(gold) in (7500, 7501) for gold in golds):
        gold = np.concatenate(golds)
        moments = {target: (np.nanmean(gold[:, k]), np.nanstd(gold[:, k])) for k, target in enumerate(TARGETS)}
        near = {(column, known): min(max(abs(found - value) for found, value in zip(moments[column], each))
                                     for each in RECOLA[known]) for column in TARGETS for known in TARGETS}
        straight, crossed = (sum(near[one, other] for one, other in pairs) for pairs in (
            zip(TARGETS, TARGETS), zip(TARGETS, reversed(TARGETS))))
        if crossed < 0.06 < 0.12 < straight:
            return (f"the column of arousal has mean {moments['arousal'][0]:.3f} and standard deviation "
                    f"{moments['arousal'][1]:.3f}, as valence has in RECOLA, and the other way round")
    follows = np.array([each for each in follows if np.isfinite(each).all()]).reshape(-1, 2)
    if len(follows) < ENOUGH:
        return ""
    more = follows[:, 1] - follows[:, 0]
    if more.mean() > 0.2 and more.mean() / (more.std(ddof=1) / np.sqrt(len(more)) + 1e-9) > 3:
        return (f"valence follows the loudness of the sound (correlation {follows[:, 1].mean():.2f}, mean of "
                f"{len(follows)} recordings), arousal does so less ({follows[:, 0].mean():.2f}): mostly it is the "
                "other way round")
    return ""


# ---- numbers of frames, faces, sound --------------------------------------------------------------------------------

FEW_FACES = 0.9  # share of the frames
GAP_S = 10.0  # longest time without a face that is not worth a look
APART_S, APART = 0.5, 0.01  # seconds and share by which sound and pictures may differ in length
LATE_S = 0.2  # containers are off by a packet or two
SILENT_DB = -70.0  # of full scale


def count_findings(counts):
    """[("counts", detail)] of {what: number of frames}, None: not made yet. One rating more or less is no finding."""
    made = {what: number for what, number in counts.items() if number is not None}
    images = {what: number for what, number in made.items() if what != "rows"}
    rows_off = "rows" in made and any(abs(made["rows"] - number) > 1 for number in images.values())
    if len({*images.values()}) <= 1 and not rows_off:
        return []
    return [("counts", ", ".join(f"{number} {what}" for what, number in made.items()))]


def face_findings(has_face, frame_rate):
    """[(kind, detail)] of frames (N,) bool."""
    share, gap_s = has_face.mean() if len(has_face) else 0.0, longest_gap(has_face) / frame_rate
    if not share:
        return [("faceless", f"{len(has_face)} frames")]
    if share >= FEW_FACES and gap_s <= GAP_S:
        return []
    return [("faces", f"{1 - share:.0%} of {len(has_face)} frames, {gap_s:.1f} s in a row")]


def longest_gap(has_face):
    """Frames of the longest run without a face in (N,) bool."""
    return max((len(list(run)) for face, run in itertools.groupby(has_face) if not face), default=0)


def sound_findings(pictures_s, sound_s, late_s, own_file):
    """[(kind, detail)] of the lengths of pictures and sound, and how much later the sound begins, seconds.

    own_file: whether the sound is a file in audio/, which has no time stamps in common with the pictures.
    """
    found = []
    if abs(late_s) > LATE_S:
        found.append(("offset", f"{abs(late_s):.2f} s {'later' if late_s > 0 else 'earlier'}"))
    off_s = late_s + sound_s - pictures_s if not own_file else sound_s - pictures_s
    if abs(off_s) > max(APART_S, APART * pictures_s):
        found.append(("lengths", f"the sound ends {abs(off_s):.1f} s {'after' if off_s > 0 else 'before'} the pictures "
                                 f"({sound_s:.1f} s of sound, {pictures_s:.1f} s of pictures)"))
    return found


def rate_findings(own_rate, frame_rate, steady):
    """[("rate", detail)] of a video whose own pictures per second are others; steady: whether they come evenly."""
    if steady and abs(own_rate / frame_rate - 1) < 0.001:
        return []
    return [("rate", f"{own_rate:.5g} pictures per second{'' if steady else ', unevenly'}; {frame_rate:g} frames")]


# ---- before training ------------------------------------------------------------------------------------------------

QUICK = ("clock", "equal", "constant", "invalid")  # what is said before training


def quick_findings(golds, targets, rate):
    """Findings on ratings {id: (N, 2)} that should not be trained on unseen: what takes no more than seconds.

    targets: those that are trained on; NaN throughout: not there.
    """
    found, same = [], {}
    for name, gold in golds.items():
        kinds = [(kind, detail) for kind, detail in gold_findings(gold, rate) if kind in QUICK]
        found += [Finding(kind, (name,), detail) for kind, detail in kinds
                  if kind == "equal" or detail.split(":")[0] in targets]
        if not kinds:
            same.setdefault(gold.tobytes(), []).append(name)
    found += [Finding("copies", tuple(names), "the same ratings") for names in same.values() if len(names) > 1]
    looks = {name: differences(gold, rate) for name, gold in golds.items()}
    return found + [Finding("swapped", (name,), "") for name in swapped(looks)]


def line_of(findings, most=4):
    """The recordings of some findings, with what was found, in one line."""
    each = [", ".join(one.recordings) + f" ({one.detail})" * bool(one.recordings and one.detail)
            + one.detail * (not one.recordings) for one in findings]
    return "; ".join(each[:most]) + f"; and {len(each) - most} more" * (len(each) > most)
