"""A hook of mkdocs: pages outside docs/ belong to the site, and links work on GitHub and on the site alike.

Pages link to each other, and to files of the repository, as GitHub resolves it: relative to the page's own folder, or
by the absolute address of the repository (README.md, which PyPI shows too). On the site, a link to a page of the site
leads there; a link to any other file or folder leads to the repository. A link to a file that does not exist stays as
it is, so that `mkdocs build --strict` reports it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "repository/"  # where the site has the pages that are not in docs/
PICTURES = (".png", ".svg", ".jpg")
_FENCED = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r'(?P<before>\]\(|^\[[^]]+\]: |(?:src|href)=")(?P<target>[^()\s"]+)(?P<after>[)"]|$)', re.MULTILINE)


def pages(nav: Any) -> list[str]:
    """The pages of a nav of mkdocs.yml, as paths on the site."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def path_in_repository(page: str) -> str:
    """The file of a page of the site, relative to the repository."""
    return page.removeprefix(OUTSIDE) if page.startswith(OUTSIDE) else f"docs/{page}"


def rewritten(markdown: str, page: str, known: set[str], repository: str) -> str:
    """`markdown` with links for the site.

    Args:
        page: the page's path on the site.
        known: the paths of all files on the site.
        repository: its address, such as https://github.com/ORG/NAME.
    """
    here = os.path.dirname(path_in_repository(page))

    def link(found: re.Match[str]) -> str:
        target = _target(found["target"], here, page, known, repository)
        return f"{found['before']}{target}{found['after']}"

    parts = _FENCED.split(markdown)  # code is at the odd places
    return "".join(part if at % 2 else _LINK.sub(link, part) for at, part in enumerate(parts))


def _target(target: str, here: str, page: str, known: set[str], repository: str) -> str:
    address, _, anchor = target.partition("#")
    ours = re.match(rf"{re.escape(repository)}/(?:blob|tree|raw)/main/", address)
    if not address or (urlsplit(address).scheme and not ours):
        return target
    path = address[ours.end() :] if ours else os.path.normpath(os.path.join(here, address))
    end = f"#{anchor}" if anchor else ""
    on_site = path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}{path}"
    if on_site in known:
        return os.path.relpath(on_site, os.path.dirname(page) or ".") + end
    if not (ROOT / path).exists():
        return target
    return f"{repository}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}{end}"


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the nav that are outside docs/, and the pictures that they show."""
    from mkdocs.structure.files import File

    for page in pages(config.nav):
        if page.startswith(OUTSIDE):
            files.append(File.generated(config, page, abs_src_path=str(ROOT / path_in_repository(page))))
    for page in pages(config.nav):
        here = os.path.dirname(path_in_repository(page))
        for found in _LINK.finditer((ROOT / path_in_repository(page)).read_text(encoding="utf-8")):
            path = os.path.normpath(os.path.join(here, found["target"]))
            picture = f"{OUTSIDE}{path}"
            if path.endswith(PICTURES) and (ROOT / path).is_file() and picture not in files.src_uris:
                files.append(File.generated(config, picture, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return rewritten(markdown, page.file.src_uri, set(files.src_uris), config.repo_url.rstrip("/"))
