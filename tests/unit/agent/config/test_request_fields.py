from pathlib import Path

import pytest

from tests.unit.agent.config.loading import MINIMAL, load, load_error


@pytest.mark.parametrize("setting", ["pass_fields", "strip_fields"])
@pytest.mark.parametrize("name", ["model", "messages", "prompt", "input", "stream"])
def test_field_that_every_job_needs_is_refused(tmp_path: Path, setting: str, name: str) -> None:
    # In an earlier version, the setting was accepted and every job failed.
    text = f'{MINIMAL}[[backends]]\nkind = "vllm"\n{setting} = ["seed", "{name}"]\n'

    assert f'backends[0].{setting}: "{name}" is a field' in load_error(tmp_path, text)


def test_field_in_both_lists_is_refused(tmp_path: Path) -> None:
    text = f'{MINIMAL}[[backends]]\nkind = "vllm"\npass_fields = ["a", "b"]\nstrip_fields = ["b"]\n'

    expected = (
        'backends[0].strip_fields: "b" is in pass_fields, too; remove it from one of the lists'
    )
    assert expected in load_error(tmp_path, text)


@pytest.mark.parametrize(
    ("kind", "name", "question"),
    [
        ("vllm", "logit_bais", '; did you mean "logit_bias"?'),
        ("vllm", "tools.functoin", '; did you mean "tools.function"?'),
        (
            "vllm",
            "messages.content.image_ulr",
            '; did you mean "messages.content.image_url"?',
        ),
        ("vllm", "xyzzy", ""),
        ("vllm", "logit_bias", None),
        ("vllm", "messages.content.image_url", None),
        ("vllm", "chat_template_kwargs.thinking", None),
        ("vllm", "tools.function", None),
        ("venice", "min_temp", None),
        ("ollama", "min_temp", '; did you mean "min_p"?'),
    ],
)
def test_unknown_name_in_strip_fields_is_a_warning(
    tmp_path: Path, kind: str, name: str, question: str | None
) -> None:
    # `question` is the end of the warning; None: the name is known, so there is no warning.
    text = f'{MINIMAL}[[backends]]\nkind = "{kind}"\nstrip_fields = ["{name}"]\n'
    if kind == "venice":
        text += 'api_key_env = "K"\n'

    prefix = f'backends[0].strip_fields: "{name}" is no field that is sent to {kind}'
    expected = () if question is None else (prefix + question,)
    assert load(tmp_path, text).warnings == expected


def test_nested_field_cannot_be_stripped_from_requests_that_are_sent_unread(tmp_path: Path) -> None:
    # In an earlier version, `strip_fields` had no effect with this policy.
    text = f'{MINIMAL}[[backends]]\nkind = "vllm"\nrequest_policy = "pass"\nstrip_fields = '

    assert load(tmp_path, text + '["x_unknown"]\n').warnings == ()
    assert 'strip_fields: "tools.custom" is inside' in load_error(
        tmp_path, text + '["tools.custom"]'
    )


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        (
            "temperature",
            " is sent to vllm anyway, in chat, completions, messages, responses",
        ),
        ("logit_bais", ' is an unknown field; did you mean "logit_bias"?'),
        ("service_tier", None),
        ("x_custom", None),
        # The value is then not checked.
        ("n", None),
        ("tools.web_search", None),
    ],
)
def test_name_in_pass_fields_without_effect_is_a_warning(
    tmp_path: Path, name: str, warning: str | None
) -> None:
    text = f'{MINIMAL}[[backends]]\nkind = "vllm"\npass_fields = ["{name}"]\n'

    expected = () if warning is None else (f'backends[0].pass_fields: "{name}"{warning}',)
    assert load(tmp_path, text).warnings == expected


def test_pass_fields_has_no_effect_with_a_policy_that_passes_all(tmp_path: Path) -> None:
    text = f'{MINIMAL}[[backends]]\nkind = "vllm"\nrequest_policy = "pass"\npass_fields = ["x"]\n'

    expected = 'backends[0].pass_fields has no effect: request_policy = "pass" sends every field'
    assert load(tmp_path, text).warnings == (expected,)
