"""Batches that are made while the previous one is in use."""
from concurrent.futures import ThreadPoolExecutor

import torch


def prefetch(batches, pin=False):
    """The same Batches, each made by a thread while the previous one is in use; pin: in memory that a GPU can fetch
    itself."""
    batches = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_pinned, batches, pin)
        while (batch := coming.result()) is not None:
            coming = pool.submit(_pinned, batches, pin)
            yield batch


def _pinned(batches, pin):
    batch = next(batches, None)
    return batch if batch is None or not pin else batch._replace(**{
        name: part.pin_memory() for name, part in batch._asdict().items() if torch.is_tensor(part)})
