"""`python -m documentation.diagrams MERMAID_JS`: draw the diagrams of the pages as SVG.

The site shows these pictures, because it loads nothing from other hosts. A picture is named by the
hash of its source, so a changed diagram without a new picture fails the build of the site.
"""

import base64
import hashlib
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from documentation.markdown import split_fences

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = "docs/diagrams"

_PAGE: Final = """<meta charset="utf-8"><body style="font-family: sans-serif">
<pre id="source" hidden>{source}</pre><div id="picture"></div>
<script src="{script}"></script>
<script>
mermaid.initialize({{
  startOnLoad: false, htmlLabels: false, fontFamily: "sans-serif", flowchart: {{htmlLabels: false}},
}});
mermaid.render("diagram", document.getElementById("source").textContent).then(
  drawn => {{
    const page = new DOMParser().parseFromString(drawn.svg, "text/html");
    const svg = page.querySelector("svg");
    svg.style.backgroundColor = "white";
    const text = new XMLSerializer().serializeToString(svg);
    document.getElementById("picture").textContent = "[[" + btoa(String.fromCharCode(
      ...new TextEncoder().encode(text))) + "]]";
  }});
</script>"""


def picture_of(block: str) -> str:
    """Return the path of a diagram's picture; `block` is the fenced code block."""
    return f"{FOLDER}/{hashlib.sha256(block.encode()).hexdigest()[:12]}.svg"


def diagrams(root: Path) -> list[str]:
    """Return the fenced code blocks of all diagrams."""
    pages = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    return [
        part
        for page in pages
        for part, is_code in split_fences(page.read_text(encoding="utf-8"))
        if is_code and part.startswith("```mermaid\n")
    ]


def draw(block: str, script: Path) -> str:
    """Return a diagram as SVG, drawn by a headless Chromium with the file of Mermaid.

    Raises:
        ValueError: Mermaid does not understand the diagram.
    """
    source = block.partition("\n")[2].rpartition("```")[0]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(_PAGE.format(source=html.escape(source), script=script.resolve().as_uri()))
        dumped = subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                *(f"--user-data-dir={folder}/profile", "--virtual-time-budget=10000"),
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"\[\[([A-Za-z0-9+/=]+)\]\]", dumped)
    if found is None:
        raise ValueError(f"this diagram could not be drawn:\n{source}")
    return base64.b64decode(found[1]).decode() + "\n"


def main(script: Path) -> None:
    """Draw the diagrams that have no picture, and delete pictures of no diagram."""
    blocks = diagrams(ROOT)
    wanted = {ROOT / picture_of(block) for block in blocks}
    (ROOT / FOLDER).mkdir(exist_ok=True)
    for block in blocks:
        path = ROOT / picture_of(block)
        if not path.exists():
            path.write_text(draw(block, script), encoding="utf-8")
    for path in set((ROOT / FOLDER).glob("*.svg")) - wanted:
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
