"""augmentation.py: faces shifted, flipped and brightened, sound shifted in time, the same over a clip."""
import torch
from conftest import CPU

from augmentation import augment, draw_augmentation, on_device, shift_in_time
from data import Batch


def images(clips=6, frames=4, side=32, seed=0):
    return torch.rand(clips, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def changed(frames, generator):
    return augment(frames, draw_augmentation(len(frames), generator))


def drawn(monkeypatch, down=0.5, right=0.5, flip=0.1, light=0.5, later=0.5):
    """Makes draw_augmentation() draw these: 0.5 is no shift and no change of light, a flip is 0.5 or more."""
    draw = torch.tensor([down, right, flip, light, later])[:, None]
    monkeypatch.setattr(torch, "rand", lambda *size, generator: draw.expand(size))


def test_augmentation_keeps_shape_and_range_and_follows_its_generator():
    clips = images()
    one, again, other = (changed(clips, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == clips.shape and 0 <= one.min() and one.max() <= 1
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(clips, images()), "the clips themselves were changed"


def test_augmentation_is_the_same_over_a_clip_and_differs_between_clips():
    still = images(8, 1).expand(8, 5, 3, 32, 32)
    moved = changed(still, torch.Generator().manual_seed(0))
    assert torch.equal(moved, moved[:, :1].expand_as(moved))
    alike = changed(images(1, 1).expand(8, 1, 3, 32, 32), torch.Generator().manual_seed(0))
    assert not any(torch.equal(alike[a], alike[b]) for a in range(8) for b in range(a))


def test_a_draw_in_the_middle_changes_nothing(monkeypatch):
    clips = images()
    drawn(monkeypatch)
    assert torch.equal(changed(clips, None), clips)


def test_a_flip_mirrors_left_and_right_and_nothing_else(monkeypatch):
    clips = images()
    drawn(monkeypatch, flip=0.9)
    assert torch.equal(changed(clips, None), clips.flip(4))


def test_a_shift_moves_the_image_and_repeats_its_border(monkeypatch):
    clips = images()
    drawn(monkeypatch, down=0.99, right=0.0)  # of -2 ... 2 pixels at 32
    moved = changed(clips, None)
    assert torch.equal(moved[..., :30, 2:], clips[..., 2:, :30])
    assert torch.equal(moved[..., 31, 2:], clips[..., 31, :30]) and torch.equal(moved[..., :30, 0], clips[..., 2:, 0])


def test_a_shifted_clip_is_mirrored_as_a_whole(monkeypatch):
    clips = images()
    drawn(monkeypatch, right=0.99)
    shifted = changed(clips, None)
    drawn(monkeypatch, right=0.99, flip=0.9)
    assert torch.equal(changed(clips, None), shifted.flip(4))


def test_light_scales_and_black_stays_black(monkeypatch):
    clips = images() * 0.5
    clips[0] = 0  # no face was found
    drawn(monkeypatch, light=1.0)
    brighter = changed(clips, None)
    assert torch.allclose(brighter, clips * 1.2) and (brighter[0] == 0).all()


def test_flips_come_half_the_time():
    clips = torch.zeros(2000, 1, 1, 16, 16)
    clips[..., :8] = 0.5
    flipped = changed(clips, torch.Generator().manual_seed(0))[:, 0, 0, 0, 15] > 0
    assert 0.45 < float(flipped.float().mean()) < 0.55


def test_sound_moves_in_time_alone_with_its_border_repeated_and_the_same_over_a_clip(monkeypatch):
    specs = torch.randint(0, 256, (2, 3, 1, 8, 50), dtype=torch.uint8)
    drawn(monkeypatch, later=0.99)  # of -5 ... 5 columns at 50
    later = shift_in_time(specs, draw_augmentation(2, None))
    assert torch.equal(later[..., :45], specs[..., 5:])
    assert torch.equal(later[..., 45:], specs[..., -1:].expand(2, 3, 1, 8, 5))
    drawn(monkeypatch)
    assert torch.equal(shift_in_time(specs, draw_augmentation(2, None)), specs)
    apart = shift_in_time(specs[:1].expand(8, 3, 1, 8, 50), torch.linspace(0, 0.99, 8).expand(5, 8))
    assert len({apart[k].numpy().tobytes() for k in range(8)}) == 8, "clips are not shifted each by its own"


def test_a_batch_of_sound_alone_is_augmented_too():
    batch = Batch(None, torch.randint(0, 256, (2, 3, 1, 8, 50), dtype=torch.uint8), torch.zeros(2, 3, 1))
    changes = draw_augmentation(2, torch.Generator().manual_seed(0))
    there = on_device(batch, CPU, changes)
    assert there.frames is None and torch.equal(there.specs, shift_in_time(batch.specs, changes) / 255)


def test_images_are_augmented_alike_as_bytes_and_as_floats():
    frames = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    changes = draw_augmentation(3, torch.Generator().manual_seed(0))
    assert torch.allclose(augment(frames, changes), augment(frames / 255, changes), atol=1e-6)


def test_on_a_device_images_are_floats_from_zero_to_one_and_the_rest_stays():
    frames = torch.tensor([0, 255], dtype=torch.uint8)[None, :, None, None, None].expand(1, 2, 3, 4, 4)
    gold, taught = torch.full((1, 2, 1), torch.nan), torch.rand(1, 2, 129)
    batch = on_device(Batch(frames, None, gold, taught, (("x", 0),)), CPU)
    assert batch.frames.dtype == torch.float32 and batch.frames.unique().tolist() == [0, 1] and batch.specs is None
    assert batch.gold.isnan().all() and torch.equal(batch.taught, taught) and batch.clips == (("x", 0),)
    augmented = on_device(batch, CPU, draw_augmentation(1, torch.Generator().manual_seed(0)))
    assert torch.equal(augmented.taught, taught), "a teacher's outputs are of the images as they are"
