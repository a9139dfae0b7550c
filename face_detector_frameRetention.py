"""Step 1 with frame retention: raw videos -> one aligned face crop per frame; a frame with no face repeats the last one.

Before the first face of a video the first one stands in. Reads and writes what face_detector.py does; run either of
them, or this one after that one: it then only fills the frames without a face.

    python face_detector_frameRetention.py --data-dir data
"""
from face_detector import main as detect_faces
from support.errors import run_script


def main(argv=None):
    return detect_faces(argv, script=__file__, doc=__doc__, retain=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
