"""Small random decoders with adapters that are far from zero, and their gradients."""

import torch
import transformers

from ctxext.training.model.lora import add_adapters, trained_tensors


def adapted(family, config, lora):
    """A model of a family, by the keys of its config, with adapters, in training mode."""
    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(**config)
    model = transformers.AutoModelForCausalLM.from_config(made)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    wrapped = add_adapters(model, lora, "tiny").train()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the gradients
            torch.nn.init.normal_(parameter, std=0.05)
    return wrapped


def gradients(model, loss):
    """The loss as a number, and the gradient of each trained tensor by its name."""
    found = torch.autograd.grad(loss, list(trained_tensors(model).values()))
    return loss.item(), dict(zip(trained_tensors(model), found, strict=True))
