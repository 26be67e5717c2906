"""Encoders with a masked-language-model head: tiny ones from a config, published ones from a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import ModernBertConfig, ModernBertForMaskedLM
from transformers.utils import logging

from xltlib.params import StudyError


class Encoder(nn.Module):
    """A transformers masked language model, split where the study needs it: states, then words."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm
        self._head = _heads(lm)

    @property
    def hidden_size(self) -> int:
        return self.lm.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.lm.config.vocab_size

    def states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """Last-layer vectors (B, T, H) of token ids (B, T) or of their embeddings (B, T, H)."""
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        return self.lm.base_model(**given, attention_mask=attention_mask).last_hidden_state

    def layers(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Vectors of all layers, the embeddings first: (layers + 1, B, T, H)."""
        out = self.lm.base_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        return torch.stack(out.hidden_states)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of all words (..., V) for vectors (..., H); call it on predicted positions only."""
        return self._head(states)

    def embeddings(self) -> nn.Embedding:
        return self.lm.get_input_embeddings()

    def save(self, directory: Path) -> None:
        """Write config and weights (safetensors)."""
        with _no_bars():
            self.lm.save_pretrained(directory)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' progress bars: reading takes a moment, and a log should not fill with them."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _heads(lm: nn.Module):
    """The function from states to logits, for each architecture that the study knows."""
    if hasattr(lm, "decoder") and hasattr(lm, "head"):  # ModernBERT
        return lambda states: lm.decoder(lm.head(states))
    for name in ("cls", "lm_head"):  # BERT; RoBERTa, XLM-R
        if hasattr(lm, name):
            return getattr(lm, name)
    raise StudyError(
        f"{type(lm).__name__}: its output head is not known; known: ModernBERT, BERT, RoBERTa, XLM-R"
    )


def tiny(vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, seed: int) -> Encoder:
    """A new encoder (ModernBERT). The seed fixes its weights; the global generator is left as it was."""
    config = ModernBertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=2 * hidden_size,  # gated units: as many weights as 3 x hidden without gates
        max_position_embeddings=512,
        global_attn_every_n_layers=1,  # sentences are short: every layer sees all of them
        pad_token_id=0, cls_token_id=2, bos_token_id=2, sep_token_id=3, eos_token_id=3,
        attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = ModernBertForMaskedLM(config)
        # a tied head sees words by their embeddings: at the usual width of 0.02 a tiny model starts slowly
        nn.init.normal_(lm.get_input_embeddings().weight, std=0.05)
    return Encoder(lm)


def load(directory: Path) -> Encoder:
    """An encoder that `save` wrote. StudyError where the folder does not hold one."""
    if not (Path(directory) / "config.json").is_file():
        raise StudyError(f"{directory}: no encoder there (config.json is missing)")
    try:
        with _no_bars():
            lm, found = ModernBertForMaskedLM.from_pretrained(
                directory, attn_implementation="sdpa", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StudyError(f"{directory}: the encoder cannot be loaded: {error}") from error
    if found["missing_keys"]:  # transformers would go on with random weights there
        raise StudyError(f"{directory}: weights are missing: {', '.join(sorted(found['missing_keys']))}")
    return Encoder(lm)


def parameter_count(encoder: Encoder) -> int:
    """Number of weights, the tied embedding counted once."""
    return sum(p.numel() for p in encoder.parameters())
