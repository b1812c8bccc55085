from pathlib import Path

import gguf
import pytest

from provider_agent.agent.cli.demo.extra import DemoExtraMissing, require_extra
from provider_agent.agent.cli.demo.tiny_model import write_tiny_model


def write_model(path: Path, *, seed: int = 1, stops: bool = False) -> bytes:
    write_tiny_model(path, seed=seed, stops=stops)
    return path.read_bytes()


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write_model(tmp_path / "a", seed=7) == write_model(tmp_path / "b", seed=7)


def test_different_seeds_give_different_models(tmp_path: Path) -> None:
    assert write_model(tmp_path / "a", seed=1) != write_model(tmp_path / "b", seed=2)


def test_stopping_model_differs_only_in_one_weight(tmp_path: Path) -> None:
    endless, stopping = write_model(tmp_path / "a"), write_model(tmp_path / "b", stops=True)

    assert len(endless) == len(stopping)
    # The weight, a float16, has two bytes.
    assert sum(one != other for one, other in zip(endless, stopping, strict=True)) in {1, 2}


def test_model_is_small_and_has_context_length_and_chat_template(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_tiny_model(path, context_tokens=512)

    reader = gguf.GGUFReader(path)

    assert path.stat().st_size < 300_000
    assert reader.fields["llama.context_length"].contents() == 512
    assert reader.fields["tokenizer.chat_template"].contents()


def test_error_names_the_missing_package_and_the_extra_to_install() -> None:
    with pytest.raises(DemoExtraMissing, match=r"no_such_module not .*provider-agent\[demo\]"):
        require_extra("json", "no_such_module")
