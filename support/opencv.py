"""OpenCV, which the scripts take from here: `from support.opencv import cv2`."""
import sys
from pathlib import Path

try:
    import cv2
except ImportError as error:  # while a script is imported, where run_script cannot report it
    raise SystemExit(f"{Path(sys.argv[0]).name}: error: OpenCV cannot be loaded ({error}): without a screen, pip "
                     "uninstall opencv-python and pip install opencv-python-headless; or install the system's "
                     "packages libgl1 and libglib2.0-0") from None

__all__ = ["cv2"]
