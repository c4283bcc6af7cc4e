"""Read checkpoints in whichever transformers runs this file: what they turn by, and their logits.

`python read_by_transformers.py LIST OUT`: LIST is a JSON list of folders; OUT gets a JSON object
of them. Each has its logits beside it, in `FOLDER.VERSION.pt`. It imports nothing of this project,
because it runs in releases that the project does not.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM


def read(folder):
    """{ropes: [[inv_freq, attention factor], ...], logits: file}, or {error}."""
    try:
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, torch_dtype=torch.float32, attn_implementation="eager"
        ).eval()
        ids = torch.load(Path(folder) / "ids.pt", weights_only=True)
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
    except Exception as error:  # whatever a class of another release does with the file
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    out = f"{folder}.{transformers.__version__}.pt"
    torch.save(logits, out)
    ropes = {}
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and "original" not in name:
                scaling = name.replace("inv_freq", "attention_scaling")
                pair = buffer.tolist(), float(getattr(module, scaling, 1.0))
                ropes[str(pair)] = pair
    return {"ropes": list(ropes.values()), "logits": out}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    answers = {folder: read(folder) for folder in json.loads(Path(sys.argv[1]).read_text())}
    Path(sys.argv[2]).write_text(
        json.dumps({"version": transformers.__version__, "answers": answers})
    )
