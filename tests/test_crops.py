"""Crops of other programs: numbered as the pictures of a video, with gaps."""
from fractions import Fraction

import cv2
import numpy as np
import pytest
from videos import bars, numbers_in, write_pictures

from support.crops import check_last, crops_shown, frame_images, other_crops
from support.errors import UserError
from support.media import pictures_shown

JPEG = cv2.imencode(".jpg", np.full((24, 20, 3), 200, np.uint8))[1].tobytes()


def put(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(JPEG)
    return folder


def numbered(numbers, name="{:05d}.jpg"):
    return [name.format(number) for number in numbers]


# ---- names ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("names,first,last", [
    (numbered([1, 2, 5]), 1, 5), (numbered([3, 4]), 1, 4), (numbered([0, 2]), 0, 3),
    (numbered(range(8, 12), "{}.png"), 1, 11), (numbered([1, 99999, 100000]), 1, 100000),
    (numbered([1, 3], "frame_det_00_{:06d}.bmp"), 1, 3), (numbered([0, 1, 3], "{:06d}.jpg"), 0, 4),
    (numbered([1, 2], "{:06d}.jpg"), 1, 2), (numbered(range(3), "{:06d}.png"), 0, 3),
])
def test_the_number_in_a_name_is_that_of_the_picture(names, first, last, tmp_path):
    crops = other_crops(put(tmp_path / "a", *names, "Thumbs.db", ".00009.jpg", "no_face.jpg"))
    assert (crops.first, crops.last, set(crops.names.values())) == (first, last, {*names})
    assert all(f"{number + first}" == name.split("_")[-1].split(".")[0].lstrip("0").rjust(1, "0")
               for number, name in crops.names.items())


@pytest.mark.parametrize("names,says", [
    (["00001.jpg", "00001.png"], "are both number 1"), (["00001.jpg", "000001.jpg"], "are both number 1"),
    (["00001.jpg", "00002.png"], "named in two ways"), (["00001.jpg", "000002.jpg"], "named in two ways"),
    (["00001.jpg", "99999999999.jpg"], "no video has so many"), (["00001.jpg", "a2.jpg"], "named in two ways"),
    (["00001.jpg", "face.jpg"], "face.jpg has no number"),
    (["000000.jpg", "000001.jpg", "00002.jpg"], "named in two ways"),
])
def test_names_of_two_kinds_and_two_files_of_one_number_are_refused(names, says, tmp_path):
    with pytest.raises(UserError, match=says):
        other_crops(put(tmp_path / "a", *names))


def test_face_detector_s_own_crops_are_no_others(tmp_path):
    own = put(tmp_path / "a", *numbered(range(5), "{:06d}.jpg"))
    assert other_crops(own) is None and other_crops(tmp_path / "gone") is None
    assert other_crops(own, lambda: 5) is None  # made at another rate than the frames' they are not its own
    assert other_crops(own, lambda: 4).last == 5
    (own / "faces.csv").write_text("time_s,found\n")
    assert other_crops(own, lambda: 4) is None
    put(own, "00002.jpg")
    with pytest.raises(UserError, match="are both number 2"):
        other_crops(own)
    with pytest.raises(UserError, match="of face_detector.py .faces.csv. and others"):
        (put(tmp_path / "b", *numbered([1, 2])) / "faces.csv").touch()
        other_crops(tmp_path / "b")


# ---- which crop a frame shows ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind,stamps,tick", [
    ("mp4", [1001 * n for n in range(40)], Fraction(1, 30000)), ("mkv", [33.367 * n for n in range(40)], None),
    ("mp4", np.cumsum([1, 1, 3, 1, 1, 7, 2, 2, 1, 1] * 3) * 1000, Fraction(1, 30000)),
    ("avi", list(range(30)), Fraction(1, 15)), ("mp4", [500 + 2 * n for n in range(50)], Fraction(1, 50)),
])
def test_the_picture_of_each_frame_is_the_one_that_is_decoded(kind, stamps, tick, tmp_path):
    stamps, tick = ([round(stamp) for stamp in stamps], Fraction(1, 1000)) if tick is None else (stamps, tick)
    codec = "mjpeg" if kind == "avi" else "libx264"
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(len(stamps))], list(map(int, stamps)), tick,
                           codec)
    shown, clock = pictures_shown(video, 25)
    assert shown.tolist() == numbers_in(video) and len(clock.times_s) == len(stamps)


def test_a_picture_without_a_crop_is_black_and_the_others_keep_their_places(tmp_path):
    crops = other_crops(put(tmp_path / "a", *numbered([2, 3, 5])))
    black = "no_face.jpg"
    assert crops_shown(crops, np.array([0, 1, 2, 2, 3, 4, 5])) == [
        black, "00002.jpg", "00003.jpg", "00003.jpg", black, "00005.jpg", black]
    image = cv2.imread(str(tmp_path / "a" / black))
    assert image.shape == (24, 20, 3) and not image.any()
    assert other_crops(tmp_path / "a") == crops  # it is not taken for a crop


@pytest.mark.parametrize("last,pictures,frames,says", [
    (120, 120, 100, ""), (119, 120, 100, ""), (80, 120, 100, ""), (121, 120, 100, ""), (1, 120, 100, ""),
    (130, 120, 100, "number 130 pictures, but there are 120 .v.mp4."), (240, 120, 100, "number 240"),
    (60, 120, 100, "end at picture 60 of 120"), (100, 120, 100, "made at another rate"), (50, 100, 100, "another rate"),
])
def test_numbers_that_cannot_be_those_of_the_pictures_are_refused(last, pictures, frames, says):
    if not says:
        return check_last("the crops", last, pictures, "v.mp4", frames)
    with pytest.raises(UserError, match=says):
        check_last("the crops", last, pictures, "v.mp4", frames)


def test_the_image_of_a_frame_is_the_one_that_its_annotations_name(tmp_path):
    folder, table = tmp_path / "Cropped_Aligned" / "a [1]", tmp_path / "Annotations" / "Val_Set" / "a [1].csv"
    assert frame_images(folder, 2) == [folder / "000000.jpg", folder / "000001.jpg"]
    table.parent.mkdir(parents=True)
    table.write_text("image path,spec path\na [1]/00001.jpg,x\na [1]/no_face.jpg,x\n../../b.jpg,x\n")
    assert frame_images(folder, 2) == [folder / "00001.jpg", folder / "no_face.jpg"]
    for frames in (3, 4):  # one leads out of the folder; the last has none
        assert frame_images(folder, frames)[0] == folder / "000000.jpg"
