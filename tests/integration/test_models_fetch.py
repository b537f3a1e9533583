"""Fetching from servers that misbehave: what lands on disk, what is asked, and when it gives up."""

import os
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.integration.faulty_hub import MIB, Fault, FaultyHub, Handler, fetch_all, quick
from tests.support import wait_for

from ltxops.errors import IntegrityError, NetworkError

SIZE = 40 * MIB + 123
FILES = {"big.safetensors": os.urandom(SIZE), "small.json": b'{"a": 1}\n' * 5}
BIG = "checkpoints/big.safetensors"


@pytest.fixture
def hub() -> Iterator[FaultyHub]:
    with FaultyHub(FILES) as running:
        yield running


def assert_right(root: Path) -> None:
    """Check every file's bytes, and that nothing is left over."""
    for name, content in FILES.items():
        assert (root / "checkpoints" / name).read_bytes() == content
    assert list((root / ".ltxops/incoming").iterdir()) == []


def assert_nothing(root: Path) -> None:
    """Check that the large file is not there, and no part of it either."""
    assert not (root / BIG).exists()
    assert list((root / ".ltxops/incoming").iterdir()) == []


def big_only(fault: Fault) -> Fault:
    """Let the fault befall the large file only."""
    return lambda request: request.name == "big.safetensors" and fault(request)


def test_ranges_over_kept_connections_and_one_question_to_the_hub(
    hub: FaultyHub, path: Path, root: Path
) -> None:
    report = fetch_all(path, root, quick(hub.url))
    assert_right(root)
    assert report.bytes_fetched == hub.sent == sum(map(len, FILES.values()))
    ranges = sorted(seen.asked for seen in hub.asked("cdn") if "big" in seen.path and seen.asked)
    assert len(ranges) >= 5 and ranges[0][0] == 0 and ranges[-1][1] == SIZE
    assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]
    assert len(hub.asked("hub")) == len(FILES)


def test_the_token_goes_to_the_hub_alone(hub: FaultyHub, path: Path, root: Path) -> None:
    # R24: the CDN differs from the hub in its port only.
    fetch_all(path, root, quick(hub.url, "hf_right"))
    assert all(seen.headers.get("Authorization") == "Bearer hf_right" for seen in hub.asked("hub"))
    assert hub.asked("cdn") and not any("Authorization" in seen.headers for seen in hub.asked("cdn"))


def test_a_redirect_on_the_hub_itself_keeps_the_token_and_may_be_relative(
    hub: FaultyHub, path: Path, root: Path
) -> None:
    # R24
    def moved(request: Handler) -> bool:
        if request.path.startswith("/moved/"):
            return False
        return request.refuse(307, {"Location": f"/moved/{request.name}"})

    hub.hub_fault = moved
    fetch_all(path, root, quick(hub.url, "hf_right"))
    assert_right(root)
    assert all("Authorization" in seen.headers for seen in hub.asked("hub"))


def test_a_redirect_in_circles_ends(hub: FaultyHub, path: Path, root: Path) -> None:
    hub.hub_fault = lambda request: request.refuse(302, {"Location": request.path})
    with pytest.raises(NetworkError, match="redirects in circles"):
        fetch_all(path, root, quick(hub.url))


def test_connections_cut_again_and_again_go_on_where_they_were(
    hub: FaultyHub, path: Path, root: Path
) -> None:
    # R23: a single wait after a cut would take longer than the test allows.
    hub.cdn_fault = big_only(lambda request: request.serve(cut_after=MIB))
    slow = quick(hub.url)
    slow.backoff_seconds = 60.0
    begin = time.monotonic()
    fetch_all(path, root, slow)
    assert time.monotonic() - begin < 40
    assert_right(root)
    assert hub.sent <= sum(map(len, FILES.values())) + MIB


def test_an_expired_link_is_renewed_in_mid_file(hub: FaultyHub, path: Path, root: Path) -> None:
    expired = threading.Event()

    def expire(request: Handler) -> bool:
        if hub.sent > SIZE // 3 and not expired.is_set():
            expired.set()
            hub.signature = "second"
        if hub.signature in request.path:
            return False
        return request.refuse(403)

    hub.cdn_fault = big_only(expire)
    fetch_all(path, root, quick(hub.url))
    assert_right(root)
    assert expired.is_set()
    assert hub.sent <= sum(map(len, FILES.values()))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_links_that_are_refused_at_once_end_in_a_sentence(
    hub: FaultyHub, path: Path, root: Path, status: int
) -> None:
    hub.cdn_fault = big_only(lambda request: request.refuse(status))
    with pytest.raises(NetworkError, match=rf"big\.safetensors answered {status}, again and again"):
        fetch_all(path, root, quick(hub.url))
    assert len(hub.asked("hub")) <= 6
    assert not (root / BIG).exists()


@pytest.mark.parametrize("date", [False, True])
@pytest.mark.parametrize("side", ["hub", "cdn"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(
    hub: FaultyHub, path: Path, root: Path, status: int, side: str, date: bool
) -> None:
    # R23
    refused: list[float] = []

    def busy_once(request: Handler) -> bool:
        if refused:
            return False
        refused.append(time.monotonic())
        # An HTTP date has whole seconds, so that one is two seconds away at most and more than one.
        after = formatdate(time.time() + 2, usegmt=True) if date else "1"
        return request.refuse(status, {"Retry-After": after})

    setattr(hub, f"{side}_fault", big_only(busy_once))
    fetch_all(path, root, quick(hub.url))
    assert_right(root)
    later = [seen.when for seen in hub.requests if "big" in seen.path and seen.when > refused[0] + 0.05]
    assert later[0] - refused[0] >= 0.9


def test_a_server_that_serves_few_connections_is_not_pressed(hub: FaultyHub, path: Path, root: Path) -> None:
    # R23
    slots = threading.Semaphore(2)
    refused: list[float] = []

    def limited(request: Handler) -> bool:
        if not slots.acquire(blocking=False):
            refused.append(time.monotonic())
            return request.refuse(503, {"Retry-After": "1"})
        try:
            start, end = request.asked or (0, 0)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{SIZE}")
            request.send_header("Content-Length", str(end - start))
            request.end_headers()
            for position in range(start, end, MIB):
                request.body(request.content[position : min(end, position + MIB)])
                time.sleep(0.05)
        finally:
            slots.release()
        return True

    hub.cdn_fault = big_only(limited)
    fetch_all(path, root, quick(hub.url))
    assert_right(root)
    # Four connections were tried at first; again, if that was before a byte of the others had come.
    assert 1 <= len(refused) <= 20


def test_a_stalled_connection_is_left_and_the_rest_asked_for_again(
    hub: FaultyHub, path: Path, root: Path
) -> None:
    # R23
    stalled: list[int] = []
    left = threading.Event()

    def stall_once(request: Handler) -> bool:
        if stalled or request.asked is None or request.asked[0] == 0:
            return False
        stalled.append(request.asked[0])
        start, end = request.asked
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{end - 1}/{SIZE}")
        request.send_header("Content-Length", str(end - start))
        request.end_headers()
        request.body(request.content[start : start + MIB])
        left.wait(60)
        request.cut()
        return True

    hub.cdn_fault = big_only(stall_once)
    begin = time.monotonic()
    try:
        fetch_all(path, root, quick(hub.url), stall_seconds=0.5)
    finally:
        left.set()
    assert time.monotonic() - begin < 40
    assert_right(root)
    assert stalled


def test_a_server_that_never_answers_is_given_up(hub: FaultyHub, path: Path, root: Path) -> None:
    # R23
    release = threading.Event()
    hub.cdn_fault = big_only(lambda request: release.wait(60) or True)
    begin = time.monotonic()
    try:
        with pytest.raises(NetworkError, match=r"could not be reached in 3 attempts \(.*no byte came"):
            fetch_all(path, root, quick(hub.url), stall_seconds=0.3)
    finally:
        release.set()
    assert time.monotonic() - begin < 40
    # Who had no answer yet when the client left may be seen late.
    wait_for(lambda: len([seen for seen in hub.asked("hub") if "big" in seen.path]) == 3)
    assert len([seen for seen in hub.asked("cdn") if "big" in seen.path]) <= 3


def test_a_server_that_ignores_ranges_sends_the_file_once(hub: FaultyHub, path: Path, root: Path) -> None:
    # R18
    def whole(request: Handler) -> bool:
        request.asked = None
        return request.serve()

    hub.cdn_fault = whole
    fetch_all(path, root, quick(hub.url), connections=32)
    assert_right(root)
    assert hub.sent == sum(map(len, FILES.values()))


@pytest.mark.parametrize("fault", ["content-range", "416", "etag", "size", "ignores ranges from now on"])
def test_a_server_that_changes_its_mind_makes_it_start_over(
    hub: FaultyHub, path: Path, root: Path, fault: str
) -> None:
    # R18
    seen: list[int] = []

    def change(request: Handler) -> bool:
        start, end = request.asked or (0, SIZE)
        if start:
            seen.append(start)
        if fault == "etag":
            # What comes first is of another version than all the rest.
            content = request.content if seen else b"Y" + request.content[1:]
            request.serve(etag="one" if seen else "zero", content=content)
        elif fault == "ignores ranges from now on" and seen:
            request.asked = None
            request.serve()
        elif len(seen) != 1 or not start:
            return False
        elif fault == "416":
            request.refuse(416, {"Content-Range": f"bytes */{SIZE}"})
        elif fault == "size":
            request.serve(content=request.content + b"more")
        else:
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start + 1}-{end}/{SIZE}")
            request.send_header("Content-Length", str(end - start))
            request.end_headers()
            request.body(request.content[start:end])
        return True

    hub.cdn_fault = big_only(change)
    fetch_all(path, root, quick(hub.url))
    assert_right(root)
    assert seen


def test_bytes_that_are_there_are_not_written_over(hub: FaultyHub, path: Path, root: Path) -> None:
    # R18: they were hashed when they came, so that a change of them would go unnoticed.
    def other_beginning(request: Handler) -> bool:
        if not request.asked or request.asked[0] == 0:
            return False
        request.asked = None
        return request.serve(content=b"X" * MIB + request.content[MIB:])

    hub.cdn_fault = big_only(other_beginning)
    fetch_all(path, root, quick(hub.url))
    assert_right(root)


@pytest.mark.parametrize("what", ["fewer", "more"])
def test_a_cdn_that_promises_another_size_than_the_hub_is_rejected(
    hub: FaultyHub, path: Path, root: Path, what: str
) -> None:
    # R19
    content = FILES["big.safetensors"]
    other = content[:-1000] if what == "fewer" else content + b"x" * 1000
    hub.cdn_fault = big_only(lambda request: request.serve(content=other))
    with pytest.raises(IntegrityError, match=rf"promises {len(other)} bytes where the hub promised {SIZE}"):
        fetch_all(path, root, quick(hub.url))
    assert_nothing(root)
    assert (root / "checkpoints/small.json").exists()


def test_a_body_without_a_length_is_bounded(hub: FaultyHub, path: Path, root: Path) -> None:
    # R19
    def endless(request: Handler) -> bool:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for _ in range(2 * SIZE // MIB):
            request.wfile.write(b"%x\r\n%s\r\n" % (MIB, b"x" * MIB))
        return True

    hub.cdn_fault = big_only(endless)
    with pytest.raises(IntegrityError, match=r"sends more bytes than were promised|has sha256"):
        fetch_all(path, root, quick(hub.url))
    assert_nothing(root)


def test_a_file_that_comes_in_chunks_is_right(hub: FaultyHub, path: Path, root: Path) -> None:
    def chunked(request: Handler) -> bool:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for start in range(0, len(request.content), 300_000):
            piece = request.content[start : start + 300_000]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n")
        return True

    hub.cdn_fault = chunked
    fetch_all(path, root, quick(hub.url))
    assert_right(root)


def test_the_hubs_own_word_on_the_hash_is_compared_before_a_download(
    hub: FaultyHub, path: Path, root: Path
) -> None:
    # R15
    hub.sha256["big.safetensors"] = "ab" * 32
    with pytest.raises(IntegrityError, match=r"says that the file has sha256 abab"):
        fetch_all(path, root, quick(hub.url))
    assert not any("big" in seen.path for seen in hub.asked("cdn"))
    assert_nothing(root)


def test_a_flipped_byte_never_gets_the_final_name(hub: FaultyHub, path: Path, root: Path) -> None:
    # R15
    bad = bytearray(FILES["big.safetensors"])
    bad[SIZE // 2] ^= 1
    hub.files = {**FILES, "big.safetensors": bytes(bad)}
    with pytest.raises(IntegrityError, match=r"has sha256 .* thrown away"):
        fetch_all(path, root, quick(hub.url))
    assert_nothing(root)
    assert (root / "checkpoints/small.json").exists()


@pytest.mark.parametrize("fault", ["down", "no such file"])
def test_a_mirror_is_asked_next_and_gets_no_token(hub: FaultyHub, path: Path, root: Path, fault: str) -> None:
    # R24
    with FaultyHub({} if fault == "no such file" else FILES) as first:
        if fault == "down":
            first.hub_fault = lambda request: request.refuse(502)
        fetch_all(path, root, quick(first.url, "hf_right", mirrors=(hub.url,)))
        assert_right(root)
        assert all(seen.headers.get("Authorization") == "Bearer hf_right" for seen in first.asked("hub"))
    assert hub.requests and not any("Authorization" in seen.headers for seen in hub.requests)


def test_when_no_mirror_delivers_the_first_hubs_fault_is_told(hub: FaultyHub, path: Path, root: Path) -> None:
    hub.hub_fault = lambda request: request.refuse(500)
    with pytest.raises(NetworkError, match=r"the hub http://127.0.0.1:9 could not be reached"):
        fetch_all(path, root, quick("http://127.0.0.1:9", mirrors=(hub.url,)))
