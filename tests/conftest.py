"""Fixtures that several rooms share: small real checkpoints on disk, and a long text."""

import gc
import os
import subprocess
import tempfile

import pytest

from support.checkpoints import SHARED, build_tiny

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the Hub; the push tests say so
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run two at a time, and their models are tiny
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the command starts hundreds of times here
_CACHE = tempfile.TemporaryDirectory(prefix="ctxext-cache-")  # not the user's own
os.environ["CTXEXT_CACHE"] = _CACHE.name


@pytest.fixture(autouse=True)
def _frozen():
    """Leave what was imported and made before to no later `gc.collect`, of which there are
    thousands: each took half a second with torch, transformers and peft in memory."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A 2-layer Llama, window 128, byte tokenizer. Read only."""
    return build_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def shipped():
    """The checkpoint inside the package."""
    from ctxext.api.train_base import shipped_base

    return shipped_base()


@pytest.fixture(scope="session")
def stories():
    """A real pretrained Llama (0.26 M parameters) that nobody here trained."""
    folder = SHARED / "checkpoints" / "stories260K"
    if not folder.exists():
        pytest.skip(f"{folder} is not there: the tests on foreign weights do not run")
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """A long text file of ASCII prose-like lines, made here."""
    import random

    rng = random.Random(0)
    words = [
        "".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(2, 9))) for _ in range(400)
    ]
    lines = [" ".join(rng.choice(words) for _ in range(12)) + "." for _ in range(1500)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def small_disk(tmp_path):
    """Makes real file systems of a given size in bytes."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(
                "no file system can be mounted here (needs root): FULL DISKS ARE NOT TESTED"
            )
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)
