"""Whom the wrapper may call for a request: URLs in one plain notation, addresses of the public internet.

`ipaddress.is_global` is not enough: it passes multicast, and its answers for IPv6 that carries an IPv4
address differ between versions of Python. Here each range that is refused is named, with the document that
sets it apart.
"""

import errno
import re
from collections.abc import Sequence
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

from yarl import URL

from ltxops.errors import BadInput

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: Presigned URLs with a session token have about 2000 characters.
MAX_URL_CHARACTERS = 8192

_REFUSED_IPV4 = (
    ("0.0.0.0/8", "this network (RFC 791)"),
    ("10.0.0.0/8", "private (RFC 1918)"),
    ("100.64.0.0/10", "shared by a carrier's customers (RFC 6598)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link-local (RFC 3927)"),
    ("172.16.0.0/12", "private (RFC 1918)"),
    ("192.0.0.0/24", "kept for protocols (RFC 6890)"),
    ("192.0.2.0/24", "for documentation (RFC 5737)"),
    ("192.31.196.0/24", "a sink for reverse lookups (RFC 7535)"),
    ("192.52.193.0/24", "a multicast relay (RFC 7450)"),
    ("192.88.99.0/24", "a 6to4 relay (RFC 7526)"),
    ("192.168.0.0/16", "private (RFC 1918)"),
    ("192.175.48.0/24", "a sink for reverse lookups (RFC 7534)"),
    ("198.18.0.0/15", "for benchmarks (RFC 2544)"),
    ("198.51.100.0/24", "for documentation (RFC 5737)"),
    ("203.0.113.0/24", "for documentation (RFC 5737)"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("240.0.0.0/4", "reserved (RFC 1112)"),
    # A public address that Azure answers inside its own machines, with their certificates and settings.
    ("168.63.129.16/32", "a cloud's own service for its machines"),
)

_REFUSED_IPV6 = (
    ("::/128", "unspecified (RFC 4291)"),
    ("::1/128", "loopback (RFC 4291)"),
    ("::ffff:0:0/96", "IPv4 in IPv6 notation (RFC 4291)"),
    ("::ffff:0:0:0/96", "translated IPv4 (RFC 2765)"),
    ("::/96", "IPv4 in IPv6 notation (RFC 4291)"),
    ("64:ff9b::/96", "NAT64 (RFC 6052)"),
    ("64:ff9b:1::/48", "NAT64 (RFC 8215)"),
    ("100::/64", "discarded (RFC 6666)"),
    ("2001::/32", "Teredo (RFC 4380)"),
    ("2001::/23", "kept for protocols (RFC 2928)"),
    ("2001:db8::/32", "for documentation (RFC 3849)"),
    ("2002::/16", "6to4 (RFC 3056)"),
    ("2620:4f:8000::/48", "a sink for reverse lookups (RFC 7534)"),
    ("3fff::/20", "for documentation (RFC 9637)"),
    ("fc00::/7", "private (RFC 4193)"),
    ("fe80::/10", "link-local (RFC 4291)"),
    ("fec0::/10", "site-local (RFC 3879)"),
    ("ff00::/8", "multicast (RFC 4291)"),
)

_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), what) for network, what in (*_REFUSED_IPV4, *_REFUSED_IPV6)
)
_GLOBAL_UNICAST_IPV6 = IPv6Network("2000::/3")
#: The upper half of an ISATAP interface identifier (RFC 5214), whose lower half is an IPv4 address.
_ISATAP = {0x00005EFE, 0x02005EFE}

_PARTS = re.compile(r"(?i:(https?))://([^/?#]*)([/?#].*)?")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class AddressRefused(OSError):
    """The address or the URL is none that may be called. As an OSError it passes through HTTP clients."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, reason)

    def __str__(self) -> str:
        return str(self.strerror)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list separated by commas or blanks; raises BadInput naming the wrong one."""
    found = []
    for word in text.replace(",", " ").split():
        try:
            found.append(ip_network(word))
        except ValueError as error:
            raise BadInput(
                f"WRAPPER_ALLOWED_NETWORKS names {word!r}, which is no network ({error}); write it like "
                "10.20.0.0/16"
            ) from None
    return tuple(found)


def refusal(address: Address, allowed: Sequence[Network] = ()) -> str | None:
    """Return why `address` may not be called, or None when it may. `allowed` goes before every range."""
    if any(address in network for network in allowed):
        return None
    for network, what in _REFUSED:
        if address in network:
            return what
    if isinstance(address, IPv6Address):
        if address not in _GLOBAL_UNICAST_IPV6:
            return "outside the global unicast range (RFC 4291)"
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return "ISATAP (RFC 5214)"
    return None


def check_address(text: str, allowed: Sequence[Network]) -> None:
    """Raise AddressRefused when the address that a resolver gave, or a socket goes to, may not be called."""
    try:
        address = ip_address(text)
    except ValueError:
        raise AddressRefused(f"{text!a} is no plain IP address") from None
    reason = refusal(address, allowed)
    if reason is not None:
        raise AddressRefused(
            f"the address {address} is {reason}, which requests may not call; an operator can open it with "
            "WRAPPER_ALLOWED_NETWORKS"
        )


def parse_url(text: str, allowed: Sequence[Network] | None = ()) -> URL:
    """Return the URL when it is written plainly and its host is a name or an address that may be called.

    A name is looked up and checked when it is used. `allowed` None accepts every address: that is for URLs
    of the operator. Raises AddressRefused with a sentence that holds neither the path nor the query, which
    may be secret.
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise AddressRefused(f"the URL has {len(text)} characters, more than {MAX_URL_CHARACTERS}")
    if any(not "!" <= character <= "~" or character == "\\" for character in text):
        raise AddressRefused(
            "the URL has a blank, a backslash, or a character outside ASCII; write those percent-encoded"
        )
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise AddressRefused("it is no http or https URL; write it like https://host/path")
    if "@" in parts[2]:
        raise AddressRefused("the URL carries a user name or password, which is not sent; leave it out")
    authority = _AUTHORITY.fullmatch(parts[2])
    if authority is None:
        raise AddressRefused(f"the URL has the host {parts[2][:80]!a}, which is not plainly written")
    port = authority[3]
    if port is not None and not 1 <= int(port) <= 65535:
        raise AddressRefused(f"the URL has the port {port}; give 1 to 65535")
    host = authority[1] or authority[2]
    address = _address(host) if authority[1] is None else _ipv6(host)
    if address is not None and allowed is not None:
        check_address(str(address), allowed)
    url = URL(text, encoded=True)
    if (url.raw_host or "").lower() != (str(address) if address else host.lower()):
        raise AddressRefused(f"the URL has the host {host[:80]!a}, which is not plainly written")
    return url


def _address(host: str) -> IPv4Address | None:
    """Return the address that `host` is, or None when it is a name; AddressRefused when it is neither."""
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused(f"the URL has the host {host[:80]!a}, which is no plain name")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    try:
        address = IPv4Address(host)
    except AddressValueError:
        address = None
    if address is None or str(address) != host:
        raise AddressRefused(
            f"the URL has the host {host[:80]!a}, an address in odd notation; write four decimal numbers"
        )
    return address


def _ipv6(host: str) -> IPv6Address:
    try:
        return IPv6Address(host)
    except AddressValueError:
        raise AddressRefused(f"the URL has the host [{host[:80]}], which is no IPv6 address") from None
