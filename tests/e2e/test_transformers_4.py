"""The same folder in transformers 4.5x and 5.x: identical logits. Installs a second environment.

Run by `make test-slow`: needs the package index, and about 20 MB beside the tests' temp folder.
"""

import os
import subprocess
import sys

import pytest
import torch
from conftest import build_tiny

from ctxext.pipeline.extend import extend

pytestmark = pytest.mark.slow

OLD = {
    "4.51.3": ("tokenizers==0.21.4", "huggingface_hub==0.36.0"),
    "4.57.6": ("tokenizers==0.22.1", "huggingface_hub==0.36.0"),
}
CODE = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, out = sys.argv[1:3]
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = torch.tensor([tokenizer("def f(x):\\n    return x\\n" * 30)["input_ids"][:700]])
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(ids).logits
torch.save({"version": transformers.__version__, "logits": logits}, out)
"""


@pytest.fixture(scope="module", params=sorted(OLD))
def old_environment(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"transformers-{request.param}")
    # Not the pins' own dependencies (they would bring an older torch); what those lack is named.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    pins = [f"transformers=={request.param}", *OLD[request.param]]
    subprocess.run([*pip, "--no-deps", *pins], check=True)
    subprocess.run([*pip, "requests"], check=True)
    return request.param, folder


def logits(folder, out, path=None):
    env = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder, out], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_same_logits(tmp_path, old_environment, family):
    version, path = old_environment
    base = build_tiny(tmp_path / "base", family)
    for method in ("linear", "ntk", "dynamic", "yarn", "llama3"):
        out = tmp_path / method
        extend(str(base), method=method, target=1024, output_dir=out)
        new = logits(out, tmp_path / "new.pt")
        old = logits(out, tmp_path / "old.pt", path)
        assert old["version"] == version
        assert new["version"].startswith("5.")
        assert torch.equal(new["logits"], old["logits"]), method
