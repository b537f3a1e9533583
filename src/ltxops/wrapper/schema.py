"""The request and the result envelope of the API wrapper, as typed models.

The field names are those that clients of Vast's LTX-2 template already use. The models describe both sides in
the OpenAPI document; `requests.py` turns a body into a job with them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StrictInt

JobStatus = Literal["queued", "generating", "processing", "completed", "failed", "cancelled"]

#: What a job may be called: it becomes a folder name, a URL segment and a line in a log.
REQUEST_ID_PATTERN = r"[A-Za-z0-9_-]{1,128}"


def _empty_is_absent(value: object) -> object:
    """Clients fill a form they do not use with empty strings; that means "not given"."""
    return None if isinstance(value, str) and not value.strip() else value


def _say_so(schema: dict[str, Any]) -> None:
    """Document that such a field may be an empty text, too."""
    schema["anyOf"].append({"type": "string", "pattern": r"^\s*$"})


OptionalText = Annotated[str | None, BeforeValidator(_empty_is_absent)]


class S3Settings(BaseModel):
    """Where the outputs of this one job go, instead of where the host's own settings say.

    Given at all, it must name keys and bucket itself: nothing is filled in from the host's.
    """

    access_key_id: OptionalText = Field(default=None, repr=False)
    secret_access_key: OptionalText = Field(default=None, repr=False)
    endpoint_url: OptionalText = Field(default=None, description="Absent: Amazon S3")
    bucket_name: OptionalText = None
    region: OptionalText = None
    url_expiry_seconds: Annotated[StrictInt | None, BeforeValidator(_empty_is_absent)] = Field(
        default=None,
        json_schema_extra=_say_so,
        description="How long the links are valid, at most 604800 (7 days). May be given alone, for links to "
        "the host's own bucket.",
    )

    def given(self) -> bool:
        """True when a field of the destination has a value."""
        return any(value is not None for value in self.model_dump(exclude={"url_expiry_seconds"}).values())


class WebhookSettings(BaseModel):
    """Whom to tell when the job is done, instead of the host's own webhook."""

    url: OptionalText = None
    extra_params: Annotated[dict[str, Any] | None, BeforeValidator(_empty_is_absent)] = Field(
        default=None,
        json_schema_extra=_say_so,
        description="Sent back as they are, under the same name. Without a URL: to the host's webhook",
    )

    def given(self) -> bool:
        """True when the request names somebody to call."""
        return self.url is not None


#: What is sure of a node before ComfyUI sees it.
_NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"class_type": {"type": "string"}, "inputs": {"type": "object"}},
}


class GenerateInput(BaseModel):
    """One job."""

    request_id: OptionalText = Field(
        default=None,
        json_schema_extra={"pattern": rf"^(\s*|{REQUEST_ID_PATTERN})$"},
        description="Letters, digits, `-` and `_`, at most 128. Made up when absent or empty. The same "
        "id with the same body answers the same job; with another body it is refused (409).",
    )
    workflow_json: dict[str, Any] = Field(
        json_schema_extra={"additionalProperties": _NODE},
        description="The graph in ComfyUI's API format. A value that is exactly `__RANDOM_INT__` becomes a "
        "random integer, another one at each place.",
    )
    s3: Annotated[S3Settings | None, BeforeValidator(_empty_is_absent)] = Field(
        default=None, json_schema_extra=_say_so
    )
    webhook: Annotated[WebhookSettings | None, BeforeValidator(_empty_is_absent)] = Field(
        default=None, json_schema_extra=_say_so
    )


class GenerateRequest(BaseModel):
    """Body of the three `POST /generate…` requests."""

    input: GenerateInput


class OutputItem(BaseModel):
    """One file that the graph wrote."""

    filename: str = Field(description="Its name as ComfyUI reports it")
    local_path: str = Field(description="Where it lies on this host, in a folder of its job")
    type: str = Field(description="ComfyUI's folder: output or temp")
    subfolder: str
    node_id: str
    output_type: str = Field(description="The list it was reported under: images, videos, gifs or audio")
    url: str | None = Field(
        default=None,
        description="A presigned link to it in S3; absent when it was not uploaded",
        exclude_if=lambda url: url is None,
    )


class Timings(BaseModel):
    """How long each part took, in milliseconds; `total` runs from the request's arrival."""

    queued: float = Field(description="Waiting here and in ComfyUI's queue")
    preprocess: float = Field(description="Checked, recorded, its inputs fetched")
    generation: float = Field(description="ComfyUI at work")
    postprocess: float = Field(description="Outputs put into the folder of the job, and uploaded")
    total: float


class Envelope(BaseModel):
    """What is known of a job, finished or not."""

    id: str
    message: str
    status: JobStatus
    comfyui_response: dict[str, Any] = Field(
        default_factory=dict,
        description="ComfyUI's history entry under its prompt id, and `execution_details`: prompt_id, "
        "nodes_executed, progress_updates (time, value, max, percentage), completed, error",
    )
    output: list[OutputItem] = Field(default_factory=list)
    timings: Timings | dict[str, float] = Field(default_factory=dict)


class ErrorBody(BaseModel):
    """A request that did not become a job; `error` and `node_errors` are ComfyUI's where it refused."""

    id: str | None
    status: Literal["failed"] = "failed"
    message: str
    error: dict[str, Any]
    node_errors: dict[str, Any] = Field(default_factory=dict)


class BackendHealth(BaseModel):
    """One ComfyUI process as last seen."""

    url: str
    state: Literal["up", "slow", "down", "faulty"] = Field(
        description="faulty: its GPU failed a job and ComfyUI has not restarted since"
    )
    http: bool = Field(description="It answers requests")
    websocket: bool = Field(description="It reports progress")
    error: str | None
    running: int = Field(description="Jobs that it has from this wrapper")
    queue_remaining: int = Field(description="Jobs that it says it has, those of others included")


class JobCounts(BaseModel):
    """The unfinished jobs of the wrapper."""

    queued: int
    running: int


class DiskHealth(BaseModel):
    """The disk that outputs go to."""

    free_bytes: int | None = Field(description="null where the disk cannot be asked")
    min_free_bytes: int = Field(description="Below this no job is taken or begun (507)")
    error: str | None = Field(description="Why no job is taken or begun now")


class Health(BaseModel):
    """Answer of `GET /health`."""

    status: Literal["ok", "degraded", "unavailable"] = Field(
        description="degraded: results are answered, and new jobs refused until the disk has room again"
    )
    backends: list[BackendHealth]
    jobs: JobCounts
    disk: DiskHealth


class QueueInfo(JobCounts):
    """Answer of `GET /queue-info`."""

    limit: int = Field(description="Unfinished jobs that there may be before more are refused (503)")
    draining: bool = Field(description="Whether new jobs are refused (503) while the host is updated")
    backends: list[BackendHealth]


class Accepted(BaseModel):
    """Answer of `POST /generate`: the job is kept, and `GET /result/{id}` has its end."""

    id: str
    status: JobStatus
    message: str


def request_body_schema() -> dict[str, Any]:
    """JSON schema of the request with its parts inline, for OpenAPI: the route itself reads raw bytes."""
    schema = GenerateRequest.model_json_schema()
    parts: dict[str, Any] = schema.pop("$defs")

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(parts[node["$ref"].rsplit("/", 1)[1]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(value) for value in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = inline(schema)
    return inlined
