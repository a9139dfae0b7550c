"""Step 1 with frame retention: raw videos -> one aligned face crop per frame; one without a face repeats the last.

Frames before the first face show the first. Reads and writes what face_detector.py does. Run either of the two, or this
one afterwards: it then only fills the frames without a face.

    python face_detector_frameRetention.py --data-dir data
"""
from face_detector import main as detect_faces
from support.errors import run_script


def main(argv=None):
    return detect_faces(argv, script=__file__, doc=__doc__, retain=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
