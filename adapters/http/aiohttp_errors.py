"""Maps aiohttp's exceptions to `BackendError`."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from provider_agent.adapters.http import failures


@contextmanager
def map_aiohttp_errors(proxy: str | None = None) -> Iterator[None]:
    """Raise a `BackendError` for each exception of aiohttp and for `OSError`, chained to it.

    Args:
        proxy: the `host:port` of the proxy that is dialed instead of the server, if any.
    """
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise failures.connect_timeout() from error
    except TimeoutError as error:
        raise failures.response_timeout() from error
    except aiohttp.ClientConnectorError as error:
        cause = _cause(error)
        # TLS, also its certificates, is that of the server: the proxy only relays it.
        if proxy is not None and not isinstance(cause, ssl.SSLError):
            raise failures.proxy_failure(cause, proxy) from error
        raise failures.connect_failure(cause, error.host) from error
    except aiohttp.InvalidURL as error:
        raise failures.invalid_url() from error
    except aiohttp.ClientPayloadError as error:
        raise failures.broken_response() from error
    except aiohttp.ClientResponseError as error:
        raise failures.malformed_response() from error
    except (aiohttp.ClientError, OSError) as error:
        raise failures.no_response() from error


def _cause(error: aiohttp.ClientConnectorError) -> OSError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return cause if isinstance(cause, ssl.SSLError) else ssl.SSLError()
    return error.os_error
