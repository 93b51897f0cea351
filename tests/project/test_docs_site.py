"""The documentation site: every page is in its nav, every public name in its reference, links are rewritten.

Without mkdocs: `mkdocs build --strict`, which CI runs, follows every link of the built site.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
import yaml

import mi_kernels
from mi_kernels import errors

from ..support import ROOT
from ..support.documents import WITH_COMMANDS

DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/mi-kernels/mi_kernels"
REFERENCE = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(), re.MULTILINE)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, which names functions of Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)
    return settings


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_nav(config: dict[str, Any], site: ModuleType) -> None:
    shown = [site.path_in_repository(page) for page in site.pages(config["nav"])]
    assert len(shown) == len(set(shown))
    assert all((ROOT / path).is_file() for path in shown)
    written = {page.relative_to(ROOT).as_posix() for page in [*WITH_COMMANDS, *DOCS.rglob("*.md")]}
    assert written <= set(shown)


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"mi_kernels.{name}" for name in mi_kernels.__all__ if name not in ("__version__", "live")}
    live = {f"mi_kernels.live.{name}" for name in mi_kernels.live.__all__}
    raised = {f"mi_kernels.{name}" for name in ("MIKernelsError",)} | {
        name if hasattr(mi_kernels, error.__name__) else f"mi_kernels.errors.{error.__name__}"
        for error in errors.MIKernelsError.__subclasses__()
        if error.__module__ == errors.__name__
        for name in [f"mi_kernels.{error.__name__}"]
    }
    vllm = {f"mi_kernels.integrations.vllm.{name}" for name in ("set_lam", "set_lam_async")}
    assert public | live | raised | vllm <= set(REFERENCE)
    assert len(REFERENCE) == len(set(REFERENCE))


@pytest.mark.parametrize("path", REFERENCE)
def test_every_name_of_the_reference_exists_and_has_a_docstring(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name).__doc__


def test_a_wrong_link_stops_the_build(config: dict[str, Any]) -> None:
    assert set(config["validation"]["links"].values()) == {"warn"}  # which --strict turns into errors
    assert set(config["validation"]["nav"].values()) == {"warn"}


@pytest.mark.parametrize(
    ("link", "page", "leads"),
    [
        ("merge.md#options", "sweep.md", "merge.md#options"),
        ("../eval/README.md", "evaluate.md", "repository/eval/README.md"),
        ("../docs/ray.md", "repository/eval/README.md", "../../ray.md"),
        ("results/README.md", "repository/bench/README.md", "results/README.md"),
        ("../csrc/lane.h", "adding.md", f"{REPOSITORY}/blob/main/csrc/lane.h"),
        ("memory", "repository/bench/README.md", f"{REPOSITORY}/tree/main/bench/memory"),
        (f"{REPOSITORY}/blob/main/docs/merge.md#options", "repository/README.md", "../merge.md#options"),
        (f"{REPOSITORY}/blob/main/LICENSE", "repository/README.md", f"{REPOSITORY}/blob/main/LICENSE"),
        ("https://arxiv.org/abs/2510.10977", "merge.md", "https://arxiv.org/abs/2510.10977"),
        ("#options", "merge.md", "#options"),
        ("no-such-page.md", "merge.md", "no-such-page.md"),  # mkdocs reports it
    ],
)
def test_links_are_rewritten(site: ModuleType, link: str, page: str, leads: str) -> None:
    known = {
        *("merge.md", "sweep.md", "evaluate.md", "ray.md", "adding.md"),
        *(
            f"repository/{path}"
            for path in ("README.md", "eval/README.md", "bench/README.md", "bench/results/README.md")
        ),
    }

    def rewritten(text: str) -> str:
        result: str = site.rewritten(text, page, known, REPOSITORY)
        return result

    assert rewritten(f"see [this]({link}), `[code]({link})`") == f"see [this]({leads}), `[code]({link})`"
    assert rewritten(f"[this]: {link}\n") == f"[this]: {leads}\n"
    assert rewritten(f'<img src="{link}" alt="x">') == f'<img src="{leads}" alt="x">'
    assert rewritten(f"```\n[this]({link})\n```\n") == f"```\n[this]({link})\n```\n"
