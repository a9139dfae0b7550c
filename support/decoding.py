"""The pictures of a video track, decoded one after the other: past damage, deinterlaced, HDR made ordinary."""
import contextlib
import itertools
import multiprocessing
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import av
from av.codec.context import Flags
from av.stream import Disposition

from support.errors import UserError

AHEAD = 8, 2  # pictures in a group that a thread decodes in advance, and groups that are decoded in advance
PIXELS = 2**26  # of a picture: twice those of 8K; more would take gigabytes
AHEAD_PIXELS = 2**24  # of a group: fewer pictures where they are large, as one of 8K takes 50 MB
DECODERS, LARGE = 3, 1e6  # threads inside FFmpeg for pictures above LARGE pixels; with smaller ones they only wait
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers for transfer functions of ITU-R BT.2100
ONE_EACH = ("h264", "hevc", "av1", "vp9")  # codecs a packet of which is a picture that is shown
NOT_CODED = 20  # bytes; a smaller packet of MPEG-4 Part 2 that decodes to nothing says "as before"
DEINTERLACE = "bwdif", "mode=send_frame:deint=interlaced"  # one picture for one; those not marked as interlaced as is
ORDINARY = "scale", "out_color_matrix=bt709:out_primaries=bt709:out_transfer=bt709:out_range=limited"
COVER = Disposition.attached_pic | Disposition.timed_thumbnails


# ---- which track ----------------------------------------------------------------------------------------------------

def video_track(container, path):
    """The stream that is the video of a file: no cover picture; of several that can be decoded the one marked as
    default, or the first. Raises UserError if there is none."""
    tracks = video_tracks(container)
    if not tracks:
        cover = "only a cover picture and " if container.streams.video else ""
        raise UserError(f"{path} has {cover}no video track: replace it by a video")
    usable = [track for track in tracks if track.codec_context is not None and track.width] or tracks
    usable = [track for track in usable if track.frames != 1] or usable  # a cover that is not marked as one
    track = max(usable, key=lambda track: bool(track.disposition & Disposition.default))  # the first of equals
    if track.codec_context is not None and track.width * track.height > PIXELS:
        raise UserError(f"{path}: its pictures would be {track.width} x {track.height} pixels, at most {PIXELS:,} "
                        "in all were expected: replace it, or make them smaller")
    return track


def video_tracks(container):
    """The video tracks of a file, without cover pictures."""
    return [track for track in container.streams.video if not track.disposition & COVER]


def packets_of(container, *tracks):
    """Yields the packets of these tracks, or of all; at the end an empty one of each."""
    with contextlib.suppress(IndexError):  # PyAV's, after all packets, if a broadcast has tracks that begin later
        yield from container.demux(*tracks)


def check_memory(error):
    """Raises MemoryError if an error of FFmpeg says that there is too little: nothing is wrong with the file then."""
    if isinstance(error, MemoryError):
        raise MemoryError(str(error)) from None


def track_remarks(container, stream):
    """Which track is the video, if a file has several."""
    tracks = [track.index for track in video_tracks(container)]
    if len(tracks) == 1:
        return []
    unknown = sum(track.codec_context is None for track in video_tracks(container))
    return [f"{len(tracks)} video tracks" + f", {unknown} in a codec that is not known here" * bool(unknown)
            + f": number {tracks.index(stream.index) + 1} is used"]


# ---- its pictures ---------------------------------------------------------------------------------------------------

class Decoding:
    """Iterates over PyAV's frames of a video track, in the order in which they are shown.

    A packet that cannot be decoded does not end it. Interlaced pictures are deinterlaced, HDR ones are converted to
    BT.709 with 8 bits, in which whatever is brighter than ordinary white is white. `remarks` says what there was.
    """

    def __init__(self, container, stream, stamps=None):
        """stamps: when pictures appear, in ticks, in place of what the container says of them."""
        self.container, self.stream, self.stamps = container, stream, stamps
        self.unreadable, self.damaged = [], []  # time stamps in ticks
        self.first, self.count = None, 0  # time stamp of the first frame, number of frames
        self.interlaced, self.hdr, self.sizes = False, None, []

    def remarks(self, stamps):
        """Texts: what was not as it should be with pictures of these time stamps (P,), in ticks."""
        sizes = [f"{width} x {height}" for width, height in self.sizes]
        lost, damaged = (sum(stamp <= stamps[-1] for stamp in of) for of in (self.unreadable, self.damaged))
        if self.stream.codec_context.codec.canonical_name in ONE_EACH and not self.interlaced and self.stamps is None:
            lost = max(lost, sum(stamps >= self.first) - self.count)  # some packets decode to nothing without an error
        said = {f"{lost:,} of {len(stamps):,} pictures unreadable, the one before shown": lost,
                f"{damaged:,} of {len(stamps):,} pictures damaged, shown as far as they can be decoded": damaged,
                "interlaced pictures deinterlaced": self.interlaced,
                f"HDR pictures ({self.hdr}) turned into ordinary ones (BT.709)": self.hdr,
                f"the size of the pictures changes: {', '.join(sizes)}": len(sizes) > 1}
        return [text for text, so in said.items() if so]

    def __iter__(self):
        """A thread decodes the next ones meanwhile; not in worker processes: they use all cores."""
        stream = self.stream
        alone, pixels = multiprocessing.parent_process() is None, max(1, stream.width * stream.height)
        stream.codec_context.options = {"max_pixels": str(PIXELS)}  # the header may say less than comes
        if stream.codec_context.name == "hevc":  # or all that follow a bad one are left out; others show them anyway
            stream.codec_context.flags |= Flags.output_corrupt
        by_packet = self.stamps is not None and stream.codec_context.name == "mpeg4"  # what comes of each is counted
        stream.thread_type = "AUTO"
        stream.thread_count = DECODERS if alone and pixels > LARGE and not by_packet else 1
        pictures = self._converted()
        if not alone:
            yield from pictures
            return
        at_once, waiting = max(1, min(AHEAD[0], AHEAD_PIXELS // pixels)), AHEAD[1]
        with ThreadPoolExecutor(1) as thread:  # in groups: to wake a thread for each picture costs more than it saves
            def following():
                return thread.submit(lambda: list(itertools.islice(pictures, at_once)))
            groups = deque(following() for _ in range(waiting))
            while group := groups.popleft().result():
                groups.append(following())
                yield from group

    def _packets(self):
        """Yields (packet, its frames or None if it cannot be decoded), up to where the file cannot be read."""
        with contextlib.suppress(av.error.FFmpegError):  # read_frames sees what is missing then
            for packet in packets_of(self.container, self.stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    check_memory(error)
                    frames = None
                yield packet, frames

    def _decoded(self):
        """Yields the frames as they are stored, from the first one that can be decoded completely."""
        place, begun = 0, False  # place of the next picture among those of the file
        for packet, frames in self._packets():
            if frames is None:
                stamp = packet.pts if self.stamps is None else self._stamp(place)
                self.unreadable.append(-1 if stamp is None else stamp)
                place += 1
                continue
            if not frames and 0 < packet.size < NOT_CODED and self.stream.codec_context.name == "mpeg4":
                place += 1
            for frame in frames:
                if self.stamps is not None:
                    frame.pts, frame.time_base = self._stamp(place), self.stream.time_base
                place += 1
                begun = begun or not frame.is_corrupt
                if begun:
                    self.first = frame.pts if self.first is None else self.first
                    self.count += 1
                    self.damaged += [frame.pts or 0] * frame.is_corrupt
                    yield frame

    def _stamp(self, place):
        return self.stamps[min(place, len(self.stamps) - 1)]

    def _converted(self):
        """Yields them as they are to be shown. A graph of FFmpeg's filters holds some of them back."""
        graph = made_for = None
        for frame in self._decoded():
            if (size := (frame.width, frame.height)) not in self.sizes:
                self.sizes.append(size)
            self.interlaced |= frame.interlaced_frame
            hdr = HDR.get(frame.color_trc)
            self.hdr = self.hdr or hdr
            if not self.interlaced and not hdr and not graph:
                yield frame
                continue
            form = *size, frame.format.name, self.interlaced, hdr
            if form != made_for:
                yield from _pulled(graph, None) if graph else []
                graph, made_for = _graph(frame, self.interlaced, hdr), form
            yield from _pulled(graph, frame)
        yield from _pulled(graph, None) if graph else []


def _graph(frame, interlaced, hdr):
    """FFmpeg's filters for frames like this one."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    filters = [DEINTERLACE] * interlaced + [ORDINARY, ("format", "yuv420p")] * bool(hdr) + [("buffersink",)]
    graph.link_nodes(source, *[graph.add(*one) for one in filters]).configure()
    return graph


def _pulled(graph, frame):
    """Yields what comes out of a graph when `frame` (None: the end) goes in."""
    graph.vpush(frame)
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            yield graph.vpull()
