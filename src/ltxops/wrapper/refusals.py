"""Why a request does not become a job: one class, one body shape, whoever refused it."""

from typing import Any

from ltxops.errors import LtxopsError
from ltxops.generation.comfyui import PromptRejected

#: Seconds after which a client may try again when the backend or the queue has no room for it now.
RETRY_AFTER_SECONDS = 10


class Refused(LtxopsError):
    """The request is answered with an error and leaves no job behind.

    `status` is the HTTP status, `kind` a stable word for programs, `error` and `node_errors` what ComfyUI
    said where it was ComfyUI that refused.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        error: dict[str, Any] | None = None,
        node_errors: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error or {"type": kind, "message": message, "details": "", "extra_info": {}}
        self.node_errors = node_errors or {}

    def headers(self) -> dict[str, str]:
        """Return Retry-After where waiting helps."""
        return {"Retry-After": str(RETRY_AFTER_SECONDS)} if self.status == 503 else {}

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """Return the answer: the fields of the envelope that a client looks at first, and ComfyUI's two."""
        return {
            "id": request_id,
            "status": "failed",
            "message": str(self),
            "error": self.error,
            "node_errors": self.node_errors,
        }


def rejected_by_comfyui(rejection: PromptRejected) -> Refused:
    """Turn ComfyUI's refusal of a graph into ours, with its own `error` and `node_errors` as they are."""
    error = rejection.body.get("error")
    nodes = rejection.body.get("node_errors")
    return Refused(
        rejection.status,
        "prompt_rejected",
        str(rejection),
        error=error if isinstance(error, dict) else None,
        node_errors=nodes if isinstance(nodes, dict) else None,
    )
