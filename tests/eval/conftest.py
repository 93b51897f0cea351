"""Data of our own, in place of the benchmarks': nothing here is downloaded, and nothing is theirs."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub.constants
import pytest

PUNKT = {
    "abbrev_types.txt": "dr\nmr\n",
    "collocations.tab": "",
    "ortho_context.tab": "",
    "sent_starters.txt": "",
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An MI_EVAL_DATA with a sentence model that knows two abbreviations, and no network."""
    folder = tmp_path / "data"
    model = folder / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    for name, content in PUNKT.items():
        (model / name).write_text(content)
    monkeypatch.setenv("MI_EVAL_DATA", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # HF_HUB_OFFLINE is read at import
    return folder


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmarks' published files: $MI_EVAL_DATA, or shared/data beside the checkout. Skips without."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MI_EVAL_DATA") or beside)
    if not (folder / "ifeval" / "responses_gpt4.jsonl").is_file():
        pytest.skip("the published IFEval responses are not here")
    monkeypatch.setenv("MI_EVAL_DATA", str(folder))
    return folder
