"""Which URLs and machines may be reached."""

import ipaddress
import itertools
import socket
from collections.abc import Callable

import numpy as np
import pytest

from biovita.errors import FetchError
from biovita.sources.address import MAX_URL, Policy, check_url, is_public, resolve, shown

HOSTS = ("api.gbif.org", "xeno-canto.org", "static.inaturalist.org")
POLICY = Policy(hosts=HOSTS)

LOOPBACK_AND_PRIVATE = (
    *("127.0.0.1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1."),
    *("localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "127.0.0.1.nip.io", "0", "0.0.0.0"),
    *("169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "metadata.google.internal"),
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1%25eth0]", "[fc00::1]", "[64:ff9b::7f00:1]"),
    *("[2002:7f00:1::]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]"),
)
CONFUSION: tuple[Callable[[str, str], str], ...] = (  # of an allowed and a hostile host
    lambda good, bad: f"https://{good}@{bad}/a.mp3",
    lambda good, bad: f"https://{good}:443@{bad}/a.mp3",
    lambda good, bad: f"https://user:pw@{good}/{bad}",
    lambda good, bad: f"https://{good}%40{bad}/a.mp3",
    lambda good, bad: f"https://{bad}#@{good}/a.mp3",
    lambda good, bad: f"https://{good}#@{bad}/a.mp3",
    lambda good, bad: f"https://{bad}?@{good}/a.mp3",
    lambda good, bad: f"https://{bad}\\@{good}/a.mp3",
    lambda good, bad: f"https://{good}\\@{bad}/a.mp3",
    lambda good, bad: f"https://{good}\\.{bad}/a.mp3",
    lambda good, bad: f"https://{good}.{bad}/a.mp3",
    lambda good, bad: f"https://{bad}.{good}/a.mp3",
    lambda good, bad: f"https://x{good}/{bad}",
    lambda good, bad: f"https://{good}x/{bad}",
    lambda good, bad: f"https://{bad}/{good}/a.mp3",
    lambda good, bad: f"https://{bad}/https://{good}/a.mp3",
    lambda good, bad: f"https:/{good}/{bad}",
    lambda good, bad: f"https:{good}/{bad}",
    lambda good, bad: f"https:///{good}/{bad}",
    lambda good, bad: f"//{good}/{bad}",
    lambda good, bad: f"{good}/{bad}",
    lambda good, bad: f"https://{good}:80/{bad}",
    lambda good, bad: f"https://{good}:8443/{bad}",
    lambda good, bad: f"https://{good}:443:80/{bad}",
    lambda good, bad: f"https://{good}:/{bad}",
    lambda good, bad: f"https://{good}:65979/{bad}",  # 443 beyond 16 bits
    lambda good, bad: f"https://{good} /{bad}",
    lambda good, bad: f" https://{good}/{bad}",
    lambda good, bad: f"https://{good}/{bad}\n",
    lambda good, bad: f"https://{good}/\r\nHost: {bad}",
    lambda good, bad: f"https://{good}\t.{bad}/a.mp3",
    lambda good, bad: f"https://{good}\0{bad}/a.mp3",
    lambda good, bad: f"https://{good}/{bad}\0.mp3",
    lambda good, bad: f"https://{good}../{bad}",
    lambda good, bad: f"https://.{good}/{bad}",
    lambda good, bad: f"https://{good.replace('o', chr(0xFF4F))}/{bad}",  # full width
    lambda good, bad: f"https://{good.replace('a', chr(0x430))}/{bad}",  # Cyrillic
    lambda good, bad: f"https://{good.replace('.', chr(0x3002))}/{bad}",  # ideographic full stop
    lambda good, bad: f"https://{good.replace('.', '%2e')}/{bad}",
    lambda good, bad: f"https://[{good}]/{bad}",
    lambda good, bad: f"https://{good}/{'x' * MAX_URL}{bad}",
    lambda good, bad: f"https://{good}/{bad}\x7f",
)
SCHEMES = ("http", "file", "ftp", "gopher", "data", "javascript", "ws", "jar:https", "HTTP", "dict", "ldap", "https+x")


def hostile_urls(n: int) -> list[str]:
    """Make distinct hostile URLs of the forms above, seeded."""
    rng = np.random.default_rng(5)
    forms = [f"https://{bad}{port}/{{}}.mp3" for bad in LOOPBACK_AND_PRIVATE for port in ("", ":443", ":80")]
    forms += [
        confuse(good, bad) for confuse, good, bad in itertools.product(CONFUSION, HOSTS, LOOPBACK_AND_PRIVATE[:12])
    ]
    forms += [f"{scheme}://{good}/{{}}" for scheme in SCHEMES for good in HOSTS]
    forms += ["", "https://", "https://?", "https://#", "https://:443/", "https://@/", "nan", "/etc/passwd", "data:,x"]
    some = rng.permutation(len(forms))[: n - 0] if len(forms) >= n else np.arange(len(forms))
    urls = [forms[i].replace("{}", "a") for i in some]
    while len(urls) < n:
        urls.append(f"https://{LOOPBACK_AND_PRIVATE[rng.integers(len(LOOPBACK_AND_PRIVATE))]}/{len(urls)}.jpg")
    return urls


def good_urls() -> list[tuple[str, str]]:
    """Make 100 URLs that must pass, with the spelling that is sent."""
    pairs = [(f"https://{host}/sounds/{n}.mp3?x={n}&y=%20", None) for host in HOSTS for n in range(30)]
    pairs += [
        ("HTTPS://API.GBIF.ORG/v1/species", "https://api.gbif.org/v1/species"),
        ("https://api.gbif.org./v1/species", "https://api.gbif.org/v1/species"),
        ("https://api.gbif.org:443/v1/species", "https://api.gbif.org/v1/species"),
        ("https://api.gbif.org", "https://api.gbif.org/"),
        ("https://api.gbif.org?q=1", "https://api.gbif.org?q=1"),
        ("https://xeno-canto.org/1/download?to=https://127.0.0.1/@x:y", None),
        ("https://xeno-canto.org/(a)!$'*+,;=~_-.%41", None),
        ('https://xeno-canto.org/{a}|b^c`d"<e>[f]', None),
        ("https://xeno-canto.org/../../etc/passwd", None),
        ("https://xeno-canto.org/" + "x" * (MAX_URL - 23), None),
    ]
    return [(url, sent or url) for url, sent in pairs]


def test_hostile_urls_are_refused_without_a_look_at_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")
    urls = hostile_urls(2000)
    assert len(set(urls)) == 2000
    for url in urls:
        with pytest.raises(FetchError) as caught:
            check_url(url, POLICY)
        assert caught.value.kind == "refused", url


def test_good_urls_pass_in_one_spelling() -> None:
    assert len(good_urls()) == 100
    for url, sent in good_urls():
        address = check_url(url, POLICY)
        assert address.url == sent
        assert address.host in HOSTS


def test_messages_show_neither_query_nor_password() -> None:
    for url in (
        "https://me:secret@api.gbif.org/x",
        "https:me:secret@api.gbif.org/x",
        "https://evil.org/x?key=secret",
        "https://evil.org/x#secret",
        "ftp://me:secret@evil.org?secret#secret",
    ):
        with pytest.raises(FetchError) as caught:
            check_url(url, POLICY)
        assert "secret" not in str(caught.value), url
    assert shown("https://a.org/b c\n\x1b[31m") == "https://a.org/b%20c\\n\\x1b[31m"


@pytest.mark.parametrize("address", ["8.8.8.8", "193.10.0.1", "2001:4860:4860::8888", "2600::1", "2a00:1450::1"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("192.0.0.8", "192.0.0.9", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::1", "::", "::ffff:8.8.8.8", "::8.8.8.8"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "3fff::1"),
        *("2002:808:808::1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "5f00::1", "localhost", ""),
    ],
)
def test_all_other_addresses_are_not(address: str) -> None:
    assert not is_public(address)


def test_no_address_is_public_that_the_standard_library_calls_private() -> None:
    rng = np.random.default_rng(3)
    n_public = 0
    for number in rng.integers(0, 2**32, 20_000):
        ip = ipaddress.ip_address(int(number))
        if is_public(str(ip)):
            n_public += 1
            assert ip.is_global, ip
            odd = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_reserved)
            assert not any(odd), ip
    assert n_public > 10_000


def test_one_private_address_spoils_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["8.8.8.8", "10.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (a, 443)) for a in answers])
    with pytest.raises(FetchError, match="not a public address") as caught:
        resolve("api.gbif.org", 443, POLICY)
    assert caught.value.kind == "temporary"
    answers[1] = "8.8.4.4"
    assert resolve("api.gbif.org", 443, POLICY) == ["8.8.8.8", "8.8.4.4"]
