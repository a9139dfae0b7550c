"""Work of a GPU that is recorded as a CUDA graph and replayed: one launch in place of hundreds."""
import warnings

import torch

from support.errors import UserError

WAITS = "called a synchronizing CUDA operation"  # in the warnings of torch.cuda.set_sync_debug_mode


class Replay:
    """Does the same work again and again: the first two times as it stands, then replayed from a recording of it.

    The first time loads kernels and chooses algorithms, which cannot be recorded. The second shows whether the
    processor waits for the GPU (an .item(), an `if` on a tensor): such work is never recorded, which is printed. A
    recording holds the GPU's operations and the addresses of their tensors, nothing of Python: its branches and numbers
    stay what they were. Random numbers follow torch.manual_seed as they do without.
    """

    def __init__(self, device):
        """device: a CUDA device; None: the work is never recorded."""
        self.device, self.done, self.graph = device, 0, None

    def __call__(self, work, tensors):
        """What work(*tensors) returns: (anything, tensor); the tensor is overwritten by the next call.

        tensors: on any device, or None; of the same shapes in every call.
        """
        self.done += 1
        if self.graph is None and self.device and self.done == 2:
            return self._watched(work, tensors)
        if self.graph is None and self.device and self.done > 2:
            self._record(work, tensors)
        if self.graph is None:
            return work(*tensors)
        for own, given in zip(self.tensors, tensors):
            if own is not None:
                own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.result

    def _watched(self, work, tensors):
        """The same as work(*tensors); gives up the recording if the processor waits for the GPU meanwhile."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work(*tensors)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        if waits := [warning for warning in caught if WAITS in str(warning.message)]:
            self.device = None
            print(f"a step waits for the GPU ({waits[0].filename}, line {waits[0].lineno}): it is not recorded as a "
                  "CUDA graph, and slower")
        return result

    def _record(self, work, tensors):
        self.tensors = [tensor if tensor is None else tensor.to(self.device, copy=True) for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self.device):
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread pins memory meanwhile
                    self.result = work(*self.tensors)
        except RuntimeError as error:
            raise UserError(f"a step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}): train with "
                            "--no-cuda-graph") from error
        self.graph = graph
