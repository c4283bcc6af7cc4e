"""Old releases of transformers, each in a folder of its own, and Python that runs in them."""

import os
import subprocess
import sys

# What they need of the index beside torch, in releases of their time.
OLD = {
    "4.46.3": ("tokenizers==0.20.3", "huggingface_hub==0.26.5"),
    "4.51.3": ("tokenizers==0.21.4", "huggingface_hub==0.36.0"),
    "4.57.6": ("tokenizers==0.22.1", "huggingface_hub==0.36.0"),
}


def install(version, folder):
    """Put a release into a folder for PYTHONPATH."""
    # Not the pins' own dependencies (they would bring an older torch); what those lack is named.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    pins = [f"transformers=={version}", *OLD[version]]
    subprocess.run([*pip, "--no-deps", *pins], check=True)
    subprocess.run([*pip, "requests"], check=True)
    return folder


def python(*arguments, path=None):
    """Run Python with the release at `path`; None: the one that is installed."""
    env = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
