"""The one table of the files beside the weights: what each file of a model folder is, and whether a merge copies it.

A file is known by its name, not by its suffix alone: `vocab.txt` belongs to a model, `requirements.txt` does not. The
table names a file that no row fits by its suffix: a `.json` file may be read by the model's own code and is copied,
other files are not.
"""

from __future__ import annotations

import os
import re
from fnmatch import translate
from functools import cache
from typing import NamedTuple


class Kind(NamedTuple):
    """One row of the table.

    Attributes:
        label: what the files are. Notes use it for files that are not copied.
        patterns: patterns for names in lower case, as in `fnmatch`.
        copied: a merge copies these files from the root of a model.
        noted: a merge reports files of this kind that it does not copy. False for what nobody expects in the output.
    """

    label: str
    patterns: tuple[str, ...] = ()
    copied: bool = False
    noted: bool = True


WEIGHTS = Kind("weights", ("*.safetensors", "*.safetensors.index*.json"), noted=False)  # the merge writes its own
ADAPTER = Kind(
    "an adapter, which is not applied",
    ("adapter_config.json", "adapter_model.*", "adapter_model-*", "adapters.*", "peft_*", "xlora_*"),
)
TRAINING = Kind(
    "left over from training",
    (
        *("trainer_*", "training_args*", "training_params*", "training_log*", "training_loss*"),
        *("*_results.json", "*_results.txt", "optimizer.*", "optimizer_*", "optimizer-*", "scheduler.*"),
        *("lr_scheduler.*", "rng_state*", "random_states*", "scaler.pt", "scaler.bin", "sampler*.bin"),
        *("global_step*", "latest", "latest_*", "zero_to_fp32.py", "events.out.*", "*.distcp", "llamaboard_*"),
        *("pytorch_model_fsdp*", "mp_rank_*", "zero_pp_rank_*", "bf16_zero_*", "running_log.txt"),
        *("args.json", "*_args.json", "train_config*.json", "training_config*.json", "hparams*.json", "wandb*.json"),
        *("ds_config*.json", "*deepspeed*.json", "accelerate*.json"),
    ),
)
QUANTISATION = Kind(
    "for quantised weights",
    (
        *("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json"),
        *("quant_log.csv", "quant_model_description*.json", "kv_cache_scales.json"),
    ),
)
CODE = Kind("code that no config names", ("*.py",))  # copied if a config names it, see `output.sidefiles`
SCRIPTS = Kind("scripts", ("requirements*.txt", "*.sh", "*.ipynb", "*.toml", "*.cfg", "dockerfile", "makefile"))
CONFIG = Kind("config", ("config.json", "generation_config.json", "params.json", "configuration.json"), copied=True)
TOKENIZER = Kind(
    "tokenizer",
    (
        *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "tekken*.json", "*vocab*.json"),
        *("merges*.txt", "*vocab*.txt", "dict*.txt", "*.model", "*.model.v*", "*.tiktoken", "*.tokenizer", "*.spm"),
        *("*.bpe", "bpe.codes", "*.vocab", "normalizer.json", "emoji.json", "byte_maps.json", "word_*.json"),
    ),
    copied=True,
)
PROCESSOR = Kind("processor", ("*processor_config.json", "*image_processor*.json", "*extractor*.json"), copied=True)
TEMPLATE = Kind("chat template", ("*.jinja", "*.jinja2", "chat_template*.json"), copied=True)
SENTENCE_TRANSFORMERS = Kind(
    "sentence-transformers",
    ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "router_config.json"),
    copied=True,
)
LICENCE = Kind(
    "licence",
    (
        *("licen[cs]e*", "*licen[cs]e*.txt", "*licen[cs]e*.md", "notice*", "*notice*.txt", "*notice*.md"),
        *("copying*", "copyright*", "*use_policy*"),
    ),
    copied=True,
)
PRIVATE = Kind(
    "may hold secrets",
    (
        "*credential*",
        "*secret*",
        "*password*",
        "*token.json",
        "*api_key*",
        "*apikey*",
        "*.pem",
        "id_rsa*",
        "id_ed25519*",
    ),
)
OTHER_WEIGHTS = Kind(
    "weights in other formats, or pickles",
    (
        *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.index.json", "*.h5", "*.msgpack"),
        *("*.ot", "*.onnx", "*.onnx_data*", "*.gguf", "*.ggml", "*.tflite", "*.mlmodel", "*.npz", "*.npy"),
        *("*.engine", "*.nemo", "*.pdparams", "*.llamafile"),
    ),
)
DOCUMENTS = Kind(
    "documents",
    (
        *("readme*", "*.md", "*.rst", "*.pdf", "*.html", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp"),
        *("*.mp4", "*.wav", "*.mp3"),
    ),
    noted=False,
)
SETTINGS = Kind("settings", ("*.json",), copied=True)  # any other JSON file: the model's own code may read it
UNKNOWN = Kind("not known to belong to a model")

# The first row that fits decides.
_FILES = (
    *(ADAPTER, TRAINING, WEIGHTS, QUANTISATION, CODE, SCRIPTS),
    *(CONFIG, TOKENIZER, PROCESSOR, TEMPLATE, SENTENCE_TRANSFORMERS, LICENCE),
    *(PRIVATE, OTHER_WEIGHTS, DOCUMENTS, SETTINGS),
)
_FOLDERS = (
    Kind(
        TRAINING.label,
        ("checkpoint-*", "global_step*", "runs", "logs", "wandb", "tensorboard", "optimizer_*", "pytorch_model_fsdp*"),
    ),
    Kind(OTHER_WEIGHTS.label, ("onnx", "openvino", "original", "coreml", "gguf", "tflite")),
    Kind(DOCUMENTS.label, ("assets", "figures", "figs", "images", "imgs", "docs", "media"), noted=False),
)
SUBFOLDER = Kind("other subfolders")

TEXTS = (".txt", ".yaml", ".yml", ".csv", ".tsv")  # text that a model's own code may read
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def kind_of(name: str) -> Kind:
    """Returns the kind of the file `name`. Folders in front of the name do not matter.

    Example:
        >>> from mi_kernels.checkpoint.model_files import kind_of
        >>> [kind_of(name).label for name in ("vocab.txt", "notes.txt", "zero_to_fp32.py")]
        ['tokenizer', 'not known to belong to a model', 'left over from training']
    """
    return _first(_FILES, os.path.basename(name)) or UNKNOWN


def kind_of_folder(name: str) -> Kind:
    """Returns the kind of a folder in the root of a model that no file of the model names."""
    return _first(_FOLDERS, name) or SUBFOLDER


def is_folder_of_copies(name: str) -> bool:
    """Returns whether a folder of this name has the state of a training run, or weights in other formats."""
    return kind_of_folder(name).label in (TRAINING.label, OTHER_WEIGHTS.label)


def _first(kinds: tuple[Kind, ...], name: str) -> Kind | None:
    return next((kind for kind in kinds if _compiled(kind.patterns).match(name.lower())), None)


@cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


def may_replace(name: str, target: str) -> bool:
    """Returns whether a link `name` in one model may lead to the file `target` of another one.

    Both are paths within their models. A link must lead to a file of the same kind. Where the name is all that is known
    of a file (code, settings of unknown use, weights in a subfolder), it must be the same name.
    """
    kind = kind_of(name)
    if os.path.dirname(name) != os.path.dirname(target) or kind != kind_of(target):
        return False
    if kind in (CODE, SETTINGS, WEIGHTS):
        return name == target
    return kind.copied
