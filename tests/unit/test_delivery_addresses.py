"""Which URLs and addresses a request may make the wrapper call."""

import asyncio
import socket
from ipaddress import ip_address, ip_network

import pytest

from ltxops.errors import BadInput
from ltxops.wrapper.delivery.addresses import (
    AddressRefused,
    check_address,
    parse_networks,
    parse_url,
    refusal,
)
from ltxops.wrapper.delivery.connections import CheckedResolver

REFUSED_HOSTS = [
    # plain addresses
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "192.88.99.1", "168.63.129.16",
    # odd notations of 127.0.0.1, and of others
    "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001",
    "127.0.0.1.", "127.0.0.01", "127.0.0.0x1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "0", "0x", "8.8.8.08",
    # IPv6 that is not public, or holds an IPv4 address
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:8.8.8.8]",
    "[::ffff:0:8.8.8.8]", "[64:ff9b::7f00:1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::1]", "[2002:7f00:1::]",
    "[2002:808:808::1]", "[2001::1]", "[2001:0:5ef5:79fd::1]", "[fe80::1]", "[fe80::1%25eth0]",
    "[fe80::1%eth0]", "[fec0::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]",
    "[3fff::1]", "[100::1]", "[5f00::1]", "[2001:2::1]", "[2001:20::1]", "[2a00:1450::5efe:a00:1]", "[v1.x]",
    "[127.0.0.1]", "[]",
    # hosts that are not plainly written
    "user@example.com", "user:word@example.com", "example.com@127.0.0.1", "example.com.", "exa mple.com",
    "example.com\\@127.0.0.1", "127.0.0.1\t", "", ".", "a..b", "-a.com", "ex%61mple.com", "%31%32%37.0.0.1",
    "①②⑦.⓪.⓪.①", "1\uff127.0.0.1", "example。com", "example.com:0",
    "example.com:65536", "example.com:", "example.com:8x",
    "a" * 64 + ".com", "a." * 130 + "com",
]  # fmt: skip

TAKEN = [
    "http://example.com",
    "https://example.com:8443/a/b?c=d#e",
    "https://xn--bcher-kva.example/x",
    "https://1.2.3.4.example.com/",
    "http://8.8.8.8/",
    "http://[2606:4700:4700::1111]:8080/",
    "HTTPS://Example.COM/",
    "https://my_bucket.s3.amazonaws.com/key?X-Amz-Signature=a%2Fb&x=%7E",
    "http://host-1/",
]


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_a_url_with_a_forbidden_or_oddly_written_host_is_refused(host: str) -> None:  # R51
    with pytest.raises(AddressRefused):
        parse_url(f"http://{host}/secret-path?secret-query")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "//example.com/", "example.com", "http:example.com",
        "http:/example.com", "gopher://example.com", "javascript:alert(1)", " http://example.com",
        "http://example.com/a b", "http://example.com/\n", "http://example.com/é", "http:\\\\example.com",
        "http://example.com/" + "a" * 9000, "",
    ],
)  # fmt: skip
def test_what_is_no_plain_http_url_is_refused(url: str) -> None:  # R51
    with pytest.raises(AddressRefused):
        parse_url(url)


@pytest.mark.parametrize("url", TAKEN)
def test_a_plain_public_url_is_taken_as_it_is_written(url: str) -> None:
    parsed = parse_url(url)
    assert (
        parsed.raw_path_qs.lstrip("/") == url.partition("#")[0].split("/", 3)[-1].lstrip("/")
        or url.count("/") < 3
    )


def test_a_refusal_tells_neither_path_nor_query() -> None:
    with pytest.raises(AddressRefused) as caught:
        parse_url("http://10.1.2.3/secret-path?X-Amz-Signature=secret")
    assert "10.1.2.3" in str(caught.value) and "secret" not in str(caught.value)


def test_the_operator_opens_networks_and_only_those() -> None:  # R51
    allowed = parse_networks("127.0.0.0/8, fd00::/8")
    assert parse_url("http://127.0.0.1:9000/x", allowed).port == 9000
    assert parse_url("http://[fd00::1]/", allowed).host == "fd00::1"
    for host in ("10.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::1]"):
        with pytest.raises(AddressRefused):
            parse_url(f"http://{host}/", allowed)
    assert parse_url("http://192.168.1.9:9000/", None).host == "192.168.1.9"
    with pytest.raises(AddressRefused):
        parse_url("http://2130706433/", None)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.com", "127.1/32"])
def test_a_network_that_is_none_is_named(text: str) -> None:
    with pytest.raises(BadInput, match="WRAPPER_ALLOWED_NETWORKS"):
        parse_networks(f"10.0.0.0/8 {text}")


def test_what_is_global_to_python_can_be_refused_here() -> None:
    for text in ("224.1.1.1", "ff0e::1", "64:ff9b::1", "192.88.99.1", "168.63.129.16"):
        assert ip_address(text).is_global
        assert refusal(ip_address(text)) is not None
    for text in ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"):
        assert refusal(ip_address(text)) is None


def test_a_socket_address_with_a_zone_is_refused() -> None:
    with pytest.raises(AddressRefused):
        check_address("fe80::1%eth0", (ip_network("fd00::/8"),))


def test_a_resolver_hands_out_only_checked_addresses() -> None:  # R51
    async def lookup(host: str, port: int) -> list[tuple[int, str]]:
        found: dict[str, list[tuple[int, str]]] = {
            "mixed": [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "::1")],
            "inside": [(socket.AF_INET, "10.0.0.1")],
        }
        return found.get(host, [])

    async def resolve(host: str) -> list[str]:
        return [found["host"] for found in await CheckedResolver(lookup, ()).resolve(host, 80)]

    assert asyncio.run(resolve("mixed")) == ["8.8.8.8"]
    with pytest.raises(AddressRefused, match="private"):
        asyncio.run(resolve("inside"))
    with pytest.raises(OSError, match="no address"):
        asyncio.run(resolve("nothing"))
