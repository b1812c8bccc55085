import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.main import main

COMMANDS = main.list_commands(click.Context(main))
PLACES = {
    "bash": ".local/share/bash-completion/completions/provider-agent",
    "zsh": ".local/share/zsh/site-functions/_provider-agent",
    "fish": ".config/fish/completions/provider-agent.fish",
}
HEAVY = {"msgspec", "nacl", "aiohttp", "websockets", "rich", "prometheus_client"}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The folder of an executable `provider-agent`, as an installation creates it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "provider-agent"
    code = "import atexit, os, sys\nfrom provider_agent.agent.cli.main import main\n"
    report = (
        'atexit.register(lambda: open(os.environ["MODULES"], "w").write("\\n".join(sys.modules)))\n'
    )
    script.write_text(f"#!{sys.executable}\n{code}{report}sys.exit(main())\n", "utf-8")
    script.chmod(0o755)
    return folder


def environment(program: Path) -> dict[str, str]:
    path = f"{program}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MODULES": str(program / "modules")}


def complete(program: Path, shell_script: str, *words: str) -> list[str]:
    """Complete the last word in a real bash."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    code = (
        f'source {shell_script}\nCOMP_WORDS=("$@")\nCOMP_CWORD=$(($# - 1))\n'
        "compopt() { :; }\n"  # fails outside an interactive completion
        '_provider_agent_completion provider-agent\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
        "complete -p provider-agent\n"
    )
    done = subprocess.run(
        [bash, "--norc", "-c", code, "bash", "provider-agent", *words],
        env=environment(program),
        capture_output=True,
        text=True,
        check=True,
    )
    *found, registered = done.stdout.splitlines()
    assert registered == "complete -o nosort -F _provider_agent_completion provider-agent"
    assert done.stderr == ""
    return [one for one in found if one]


@pytest.fixture
def bash_script(runner: CliRunner, tmp_path: Path) -> str:
    runner.invoke(main, ["completion", "bash", "--install"])
    return str(tmp_path / PLACES["bash"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), COMMANDS),
        (("ser",), ["service"]),
        (("service", "un"), ["uninstall"]),
        (("service", "install", "--pr"), ["--print"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("--vers",), ["--version"]),
        (("nonsense", "x"), []),
    ],
)
def test_a_real_bash_completes_commands_options_and_values(
    words: tuple[str, ...], expected: list[str], program: Path, bash_script: str
) -> None:
    assert complete(program, bash_script, *words) == expected


def test_completing_a_command_imports_no_heavy_module(program: Path, bash_script: str) -> None:
    assert complete(program, bash_script, "ru") == ["run"]

    loaded = set((program / "modules").read_text("utf-8").splitlines())
    assert "click" in loaded
    assert loaded & HEAVY == set()
    assert [name for name in loaded if name.startswith("provider_agent.coordinator")] == []


def test_printing_a_script_imports_no_heavy_module(program: Path) -> None:
    done = subprocess.run(
        [program / "provider-agent", "completion", "zsh"],
        env=environment(program),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("#compdef provider-agent\n")
    assert set((program / "modules").read_text("utf-8").splitlines()) & HEAVY == set()


@pytest.mark.parametrize("shell", PLACES)
def test_install_writes_the_printed_script_to_the_usual_place(
    shell: str, runner: CliRunner, tmp_path: Path
) -> None:
    printed = runner.invoke(main, ["completion", shell]).stdout
    result = runner.invoke(main, ["completion", shell, "--install"])

    assert result.exit_code == 0, result.output
    assert (tmp_path / PLACES[shell]).read_text("utf-8") == printed
    assert "_PROVIDER_AGENT_COMPLETE" in printed
    assert f"wrote {tmp_path / PLACES[shell]}\n" in result.output


@pytest.mark.parametrize(
    ("shell", "variable", "place"),
    [
        ("bash", "BASH_COMPLETION_USER_DIR", "completions/provider-agent"),
        ("bash", "XDG_DATA_HOME", "bash-completion/completions/provider-agent"),
        ("zsh", "XDG_DATA_HOME", "zsh/site-functions/_provider-agent"),
        ("fish", "XDG_CONFIG_HOME", "fish/completions/provider-agent.fish"),
    ],
)
def test_install_follows_the_variables_of_the_shell(
    shell: str, variable: str, place: str, runner: CliRunner, tmp_path: Path
) -> None:
    runner.invoke(main, ["completion", shell, "--install"], env={variable: f"{tmp_path}/own"})

    assert (tmp_path / "own" / place).is_file()


def test_zsh_is_told_the_line_for_its_configuration(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(main, ["completion", "zsh", "--install"])

    assert f"fpath=({tmp_path}/.local/share/zsh/site-functions $fpath)" in result.output


def test_a_script_that_cannot_be_written_is_one_message(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file", "utf-8")

    result = runner.invoke(main, ["completion", "fish", "--install"])

    assert result.exit_code == 1
    assert "provider-agent.fish cannot be written: " in result.output


def test_an_unknown_shell_is_refused(runner: CliRunner) -> None:
    assert runner.invoke(main, ["completion", "tcsh"]).exit_code == 2


@pytest.mark.parametrize(("shell", "check"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_the_shell_itself_accepts_the_script(
    shell: str, check: str, runner: CliRunner, tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    runner.invoke(main, ["completion", shell, "--install"])

    subprocess.run([shell, check, tmp_path / PLACES[shell]], check=True)


def test_a_real_fish_completes_a_command_with_its_summary(
    program: Path, runner: CliRunner, tmp_path: Path
) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    runner.invoke(main, ["completion", "fish", "--install"])

    code = f"""source {tmp_path / PLACES["fish"]}
    complete -C "provider-agent uninst"
    complete -C "provider-agent service uninst"
    """
    done = subprocess.run(
        [fish, "--no-config", "-c", code],
        env={**environment(program), "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "uninstall\tStop the service and remove its unit.\n"
