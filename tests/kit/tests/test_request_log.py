from pathlib import Path

from provider_agent.protocol.formats import Operation
from tests.kit.hostile_requests import HostileRequest
from tests.kit.request_log import KEPT, SHOWN_BYTES, RequestLog


def test_the_last_requests_are_kept_as_they_were_sent(tmp_path: Path) -> None:
    requests = RequestLog(tmp_path / "requests")
    for number in range(KEPT + 5):
        requests.add(HostileRequest(Operation.CHAT, b"\xff%d" % number))

    files = sorted(requests.folder.iterdir())
    assert [file.read_bytes() for file in files] == [b"\xff%d" % n for n in range(5, KEPT + 5)]


def test_the_description_names_the_last_request_and_its_file(tmp_path: Path) -> None:
    requests = RequestLog(tmp_path)
    assert requests.describe() == "no request was sent"
    requests.add(HostileRequest(Operation.CHAT, b"first"))
    requests.add(HostileRequest(Operation.MESSAGES, b"x" * SHOWN_BYTES + b"end"))

    text = requests.describe()
    assert str(tmp_path / "000002-messages.json") in text
    assert text.endswith(f"x … ({SHOWN_BYTES + 3} bytes)")
