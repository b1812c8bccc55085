"""The wheel, the pinned requirements, Makefile, image and deployment files."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from provider_agent.agent.cli.settings import EXIT_CONFIG
from provider_agent.agent.config.schema import LimitsConfig
from provider_agent.agent.service import EXIT_FORCED, EXIT_REFUSED

ROOT = Path(__file__).parents[2]
PACKAGES = {"protocol", "adapters", "agent", "coordinator", "conformance"}
SOURCE = ROOT / "src" / "provider_agent"
SHARED = [*SOURCE.glob("*.py"), SOURCE / "py.typed", *(SOURCE / "websocket").glob("*.py")]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
pytestmark = pytest.mark.timeout(300)  # pip builds and installs slowly on a busy machine

DRAIN_S = int(LimitsConfig().drain_timeout_s)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    return tomllib.loads(text_of("pyproject.toml"))


def names_in(requirements: list[str]) -> set[str]:
    """The normalized names of the distributions in requirement lines."""
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", match.group()).lower() for match in found if match}


def pinned_in(name: str) -> set[str]:
    lines = text_of(f"requirements/{name}.txt").splitlines()
    return names_in([line for line in lines if "==" in line])


# --- the wheel ------------------------------------------------------------------------------------


def build(target: str, source: Path, folder: Path) -> Path:
    """Build a `wheel` or an `sdist` of the tree at `source`; return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture
def wheel(wheel_file: Path) -> list[str]:
    return contents(wheel_file)


def test_the_wheel_has_one_top_level_package(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"provider_agent"}


def test_the_wheel_holds_every_module_and_the_type_marker(wheel: list[str]) -> None:
    modules = {
        f"provider_agent/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }

    assert modules | {path.relative_to(ROOT / "src").as_posix() for path in SHARED} <= set(wheel)


def test_the_wheel_holds_the_example_file(wheel: list[str]) -> None:
    assert "provider_agent/agent.example.toml" in wheel


def test_the_wheel_holds_the_files_of_the_status_page(wheel: list[str]) -> None:
    names = ("index.html", "status.css", "status.js", "icon.svg")

    assert {f"provider_agent/agent/telemetry/page/{name}" for name in names} <= set(wheel)


def test_an_sdist_builds_the_same_wheel(wheel: list[str], tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()

    assert sorted(contents(build("wheel", source, tmp_path / "wheel"))) == sorted(wheel)


def test_the_wheel_installs_beside_a_package_that_is_called_adapters(
    wheel_file: Path, tmp_path: Path
) -> None:
    """In an earlier version, the agent's wheel also contained a top-level `adapters/`.

    The agent then imported the other package's `adapters` and crashed; uninstalling the agent
    deleted files of the other package.
    """
    other = tmp_path / "other"
    (other / "adapters").mkdir(parents=True)
    (other / "adapters" / "__init__.py").write_text("OWNER = 'another project'\n", "utf-8")
    (other / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "adapters"\nversion = "1"\n',
        "utf-8",
    )
    other_file = build("wheel", other, tmp_path / "dist")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = str(venv / "bin" / "python")
    (own,) = venv.glob("lib/python*/site-packages")
    # The dependencies of this test run, searched after the packages of the new environment.
    (own / "dependencies.pth").write_text(str(Path(msgspec.__file__).parents[1]), "utf-8")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]

    def run(code: str) -> str:
        command = [python, "-I", "-c", code]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return ran.stdout

    subprocess.run(
        [
            *pip,
            "install",
            "--no-index",
            "--no-deps",
            "--ignore-installed",
            str(wheel_file),
            str(other_file),
        ],
        check=True,
    )
    code = "import adapters, provider_agent.adapters.base as b; print(adapters.OWNER, b.__file__)"
    assert run(code).split(" /")[0] == "another project"
    assert str(venv) in run(code)

    code = "from provider_agent.agent.cli.main import main; main(['config', 'example'])"
    assert run(code) == text_of("agent.example.toml")

    subprocess.run([*pip, "uninstall", "--yes", "provider-agent"], check=True)
    assert run("import adapters; print(adapters.OWNER)") == "another project\n"


def test_the_wheel_holds_the_license_and_the_command(wheel: list[str]) -> None:
    names = {name.partition(".dist-info/")[2] for name in wheel if ".dist-info/" in name}

    assert {"licenses/LICENSE", "entry_points.txt"} <= names


# --- requirements ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.stem)
def test_requirements_are_only_pins_with_hashes(path: Path) -> None:
    pin = r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"

    assert re.fullmatch(f"({pin})+", path.read_text(encoding="utf-8"))


def test_requirements_cover_the_dependencies_of_pyproject() -> None:
    project = pyproject()
    run = names_in(project["project"]["dependencies"])
    demo = names_in(project["project"]["optional-dependencies"]["demo"])
    build = names_in(project["build-system"]["requires"])
    dev = names_in(project["dependency-groups"]["dev"])
    optional = project["project"]["optional-dependencies"]
    image = names_in(optional["otel"] + optional["cluster"])
    image_build = names_in(project["dependency-groups"]["image-build"])

    assert run <= pinned_in("run")
    assert run | image <= pinned_in("image")
    compiling = names_in(project["dependency-groups"]["compile"])

    assert image_build <= pinned_in("image-build")
    assert run | build | compiling <= pinned_in("compile")
    assert build <= pinned_in("build")
    assert run | demo | build <= pinned_in("demo")
    assert run | demo | build | dev <= pinned_in("dev")


def test_requirements_agree_on_versions() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"(?m)^[a-z0-9-]+==[^ ;]+", text_of(f"requirements/{name}.txt")))

    image = pins("image") | pins("image-build")
    assert pins("run") | pins("build") | pins("compile") | pins("demo") | image <= pins("dev")


def test_the_build_group_equals_the_build_requirements() -> None:
    project = pyproject()

    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]


# --- Makefile -------------------------------------------------------------------------------------


def test_the_makefile_declares_and_documents_every_target() -> None:
    makefile = text_of("Makefile")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)

    assert {"demo", "test", "check", "test-vllm"} <= targets
    assert set(phony.split()) == targets
    assert [one for one in targets - {"help"} if f"make {one} " not in makefile] == []


def test_git_ignores_the_configuration_that_the_readme_creates() -> None:
    # It may contain the enrollment code.
    assert "$ provider-agent init " in text_of("README.md")
    assert "/agent.toml" in text_of(".gitignore").splitlines()


# --- the image ------------------------------------------------------------------------------------


def instructions(name: str) -> list[str]:
    """The image's instructions of one kind, with continued lines joined."""
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_image_has_a_build_stage_and_a_runtime_stage() -> None:
    stages = [line.rpartition(" AS ")[2] for line in instructions("FROM")]

    assert stages == ["build", "runtime"]


def test_the_image_runs_without_a_shell_so_that_it_receives_signals() -> None:
    assert instructions("ENTRYPOINT") == ['ENTRYPOINT ["provider-agent"]']
    assert instructions("CMD") == ['CMD ["run"]']
    assert instructions("STOPSIGNAL") == ["STOPSIGNAL SIGTERM"]
    (check,) = instructions("HEALTHCHECK")
    assert check.endswith('CMD ["provider-agent", "health"]')


def test_the_image_runs_as_a_numeric_user_other_than_root() -> None:
    (user,) = instructions("USER")
    numbers = re.fullmatch(r"USER (\d+):(\d+)", user)

    assert numbers
    assert "0" not in numbers.groups()


def test_every_path_that_the_image_copies_exists_and_is_not_ignored() -> None:
    kept = {
        line[1:].rstrip("/")
        for line in text_of(".dockerignore").splitlines()
        if line.startswith("!")
    }
    copies = [line.split()[1:-1] for line in instructions("COPY") if "--from=" not in line]
    sources = {source for copy in copies for source in copy}

    assert sources >= PACKAGES | {"src"}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {source.partition("/")[0] for source in sources} <= kept


def test_the_image_installs_only_pinned_packages() -> None:
    installs = [
        part for line in instructions("RUN") for part in line.split("&&") if " install " in part
    ]
    pip = [part for part in installs if "/pip " in part]

    assert len(pip) == 4
    assert all("--require-hashes" in part or "--no-index --no-deps" in part for part in pip)


# --- deploy files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("deploy/provider-agent.service", r"^TimeoutStopSec=(\d+)$"),
        ("deploy/compose.yaml", r"stop_grace_period: (\d+)s$"),
    ],
)
def test_stop_timeouts_of_deployment_files_exceed_the_drain_timeout(
    name: str, pattern: str
) -> None:
    found = re.findall(pattern, text_of(name), re.MULTILINE)

    assert [int(seconds) > DRAIN_S for seconds in found] == [True]


def test_systemd_does_not_restart_after_permanent_failures() -> None:
    unit = text_of("deploy/provider-agent.service")

    assert f"\nRestartPreventExitStatus={EXIT_CONFIG} {EXIT_REFUSED}\n" in unit
    assert f"\nSuccessExitStatus={EXIT_FORCED}\n" in unit


def test_systemd_waits_for_the_clock_before_it_starts_the_agent() -> None:
    # With a wrong clock at boot, no certificate verifies.
    unit = text_of("deploy/provider-agent.service")

    for key in ("Wants", "After"):
        assert re.search(rf"^{key}=.*\btime-sync\.target\b", unit, re.MULTILINE)


def test_systemd_reloads_with_sighup() -> None:
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in text_of("deploy/provider-agent.service")


def test_no_file_contains_the_address_of_a_package_index() -> None:
    names = ["Makefile", "Dockerfile", "pyproject.toml", *(str(path) for path in REQUIREMENTS)]

    assert [name for name in names if "://" in text_of(name)] == []
