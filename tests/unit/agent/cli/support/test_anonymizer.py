from pathlib import Path

import pytest

from provider_agent.agent.cli.support.anonymizer import (
    Anonymizer,
    environment_secrets,
    file_secrets,
    user_name,
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("key s3cr3t-value.", "key [redacted]."),
        ("abcd and abcdef", "[redacted] and abcdef"),
        (r"in JSON: \u00e4\"quoted", "in JSON: [redacted]"),
        ("in a URL: %C3%A4%22quoted", "in a URL: [redacted]"),
        ("wss://who@c.example/x", "wss://[redacted]@host-1/x"),
        ("wss://who:pw@c.example/x", "wss://[redacted]@host-1/x"),
        ("wss://c.example/x?token=q#f", "wss://host-1/x?[redacted]"),
        ("Authorization: Bearer abcdefghi", "Authorization: Bearer [redacted]"),
        ("/srv/ada/key and /home/eve/x, /Users/bob/y", "~/key and /home/[user]/x, /Users/[user]/y"),
        ("by ada on rig-7, not adamant", "by [name] on host-1, not adamant"),
        ("mail ada.l@mail.example now", "mail [email] now"),
        (
            "http://10.0.0.7:8000, 10.0.0.7 and http://GPU.lan",
            "http://host-1:8000, host-1 and http://host-2",
        ),
        ("http://[fd00::7]:80/ and fd00::7", "http://host-1:80/ and host-1"),
        (
            "http://127.0.0.1:1 localhost [::1]:2 0.0.0.0",
            "http://127.0.0.1:1 localhost [::1]:2 0.0.0.0",
        ),
        ("at 12:30:59 model a/b:8b v1.2.3", "at 12:30:59 model a/b:8b v1.2.3"),
    ],
)
def test_text_is_cleaned(text: str, clean: str) -> None:
    secrets = ["s3cr3t-value", "abcd", 'ä"quoted']
    assert Anonymizer(secrets, ["ada"], ["rig-7"], home="/srv/ada").clean(text) == clean


def test_a_machine_has_the_same_name_in_every_text() -> None:
    anonymizer = Anonymizer([], hosts=["gpu"])
    assert anonymizer.clean("gpu failed") == "host-1 failed"
    assert anonymizer.clean("http://other/ http://GPU/") == "http://host-2/ http://host-1/"


def test_machines_can_be_kept() -> None:
    anonymizer = Anonymizer(["secret-1"], hosts=["gpu"], keep_hosts=True)
    assert anonymizer.clean("gpu http://u:p@10.0.0.7/") == "gpu http://[redacted]@10.0.0.7/"


def test_variables_whose_names_sound_like_a_secret_are_secrets() -> None:
    environ = {
        "VENICE_KEY": "value-1",
        "my_password": "value-2",
        "PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": "value-3",
        "HTTPS_PROXY": "http://who:value-4@p:1",
        "SSH_AUTH_SOCK": "/run/agent",
        "SHORT_TOKEN": "abc",
        "HOME": "/root",
    }
    assert environment_secrets(environ) == {"value-1", "value-2", "value-3", "value-4"}


def test_key_file_is_a_secret_without_its_frame(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----\n"
    )
    assert file_secrets(path) == {"MC4CAQAwBQYDK2VwBCIEIA"}
    assert file_secrets(tmp_path / "missing") == set()


@pytest.mark.parametrize(
    ("environ", "name"), [({"USER": "ada"}, "ada"), ({"HOME": "/home/eve"}, "eve"), ({}, "")]
)
def test_user_name(environ: dict[str, str], name: str) -> None:
    assert user_name(environ) == name


def test_json_stays_json_whatever_is_a_secret() -> None:
    anonymizer = Anonymizer(["false", "4096", "null", "error", "s3cr3t-value"])
    value = {"a": False, "b": 4096, "c": None, "s3cr3t-value": ["x s3cr3t-value", {"error": 1.5}]}
    assert anonymizer.clean_json(value) == {
        "a": False,
        "b": 4096,
        "c": None,
        "[redacted]": ["x [redacted]", {"[redacted]": 1.5}],
    }
