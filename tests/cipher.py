"""A toy cipher as parallel text, and encoders for it: the target is the source reversed, in other words."""

import numpy as np

from xltlib.data.tokenization import SPECIAL
from xltlib.pretraining import models
from xltlib.pretraining.objectives import ParallelText

VOCAB = 40
FIRST = len(SPECIAL)
SHIFT = 17  # a source word w is FIRST..FIRST+16, its translation w + SHIFT


def rng(seed=0):
    return np.random.default_rng(seed)


def text(n=12, length=5, seed=0):
    """n pairs of sentences with all their links."""
    source = [rng([seed, i]).integers(FIRST, FIRST + SHIFT, length) for i in range(n)]
    target = [(s + SHIFT)[::-1] for s in source]
    links = [np.stack([np.arange(length), np.arange(length)[::-1]], 1) for _ in range(n)]
    return ParallelText(source, target, links)


def encoder(seed=0, hidden=16, layers=1):
    return models.tiny(VOCAB, hidden, layers, 2, seed)


class Watched(models.Encoder):
    """An encoder that keeps what it is given."""

    def __init__(self, lm):
        super().__init__(lm)
        self.seen, self.predicted = [], 0

    def states(self, input_ids, attention_mask=None, **given):
        self.seen.append(input_ids)
        return super().states(input_ids, attention_mask, **given)

    def logits(self, states):
        self.predicted += states.shape[:-1].numel()
        return super().logits(states)
