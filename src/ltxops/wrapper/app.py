"""The wrapper's HTTP side: reads a request within bounds, asks the jobs, and answers in one shape."""

import json
import math
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ltxops import __version__
from ltxops.wrapper.apidocs import add_docs_page
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.jobs import Jobs
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import check_request_id, parse_request
from ltxops.wrapper.schema import Envelope, ErrorBody, Health, request_body_schema

#: Bodies up to this many bytes beyond the limit are read to their end before they are refused: an answer to a
#: client that is still sending is lost with the connection.
DRAIN_BYTES = 64 * 2**20

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong, or ComfyUI refused the graph"},
    409: {"model": ErrorBody, "description": "The request_id belongs to a job with another workflow"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    422: {"model": Envelope, "description": "ComfyUI took the graph and the generation failed"},
    500: {"model": Envelope, "description": "The wrapper itself failed on the job"},
    502: {"model": Envelope, "description": "ComfyUI, or the wrapper, failed or went away in mid-job"},
    503: {"model": ErrorBody, "description": "No ComfyUI answers, or the queue is full; see Retry-After"},
}


def create_app(jobs: Jobs, backends: Backends, *, max_body_bytes: int) -> FastAPI:
    """Return the application around `jobs` and `backends`, which the caller opens and closes."""
    app = FastAPI(
        title="ltxops API wrapper",
        version=__version__,
        description="Runs ComfyUI workflows: one request, one answer with the files it made.",
        # A redirect would name the address that this process sees, which is not the gateway's.
        redirect_slashes=False,
        # Both of FastAPI's pages load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
    )
    add_docs_page(app)

    @app.post(
        "/generate/sync",
        summary="Run a workflow and wait for its result",
        response_model=Envelope,
        responses=_ERRORS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request_body_schema()}},
            }
        },
    )
    async def generate_sync(request: Request) -> StrictJSON:
        arrived = time.monotonic()
        body = await _read_body(request, max_body_bytes)
        # In a thread: a graph of megabytes takes long enough to be felt by everybody else.
        wanted = await run_in_threadpool(parse_request, body)
        outcome = await jobs.run(wanted, arrived)
        return StrictJSON(outcome.body, outcome.http_status, outcome.headers)

    @app.get(
        "/result/{request_id}",
        summary="Ask how a job stands or ended",
        response_model=Envelope,
        responses={400: _ERRORS[400], 404: {"model": ErrorBody, "description": "No such job"}},
    )
    async def result(request_id: str) -> StrictJSON:
        envelope = await jobs.find(check_request_id(request_id))
        if envelope is None:
            raise Refused(
                404,
                "unknown_job",
                f"no job {request_id} is known here; results are kept for a week after their end",
            )
        return StrictJSON(envelope)

    @app.get(
        "/health",
        summary="Say whether a ComfyUI answers",
        response_model=Health,
        responses={503: {"model": Health, "description": "No ComfyUI answers"}},
    )
    async def health() -> StrictJSON:
        healthy = backends.healthy()
        report = Health(
            status="ok" if healthy else "unavailable", backends=backends.report(), jobs=jobs.counts()
        )
        return StrictJSON(report.model_dump(), 200 if healthy else 503)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> StrictJSON:
        return StrictJSON(error.body(), error.status, error.headers())

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> StrictJSON:
        refusal = Refused(
            error.status_code, "http_error", f"{error.detail}: see /docs for what is served here"
        )
        return StrictJSON(refusal.body(), error.status_code, error.headers)

    return app


class StrictJSON(JSONResponse):
    """JSON that every client can read, whatever ComfyUI and the request had in them.

    ComfyUI writes NaN (a node's IS_CHANGED) and half surrogate pairs as Python does: the first becomes null,
    the second stays escaped.
    """

    def render(self, content: Any) -> bytes:
        """Return `content` as ASCII."""
        try:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        except ValueError:
            return json.dumps(_finite(content), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def _read_body(request: Request, limit: int) -> bytes:
    """Return the body; raises Refused(413) when it has more than `limit` bytes, without keeping them."""
    too_large = Refused(413, "body_too_large", f"the body has more than {limit} bytes, which is the limit")
    announced = request.headers.get("content-length", "")
    announced_bytes = int(announced) if announced.isdecimal() else 0
    if announced_bytes > limit + DRAIN_BYTES or (announced_bytes > limit and "expect" in request.headers):
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            else:
                chunks.clear()
                if size > limit + DRAIN_BYTES:
                    raise too_large
    except ClientDisconnect:
        raise Refused(
            400, "incomplete_body", "the connection closed before the whole body was there"
        ) from None
    if size > limit:
        raise too_large
    return b"".join(chunks)
