"""Which image belongs to which frame of a recording: face_detector.py's crops, or those of another program."""
import numpy as np

from support.crops import check_last, crops_shown, other_crops
from support.errors import UserError
from support.media import about_frames, pictures_shown
from support.recordings import known_frames, media_file, sound_file

SOUND_SLACK = 1.0, 0.1  # seconds and share by which crops without a video may last longer or shorter than their sound


def images_of(name, rows, cfg):
    """([file of the image of each of so many frames], notes): what face_detector.py calls them, or crops of another
    program; a frame that has none of those gets a black one. Raises UserError as crops_of does."""
    crops, shown, at = crops_of(name, rows, cfg)
    if not crops:
        return [f"{k:06d}.jpg" for k in range(rows)], ()
    images = crops_shown(crops, shown)
    black = sum(image not in crops.names.values() for image in images)
    return images, (f"{len(crops.names)} crops of another program, numbered from {crops.first} to "
                    f"{crops.last - 1 + crops.first}{at}", f"{black} frames without one are black")


def crops_of(name, rows, cfg):
    """(Crops of another program or None, (N,) number of the picture that each frame shows, of how many in words).

    They are numbered as the pictures of the video (support/crops.py). Raises UserError if they do not fit it, or
    without one the number of frames or the length of the sound.
    """
    video = media_file(name, cfg.videos_dir)
    crops = other_crops(cfg.crops_dir / name,
                        lambda: known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)[0])
    if not crops:
        return None, None, ""
    if video:
        shown, clock = pictures_shown(video, cfg.frame_rate)
        check_last(f"the crops in {crops.folder}/", crops.last, len(clock.times_s), video, len(shown))
        return crops, shown[:rows], f" of {len(clock.times_s)} pictures"
    check_last(f"the crops in {crops.folder}/", crops.last, rows, "the ratings", rows)
    check_sound(name, rows, cfg)
    return crops, np.arange(rows), f"; there is no video, --frame-rate {cfg.frame_rate:g} is taken for its rate"


def check_sound(name, frames, cfg):
    """Raises UserError if a recording without a video is not as long as its sound: its rate is another."""
    sound = sound_file(name, cfg.audio_dir, cfg.videos_dir)
    heard = about_frames(sound, cfg.frame_rate) if sound else 0
    if heard and abs(frames - heard) > max(SOUND_SLACK[0] * cfg.frame_rate, SOUND_SLACK[1] * heard):
        raise UserError(f"{frames} pictures last {frames / cfg.frame_rate:.1f} s at --frame-rate {cfg.frame_rate:g}, "
                        f"{sound} {heard / cfg.frame_rate:.1f} s: their rate is {frames / heard * cfg.frame_rate:.4g}, "
                        f"most likely; put the video into {cfg.videos_dir}/, which has their times")
