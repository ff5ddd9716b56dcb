"""URLs and addresses that may be called, including redirection by DNS."""

import asyncio
import ipaddress
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.security import public_http
from gateway.security.public_http import RECEIVED_MAX_BYTES, ForbiddenAddress, ForbiddenUrl
from tests.helpers.webhooks import Receiver, receiver

pytestmark = pytest.mark.unit


PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822")
NOT_PUBLIC = (
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.8", "192.0.2.1", "192.88.99.1",
    "0.0.0.0",  # noqa: S104
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "100::1", "2001:db8::1", "3fff::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::", "2001::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert public_http.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address_is_not_public(address: str) -> None:
    assert not public_http.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_url_with_an_address_that_is_not_public_is_rejected(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenUrl):
        public_http.check_url(f"https://{host}/hooks", allow_loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hooks?shop=7&x=%20",
        "https://EXAMPLE.com:8443/",
        "https://xn--bcher-kva.example/hooks",
        "https://hooks.shop-7.co.uk:443/a/b",
        "https://93.184.216.34/hooks",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/hooks",
    ],
)
def test_a_public_url_is_accepted(url: str) -> None:
    public_http.check_url(url, allow_loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com/", "https://", "https:///hooks", "https://:8443/", "http://example.com/",
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)",
        "https://user@example.com/", "https://user:password@example.com/", "https://@example.com/",
        "https://example.com/#part", "https://example.com/#", "https://example.com/a b", "https://example.com\\@evil/",
        "https://example.com/\n", "https://bücher.example/", "https://example.com:0/", "https://example.com:22/",
        "https://example.com:65536/", "https://example.com:port/", "https://exa mple.com/", "https://[::1", "https://[]/",
        "https://localhost/", "https://LOCALHOST:8443/", "https://api.localhost/", "https://rabbitmq/",
        "https://postgres.internal/", "https://metadata.google.internal/", "https://printer.local/",
        "https://router.home.arpa/", "https://example.com./", "https://localhost./",
        "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://017700000001/", "https://0177.0.0.1/",
        "https://127.1/", "https://127.0.0.1./", "https://0/", "https://1.2.3.4.5/", "https://256.1.1.1/",
        "https://[::ffff:7f00:1]/", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/",
        "https://example.com/" + "x" * public_http.URL_MAX_LENGTH,
    ],
)  # fmt: skip
def test_every_other_url_is_rejected(url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        public_http.check_url(url, allow_loopback=False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/hooks", "http://localhost:9000/", "http://[::1]:9000/", "http://example.com/"])  # fmt: skip  # noqa: E501
def test_http_and_this_host_can_be_allowed_for_development(url: str) -> None:
    public_http.check_url(url, allow_loopback=True)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/", "http://rabbitmq:15672/", "http://0.0.0.0/", "http://2130706433/"])  # fmt: skip  # noqa: E501
def test_other_addresses_stay_forbidden_in_development(url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        public_http.check_url(url, allow_loopback=True)


class Names:
    """Answers of a resolver, and the names that were looked up."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[list[str]]] = {}
        self.lookups: list[str] = []

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.lookups.append(host)
        responses = self.addresses.get(host)
        if responses is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = responses.pop(0) if len(responses) > 1 else responses[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]


def port_of(there: Receiver) -> int:
    return urlsplit(there.url).port or 0


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Replace the resolver of the operating system."""
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    return made


def call(url: str, *, allow_loopback: bool = False, times: int = 1) -> list[int]:
    """Send POST requests to `url` and return their statuses."""

    async def post() -> list[int]:
        session = public_http.session(allow_loopback=allow_loopback, user_agent="test", timeout_seconds=3)
        statuses = []
        async with session:
            for _ in range(times):
                async with session.post(url, data=b"{}", allow_redirects=False) as response:
                    statuses.append(response.status)
                    with suppress(aiohttp.ClientError, OSError):
                        await response.read()
        return statuses

    return asyncio.run(post())


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_that_resolves_to_an_address_that_is_not_public_is_not_called(names: Names, address: str) -> None:
    names.addresses["rebound.example"] = [["93.184.216.34", address]]
    with pytest.raises(aiohttp.ClientError) as failure:
        call("http://rebound.example:9/")
    assert isinstance(failure.value.__cause__, ForbiddenAddress)
    assert names.lookups == ["rebound.example"]


def test_the_address_that_was_checked_is_called_with_the_name_as_host(names: Names) -> None:
    with receiver() as there:
        port = port_of(there)
        names.addresses["shop.example"] = [["127.0.0.1"], ["10.0.0.1"]]
        assert call(f"http://shop.example:{port}/hooks", allow_loopback=True) == [200]
        assert names.lookups == ["shop.example"], "a second lookup could give another address"
        [got] = there.calls
    assert got.headers["host"] == f"shop.example:{port}"
    assert got.headers["user-agent"] == "test"


def test_a_name_that_changes_its_address_later_is_checked_again(names: Names) -> None:
    with receiver() as there:
        port = port_of(there)
        names.addresses["shop.example"] = [["127.0.0.1"], ["10.0.0.1"]]
        url = f"http://shop.example:{port}/hooks"
        assert call(url, allow_loopback=True) == [200]
        with pytest.raises(aiohttp.ClientError) as failure:
            call(url, allow_loopback=True)
        assert isinstance(failure.value.__cause__, ForbiddenAddress)
        assert len(there.calls) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
def test_a_forbidden_url_from_the_database_is_not_called(host: str) -> None:
    with receiver() as there:
        port = port_of(there)
        with pytest.raises((aiohttp.ClientError, OSError)):
            call(f"http://{host}:{port}/")
        assert there.calls == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as there:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.partition("/hooks")[0])
        assert call(there.url, allow_loopback=True) == [200]
        assert (len(proxy.calls), len(there.calls)) == (0, 1)


def certificate_for(name: str, folder: Path) -> Path:
    """Create a self-signed certificate with its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_must_match_the_name_although_an_address_is_called(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certificate_for("shop.example", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for name in ("shop.example", "other.example"):
        names.addresses[name] = [["127.0.0.1"]]
    with receiver(certificate=certificate) as there:
        assert call(f"https://shop.example:{port_of(there)}/", allow_loopback=True) == [200]
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            call(f"https://other.example:{port_of(there)}/", allow_loopback=True)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            call(f"https://shop.example:{port_of(there)}/", allow_loopback=True)
        assert len(there.calls) == 1


@pytest.mark.parametrize("tls", [False, True])
def test_each_call_on_one_connection_may_receive_a_whole_response(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool
) -> None:
    certificate = certificate_for("shop.example", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names.addresses["shop.example"] = [["127.0.0.1"]]
    calls = 30
    answer = b"x" * 10_000
    assert calls * len(answer) > 4 * RECEIVED_MAX_BYTES
    with receiver(certificate=certificate if tls else None, answer=answer) as there:
        url = f"{'https' if tls else 'http'}://shop.example:{port_of(there)}/"
        assert call(url, allow_loopback=True, times=calls) == [200] * calls
        assert len(there.connections) == 1
