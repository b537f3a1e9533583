"""TLS with the operator's certificate: beyond loopback only, and refused as a whole where it is broken."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ansible.gateway_support import GOOD, Gateway, free_port, render, running_gateway

#: Loopback is the whole of 127.0.0.0/8; this stands for the host's public address.
PUBLIC = "127.0.0.2"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for PUBLIC that signs itself, and its key."""
    paths = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-subj", "/CN=gateway", "-addext", f"subjectAltName=IP:{PUBLIC}", "-days", "2"]
    made += ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(made, check=True, capture_output=True)
    return paths


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder)
    with running_gateway(
        folder, gateway_address="0.0.0.0", gateway_tls_certificate=str(cert), gateway_tls_key=str(key)
    ) as running:
        yield running


def trusting(gateway: Gateway) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(gateway.folder / "cert.pem"))


def test_the_public_address_speaks_https(gateway: Gateway) -> None:
    public = replace(gateway, url=f"https://{PUBLIC}:{gateway.port}")
    assert public.request("GET", "/queue", headers=GOOD, ssl=trusting(gateway))[0] == 200
    assert public.request("GET", "/queue", ssl=trusting(gateway))[0] == 401


def test_loopback_stays_plain_for_the_hosts_own_checks(gateway: Gateway) -> None:
    assert gateway.request("GET", "/queue", headers=GOOD)[0] == 200
    assert gateway.request("GET", "/queue")[0] == 401


def test_plain_http_on_the_public_address_reaches_nothing(gateway: Gateway) -> None:
    plain = replace(gateway, url=f"http://{PUBLIC}:{gateway.port}")
    gateway.forget()
    status, body, _ = plain.request("GET", "/queue", headers=GOOD)
    assert status in (400, 421)
    assert "HTTPS" in json.loads(body)["error"]
    assert gateway.reached() == []


def test_old_protocols_are_refused(gateway: Gateway) -> None:
    line = f"openssl s_client -connect {PUBLIC}:{gateway.port} -tls1_1 -cipher DEFAULT@SECLEVEL=0 </dev/null"
    assert subprocess.run(["sh", "-c", line], capture_output=True, timeout=30).returncode != 0


def test_a_broken_certificate_is_refused_before_anything_is_replaced(gateway: Gateway) -> None:  # R35
    broken = gateway.folder / "broken.pem"
    broken.write_text("not a certificate\n")
    before = (gateway.folder / "etc/gateway/nginx.conf").read_bytes()
    refused = render(
        gateway.folder,
        comfyui_port=gateway.comfyui.port,
        wrapper_port=gateway.wrapper.port,
        gateway_port=gateway.port,
        gateway_address=PUBLIC,
        gateway_tls_certificate=str(broken),
        gateway_tls_key=str(gateway.folder / "key.pem"),
    )
    assert refused.returncode != 0
    assert "broken.pem" in refused.stdout
    assert (gateway.folder / "etc/gateway/nginx.conf").read_bytes() == before
    assert gateway.request("GET", "/queue", headers=GOOD)[0] == 200


def test_a_certificate_without_a_key_is_refused(tmp_path: Path) -> None:
    ports = {"comfyui_port": 1, "wrapper_port": 2, "gateway_port": free_port()}
    refused = render(tmp_path, gateway_address=PUBLIC, gateway_tls_certificate="/x.pem", **ports)
    assert refused.returncode != 0
    assert "TLS needs a certificate and its key" in refused.stdout
