"""`python -m documentation.stage FOLDER`: write the sources of the site to FOLDER/source.

The pages in `docs/` are written for a repository viewer, so some link to files outside of `docs/`.
The site contains these files: Markdown as pages, others as they are. A diagram is replaced by its
picture, because the program that draws it in a browser would come from another host.
`FOLDER/zensical.toml` is the configuration; `zensical build` writes the site to FOLDER/site.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from documentation.diagrams import picture_of
from documentation.markdown import replace_links, split_fences

ROOT: Final = Path(__file__).parents[1]

PAGES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
"""Pages of the site that are not in `docs/`."""


def stage(folder: Path, root: Path = ROOT) -> None:
    """Write the sources and the configuration of the site.

    Raises:
        ValueError: a link leads to no file of the repository, or a diagram has no picture.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "source"
    for path in sorted((root / "docs").rglob("*")):
        if path.is_file() and path.suffix != ".md" and path.name != "zensical.toml":
            _copy(path, source / path.relative_to(root / "docs"))
    for path in [*(root / name for name in PAGES), *sorted((root / "docs").rglob("*.md"))]:
        page = place_of(path.relative_to(root).as_posix())
        target = source / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_page(path, page, source, root), encoding="utf-8")
    (folder / "zensical.toml").write_text(site_configuration(root), encoding="utf-8")


def site_configuration(root: Path = ROOT) -> str:
    """Return the configuration of the site, with the patterns of its navigation expanded."""

    def expanded(pattern: re.Match[str]) -> str:
        pages = sorted((root / "docs").glob(pattern[1]))
        return ", ".join(f'"{page.relative_to(root / "docs").as_posix()}"' for page in pages)

    text = (root / "docs" / "zensical.toml").read_text(encoding="utf-8")
    return re.sub(r'"([\w/]+/[^"]*\*[^"]*\.md)"', expanded, text)


def place_of(path: str) -> str:
    """Return where the site has a file of the repository, both relative to their root."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}"


def _page(path: Path, page: str, source: Path, root: Path) -> str:
    folder = posixpath.dirname(page)

    def moved(label: str, target: str) -> str:
        if re.match(r"[a-z]+:|#", target):
            return f"{label}({target})"
        name, hash_sign, anchor = target.partition("#")
        file = (path.parent / name).resolve()
        if file.is_dir():
            return label.strip("[]")  # the site has no listing of folders
        if not file.is_file() or not file.is_relative_to(root):
            raise ValueError(f"{path.relative_to(root)}: the link to {target} leads to no file")
        place = place_of(file.relative_to(root).as_posix())
        if place.startswith("files/"):
            _copy(file, source / place)
        return f"{label}({posixpath.relpath(place, folder or '.')}{hash_sign}{anchor})"

    return "".join(
        _diagram(part, path, root, folder)
        if is_code and part.startswith("```mermaid\n")
        else part
        if is_code
        else replace_links(part, moved)
        for part, is_code in split_fences(path.read_text(encoding="utf-8"))
    )


def _diagram(block: str, path: Path, root: Path, folder: str) -> str:
    picture = picture_of(block)
    if not (root / picture).is_file():
        raise ValueError(
            f"{path.relative_to(root)}: a diagram has no picture {picture}; run make docs-diagrams"
        )
    return f"![diagram]({posixpath.relpath(place_of(picture), folder or '.')})\n"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
