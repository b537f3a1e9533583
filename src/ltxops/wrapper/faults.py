"""What a failed generation says about the machine it ran on. Decisions only.

PyTorch reports both as exceptions of a node. After a CUDA fault the process cannot use its GPU any more
(https://docs.pytorch.org/docs/stable/notes/cuda.html); after running out of memory it can.
"""

import re
from typing import Any, Literal

Fault = Literal["out_of_memory", "gpu_fault"]

#: Exceptions in which PyTorch speaks of the device. Others may quote what a user wrote.
_OF_THE_DEVICE = re.compile(r"(^|\.)(RuntimeError|AcceleratorError|OutOfMemoryError|CudaError)$")
_OUT_OF_MEMORY = re.compile(r"out of memory", re.IGNORECASE)
_GPU_FAULT = re.compile(
    r"CUDA error|device-side assert|illegal memory access|unspecified launch failure", re.IGNORECASE
)


def judge_error(error: dict[str, Any] | None) -> Fault | None:
    """Say what the data of an `execution_error` message means for its ComfyUI, or None when nothing."""
    kind = str((error or {}).get("exception_type", ""))
    message = str((error or {}).get("exception_message", ""))
    if kind.endswith("OutOfMemoryError"):
        return "out_of_memory"
    if not _OF_THE_DEVICE.search(kind):
        return None
    if _OUT_OF_MEMORY.search(message):
        return "out_of_memory"
    return "gpu_fault" if _GPU_FAULT.search(message) else None
