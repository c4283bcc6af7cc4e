"""Hand-made byte-level language models that read as they are told to: controls for retrieval.

They find the answer in the text that they can see by the rules of the task, and are sure of it;
where they cannot see it, every byte is as likely as any other.
"""

import re
from types import SimpleNamespace

import torch

from ctxext.evaluation.retrieval.fitting import Encoder

_SURE = 20.0  # logit of the byte that comes next


class Reader(torch.nn.Module):
    """Reads all of the text, or its last `window` bytes, or all but a part of it.

    Args:
        task: a retrieval task's name, in compact words.
        window: bytes back from the end that are seen; None = all.
        blind: (from, to) shares of the text that are not seen.
    """

    def __init__(self, task, *, window=None, blind=None):
        super().__init__()
        self.task, self.window, self.blind = task, window, blind
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=256, rope_parameters=None)

    def forward(self, input_ids, use_cache=False, logits_to_keep=0):
        (row,) = input_ids.tolist()
        text = bytes(row).decode("latin-1")
        logits = torch.zeros(1, logits_to_keep, 256)
        for index in range(logits_to_keep):
            coming = self.next_byte(text[: len(text) - logits_to_keep + 1 + index])
            if coming is not None:
                logits[0, index, ord(coming)] = _SURE
        return SimpleNamespace(logits=logits)

    def next_byte(self, text):
        hay, _, line = text.rpartition("\n")
        seen = hay
        if self.window is not None:
            seen = hay[max(0, len(text) - self.window) :]
        if self.blind is not None:
            begin, end = (int(share * len(hay)) for share in self.blind)
            seen = hay[:begin] + "\n" + hay[end:]
        line_to_say = RULES[self.task](seen, line)
        if line_to_say is None or not line_to_say.startswith(line) or len(line_to_say) <= len(line):
            return None
        return line_to_say[len(line)]


RULES = {}


def answers(*tasks):
    """Register how (text, last line so far) gives the whole last line, or None."""

    def register(rule):
        RULES.update(dict.fromkeys(tasks, rule))
        return rule

    return register


@answers("copy")
def _copy(hay, line):
    found = re.search(re.escape(line[:4]) + r"(\S{12})", hay)
    return line[:4] + found[1] if found else None


@answers("passkey")
def _passkey(hay, line):
    found = re.search(r"The pass key is (\d{5})\.", hay)
    return f"The pass key is {found[1]}" if found else None


@answers("needle", "multi-key")
def _needle(hay, line):
    name = re.match(r"The number for (\S+) is:", line)[1]
    found = re.search(rf"The number for {name} is: (\d+)\.", hay)
    return f"The number for {name} is: {found[1]}" if found else None


@answers("multi-value")
def _values(hay, line):
    name = re.match(r"The numbers for (\S+) are:", line)[1]
    return _listed(line, re.findall(rf"One number for {name} is: (\d+)\.", hay), 4)


@answers("multi-query")
def _queries(hay, line):
    names = re.match(r"The numbers for (.*) are:", line)[1].replace(" and ", " ").split(", ")
    found = [re.search(rf"The number for {name} is: (\d+)\.", hay) for name in names]
    return _listed(line, [each[1] for each in found if each], len(names))


def _listed(line, values, wanted):
    if len(values) != wanted:
        return None
    return f"{line.split(':')[0]}: {', '.join(values[:-1])}, and {values[-1]}"


@answers("key-value")
def _pair(hay, line):
    key = line.split(":")[0]
    found = re.search(rf"{key}: (\w+)", hay)
    return f"{key}: {found[1]}" if found else None


@answers("tracing")
def _chain(hay, line):
    value = re.search(r"value (\d+):", line)[1]
    name = re.search(rf"VAR (\w+) = {value}", hay)
    names = [name[1]] if name else []
    while names and (hop := re.search(rf"VAR (\w+) = VAR {names[-1]}\b", hay)):
        names.append(hop[1])
    return f"{line.split(':')[0]}: {', '.join(names)}" if len(names) == 5 else None


class ByteTokenizer:
    """Bytes as ids, with the interface that `Encoder` asks for."""

    is_fast = True
    eos_token_id = unk_token_id = None

    def __call__(self, text, verbose=False, return_offsets_mapping=False):
        ids = list(text.encode("latin-1"))
        return {
            "input_ids": ids,
            "offset_mapping": [(i, i + 1) for i in range(len(ids))],
        }

    def decode(self, ids, skip_special_tokens=False):
        return bytes(ids).decode("latin-1")


BYTES = Encoder(ByteTokenizer())
