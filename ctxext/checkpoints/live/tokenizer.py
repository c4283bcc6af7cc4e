"""Find a checkpoint's tokenizer, load it with distrust, and check it against the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxext.checkpoints.config.decoder_config import brings_its_own_code
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.errors import BadInput, about_its_path
from ctxext.runs.json_file import read_json_object

TOKENIZER = "tokenizer.json"
TOKENIZER_FLAG = "copy the base's tokenizer files there, or name one: --tokenizer FOLDER|REPO"
_FILES = (TOKENIZER, "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
_ENDINGS = (".model", ".tiktoken", ".spm", ".bpe")
_JSON = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", CONFIG)
_MOST_BYTES = 512 * 1024 * 1024  # of a vocabulary; the largest known takes 35 MB
_PROBE = "The 1st probe, naïve; 漢字 \N{SNOWMAN}\n"
_ERRORS = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, OSError,
    ImportError, RuntimeError, RecursionError,
)  # fmt: skip


def is_vocabulary(name: str) -> bool:
    """Tell whether a file of this name makes a folder one with a tokenizer."""
    return name in _FILES or name.endswith(_ENDINGS)


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds files of a tokenizer."""
    return any(is_vocabulary(path.name) for path in folder.iterdir() if path.is_file())


def no_tokenizer(source: Source) -> BadInput:
    """Write the error for a checkpoint without a tokenizer, with the way out."""
    return BadInput(f"{source.name} has no tokenizer", TOKENIZER_FLAG)


def missing_tokenizer(source: Source) -> list[str]:
    """Warn of a checkpoint that has no tokenizer; no warning where it has one."""
    if has_tokenizer(source.folder):
        return []
    missing = no_tokenizer(source)
    return [f"{missing}: {missing.hint}"]


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a folder and try it on a few words.

    Raises:
        BadInput: there is none, it is damaged, or it brings its own code and that is not allowed.
    """
    if not has_tokenizer(source.folder):
        raise no_tokenizer(source)
    said = [name for name in _JSON if (source.folder / name).exists()]
    settings = {name: read_json_object(source.folder / name)[0] for name in said}
    path = source.folder / TOKENIZER
    if path.exists():
        _parse(path)
    from transformers import AutoTokenizer

    # What config.json says beside the family is not the tokenizer's business.
    family = {} if trust_remote_code else {"config": _family(settings.get(CONFIG, {}), source)}
    with quiet_transformers(), tokenizer_errors(source.name):
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=trust_remote_code, local_files_only=True, **family
        )
        if not list(tokenizer(_PROBE, verbose=False)["input_ids"]):
            raise ValueError("it gives no tokens for plain words")
    return tokenizer


def check_fits(tokenizer: Any, embeddings: int, name: str) -> None:
    """Check that a tokenizer named for a model has no more words than its embedding has rows.

    Special tokens may be more: some are added to a tokenizer and never used.

    Raises:
        BadInput: it knows words that have no row.
    """
    added = set(tokenizer.get_added_vocab().values())
    top = max((i for i in tokenizer.get_vocab().values() if i not in added), default=0)
    if top >= embeddings:
        raise BadInput(
            f"--tokenizer {name} gives tokens up to {top}, and the model has {embeddings} "
            "embeddings",
            "the tokenizer belongs to another checkpoint",
        )


@contextmanager
def tokenizer_errors(name: str) -> Iterator[None]:
    """Turn what a tokenizer raises, loading or at work, into one sentence that names it.

    Raises:
        BadInput: in its place.
    """
    try:
        yield
    except BadInput:
        raise
    except _ERRORS as error:
        raise _damaged(name, error) from error
    except BaseException as error:
        if not _is_rusts(error):
            raise
        raise _damaged(name, error) from error


@about_its_path
def _parse(path: Path) -> None:
    """Have the library behind fast tokenizers read its file: its errors name line and column.

    Raises:
        BadInput: it cannot.
    """
    from tokenizers import Tokenizer

    if not path.is_file():  # a pipe would be waited for without end
        raise BadInput(f"{path} is not a regular file")
    if path.stat().st_size > _MOST_BYTES:
        raise BadInput(f"{path} is larger than 512 MiB, which no tokenizer is")

    with tokenizer_errors(str(path)):
        Tokenizer.from_file(str(path))


def _is_rusts(error: BaseException) -> bool:
    """Tell whether the tokenizers library raised it.

    Without a class of its own, it raises `Exception` itself, as nothing else, or a panic of Rust.
    """
    return type(error) is Exception or type(error).__module__ == "pyo3_runtime"


def _damaged(name: str, error: BaseException) -> BadInput:
    words = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in words:
        return brings_its_own_code(Source(Path(name), name), what="tokenizer")
    what = name if name.endswith(TOKENIZER) else f"the tokenizer of {name}"
    return BadInput(f"{what} cannot be used: {words[:300]}", "fetch its files again")


def _family(config: dict[str, Any], source: Source) -> Any:
    """Make a config that says of which family a checkpoint is, and nothing else."""
    from transformers import PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config.get("model_type")
    known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    out = CONFIG_MAPPING[model_type]() if known else PretrainedConfig()
    if isinstance(config.get("tokenizer_class"), str):
        out.tokenizer_class = config["tokenizer_class"]
    out.name_or_path = str(source.folder)
    return out
