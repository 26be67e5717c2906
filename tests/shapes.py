"""New encoders of the published shapes, or of small ones of their kinds."""

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerFast

from xltlib.data import hub
from xltlib.pretraining import models

BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MT5 = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
SMALL = {"mbert": BERT, "xlmr-base": BERT, "mt5-small": MT5}
VOCAB = 40


def shape(name: str, **changes) -> PretrainedConfig:
    """The config of a published model, some of it changed."""
    return AutoConfig.for_model(**hub.MODELS[name]["shape"] | changes)


def small(name: str, **changes) -> PretrainedConfig:
    """The config of a published model, its sizes cut down."""
    return shape(name, **{"vocab_size": VOCAB, **SMALL[name], **changes})


def encoder(config: PretrainedConfig, seed: int = 0) -> models.Encoder:
    """An encoder with random weights that the seed fixes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = models.classes()[config.model_type]
        return models.Encoder(kind._from_config(config, attn_implementation=models.ATTENTION))


def reading(tokenizer: PreTrainedTokenizerFast, **changes) -> models.Encoder:
    """A small encoder of the kind that a tokenizer is of, mBERT's or XLM-R's, for its subwords."""
    name = "mbert" if tokenizer.sep_token == "[SEP]" else "xlmr-base"
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return encoder(small(name, **sizes, **changes))
