"""Several devices (or processes) that train one network: which goes first, and statistics of the whole batch."""
import contextlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from support.errors import SettingsError, torch_device
from support.machine import ABOUT


def has_bfloat16(device):
    """Whether a GPU, or the processor, has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        return any(word in ABOUT.read_text() for word in ("avx512_bf16", "amx_bf16"))
    return False


def world():
    """(number of this process, how many there are): (0, 1) unless torchrun started several."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextlib.contextmanager
def joined(cfg):
    """The torch device of this process, joined with the others if torchrun started several. Only the first one prints.

    Raises SettingsError if a batch cannot be shared evenly, or the device is not there.
    """
    local, size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch_device(cfg.device)
    torch.backends.cudnn.deterministic = True  # its faster ways to sum do so in an order that differs from run to run
    if size == 1:
        yield device
        return
    if cfg.batch_size % size:
        raise SettingsError(f"batch_size {cfg.batch_size} cannot be shared evenly by the {size} processes of torchrun")
    if device == torch.device("cuda"):
        device = torch_device(f"cuda:{local}")
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=1))  # the others wait while the first one validates
    try:
        with contextlib.ExitStack() as stack:
            if world()[0]:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_goes_first():
    """Runs the block in the first process before the others: they find what it has written."""
    if world()[0]:
        dist.barrier()
    yield
    if world()[0] == 0 and world()[1] > 1:
        dist.barrier()


def wait_for_others():
    """Returns when all processes have called it."""
    if world()[1] > 1:
        dist.barrier()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; backwards the same, as every process goes on with it."""

    @staticmethod
    def forward(ctx, tensor):
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.forward(ctx, gradient)


def whole_batch(tensor):
    """The rows of all processes' equal shares of a batch, in order, with gradients: (B / n, ...) -> (B, ...).

    CCC is a statistic of the whole batch: every process computes the loss of all of it. As DistributedDataParallel
    takes the mean of their gradients, which _Sum adds up, each weight gets the gradient that one process would give it.
    """
    rank, size = world()
    if size == 1:
        return tensor
    nothing = torch.zeros_like(tensor)
    return _Sum.apply(torch.cat([nothing] * rank + [tensor] + [nothing] * (size - rank - 1)))


def from_first(value, device):
    """A float as the first process has it."""
    if world()[1] == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics are those of all processes' equal shares: nn.SyncBatchNorm does that on GPUs
    alone."""

    def _check_input_dim(self, pictures):
        pass

    def forward(self, x):
        """(N, C, ...) -> the same. In float32, whatever comes in, as PyTorch's own."""
        if not self.training:
            return super().forward(x)
        given, x = x.dtype, x.float()
        dims, size = [0, *range(2, x.ndim)], world()[1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = _Sum.apply(x.mean(dims)) / size
        centred = x - mean.view(shape)
        var = _Sum.apply(centred.square().mean(dims)) / size
        with torch.no_grad():
            count = x.numel() / x.shape[1] * size
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        normed = centred * (var + self.eps).rsqrt().view(shape)
        return (normed * self.weight.view(shape) + self.bias.view(shape)).to(given)


def share_statistics(model):
    """The model itself; where several processes train it, its batch norms take the statistics of the whole batch."""
    if world()[1] > 1 and next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if world()[1] > 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.__class__ = SharedBatchNorm  # parameters, statistics and their names stay as they are
    return model
