"""The same folder in transformers 4.4x, 4.5x and 5: identical logits. Installs the old ones.

Run by `make test-slow`: needs the package index, and about 60 MB beside the tests' temp folder.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxext.api.extend import extend
from support.checkpoints import build_tiny
from support.not_rotary import build_not_rotary
from support.old_transformers import OLD, install, python

pytestmark = pytest.mark.slow

# Where a class of `OLD` is not there yet, or computes the method otherwise whatever a file says.
LACKS = {("4.46.3", "qwen3"): "no such class"}
OTHERWISE = {  # (version, family, method): yarn takes max_position_embeddings for the original
    *(("4.46.3", family, "yarn") for family in ("llama", "mistral", "qwen2")),
    *(("4.46.3", "mistral", method) for method in ("linear", "dynamic", "llama3")),  # ignored
}
PAIRS = ("ntk-by-parts", "resonance", "cope", "p-rope")  # longrope, which 4.46 reads otherwise
METHODS = ("linear", "ntk", "dynamic", "yarn", "llama3", "abf", *PAIRS)
# Keys that files of the world leave to the class.
OPTIONAL = (
    "head_dim", "rope_theta", "rope_parameters", "sliding_window", "layer_types",
    "use_sliding_window", "max_window_layers",
)  # fmt: skip
CODE = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder, out in zip(sys.argv[1::2], sys.argv[2::2]):
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
    return request.param, install(request.param, folder)


def logits(folders, path=None):
    """What one version computes for each folder, in one process."""
    outs = [folder.with_suffix(".pt") for folder in folders]
    pairs = [each for pair in zip(folders, outs, strict=True) for each in pair]
    python("-c", CODE, *pairs, path=path)
    return [torch.load(out, weights_only=True) for out in outs]


def without_optional_keys(folder):
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in OPTIONAL}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("keys", ["all keys", "optional keys absent"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers_4(tmp_path, old_environment, family, keys):
    version, path = old_environment
    if (version, family) in LACKS:
        pytest.skip(LACKS[version, family])
    absent = keys == "optional keys absent"
    # Qwen3's class has 128 for a head_dim that is not there.
    head_dim = 128 if absent and family == "qwen3" else 16
    base = build_tiny(tmp_path / "base", family, head_dim=head_dim)
    if absent:
        without_optional_keys(base)
    methods = [m for m in METHODS if (version, family, m) not in OTHERWISE]
    if version == "4.46.3":
        methods = [m for m in methods if m not in PAIRS]
    folders = [tmp_path / method for method in methods]
    for method, folder in zip(methods, folders, strict=True):
        extend(str(base), method=method, target=1024, output_dir=folder)
    old = logits(folders, path)
    new = logits(folders)
    for method, before, after in zip(methods, old, new, strict=True):
        assert before["version"] == version
        assert after["version"].startswith("5.")
        assert torch.equal(after["logits"], before["logits"]), method


OTHER = ("gpt2", "gpt_neo", "opt", "roberta", "bloom", "falcon", "mpt", "xglm")


def test_other_encodings_are_read_alike(tmp_path, old_environment):
    """Tables with more rows, and windows that were raised; GPT-2 with the masks of old files."""
    version, path = old_environment
    folders = []
    for model_type in OTHER:
        base = build_not_rotary(tmp_path / f"{model_type}-base", model_type)
        if model_type == "gpt2":
            tensors = load_file(base / "model.safetensors")
            tensors |= {
                f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 128, 128).tril()
                for layer in range(8)
            }
            save_file(tensors, base / "model.safetensors", {"format": "pt"})
        extend(str(base), target=1024, output_dir=tmp_path / model_type)
        folders.append(tmp_path / model_type)
    for model_type, before, after in zip(
        OTHER, logits(folders, path), logits(folders), strict=True
    ):
        assert before["version"] == version
        assert after["logits"].shape[1] > 512
        assert torch.allclose(after["logits"], before["logits"], atol=1e-4), model_type
