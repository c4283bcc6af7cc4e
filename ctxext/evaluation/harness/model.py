"""A checkpoint as lm-evaluation-harness wants it: its HFLM, read in the right window.

Where this departs from a plain `HFLM(pretrained=model, tokenizer=tokenizer, max_length=window)`:

- One BOS. The harness's rolling log-likelihood puts a prefix token before what the tokenizer gave,
  which for a Llama tokenizer begins with BOS already: two of them, and the second is scored.
- Dynamic scaling forgets the longest sequence before it, which would change shorter ones.
- What does not fit in the window is counted; the harness cuts it from the left and goes on.
- Tokenizers without BOS, EOS and padding work.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from ctxext.checkpoints.live.load import reset_dynamic_rope
from ctxext.data.tokens import check_top
from ctxext.errors import BadInput, CtxextError
from ctxext.progress import Progress, silent

Sample = tuple[str, int]
"""Task and number of one of its documents."""


class Windowed(HFLM):  # type: ignore[misc]
    """A causal language model and its tokenizer, within `window` tokens, prompt and answer.

    Attributes:
        cut: the documents that lost their beginning.
        starts_after_new_line: there is no BOS or EOS to start from.
        left_out_bos: whole texts were read without a BOS that the harness alone would add.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        window: int,
        batch_size: int = 1,
        name: str = "model",
        on_progress: Progress = silent,
    ) -> None:
        prefix = prefix_of(tokenizer)
        if tokenizer.pad_token is None and tokenizer.eos_token is None:
            # HFLM would add a token that the model has no embedding for. Padding is masked.
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", max_length=window,
            batch_size=batch_size, prefix_token_id=prefix,
        )  # fmt: skip
        self.cut: set[Sample] = set()
        self.starts_after_new_line = prefix is not None
        self.left_out_bos = False
        self.add_bos_token: bool | None = None
        self._name, self._on_progress = name, on_progress
        self._embeddings = int(model.get_input_embeddings().weight.shape[0])
        self._samples: list[Sample] = []
        self._samples_of: dict[str, list[Sample]] = {}
        self._stage, self._done, self._total = "", 0, 0

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Return log-likelihoods of continuations; see the harness."""
        self._begin("log-likelihoods", len(requests))
        self._samples = [_sample(request) for request in requests]
        out = super().loglikelihood(requests, disable_tqdm=True)
        self._samples = []
        self._end()
        return out

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Return log-likelihoods of whole texts, in windows side by side; see the harness."""
        self._begin("whole texts", 0)
        before = self.add_bos_token
        if self._tokenizer_adds_prefix():
            self.add_bos_token, self.left_out_bos = False, True
        try:
            out = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self.add_bos_token = before
        self._end()
        return out

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Return greedy or sampled answers; see the harness.

        Raises:
            BadInput: a task wants longer answers than the window is.
        """
        for request in requests:
            wanted = normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            if wanted >= self.max_length:
                raise BadInput(
                    f"--tasks {request.task_name} generates up to {wanted} tokens, and the window "
                    f"of {self._name} is {self.max_length}",
                    "a task with shorter answers, or --max-length beyond the window",
                )
            self._samples_of.setdefault(request.args[0], []).append(_sample(request))
        self._begin("answers", len(requests))
        out = super().generate_until(requests, disable_tqdm=True)
        self._samples_of = {}
        self._end()
        return out

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        samples = self._samples or [("", -1)] * len(requests)
        for sample, (_, context, continuation) in zip(samples, requests, strict=True):
            if not continuation:
                raise CtxextError(
                    f"--tasks {sample[0]}: an answer of document {sample[1]} is no token at all"
                )
            if len(continuation) > self.max_length:
                raise BadInput(
                    f"--tasks {sample[0]}: an answer of document {sample[1]} has "
                    f"{len(continuation)} tokens, and the window is {self.max_length}"
                )
            if len(context) + len(continuation) > self.max_length + 1:
                self.cut.add(sample)
        out = super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
        if any(nll != nll for nll, _ in out):
            raise CtxextError(f"{self._name} returned NaN, so its numbers mean nothing")
        return out

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask, (batch, length) each; what is cut is counted."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len:
            for text, length in zip(strings, mask.sum(dim=1).tolist(), strict=True):
                if length > left_truncate_len:
                    self.cut.update(self._samples_of.get(text, []))
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        """Return the text of ids; None of the EOS that a tokenizer does not have."""
        return None if tokens is None else super().tok_decode(tokens, skip_special_tokens)

    def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> Any:
        self._before(inps)
        return super()._model_call(inps, attn_mask, labels)

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: Any, **kw: Any) -> Any:
        self._before(context)
        return super()._model_generate(context=context, max_length=max_length, stop=stop, **kw)

    def _before(self, ids: torch.Tensor) -> None:
        """Check the ids, (batch, length), of a batch that goes in, and tell how far the run is."""
        check_top(int(ids.max()), self._embeddings)
        reset_dynamic_rope(self.model)
        if self._total:
            self._on_progress(f"{self._name} {self._stage}", self._done, self._total, "")
        self._done = min(self._done + len(ids), self._total)

    def _begin(self, stage: str, total: int) -> None:
        self._stage, self._done, self._total = stage, 0, total

    def _end(self) -> None:
        if self._total:
            self._on_progress(f"{self._name} {self._stage}", self._total, self._total, "")

    def _tokenizer_adds_prefix(self) -> bool:
        ids = self.tokenizer.encode("a")
        return bool(ids) and ids[0] == self.prefix_token_id


def prefix_of(tokenizer: Any) -> int | None:
    """Give the id to start from where a tokenizer has neither BOS nor EOS: a new line's.

    None where the harness's own choice (BOS, else EOS) will do.
    """
    if tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None:
        return None
    ids = tokenizer.encode("\n", add_special_tokens=False)
    return int(ids[-1]) if ids else 0


def _sample(request: Any) -> Sample:
    return request.task_name, request.doc_id
