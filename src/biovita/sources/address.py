"""Which URLs may be asked for, and which machines may be spoken to.

`check_url` is a pure function over a grammar of our own, so that no two parsers can read one URL as two hosts. It holds
for the first URL and for every redirect. `resolve` holds at every connection: what it returns is connected to as a
number, so that a name which points elsewhere a moment later changes nothing.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass

from biovita.errors import FetchError

MAX_URL = 2048  # characters

# No user, no fragment, no backslash, no blank, nothing but ASCII; a host of letters, digits, dots and hyphens.
_URL = re.compile(
    r'(?P<scheme>[A-Za-z]+)://(?P<host>[A-Za-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?(?P<target>[/?][!"$-\[\]-~]*)?'
)
_PORTS = {"http": 80, "https": 443}

# Of IPv6 only 2000::/3 is in public use; these parts of it are not, or hide an IPv4 address (Teredo, 6to4).
_V6 = ipaddress.ip_network("2000::/3")
_V6_NOT = tuple(ipaddress.ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
# Not public, although older Pythons call them global: protocol assignments, 6to4 relays.
_V4_NOT = tuple(ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24"))


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a door may reach.

    Attributes:
        hosts: exact names, lower case; nothing is a pattern.
        schemes: tests on loopback add http, nothing else does.
        ports: the same.
        public_only: refuse hosts that resolve to an address of this machine or of a private network.
    """

    hosts: tuple[str, ...]
    schemes: tuple[str, ...] = ("https",)
    ports: tuple[int, ...] = (443,)
    public_only: bool = True


@dataclass(frozen=True)
class Address:
    """The parts of a URL that passed; the host is lower case and has no trailing dot."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def url(self) -> str:
        """Return the one spelling that is sent."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.target}"


def check_url(url: str, policy: Policy) -> Address:
    """Take a URL apart if the policy allows it.

    Raises:
        FetchError: `refused`; the message does not show what may be a password or a key.
    """

    def refuse(why: str) -> FetchError:
        return FetchError(f"{shown(url)}: {why}", kind="refused")

    if len(url) > MAX_URL:
        raise refuse(f"longer than {MAX_URL:,} characters")
    found = _URL.fullmatch(url)
    if found is None:
        raise refuse("not a plain web address")
    scheme, host = found["scheme"].lower(), found["host"].lower().removesuffix(".")
    if scheme not in policy.schemes or scheme not in _PORTS:
        raise refuse(f"not {' or '.join(policy.schemes)}")
    if host not in policy.hosts:
        raise refuse("not an allowed host")
    port = int(found["port"] or _PORTS[scheme])
    if port not in policy.ports:
        raise refuse("not an allowed port")
    return Address(scheme, host, port, found["target"] or "/")


def shown(url: str) -> str:
    """Name a URL in a message: without query, fragment, user and password; printable and short."""
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    plain = re.sub(r"[^/]*@", "", plain)
    return re.sub(r"\s", "%20", ascii(plain)[1:-1])[:200]


def is_public(address: str) -> bool:
    """Say whether a numeric address is one of the open Internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # among others one with a zone, which is never public
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _V6 and not any(ip in network for network in _V6_NOT)
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _V4_NOT)


def resolve(host: str, port: int, policy: Policy) -> list[str]:
    """Look up a host and return its addresses as numbers; one that is not public spoils them all.

    Raises:
        FetchError: `temporary`, because names are mended: no such name, or one that leads to a private network.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FetchError(f"{host}: name not found", kind="temporary") from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if policy.public_only and not all(map(is_public, addresses)):
        raise FetchError(f"{host}: not a public address", kind="temporary")
    return addresses
