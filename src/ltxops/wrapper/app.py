"""The wrapper's HTTP side: routes, their documentation, and one shape for every error."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from ltxops import __version__
from ltxops.generation import workflows
from ltxops.wrapper.answers import Bodies, StrictJSON
from ltxops.wrapper.apidocs import add_docs_page
from ltxops.wrapper.backends import Backends
from ltxops.wrapper.deliverer import Deliverer
from ltxops.wrapper.envelope import sentence
from ltxops.wrapper.jobs import Jobs
from ltxops.wrapper.metrics import Metrics
from ltxops.wrapper.refusals import Refused
from ltxops.wrapper.requests import JobRequest, check_request_id, parse_request
from ltxops.wrapper.schema import (
    REQUEST_ID_PATTERN,
    Accepted,
    Envelope,
    ErrorBody,
    Health,
    JobCounts,
    QueueInfo,
    request_body_schema,
)
from ltxops.wrapper.stream import job_events

#: Documented, and checked by hand: FastAPI's own refusal has another shape.
RequestId = Annotated[str, Path(json_schema_extra={"pattern": f"^{REQUEST_ID_PATTERN}$"})]

_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong, or ComfyUI refused the graph"},
    409: {"model": ErrorBody, "description": "The request_id belongs to a job with another body"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    502: {"model": ErrorBody, "description": "ComfyUI answers, but not to this"},
    503: {"model": ErrorBody, "description": "No ComfyUI answers, the queue is full, or the host drains"},
    507: {"model": ErrorBody, "description": "The disk of the outputs has no room for another job"},
}
_ENDED: dict[int | str, dict[str, Any]] = {
    **_REFUSED,
    422: {"model": Envelope, "description": "The generation failed, or the job was cancelled"},
    500: {"model": Envelope, "description": "The wrapper itself failed on the job"},
    502: {"model": Envelope | ErrorBody, "description": "ComfyUI was lost in mid-job, or an upload failed"},
    507: {"model": Envelope | ErrorBody, "description": "The disk of the outputs has no room for the job"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    400: _REFUSED[400],
    404: {"model": ErrorBody, "description": "No such job"},
}
#: What can be asked of a job next.
_LINKS = {
    "links": {
        name: {
            "operationRef": f"#/paths/~1{name}~1{{request_id}}/{method}",
            "parameters": {"request_id": "$response.body#/id"},
        }
        for name, method in (("result", "get"), ("cancel", "post"))
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": request_body_schema(),
                # It needs no weights, so that it runs on every host.
                "example": {"input": {"workflow_json": workflows.fill("check")}},
            }
        },
    }
}
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["status", "node", "progress", "result", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
        "description": "Events `status`, `node`, `progress`, and at the end `result` with the envelope",
    }
}


def create_app(
    jobs: Jobs, backends: Backends, deliverer: Deliverer, metrics: Metrics, *, max_body_bytes: int
) -> FastAPI:
    """Return the application around parts that the caller opens and closes."""
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
    _add_generate(app, jobs, deliverer, Bodies(max_body_bytes))
    _add_jobs(app, jobs)
    _add_host(app, jobs, backends, metrics)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> StrictJSON:
        metrics.refused(error.status)
        return StrictJSON(error.body(getattr(request.state, "job_id", None)), error.status, error.headers())

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> StrictJSON:
        refusal = Refused(
            error.status_code, "http_error", f"{error.detail}: see /docs for what is served here"
        )
        return StrictJSON(refusal.body(), error.status_code, error.headers)

    return app


def _add_generate(app: FastAPI, jobs: Jobs, deliverer: Deliverer, bodies: Bodies) -> None:
    """The three ways to ask for a job."""

    @asynccontextmanager
    async def asked(request: Request) -> AsyncIterator[tuple[JobRequest, float]]:
        arrived = time.monotonic()
        async with bodies.read(request) as body:
            # In a thread: a graph of megabytes takes long enough to be felt by everybody else.
            wanted = await run_in_threadpool(parse_request, body, deliverer.check)
            request.state.job_id = wanted.id
            yield wanted, arrived

    @app.post(
        "/generate/sync",
        summary="Run a workflow and wait for its result",
        response_model=Envelope,
        responses={200: _LINKS, **_ENDED},
        openapi_extra=_BODY,
    )
    async def generate_sync(request: Request) -> StrictJSON:
        async with asked(request) as (wanted, arrived):
            job = await jobs.start(wanted, arrived)
        del wanted  # the graph may be large and the wait long
        outcome = await jobs.outcome(job)
        if not await request.is_disconnected():
            jobs.fetched(job.id)
        return StrictJSON(outcome.body, outcome.http_status, outcome.headers)

    @app.post(
        "/generate",
        summary="Have a workflow run, and ask for its result later",
        status_code=202,
        response_model=Accepted,
        responses={
            200: {"model": Accepted, "description": "The job has ended already", **_LINKS},
            202: _LINKS,
            **_REFUSED,
        },
        openapi_extra=_BODY,
    )
    async def generate(request: Request) -> StrictJSON:
        async with asked(request) as (wanted, arrived):
            job = await jobs.start(wanted, arrived)
        ended = job.outcome.done()
        status = job.outcome.result().body["status"] if ended else job.status
        answer = Accepted(id=job.id, status=status, message=sentence(status))
        return StrictJSON(answer.model_dump(), 200 if ended else 202)

    @app.post(
        "/generate/stream",
        summary="Run a workflow and watch it",
        response_class=StreamingResponse,
        responses={**_REFUSED, **_EVENTS},
        openapi_extra=_BODY,
    )
    async def generate_stream(request: Request) -> StreamingResponse:
        async with asked(request) as (wanted, arrived):
            job = await jobs.start(wanted, arrived)

        async def events() -> AsyncIterator[bytes]:
            async for event in job_events(job):
                yield event
            jobs.fetched(job.id)

        # nginx and others pass it on as it comes.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _add_jobs(app: FastAPI, jobs: Jobs) -> None:
    """What is asked of one job."""

    def known(request_id: str, envelope: dict[str, Any] | None) -> StrictJSON:
        if envelope is None:
            raise Refused(
                404,
                "unknown_job",
                f"no job {request_id} is known here; results are kept for a week after their end",
            )
        return StrictJSON(envelope)

    @app.get(
        "/result/{request_id}",
        summary="Ask how a job stands or ended",
        response_model=Envelope,
        responses=_UNKNOWN,
    )
    async def result(request_id: RequestId) -> StrictJSON:
        envelope = await jobs.find(check_request_id(request_id))
        if envelope is not None and envelope["status"] in ("completed", "failed", "cancelled"):
            jobs.fetched(request_id)
        return known(request_id, envelope)

    @app.post(
        "/cancel/{request_id}",
        summary="End a job that waits or runs; its envelope says how it stands then",
        response_model=Envelope,
        responses=_UNKNOWN,
    )
    async def cancel(request_id: RequestId) -> StrictJSON:
        return known(request_id, await jobs.cancel(check_request_id(request_id)))


def _add_host(app: FastAPI, jobs: Jobs, backends: Backends, metrics: Metrics) -> None:
    """What is asked of the whole."""

    @app.get(
        "/health",
        summary="Say whether a ComfyUI takes jobs",
        response_model=Health,
        responses={503: {"model": Health, "description": "No ComfyUI takes jobs"}},
    )
    async def health() -> StrictJSON:
        healthy, disk = backends.healthy(), await jobs.room.look()
        report = Health(
            status="unavailable" if not healthy else "ok" if disk.error is None else "degraded",
            backends=backends.report(),
            jobs=JobCounts(**jobs.counts()),
            disk=disk,
        )
        return StrictJSON(report.model_dump(), 200 if healthy else 503)

    @app.get("/queue-info", summary="Say how much there is to do", response_model=QueueInfo)
    async def queue_info() -> StrictJSON:
        info = QueueInfo(
            **jobs.counts(), limit=jobs.limit, draining=jobs.draining(), backends=backends.report()
        )
        return StrictJSON(info.model_dump())

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
