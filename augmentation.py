"""Augmentation: faces shifted, flipped and brightened, sound shifted in time; the same over a clip.

Shapes: B clips, T frames, S side of a crop in pixels, M mel bands, F spectrogram columns.
"""
import torch

SHIFT = 1 / 16  # a clip is shifted by up to this fraction of its side
LIGHT = 0.2  # its brightness changes by up to this fraction
LATER = 0.1  # and its sound is shifted by up to this fraction of a spectrogram's length


def draw_augmentation(clips, generator):
    """How each clip is augmented: five numbers from 0 to 1 for a shift down, a shift to the right, a flip, the
    brightness and a shift in time: (5, clips). generator: on the CPU, so that a seed gives the same on every device."""
    return torch.rand(5, clips, generator=generator)


def augment(frames, changes):
    """Crops shifted, flipped and brightened as draw_augmentation drew it, the same over a clip.

    (B, T, 3, S, S) uint8, or float in [0, 1] -> float in [0, 1]. Both lie on one device.
    """
    side, (down, right, flip, light, _) = frames.shape[-1], changes
    across = _shifted(right, int(side * SHIFT), side)
    across = torch.where(flip[:, None] < 0.5, across, across.flip(1))
    source = (_shifted(down, int(side * SHIFT), side)[:, :, None] * side + across[:, None, :]).flatten(1)
    light = 1 + LIGHT * (2 * light - 1)
    pixels = frames.flatten(3)
    moved = pixels.gather(3, source[:, None, None].expand(pixels.shape))  # while a pixel is one byte
    moved = moved.unflatten(3, frames.shape[3:])
    return (moved * (light / 255 if frames.dtype == torch.uint8 else light)[:, None, None, None, None]).clamp_max_(1)


def shift_in_time(specs, changes):
    """Spectrograms a little earlier or later, the same over a clip, the border repeated: (B, T, 1, M, F) -> the same.

    Neighbouring windows of sound are almost the same image but for this shift, which a network would otherwise
    memorise.
    """
    columns = specs.shape[-1]
    source = _shifted(changes[4], int(columns * LATER), columns)
    return specs.gather(4, source[:, None, None, None].expand(specs.shape))


def _shifted(draw, reach, size):
    """Where each of `size` pixels comes from after a shift of up to `reach`, the border repeated: (B,) in [0, 1] -> (B,
    size)."""
    shift = (draw * (2 * reach + 1)).floor().long() - reach
    return (torch.arange(size, device=draw.device) + shift[:, None]).clamp(0, size - 1)


def on_device(batch, device, changes=None):
    """The batch on the device, its images as float in [0, 1], augmented by `changes` (draw_augmentation); features in
    place of images stay as they are, those of a frozen backbone are those of one view."""
    frames, specs, gold, taught = (part if part is None else part.to(device, non_blocking=True) for part in batch[:4])
    if changes is not None:
        changes = changes.to(device, non_blocking=True)  # five numbers a clip: a GPU makes the large indices itself
        frames = augment(frames, changes) if _are_images(frames) else frames
        specs = shift_in_time(specs, changes) if _are_images(specs) else specs
    frames, specs = (_as_float(_one_view(part, changes)) for part in (frames, specs))
    return batch._replace(frames=frames, specs=specs, gold=gold, taught=taught)


def _one_view(part, changes):
    """Of (B, T, V, F), features of V views of images, those of the view that `changes` draw for each clip, or of the
    first: (B, T, F). Anything else stays as it is."""
    if part is None or part.ndim != 4:
        return part
    if changes is None:
        return part[:, :, 0].float()
    views = (changes[2] * part.shape[2]).long().clamp_max(part.shape[2] - 1)  # the second where it would be flipped
    return part[torch.arange(len(part), device=part.device), :, views].float()


def _are_images(part):
    """Whether a part of a batch is (B, T, C, H, W), and neither None nor features (B, T, D)."""
    return part is not None and part.ndim == 5


def _as_float(images):
    return images / 255 if images is not None and images.dtype == torch.uint8 else images
