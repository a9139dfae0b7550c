"""Videos for the tests: pictures that carry their number, colour cards, a drawn person who sits still."""
from fractions import Fraction

import av
import cv2
import numpy as np

from drawn.people import Recording, write_video
from face_detector import shots, steadied
from faces import Tracker, one_thread
from support.media import Picture, read_frames

# ---- pictures that carry their number: 8 black or white bars, the lowest bit on the left ----------------------------


def bars(number, height=96, width=160):
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        picture[:, bit * width // 8:(bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return picture


def number_of(rgb):
    width = rgb.shape[1]
    middle = rgb[len(rgb) // 3:-len(rgb) // 3]
    means = [middle[:, bit * width // 8 + 4:(bit + 1) * width // 8 - 4].mean() for bit in range(8)]
    return sum(int(mean > 127) << bit for bit, mean in enumerate(means))


def write_pictures(path, pictures, stamps=None, tick=Fraction(1, 90000), codec="libx264", pixels=Fraction(1)):
    """A video of `pictures` with time stamps in ticks (None: 25 per second); pixels: their width by their height."""
    stamps = [n * 3600 for n in range(len(pictures))] if stamps is None else stamps
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(1 / ((stamps[1] - stamps[0]) * tick)))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.sample_aspect_ratio = pixels
        for picture, stamp in zip(pictures, stamps):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def faststart(video, out):
    """A copy of an .mp4 that says at its beginning where its pictures are."""
    with av.open(str(video)) as source, av.open(str(out), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return out


def on_show(stamps_s, frames, rate=25):
    """The number of the last picture at or before k / rate seconds, for every frame k, in exact fractions."""
    from_first = [stamp - stamps_s[0] for stamp in stamps_s]
    return [max(n for n, stamp in enumerate(from_first) if stamp <= Fraction(k) / rate) for k in range(frames)]


def numbers_in(video, rate=25):
    """The number of the picture that each frame shows."""
    ks, numbers = zip(*[(k, number_of(picture.rgb)) for ks, picture in read_frames(video, rate) for k in ks])
    assert list(ks) == list(range(len(ks)))
    return list(numbers)


# ---- colours --------------------------------------------------------------------------------------------------------

CARD = np.array([[(220, 40, 40), (40, 200, 40)], [(40, 40, 210), (230, 210, 40)]], np.uint8)  # red green, blue yellow


def card(height=120, width=160):
    return cv2.resize(CARD, (width, height), interpolation=cv2.INTER_NEAREST)


def shown(rgb):
    """A Picture of that content."""
    return Picture(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))


# ---- drawn people ---------------------------------------------------------------------------------------------------

def sitter(seed, frames):
    """A drawn person who sits still, in the middle of the picture, and looks at the camera."""
    drawn = Recording.draw(seed, frames)
    motion = drawn.motion
    motion.x[:], motion.y[:], motion.yaw[:], motion.pitch[:], motion.roll[:], motion.light[:] = 160, 120, 0, 0, 0, 1
    motion.lids[:], motion.gaze_x[:], motion.gaze_y[:], motion.light_from[:] = 0, 0, 0, motion.light_from[0]
    drawn.actions[:] = drawn.actions[:, :1]
    return drawn


def look_at(pictures, find, folder, look_every=6):
    """Shots, and averaged landmarks or None, of a video of `pictures`."""
    write_video(folder / "look.mp4", pictures)
    with one_thread():
        made = list(steadied(shots(read_frames(folder / "look.mp4", 25), Tracker(find), 25, look_every), 25))
    assert [k for shot, _ in made for k in shot.ks] == list(range(len(made)))  # every frame is counted
    assert all((shot.face is None) == (shot.found == "missing") == (points is None) for shot, points in made)
    return [shot for shot, _ in made], [points for _, points in made]
