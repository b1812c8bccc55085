import pytest

from provider_agent.adapters.errors import Unreachable
from provider_agent.adapters.http.client import HttpRequest
from provider_agent.adapters.http.request_head import RequestHeads
from provider_agent.adapters.http.server_address import parse_address


def test_head_has_the_host_all_headers_and_the_length() -> None:
    heads = RequestHeads(parse_address("http://host:8000/base/"), {"A": "1"})

    assert (
        heads.encode(HttpRequest("/v1/x", {"B": "ü"}, b"x" * 12), keep_alive=True)
        == (
            "POST /base/v1/x HTTP/1.1\r\nHost: host:8000\r\nA: 1\r\nB: ü\r\n"
            "Content-Length: 12\r\n\r\n"
        ).encode()
    )


def test_head_of_a_single_request_asks_the_server_to_close() -> None:
    heads = RequestHeads(parse_address("http://host"), {})

    head = heads.encode(HttpRequest("/x", {}, b""), keep_alive=False)

    assert head == (
        b"POST /x HTTP/1.1\r\nHost: host\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )


def test_head_of_a_request_without_a_body_has_no_length() -> None:
    heads = RequestHeads(parse_address("http://host/base"), {})
    heads.encode(HttpRequest("/x?a=b", {}, b""), keep_alive=True)

    head = heads.encode(HttpRequest("/x?a=b", {}, None, "GET"), keep_alive=True)

    assert head == b"GET /base/x?a=b HTTP/1.1\r\nHost: host\r\n\r\n"


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\0b", "a\r\nX-Injected: 1"])
def test_header_that_could_start_another_one_is_rejected(text: str) -> None:
    address = parse_address("http://host")

    with pytest.raises(ValueError, match="line break"):
        RequestHeads(address, {"X": text})
    with pytest.raises(ValueError, match="line break"):
        RequestHeads(address, {}).encode(HttpRequest("/x", {"X": text}, b""), keep_alive=True)


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "path"),
    [
        ("http://host", "host", 80, "host", ""),
        ("https://host", "host", 443, "host", ""),
        ("https://host:443", "host", 443, "host", ""),
        ("http://host:443/a/b/", "host", 443, "host:443", "/a/b"),
        ("http://[::1]:8000", "::1", 8000, "[::1]:8000", ""),
        ("http://bücher.example/ü x", "xn--bcher-kva.example", 80, None, "/%C3%BC%20x"),
        ("http://host/a%20b", "host", 80, "host", "/a%20b"),
    ],
)
def test_address_has_the_parts_of_the_url(
    url: str, host: str, port: int, authority: str | None, path: str
) -> None:
    address = parse_address(url)

    assert (address.host, address.port, address.path) == (host, port, path)
    assert address.authority == (authority or host)
    assert address.is_tls is url.startswith("https")


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "http://", "http://[::1", "http://host:99999", "ftp://host", "http://a b"],
)
def test_malformed_url_is_unreachable(url: str) -> None:
    with pytest.raises(Unreachable, match="url is not valid"):
        parse_address(url)
