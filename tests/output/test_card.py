"""The model card: which metadata it copies, and that text of a model cannot break out of its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mi_kernels import lerp_checkpoint, similarity

from ..support.checks import World


def card(tmp_path: Path, a: str | None, b: str | None, files: tuple[str, str] = ("", "")) -> tuple[dict[str, Any], str]:
    """Merges two models with these cards and LICENSE files. Returns (front matter, text) of the card."""
    world = World(tmp_path)
    for folder, text, licence in ((world.instruct, a, files[0]), (world.thinking, b, files[1])):
        if text is not None:
            (folder / "README.md").write_text(text)
        if licence:
            (folder / "LICENSE").write_text(licence)
    lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False, threads=1)
    _, front, text = (world.out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def stated(**fields: Any) -> str:
    return f"---\n{yaml.safe_dump(fields)}---\n# Model\n"


@pytest.mark.parametrize(
    ("a", "b", "files", "front", "words"),
    [
        (
            stated(license="mit"),
            stated(license="mit"),
            ("x", "x"),
            {"license": "mit"},
            ["mit, as the cards of all models state."],
        ),
        (
            stated(license="mit"),
            stated(license="mit"),
            ("x", "y"),
            {"license": "mit"},
            ["LICENSE files of the models differ"],
        ),
        (
            stated(license="other", license_name="q", license_link="LICENSE"),
            stated(license="other", license_name="q", license_link="LICENSE"),
            ("x", "x"),
            {"license": "other", "license_name": "q", "license_link": "LICENSE"},
            [],
        ),
        (
            stated(license="mit"),
            stated(license="apache-2.0"),
            ("", ""),
            {"license": "other"},
            ["(instruct: mit; thinking: apache-2.0)"],
        ),
        (stated(license="mit"), None, ("", ""), {"license": "other"}, ["thinking: none stated"]),
        (
            stated(license="other", license_name="q", license_link="x"),
            stated(license="other", license_name="r", license_link="x"),
            ("", ""),
            {"license": "other"},
            ["(instruct: other q; thinking: other r)"],
        ),
        (None, "no front matter", ("x", ""), {}, ["cards of the models state no licence"]),
        (stated(language="en"), stated(language=["en"]), ("", ""), {}, []),
        (stated(language=["no", "en"]), "---\nlanguage: [no, en]\n---\n", ("", ""), {"language": ["no", "en"]}, []),
        (stated(pipeline_tag="x"), stated(pipeline_tag="y"), ("", ""), {}, []),
        ("---\nlicense: [\n---\n", "---\n- a\n---\n", ("", ""), {}, ["cards of the models state no licence"]),
        (
            "---\nlicense: {a: 1}\n---\n",
            "---\nlicense: {a: 1}\n---\n",
            ("", ""),
            {},
            ["cards of the models state no licence"],
        ),
    ],
)
def test_copied_metadata(
    tmp_path: Path, a: str | None, b: str | None, files: tuple[str, str], front: dict[str, Any], words: list[str]
) -> None:
    found, text = card(tmp_path, a, b, files)
    ours = {"base_model", "base_model_relation", "library_name", "tags"}
    assert {key: value for key, value in found.items() if key not in ours} == front
    assert all(word in text for word in words), text


def test_values_stay_values(tmp_path: Path) -> None:
    evil = stated(license="mit\ntags: [evil]", pipeline_tag='"]\nx: y')
    found, _ = card(tmp_path, evil, evil)
    assert found["license"] == "mit\ntags: [evil]"
    assert found["tags"] == ["merge", "mi_kernels"]
    assert "x" not in found
    found, text = card(tmp_path / "differ", evil, stated(license="<script>`"))
    assert found["license"] == "other"
    assert r"\<script\>\`" in text
    assert "mit\ntags" not in text


def test_sigma_is_written_on_request(tmp_path: Path) -> None:
    from ..support.models import qwen3_model

    for seed, name in enumerate("ab"):
        qwen3_model(seed, tied=True).save_pretrained(tmp_path / name)
    sides = (tmp_path / "a", tmp_path / "b")
    lerp_checkpoint(*sides, tmp_path / "with", 0.5, sigma=True, progress=False, threads=1)
    lerp_checkpoint(*sides, tmp_path / "without", 0.5, progress=False, threads=1)
    sigma = similarity(*sides, progress=False).overall.sigma
    assert f"sigma = {sigma:.4g}," in (tmp_path / "with" / "README.md").read_text()
    assert "sigma =" not in (tmp_path / "without" / "README.md").read_text()
