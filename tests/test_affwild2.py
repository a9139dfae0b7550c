"""Aff-Wild2: from its txt files to annotation CSVs with known values."""
import shutil
from fractions import Fraction

import cv2
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import SMALL, STEPS, TINY, files_of, run_of
from hypothesis import given
from hypothesis import strategies as st
from videos import bars, on_show, sitter, write_pictures

from corpora.affwild2 import find, read
from drawn.people import SOUND_RATE, Recording, write_video
from support.errors import UserError
from support.recordings import TARGETS, video_of

TEXT = "valence,arousal\n0.1,0.2\n-5,-5\n0.3,-5\n-0.4,1\n"
MADE = [[0.2, 0.1], [np.nan, np.nan], [np.nan, np.nan], [1, -0.4]]  # arousal, valence


def official(data, text=TEXT, **names):
    """The folders of the valence-arousal track: id -> set."""
    for name, part in names.items():
        path = data / "ratings_gold_standard" / "VA_Estimation_Challenge" / part / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return data


def table(data, partition, name):
    return pd.read_csv(data / "Annotations" / partition / f"{name}.csv")[TARGETS].to_numpy()


def test_official_files_become_annotations_of_their_sets_valence_first(tmp_path, call):
    official(tmp_path, video1="Train_Set", video2="Validation_Set")
    for track in ("EXPR_Recognition_Challenge", "AU_Detection_Challenge"):
        text, path = "AU1,AU2\n0,1\n", tmp_path / "ratings_gold_standard" / track / "Train_Set" / "video3.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and "2 recordings in the form affwild2" in out
    assert out.count("2 rows are marked invalid (-5)") == 2
    np.testing.assert_array_equal(table(tmp_path, "Train_Set", "video1"), MADE)
    np.testing.assert_array_equal(table(tmp_path, "Val_Set", "video2"), MADE)


def test_most_ratings_may_be_invalid_but_none_on_another_scale(tmp_path, call):
    official(tmp_path, "valence,arousal\n" + "-5,-5\n" * 99 + "0,0\n", video1="Train_Set")
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    official(tmp_path, "valence,arousal\n" + "-5,-5\n50,60\n" * 9, video1="Train_Set")
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "video1.txt: 9 of 9 ratings of arousal lie outside" in out


def test_the_sets_of_the_corpus_are_not_overruled_unseen(tmp_path, call):
    official(tmp_path, dev_1="Train_Set")
    code, _, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "dev_1 is in Train_Set of the corpus" in err and err.count("\n") == 1
    assert call("annotations", "--data-dir", tmp_path, "--val-ids", "x*")[0] == 0


def test_a_video_in_both_sets_is_refused(tmp_path):
    official(tmp_path, video1="Train_Set"), official(tmp_path, video1="Validation_Set")
    with pytest.raises(UserError, match="same id"):
        find(tmp_path / "ratings_gold_standard")


@pytest.mark.parametrize("text,says", [
    ("0.1,0.2\n0.3,0.4\n", "header valence,arousal"),
    ("image,label,frameid\na/00001.jpg,1,1\n", "none is called arousal .or, beside one of images, label"),
    ("img,V,label_v,A\na/00001.jpg,1,1,1\n", "label_v and v are both ratings of valence"),
    (",img,V,A,frame_id\n0,a/00001.jpg,1,1,1\n1,a/00001.jpg,1,1,1\n", "line 3: image 'a/00001.jpg', frame 1: one and"),
    (",img,V,A,frame_id\n0,a/00001.jpg,1,1,2\n", "line 2: image 'a/00001.jpg', frame 2: one and the same number"),
    ("img,V,A\na/00001.jpg,1,1\nb/00002.jpg,1,1\n", "line 3: 'b/00002.jpg' after 'a/00001.jpg': a file per recording"),
    ("img,V,A\na/x.jpg,1,1\n", "line 2: image 'a/x.jpg', frame nan"), ("V,A\n1,1\n", "none is called arousal"),
    ("img,V,A\na/00001.jpg,1,x\n", "line 2: 'x'"),
    ("img,V,A\na/99999999999.jpg,1,1\n", "frame 1e.11"),
    ("valence,arousal\n0.1,0.2\n0.1\n", "line 3"), ("valence,arousal\n0.1,x\n", "line 2"),
    ("valence,arousal\n", "no rows"),
])
def test_other_files_are_refused(text, says, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=says):
        read(tmp_path / "a.txt")


def test_label_files_of_images_are_read_by_their_names_and_put_in_their_places(tmp_path, call):
    """As Joint-Cross-Attention's preprocessing writes them: rows without a valid rating are left out."""
    rows = ",img,V,A,frame_id\n0,{0}/00001.jpg,0.1,0.2,00001\n1,{0}/00004.jpg,-0.4,1.0,00004\n"
    official(tmp_path, video1="Validation_Set")
    folder = tmp_path / "ratings_gold_standard"
    path = folder / "VA_Estimation_Challenge" / "Train_Set" / "video2.csv"
    path.parent.mkdir()
    path.write_text(rows.format("video2"))
    (folder / "train_1.csv").write_text(rows.format("train_1").replace("V,A", "label_V,label_A").replace("_id", "id"))
    for target, column in (("arousal", 3), ("valence", 2)):
        (folder / target).mkdir()
        lines = [line.split(",") for line in rows.format("train_2").splitlines()]
        text = "".join(f"{line[1]},{line[column]},{line[4]}\n" for line in lines[1:])
        (folder / target / "train_2.csv").write_text(f"image,label,frameid\n{text}")
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and out.count("2 pictures before the last one have no row: masked") == 3
    for name in ("video2", "train_1", "train_2"):
        np.testing.assert_array_equal(table(tmp_path, "Train_Set", name), MADE)


# ---- each video at its own rate -------------------------------------------------------------------------------------

def text_of(times_s):
    """Rows of pictures at these times: arousal rises by 1 in 10 s, valence falls by 1 in 20 s."""
    return "valence,arousal\n" + "".join(f"{-time_s / 20!r},{time_s / 10!r}\n" for time_s in map(float, times_s))


def moments(frames):
    """What that is at the frames: (N, 2)."""
    at = np.arange(frames) / 25
    return np.column_stack([at / 10, -at / 20])


RATES = {"video1": Fraction(30000, 1001), "video2": Fraction(25, 2), "video3": 30}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Videos of 3 s, each at its own rate, and a rating per picture. Read only."""
    data = tmp_path_factory.mktemp("filmed")
    for seed, (name, rate) in enumerate(RATES.items()):
        drawn = Recording.draw((91, seed), 75)
        shown = [int(n / rate * 25) for n in range(int(3 * rate))]
        pictures = list(drawn.frames())
        write_video(data / "videos" / f"{name}.mp4", [pictures[k] for k in shown], drawn.sound, rate, quick=True)
        official(data, text_of(n / rate for n in range(len(shown))),
                 **{name: "Validation_Set" if seed else "Train_Set"})
    return data


def test_from_official_files_and_videos_at_rates_of_their_own_to_a_trained_network(filmed, tmp_path, call):
    data = shutil.copytree(filmed, tmp_path / "data")
    for script, flags in STEPS.items():
        assert call(script, "--data-dir", data, *flags)[0] == 0
    frames = {name: len(list((data / "Cropped_Aligned" / name).glob("*.jpg"))) for name in RATES}
    assert frames == {"video1": 75, "video2": 74, "video3": 75}
    for name, part in (("video1", "Train_Set"), ("video2", "Val_Set"), ("video3", "Val_Set")):
        made, ends = table(data, part, name), int((int(3 * RATES[name]) - 1) / RATES[name] * 25) + 1
        np.testing.assert_allclose(made[:ends], moments(ends), atol=1e-6)
        assert len(made) == frames[name] == len(list((data / "audio_segments" / name).glob("*.wav")))
    assert call("mmpkd", "--data-dir", data, *TINY, "--stage", "teacher", "--target", "both")[0] == 0
    assert (run_of(data, "teacher") / "best.pt").exists()


@pytest.mark.parametrize("every", [2, 0.5])
def test_a_factor_of_two_in_rate_is_refused(every, filmed, tmp_path, call):
    data = shutil.copytree(filmed, tmp_path / "data")
    official(data, text_of(np.arange(0, 90, every) / 30), video3="Validation_Set")
    code, out, _ = call("annotations", "--data-dir", data)
    assert code == 1 and f"video3: FAILED: {90 / every:g} ratings for 90 pictures, 30 per second" in out
    assert f"would fit {30 / every:g} pictures per second" in out


# ---- the crops that the corpus ships --------------------------------------------------------------------------------

GAPS = {5, 6, 20, 59}  # numbers of pictures without a face


@pytest.fixture
def shipped(raw_corpus, made_corpus, tmp_path):
    """Official crops, txt and sound of three recordings of 60 pictures, of which some have no face."""
    data = tmp_path / "shipped"
    for name in ("train_1", "train_2", "dev_1"):
        (data / "Cropped_Aligned" / name).mkdir(parents=True)
        for n in {*range(1, 61)} - GAPS:
            shutil.copy(made_corpus / "Cropped_Aligned" / name / f"{n - 1:06d}.jpg",
                        data / "Cropped_Aligned" / name / f"{n:05d}.jpg")
        official(data, text_of(np.arange(60) / 25), **{name: "Validation_Set" if name == "dev_1" else "Train_Set"})
    shutil.copytree(raw_corpus / "audio", data / "audio")
    return data


def images(data, name):
    """Numbers of the crops that the frames of a recording show, 0 for none."""
    paths = pd.read_csv(next((data / "Annotations").glob(f"*/{name}.csv")))["image path"]
    return [0 if path == f"{name}/no_face.jpg" else int(path.removeprefix(f"{name}/0").removesuffix(".jpg"))
            for path in paths]


def test_from_official_crops_with_gaps_and_sound_to_a_trained_network(shipped, made_corpus, call):
    code, out, err = call("annotations", "--data-dir", shipped)
    assert (code, err) == (0, "")
    assert ("dev_1: Val_Set, 60 frames; 56 crops of another program, numbered from 1 to 60; there is no video, "
            "--frame-rate 25 is taken for its rate; 4 frames without one are black") in out
    assert images(shipped, "train_1") == [0 if n in GAPS else n for n in range(1, 61)]
    np.testing.assert_allclose(table(shipped, "Train_Set", "train_1"), moments(60), atol=1e-12)
    for script in ("audio_extract", "audio_melspec"):
        assert call(script, "--data-dir", shipped, *STEPS[script])[0] == 0
    for k in (0, 4, 59):  # in step with the sound
        assert pd.read_csv(shipped / "Annotations" / "Val_Set" / "dev_1.csv")["spec path"][k] == f"dev_1/{k:06d}.png"
        ours, theirs = (data / "specs" / "dev_1" / f"{k:06d}.png" for data in (shipped, made_corpus))
        assert ours.read_bytes() == theirs.read_bytes()
    assert call("mmpkd", "--data-dir", shipped, *TINY, "--stage", "teacher", "--target", "both")[0] == 0
    assert (run_of(shipped, "teacher") / "best.pt").exists()
    packed = np.load(next((shipped / "cache").glob("dev_1.frames.*.npy")))
    assert len(packed) == 60 and not packed[[n - 1 for n in GAPS]].any() and packed[0].any()
    for k in (0, 30, 57):
        crop = cv2.imread(str(made_corpus / "Cropped_Aligned" / "dev_1" / f"{k:06d}.jpg"), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(packed[k], crop.transpose(2, 0, 1))


def test_crops_are_shown_when_the_pictures_of_the_video_are(shipped, call):
    stamps = np.cumsum([1, 2, 1, 3, 1, 1, 1, 1, 1, 1] * 6) - 1  # thirtieths of a second
    write_pictures(shipped / "videos" / "dev_1.mp4", [bars(n) for n in range(60)], [int(n) for n in stamps],
                   Fraction(1, 30))
    official(shipped, text_of(stamps / 30), dev_1="Validation_Set")
    code, out, _ = call("annotations", "--data-dir", shipped)
    assert code == 0 and "dev_1: Val_Set, 66 frames; a rating per picture (60 pictures, " in out
    assert "56 crops of another program, numbered from 1 to 60 of 60 pictures; " in out
    shown = on_show([Fraction(int(n), 30) for n in stamps], 66)
    assert images(shipped, "dev_1") == [0 if n + 1 in GAPS else n + 1 for n in shown]
    np.testing.assert_allclose(table(shipped, "Val_Set", "dev_1")[:64], moments(64), atol=1e-6)


def test_official_crops_are_left_alone_by_the_detector(shipped, call):
    write_video(shipped / "videos" / "dev_1.mp4", [np.zeros((64, 64, 3), np.uint8)] * 60)
    before = sorted((shipped / "Cropped_Aligned" / "dev_1").iterdir())
    for script in ("face_detector", "face_detector_frameRetention"):
        code, out, err = call(script, "--data-dir", shipped, *SMALL)
        assert (code, err) == (0, "") and "dev_1: 56 crops of another program are there: left as they are" in out
        assert out.endswith("Cropped_Aligned: nothing to do, all crops are of another program\n")
    assert sorted((shipped / "Cropped_Aligned" / "dev_1").iterdir()) == before


@pytest.mark.parametrize("rate,says", [(50, "their rate is 25"), (12.5, "their rate is 25")])
def test_crops_that_are_not_as_long_as_their_sound_are_refused(rate, says, shipped, call):
    code, out, _ = call("annotations", "--data-dir", shipped, "--frame-rate", rate)
    assert code == 1 and out.count(says) == 3 and "60 pictures last" in out


def test_crops_that_do_not_fit_the_ratings_are_refused(shipped, call):
    official(shipped, text_of(np.arange(30) / 25), dev_1="Validation_Set")
    official(shipped, text_of(np.arange(120) / 25), train_1="Train_Set")
    shutil.rmtree(shipped / "audio")
    code, out, _ = call("annotations", "--data-dir", shipped)
    assert code == 1 and "/dev_1/ number 60 pictures, but there are 30 (the ratings)" in out
    assert "/train_1/ end at picture 60 of 120" in out and "train_2: Train_Set, 60 frames" in out


# ---- two subjects of one video --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def couple(tmp_path_factory):
    """A video of two people, the right one larger and alone at first, with sound, and their ratings. Read only."""
    data, people = tmp_path_factory.mktemp("couple"), [sitter((64, 3), 50), sitter((65, 3), 50)]
    people[0].painter.look.scale, people[1].painter.look.scale = 50, 60
    people[0].motion.x[:10] = -300
    pictures = [np.hstack([one[:, 60:260] for one in row]) for row in zip(*[one.frames() for one in people])]
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * SOUND_RATE).astype(np.float32)
    write_video(data / "videos" / "a.mp4", pictures, sound)
    official(data, text_of(np.arange(50) / 25), a_left="Train_Set", a_right="Validation_Set")
    return data


@pytest.mark.parametrize("where", ["in the video", "in audio/"])
def test_the_subjects_of_one_video_are_followed_each_and_share_its_sound(where, couple, tmp_path, call):
    data = shutil.copytree(couple, tmp_path / "data")
    if where == "in audio/":
        (data / "audio").mkdir()
        soundfile.write(data / "audio" / "a.wav", np.random.default_rng(1).uniform(-0.1, 0.1, 32000), 16000)
    code, out, _ = call("annotations", "--data-dir", data)
    assert code == 0 and "a: no ratings, but its subjects are rated in a_left, a_right: left out" in out
    assert "WARNING" not in out.replace("WARNING: the ratings of a_left, a_right", "")
    code, out, err = call("face_detector", "--data-dir", data, *SMALL)
    assert (code, err) == (0, "") and f"the left one of the two subjects of {data / 'videos' / 'a.mp4'}" in out
    for side, first in (("left", 10), ("right", 10)):
        faces = pd.read_csv(data / "Cropped_Aligned" / f"a_{side}" / "faces.csv")
        middle = (faces["x1"] + faces["x2"]) / 2
        assert (faces["found"][:first] == "missing").all() and faces["found"][first + 1:].isin(
            ["detected", "tracked"]).all() and len(faces) == 50
        assert (np.abs(middle[first + 1:] - (100 if side == "left" else 300)) < 15).all()
    assert not (data / "Cropped_Aligned" / "a").exists()
    for script in ("audio_extract", "audio_melspec"):
        code, out, _ = call(script, "--data-dir", data, *STEPS[script])
        assert code == 0 and "left out" not in out
    left, right = (files_of(data / "specs" / f"a_{side}") for side in ("left", "right"))
    assert left == right and len(left) == 50 + 1  # the list of checksums
    assert not (data / "specs" / "a").exists() and not (data / "audio_segments" / "a").exists()
    assert call("mmpkd", "--data-dir", data, *TINY, "--stage", "visual")[0] == 0


def test_where_one_of_two_subjects_is_called_as_the_video_it_is_the_other_one(couple, tmp_path, call):
    data = shutil.copytree(couple, tmp_path / "data")
    folder = data / "ratings_gold_standard" / "VA_Estimation_Challenge"
    (folder / "Train_Set" / "a_left.txt").rename(folder / "Train_Set" / "a.txt")
    assert call("annotations", "--data-dir", data)[0] == 0
    assert call("face_detector", "--data-dir", data, *SMALL)[0] == 0
    for name, middle in (("a", 100), ("a_right", 300)):
        faces = pd.read_csv(data / "Cropped_Aligned" / name / "faces.csv")[15:]
        assert (np.abs((faces["x1"] + faces["x2"]) / 2 - middle) < 15).all()


def test_a_subject_of_a_video_that_never_shows_two_is_refused(couple, tmp_path, call):
    data = shutil.copytree(couple, tmp_path / "data")
    write_video(data / "videos" / "a.mp4", sitter((64, 3), 8).frames())
    official(data, text_of(np.arange(8) / 25), a_left="Train_Set", a_right="Validation_Set")
    assert call("annotations", "--data-dir", data)[0] == 0
    code, out, _ = call("face_detector", "--data-dir", data, *SMALL)
    assert code == 1 and "a.mp4: no picture shows two faces, so that its left subject is not known" in out


def test_a_subject_with_a_video_of_its_own_keeps_it(couple, tmp_path, call):
    data = shutil.copytree(couple, tmp_path / "data")
    write_video(data / "videos" / "a_left.mp4", list(sitter((66, 3), 50).frames()))
    assert call("annotations", "--data-dir", data)[0] == 0
    code, out, _ = call("face_detector", "--data-dir", data, *SMALL, "--recordings", "a_left")
    assert code == 0 and "subjects of" not in out
    assert (pd.read_csv(data / "Cropped_Aligned" / "a_left" / "faces.csv")["found"][:10] != "missing").all()


# ---- what is in neither set -----------------------------------------------------------------------------------------

def test_videos_in_neither_set_are_not_trained_on_unless_they_are_named(tmp_path, call):
    from test_annotations import give_video
    official(tmp_path, video1="Train_Set", video2="Validation_Set")
    give_video(tmp_path, "12-24-1920x1080", 20), give_video(tmp_path, "mine", 20)
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--unlabelled-ids", "mine")
    assert code == 0 and "mine: Unlabelled_Set, 20 frames" in out
    assert ("12-24-1920x1080: no ratings, and it is in neither set of the corpus, so most likely in its test set: left "
            "out, as test subjects must not be trained on (else: --unlabelled-ids 12-24-1920x1080)") in out
    assert [path.name for path in (tmp_path / "Annotations" / "Unlabelled_Set").iterdir()] == ["mine.csv"]


def test_subjects_are_named_after_their_video():
    assert [video_of(name) for name in ("a_left", "a_right", "a", "left")] == ["a", "a", "a", "left"]


@given(st.binary(max_size=60) | st.text("0123456789.,\n-valenceros", max_size=60).map(
    lambda text: f"valence,arousal\n{text}".encode()))
def test_whatever_bytes_come_there_are_ratings_or_one_error(tmp_path_factory, held):
    path = tmp_path_factory.getbasetemp() / "a.txt"
    path.write_bytes(held)
    try:
        values = read(path).values
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert values.shape[1] == 2 and len(values) == held.decode().rstrip("\n ").count("\n")
        assert not (values == -5).any()


@given(st.text("0123456789.,\n-aj/pg", max_size=80) | st.lists(st.integers(-1, 20)).map(
    lambda numbers: "".join(f"a/{n:05d}.jpg,0.1,-0.2,{n}\n" for n in numbers)))
def test_whatever_a_label_file_of_images_holds_there_are_ratings_or_one_error(tmp_path_factory, held):
    path = tmp_path_factory.getbasetemp() / "a.csv"
    path.write_text(f"img,V,A,frame_id\n{held}")
    try:
        values = read(path).values
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert values.shape[1] == 2 and len(values) >= held.rstrip("\n ").count("\n") + 1
