"""The HTTP API, each route at `/x` and `/api/x`, answering as the recorded ComfyUI does."""

from typing import Any
from uuid import uuid4

from aiohttp import web

from ltxops.embedded.comfyui.catalog import MODEL_FOLDERS, weight_names
from ltxops.embedded.comfyui.engine import DEVICE, Engine, now_ms
from ltxops.embedded.comfyui.files import upload_image, view
from ltxops.embedded.comfyui.jobs import Job

ENGINE = web.AppKey("engine", Engine)
PAGE = f"""<!doctype html>
<title>{DEVICE}</title>
<h1>ltxops embedded engine</h1>
<p>This speaks ComfyUI's API and renders a moving test pattern. It is not LTX-2, and there is no GPU behind
it.</p>
"""


async def index(request: web.Request) -> web.Response:
    """Say what this is."""
    return web.Response(text=PAGE, content_type="text/html")


async def get_prompt(request: web.Request) -> web.Response:
    """Return how much there is to do."""
    return web.json_response(request.app[ENGINE].status())


async def post_prompt(request: web.Request) -> web.Response:
    """Check a graph and queue it. What is not JSON ends in aiohttp's 500, as in ComfyUI."""
    engine = request.app[ENGINE]
    body = await request.json()
    if "prompt" not in body:
        error = {
            "type": "no_prompt",
            "message": "No prompt provided",
            "details": "No prompt provided",
            "extra_info": {},
        }
        return web.json_response({"error": error, "node_errors": {}}, status=400)
    graph = body["prompt"]
    number = float(body["number"]) if "number" in body else engine.queue.number(front=bool(body.get("front")))
    verdict = engine.validate(graph)
    if verdict.error:
        return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
    extra: dict[str, Any] = dict(body.get("extra_data") or {})
    if "client_id" in body:
        extra["client_id"] = body["client_id"]
    extra["create_time"] = now_ms()
    prompt_id = str(body.get("prompt_id") or uuid4())
    engine.submit(Job(number, prompt_id, graph, extra, verdict.outputs))
    return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})


async def get_queue(request: web.Request) -> web.Response:
    """Return the running and the waiting jobs."""
    running, pending = request.app[ENGINE].queue.current()
    return web.json_response({"queue_running": running, "queue_pending": pending})


async def post_queue(request: web.Request) -> web.Response:
    """Drop waiting jobs: all, or those named."""
    engine = request.app[ENGINE]
    body = await request.json()
    if body.get("clear"):
        engine.queue.clear()
    for prompt_id in body.get("delete", []):
        engine.queue.delete(prompt_id)
    engine.tell_status()
    return web.Response()


async def post_interrupt(request: web.Request) -> web.Response:
    """Interrupt the running job; one named in the body only if it is the one that runs."""
    try:
        body = await request.json()
    except ValueError:
        body = {}
    prompt_id = body.get("prompt_id") if isinstance(body, dict) else None
    request.app[ENGINE].queue.interrupt(prompt_id)
    return web.Response()


async def post_free(request: web.Request) -> web.Response:
    """Forget cached results where the caller asks for memory back."""
    body = await request.json()
    if body.get("unload_models") or body.get("free_memory"):
        request.app[ENGINE].free()
    return web.Response()


async def get_history(request: web.Request) -> web.Response:
    """Return the jobs that ended."""
    max_items = request.query.get("max_items")
    offset = int(request.query.get("offset", -1))
    queue = request.app[ENGINE].queue
    return web.json_response(queue.history(int(max_items) if max_items is not None else None, offset))


async def get_history_of(request: web.Request) -> web.Response:
    """Return one job that ended, or `{}`."""
    return web.json_response(request.app[ENGINE].queue.history_of(request.match_info["prompt_id"]))


async def post_history(request: web.Request) -> web.Response:
    """Remove entries: all, or those named."""
    queue = request.app[ENGINE].queue
    body = await request.json()
    if body.get("clear"):
        queue.forget(None)
    for prompt_id in body.get("delete", []):
        queue.forget(prompt_id)
    return web.Response()


async def get_object_info(request: web.Request) -> web.Response:
    """Return every node class, or the one asked for."""
    found = request.app[ENGINE].catalog()
    class_type = request.match_info.get("class_type")
    if class_type is not None:
        found = {class_type: found[class_type]} if class_type in found else {}
    return web.json_response(found)


async def get_models(request: web.Request) -> web.Response:
    """Return the names of the folders under models/, or the weights in one of them."""
    folder = request.match_info.get("folder")
    if folder is None:
        return web.json_response(list(MODEL_FOLDERS))
    if folder not in MODEL_FOLDERS:
        return web.Response(status=404)
    return web.json_response(weight_names(request.app[ENGINE].options.folders.models, folder))


async def get_embeddings(request: web.Request) -> web.Response:
    """Return the names of the embeddings, without their suffix."""
    names = weight_names(request.app[ENGINE].options.folders.models, "embeddings")
    return web.json_response([name.rpartition(".")[0] for name in names])


async def get_features(request: web.Request) -> web.Response:
    """Return what this server can do."""
    return web.json_response(request.app[ENGINE].options.features)


async def get_system_stats(request: web.Request) -> web.Response:
    """Return what this runs on."""
    return web.json_response(request.app[ENGINE].system_stats())


async def get_view(request: web.Request) -> web.StreamResponse:
    """Return a file."""
    return view(request.app[ENGINE].options.folders, request.query)


async def post_upload(request: web.Request) -> web.Response:
    """Take a file."""
    return await upload_image(request.app[ENGINE].options.folders, request)


async def get_ws(request: web.Request) -> web.WebSocketResponse:
    """Tell a client what happens."""
    engine = request.app[ENGINE]
    running = engine.running_node(request.query.get("clientId"))
    return await engine.sockets.serve(request, engine.status(), running)


ROUTES = [
    web.get("/prompt", get_prompt),
    web.post("/prompt", post_prompt),
    web.get("/queue", get_queue),
    web.post("/queue", post_queue),
    web.post("/interrupt", post_interrupt),
    web.post("/free", post_free),
    web.get("/history", get_history),
    web.get("/history/{prompt_id}", get_history_of),
    web.post("/history", post_history),
    web.get("/view", get_view),
    web.post("/upload/image", post_upload),
    web.get("/object_info", get_object_info),
    web.get("/object_info/{class_type}", get_object_info),
    web.get("/system_stats", get_system_stats),
    web.get("/models", get_models),
    web.get("/models/{folder}", get_models),
    web.get("/embeddings", get_embeddings),
    web.get("/features", get_features),
    web.get("/ws", get_ws),
]


def add_routes(app: web.Application) -> None:
    """Add every route in both places, and the page at `/`."""
    app.router.add_get("/", index)
    for route in ROUTES:
        add = app.router.add_get if route.method == "GET" else app.router.add_post
        add(route.path, route.handler)
        add(f"/api{route.path}", route.handler)
