"""Sound of video and sound files as mono, in one pass and at exact times (PyAV).

Files are used as they are: what of a file cannot be heard is silent, what is done about the rest is said (`remarks`).
"""
import math

import av
import numpy as np
import soundfile

from support.decoding import check_memory, packets_of
from support.errors import UserError
from support.media import LONGEST_S, check_codec, open_media
from support.wavs import is_plain, refuse_joined, wav_remarks

PIECE = 65536  # samples of a WAV read at a time
JUMP_S = 0.05  # time stamps of sound that are off by less are rounding; by more, sound is missing or repeated
LATE_S = 0.2  # sound that begins later than the pictures by more is said to; containers are off by a packet or two
RATES = 1000, 2**20  # samples per second that a sound can have; fewer would be blown up without limit
LOST = 0.5  # largest share of a sound that may be unreadable
AGAIN = 100  # errors between packets after which a file is given up
JUNK = b"TAG", b"APETAGEX", b"ID3", b"LYRICS", b"\xff\xff\xff\xff"  # tags, and what recorders fill up files with
BARE = "mp3", "aac", "ac3", "eac3", "flac", "amr", "dts", "truehd"  # formats in which everything looks like sound
LISTEN_S = 10.0  # audible sound by which it is told in advance whether channels cancel
SILENT = 1e-4  # of full scale; in a track that reaches no further nothing was recorded
AUDIBLE = 1e-7  # mean square of sound that counts as audible: -70 dB of full scale
PART = 1024  # samples (every 4th) in which channels are compared
COMPARE_S = 0.1  # channels are compared every so many seconds: to compare all packets takes longer than to decode them
CANCELS = 0.1  # power of a mix, by that of unrelated channels of the same power: two channels then correlate at -0.9
CLIPPED = 0.001  # share of samples above full scale that is heard; codecs overshoot here and there
FAR = 2.0  # sound that reaches so far above full scale is not as a codec leaves it, be it a single sample
FULL_SCALE = {"u8": 2**7, "s16": 2**15, "s32": 2**31, "s64": 2**63, "flt": 1, "dbl": 1}  # of FFmpeg's formats


def read_sound(path, rate, start_s=None, channel=0, remarks=None):
    """Yields blocks (n,) int16 of a file's sound, mono at `rate` Hz, in order and without gaps.

    start_s: time stamp in the file at which they begin, silent where the sound begins later; None: at its first sample.
    channel: the one to take, from 1 on; 0: their mix. remarks: list to which is added, after the last block, what is
    not as it should be, and what was done about it. Raises UserError if there is no sound or it cannot be read.
    """
    if start_s is None:
        refuse_joined(path)
    mix, lost, timeline, told = _planned(path, channel), Lost(), Timeline(rate, start_s), wav_remarks(path)
    if start_s is None and is_plain(path):
        blocks = _plain_sound(path, rate, mix)
    else:
        blocks = _timed_sound(path, mix, lost, timeline, told)
    samples, heard = 0, False
    for block in blocks:
        samples, heard = samples + len(block), heard or bool(block.any())
        yield block
    if not samples:
        raise UserError(f"{path} holds no sound: " + (f"none of its {lost.packets} packets can be decoded: replace it"
                                                      if lost.packets else "its sound track is empty"))
    if lost.seconds > LOST * max(samples / rate, lost.seconds):
        raise UserError(f"{path} is damaged: {lost.seconds:.1f} s of its sound cannot be decoded, "
                        f"{max(0, samples / rate - lost.seconds):.1f} s can: replace it")
    if remarks is not None:
        silent = [] if heard else ["its sound is digital silence from end to end"]
        remarks += told + timeline.remarks(lost) + lost.remarks() + mix.remarks() + silent


def sound_track(container, path):
    """PyAV stream of a file's sound: of several tracks that can be decoded the default one, else the first of them;
    those that are digital silence are passed over. Raises UserError if there is none.
    """
    tracks = container.streams.audio
    if not tracks:
        raise UserError(f"{path} has no sound track: put the sound of this recording into audio/ as {path.stem}.wav")
    ranked = _ranked(tracks)
    track = next((one for one in ranked if len(ranked) > 1 and not _is_silent(path, one.index)), ranked[0])
    check_codec(track, path)
    rate = track.codec_context.sample_rate
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{path} is damaged: its sound would have {rate} samples per second, {RATES[0]} to {RATES[1]} "
                        "were expected: replace it")
    return track


def _ranked(tracks):
    """Those that can be decoded, if any can, the default one first."""
    known = [track for track in tracks if track.codec_context is not None] or tracks
    return sorted(known, key=lambda track: not track.disposition & av.stream.Disposition.default)


def _is_silent(path, index):
    """Whether a track is silent from end to end."""
    with open_media(path) as container:
        frames = _frames(container, container.streams[index], Lost())
        return not any(frame is not None and np.abs(_samples(frame)).max(initial=0) > SILENT for frame in frames)


# ---- packets and times ----------------------------------------------------------------------------------------------

class Lost:
    """Packets of a sound track that cannot be decoded."""

    def __init__(self):
        self.packets, self.seconds = 0, 0.0
        self.from_s, self.to_s = math.inf, -math.inf  # time stamps of the first one's beginning, of the last one's end
        self.unstamped_s = 0.0  # how much too early later time stamps are: bare formats only count packets

    def add(self, packets, bytes_per_s=None):
        """Counts PyAV's packets. bytes_per_s: of a bare format, in which one holds all bytes up to the next header."""
        for packet in packets:
            stamped = float((packet.duration or 0) * packet.time_base)
            seconds = max(stamped, packet.size / bytes_per_s) if bytes_per_s else stamped
            self.packets, self.seconds = self.packets + 1, self.seconds + seconds
            self.unstamped_s += seconds - stamped
            if packet.pts is not None:
                time_s = float(packet.pts * packet.time_base)
                self.from_s, self.to_s = min(self.from_s, time_s), max(self.to_s, time_s + seconds)

    def remarks(self):
        """What was lost, and what is there instead."""
        plural = "s" * (self.packets > 1)
        text = f"{self.packets} packet{plural} of its sound ({self.seconds:.2f} s) unreadable: silent there"
        return [text] if self.packets else []


class Timeline:
    """Puts sound where its time stamps say."""

    def __init__(self, rate, start_s=None):
        self.rate, self.start_s = rate, start_s
        self.exact = True  # the next block is put exactly there, not after the one before unless it is far off
        self.done, self.late, self.silent, self.repeated = 0, 0, 0, 0  # samples
        self.lost_s, self.gap_s, self.shift_s = 0.0, 0.0, 0.0  # all, just now; how much too early time stamps are

    def skip(self, lost):
        """Takes note that packets before the next block were lost."""
        self.exact, self.shift_s = True, lost.unstamped_s
        self.lost_s, self.gap_s = lost.seconds, lost.seconds - self.lost_s

    def place(self, block, time_s):
        """Yields a block (n,) int16 whose first sample has a time stamp, after silence or without its beginning.

        time_s: None if it has none: it follows the one before and what was lost.
        """
        ahead = round(self.gap_s * self.rate)
        if time_s is not None:
            ahead = round((time_s + self.shift_s - self.start_s) * self.rate) - self.done
        if not self.exact and abs(ahead) > JUMP_S * self.rate:
            self.repeated += min(max(0, -ahead), len(block))
        elif not self.exact:
            ahead = 0
        elif not self.done:
            self.late = max(0, ahead)
        yield from self.silence(ahead)
        block = block[max(0, -ahead):]
        self.exact, self.gap_s, self.done = self.exact and not len(block), 0.0, self.done + len(block)
        yield block

    def silence(self, samples):
        """Yields as much silence, in blocks."""
        for first in range(0, samples, PIECE):
            yield np.zeros(min(PIECE, samples - first), np.int16)
        self.done, self.silent = self.done + max(0, samples), self.silent + max(0, samples)

    def remarks(self, lost):
        """Where there was no sound, or more than one."""
        late, repeated = self.late / self.rate, self.repeated / self.rate
        missing = (self.silent - self.late) / self.rate - lost.seconds
        return ([f"its sound begins {late:.2f} s late: silent before"] * (late > LATE_S)
                + [f"{missing:.1f} s of its sound missing by its time stamps: silent there"] * (missing > JUMP_S)
                + [f"{repeated:.1f} s of its sound stamped as a time that was over: left out"] * (repeated > 0))


def _timed_sound(path, mix, lost, timeline, told):
    """Yields the blocks of read_sound by time stamps; silent where sound is missing. told: a list of remarks."""
    with open_media(path) as container:
        stream = sound_track(container, path)
        told += _about_tracks(container, stream)
        for frame in _resampled(_frames(container, stream, lost), timeline.rate, mix):
            if frame is None:
                timeline.skip(lost)
                continue
            if frame.time is None and timeline.start_s is not None and not timeline.done:
                raise UserError(f"{path} is damaged: its sound has no time stamp: replace it")
            if timeline.start_s is None:
                timeline.start_s = min(frame.time or 0.0, lost.from_s)
            if not abs((frame.time or 0) - timeline.start_s) < LONGEST_S:
                raise UserError(f"{path} is damaged: by its time stamps its sound would be "
                                f"{abs(frame.time - timeline.start_s):.3g} s long: replace it")
            yield from timeline.place(frame.to_ndarray()[0], frame.time)
        if timeline.done and lost.packets:  # the last packets
            end = min(lost.to_s - timeline.start_s, timeline.done / timeline.rate + lost.seconds)
            yield from timeline.silence(round(max(0, end) * timeline.rate) - timeline.done)


def _about_tracks(container, stream):
    tracks = container.streams.audio
    if len(tracks) < 2:
        return []
    number = [track.index for track in tracks].index(stream.index) + 1
    default = "the default one, " * bool(stream.disposition & av.stream.Disposition.default)
    names = [stream.metadata.get(key, "") for key in ("title", "language")]
    name = ", ".join(name for name in names if name not in ("", "und"))
    first = _ranked(tracks)[0].index
    silent = f", as number {[track.index for track in tracks].index(first) + 1} is silent" * (first != stream.index)
    return [f"it has {len(tracks)} sound tracks: {default}number {number}{f' ({name})' * bool(name)} is "
            f"used{silent}"]


def _frames(container, stream, lost):
    """Yields PyAV's frames of a sound track, and None where packets before the next one could not be decoded."""
    if stream.codec_context.name == "flac":  # else its checksums are not looked at: noise in place of damaged sound
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    failed, size, read_s, bare = [], 0, 0.0, container.format.name in BARE
    decoder = _decoder(stream.codec_context)
    for packet in _packets(container, stream, lost):
        try:
            frames = decoder.decode(packet) if decoder else packet.decode()
        except av.error.FFmpegError as error:
            check_memory(error)
            failed.append(packet)
            continue
        if frames and failed:
            in_between = [one for one in failed if read_s or not (bare and _is_junk(one))]
            lost.add(in_between, size / read_s if bare and read_s else None)
            failed = []
            yield None
        if packet.duration:
            size, read_s = size + packet.size, read_s + float(packet.duration * packet.time_base)
        yield from frames
    lost.add([one for one in failed if not (bare and _is_junk(one))])


def _decoder(codec):
    """The decoder of a WAV of 24 bits in 32, which FFmpeg takes for floats of Cool Edit; None: FFmpeg's own."""
    if codec.name != "pcm_f24le":
        return None
    decoder = av.CodecContext.create("pcm_s32le", "r")
    decoder.sample_rate, decoder.layout = codec.sample_rate, codec.layout
    return decoder


def _packets(container, stream, lost):
    """Yields the packets of a track, also those after bytes that are none."""
    for _ in range(AGAIN):
        try:
            yield from packets_of(container, stream)
            return
        except av.error.InvalidDataError as error:
            damage = error
            lost.packets += 1
        except av.error.BlockingIOError:  # bytes that are no packets, up to the end of an .ts
            return
    raise damage


def _is_junk(packet):
    """Whether a packet holds no sound: a tag, or what a recorder filled its file up with."""
    data = bytes(packet)
    return data.startswith(JUNK) or not data.strip(data[:1])


def _resampled(frames, rate, mix):
    """Yields PyAV's frames of sound, mono int16 at `rate` Hz; None where sound is missing before the next one."""
    resampler, made_for = None, None
    for frame in frames:
        form = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != made_for:  # broadcasts switch between stereo and mono
            yield from (resampler.resample(None) if resampler else [])
            resampler, made_for = frame and av.AudioResampler(format="s16", layout="mono", rate=rate), form
        yield from (resampler.resample(mix(frame)) if frame else [None])
    yield from (resampler.resample(None) if resampler else [])


def _plain_sound(path, rate, mix):
    """The same samples as by way of FFmpeg, bit for bit, in half the time or less: it reads fewer and larger pieces."""
    try:
        with soundfile.SoundFile(path) as file:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            same = (file.samplerate, file.channels) == (rate, 1)
            while len(samples := file.read(PIECE, dtype="int16", always_2d=True)):
                if same:
                    yield samples[:, 0]
                else:
                    layout = "mono" if file.channels == 1 else "stereo"
                    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", layout)
                    frame.sample_rate = file.samplerate
                    yield from (made.to_ndarray()[0] for made in resampler.resample(mix(frame)))
            yield from (made.to_ndarray()[0] for made in resampler.resample(None) if not same)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read to its end ({error}): replace it") from None


# ---- channels and levels --------------------------------------------------------------------------------------------

class Mix:
    """What becomes of the channels and levels of a sound: Mix(frame) -> PyAV frame, for a resampler to make it mono.

    A frame with which nothing is wrong is returned as it is: the resampler mixes its channels by their layout.
    """

    def __init__(self, channel=0, scale=1.0, said=()):
        """channel: the one to take; 0: all; scale: to multiply by; said: remarks."""
        self.channel, self.scale, self.said = channel, scale, list(said)
        self.samples, self.broken, self.above, self.peak = 0, 0, 0, 0.0  # of formats that can hold such
        self.waiting_s, self.audible_s, self.cancelled_s = math.inf, 0.0, 0.0  # waiting: since channels were compared
        self.powers, self.power = 0.0, 0.0  # (C,) of the channels and of their mix, times seconds

    def __call__(self, frame):
        channels, unknown = frame.layout.nb_channels, _is_unknown(frame.layout)
        real = frame.format.name.startswith(("flt", "dbl"))
        self.waiting_s += frame.samples / frame.sample_rate
        compare = channels > 1 and self.waiting_s > COMPARE_S and frame.samples > 0
        if not (real or compare or channels >= self.channel > 0 or unknown):
            return frame
        sound = _samples(frame)
        usable = self._usable(sound) if real else sound
        if channels >= self.channel > 0:
            return _frame_of(usable[self.channel - 1:self.channel], frame)
        if unknown:
            mixed = _frame_of(usable.mean(0, keepdims=True), frame)
        else:
            mixed = frame if usable is sound else _frame_of(usable, frame)
        if compare:
            self._compare(usable, mixed)
        return mixed

    def _usable(self, sound):
        """`sound` itself, or without what is no number and at the scale that fits."""
        peak = np.abs(sound).max(initial=0)
        self.samples += sound.size
        if peak <= 1 and self.scale == 1:
            return sound
        numbers = np.isfinite(sound)
        if not numbers.all():
            self.broken += int((~numbers).sum())
            sound = np.where(numbers, sound, np.float32(0))
            peak = np.abs(sound).max(initial=0)
        sound = sound if self.scale == 1 else sound * np.float32(self.scale)
        self.above, self.peak = self.above + int((np.abs(sound) > 1).sum()), max(self.peak, float(peak))
        return np.clip(sound, -1, 1) if peak * self.scale > FAR else sound  # FFmpeg clips less, and wraps far more

    def _compare(self, sound, mixed):
        """Notes whether the channels of a piece of sound cancel in its mix."""
        seconds, self.waiting_s = min(self.waiting_s, sound.shape[1] / mixed.sample_rate + COMPARE_S), 0.0
        if mixed.layout.nb_channels > 2:
            mixer = av.AudioResampler(format="fltp", layout="mono", rate=mixed.sample_rate)
            mono = np.concatenate([made.to_ndarray()[0] for made in mixer.resample(mixed) + mixer.resample(None)])
        else:
            mono = sound.mean(0)
        powers, power = _powers(sound), _powers(mono)
        audible = powers.max(0) > AUDIBLE
        share = seconds / len(audible)
        self.audible_s += share * audible.sum()
        self.cancelled_s += share * (_cancels(powers, power) & audible).sum()
        same = np.shape(self.powers) in ((), powers.shape[:1])  # or the number of channels has changed
        self.powers, self.power = ((self.powers if same else 0) + share * (powers * audible).sum(1),
                                   (self.power if same else 0) + share * (power * audible).sum())

    def remarks(self):
        """What was wrong, and what was done about it."""
        found = list(self.said)
        if self.broken:
            found.append(f"{self.broken} of its {self.samples} samples are no numbers (NaN or infinite): silent there")
        if self.above > CLIPPED * self.samples or self.peak * self.scale > FAR:
            found.append(f"{self.above} of its {self.samples} samples are above full scale (peak "
                         f"{self.peak:.3g}): clipped there")
        if self.cancelled_s > max(1, 0.1 * self.audible_s):
            found.append(f"its channels cancel in {self.cancelled_s:.1f} s: nearly silent there (--audio-channel 1 "
                         "takes the first alone)")
        return found


def _planned(path, channel):
    """The Mix for a file. Reads some of it: what decides is how channels relate and, in floats, the peak.

    Raises UserError if there is no such channel.
    """
    trial = Mix(channel)
    with open_media(path) as container:
        stream = sound_track(container, path)
        codec, layout = stream.codec_context.name, stream.codec_context.layout
        channels, unknown = layout.nb_channels, _is_unknown(layout)
        if channel > channels > 0:
            raise UserError(f"{path} has {channels} channel{'s' * (channels > 1)} of sound, no channel {channel} "
                            "(--audio-channel)")
        floats = codec.startswith(("pcm_f32", "pcm_f64"))
        if not floats and (channels == 1 or channel):
            return trial
        for frame in _frames(container, stream, Lost()):
            if frame is not None:
                trial(frame)
            if not floats and trial.audible_s > LISTEN_S:
                break
    said, scale = [], 1.0
    if floats and trial.above > CLIPPED * trial.samples:
        scale = 1 / trial.peak
        said.append(f"its samples reach {trial.peak:.4g}, full scale is 1: scaled by {scale:.3g}")
    if np.ndim(trial.powers) and _cancels(trial.powers, trial.power):
        channel = int(np.argmax(trial.powers)) + 1
        cancel = " (they cancel)" * (channels == 2 or unknown)
        said.append(f"its {channels} channels are nearly silent when mixed{cancel}: channel {channel} alone is used")
    elif not channel and unknown:
        said.append(f"its {channels} channels are averaged (--audio-channel 1 takes the first alone)")
    return Mix(channel, scale, said)


def _is_unknown(layout):
    """Whether a file does not say what its channels are. One or two need not be said: mono, stereo."""
    return layout.nb_channels > 2 and layout.name == f"{layout.nb_channels} channels"


def _cancels(powers, power):
    """Whether a mix of `power` is far weaker than it would be if channels of these `powers` had nothing in common."""
    return power < CANCELS * powers.sum(0) / len(powers) ** 2


def _powers(sound):
    """Mean squares of (..., n) samples in P parts: (..., P)."""
    some = sound[..., ::4]
    width = max(1, min(some.shape[-1], PART))
    parts = some[..., :some.shape[-1] // width * width].reshape(*some.shape[:-1], -1, width)
    return np.square(parts).mean(-1)


def _samples(frame):
    """(C, n) float32 of a PyAV frame; full scale is 1."""
    kind, stored = frame.format.name.removesuffix("p"), frame.to_ndarray()
    if not frame.format.is_planar:
        stored = stored.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(over="ignore"):  # becomes infinite
        sound = stored.astype(np.float32)
    return sound if FULL_SCALE[kind] == 1 else (sound - 128 * (kind == "u8")) / np.float32(FULL_SCALE[kind])


def _frame_of(sound, like):
    """PyAV frame of (C, n) float32 with the times of another one; in its form, unless that has other channels."""
    if len(sound) == like.layout.nb_channels and like.format.name.startswith(("flt", "dbl")):
        form, layout = like.format.name, like.layout.name
    else:
        form, layout = "fltp", {1: "mono", 2: "stereo"}.get(len(sound), like.layout.name)
    stored = sound if form.endswith("p") else sound.T.reshape(1, -1)
    stored = np.ascontiguousarray(stored, np.float64 if "dbl" in form else np.float32)
    frame = av.AudioFrame.from_ndarray(stored, form, layout)
    frame.sample_rate, frame.pts = like.sample_rate, like.pts
    if like.time_base is not None:
        frame.time_base = like.time_base
    return frame
