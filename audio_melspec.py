"""Step 3: audio segments -> log-mel spectrograms.

Reads   audio_segments/<id>/000000.wav ...
Writes  specs/<id>/000000.png ...   8-bit grey, n_mels rows (low frequencies first) x time; db_min is black, db_max white

    python audio_melspec.py --data-dir data
"""
import cv2
import librosa
import numpy as np
import soundfile
from tqdm import tqdm

from annotations import find_recordings, for_each, keep_settings
from config import UserError, parse_config, run_script, whole_folder

BATCH = 64  # segments at once: enough for the FFTs, small in memory


def log_mel(segments, rate, n_fft, hop_length, n_mels):
    """Log-mel power in dB (re 1, as librosa.power_to_db with no top_db): (..., N) -> (..., n_mels, 1 + N // hop_length)."""
    power = librosa.feature.melspectrogram(y=segments, sr=rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels)
    return librosa.power_to_db(power, ref=1.0, top_db=None)


def to_grey(db, db_min, db_max):
    """8-bit picture of dB values: db_min or less is 0, db_max or more 255; same shape, uint8."""
    return np.clip(np.rint((db - db_min) * (255 / (db_max - db_min))), 0, 255).astype(np.uint8)


def segment_paths(folder):
    """Paths of a recording's segments, frame 0 first. Raises UserError if one of them is missing."""
    there = {path.name for path in folder.glob("*.wav")}
    paths = [folder / f"{k:06d}.wav" for k in range(max(1, len(there)))]
    for path in paths:
        if path.name not in there:
            raise UserError(f"{path} is missing ({len(there)} segments are there): delete {folder}/ and run audio_extract.py")
    return paths


def read_segments(paths, rate, samples):
    """(n, samples) float32 of segment files. Raises UserError on one that is damaged or of other settings."""
    segments = np.empty((len(paths), samples), np.float32)
    for row, path in zip(segments, paths):
        try:
            sound, its_rate = soundfile.read(path, dtype="float32")
        except soundfile.LibsndfileError:
            sound, its_rate = np.empty(0), 0
        if sound.shape != row.shape or its_rate != rate:
            raise UserError(f"{path} is not a whole segment of {samples} samples at {rate} Hz: delete {path.parent}/ and "
                            "run audio_extract.py")
        row[:] = sound
    return segments


def draw(paths, folder, cfg, bar):
    """Writes the spectrograms of a recording's segments; `folder` appears when all of them are there."""
    samples = round(cfg.segment_s * cfg.audio_rate)
    with whole_folder(folder) as part:
        for start in range(0, len(paths), BATCH):
            batch = paths[start:start + BATCH]
            db = log_mel(read_segments(batch, cfg.audio_rate, samples), cfg.audio_rate, cfg.n_fft, cfg.hop_length, cfg.n_mels)
            for path, picture in zip(batch, to_grey(db, cfg.db_min, cfg.db_max)):
                (part / f"{path.stem}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            bar.update(len(batch))


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    folders = find_recordings([cfg.segments_dir], cfg.recordings, "run audio_extract.py first")
    keep_settings(cfg.specs_dir, cfg, "audio_rate segment_s n_fft hop_length n_mels db_min db_max", made_of=cfg.segments_dir)

    def work(name):
        paths, folder = segment_paths(folders[name]), cfg.specs_dir / name
        done = folder.exists()
        if not done:
            draw(paths, folder, cfg, bar)
        elif (there := len(list(folder.glob("*.png")))) != len(paths):
            raise UserError(f"{folder}/ holds {there} spectrograms for {len(paths)} segments: delete that folder to make it anew")
        tqdm.write(f"{name}: {len(paths)} spectrograms{' (done before)' * done}")
        return len(paths), done

    with tqdm(unit=" spectrograms", disable=None, leave=False) as bar:
        results = for_each(folders, work)
    made = sum(not done for _, done in results.values())
    print(f"{cfg.specs_dir}: {sum(frames for frames, _ in results.values())} spectrograms of {len(results)} recordings"
          + ("" if made else "; nothing to do, all were done before"))
    return {name: frames for name, (frames, _) in results.items()}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
