"""frozen.py: backbones that stay as they are, and their features, computed once."""
import dataclasses

import numpy as np
import pytest
import torch
from conftest import CPU, TINY, call, kept_of, log_of, run_of, same, stop_at, tiny_config  # noqa: F401
from torch import nn

import frozen
import mmpkd
from checkpoints import load_checkpoint, load_model
from data import Clips, image_shapes, load_recordings
from frozen import VIEWS, Views, with_features
from models_kd import build_model, cnn
from scores import predict
from training import Training, train_epoch
