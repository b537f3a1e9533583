"""How a job that was admitted can fail, as exceptions on its way to its answer."""

from ltxops.errors import LtxopsError
from ltxops.wrapper.envelope import BACKEND_LOST


class JobFailed(LtxopsError):
    """The job does not succeed; `http_status` is that of its answer."""

    def __init__(self, message: str, http_status: int) -> None:
        super().__init__(message)
        self.http_status = http_status


class BackendLost(JobFailed):
    """ComfyUI, or its GPU, was lost with the job that it had: another one may do better."""

    def __init__(self, message: str) -> None:
        super().__init__(message, BACKEND_LOST)
