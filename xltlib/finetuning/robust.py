"""Robust training: perturbed input embeddings, and training text with words exchanged for others.

Shapes: B batch, T tokens, H hidden.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from xltlib import StudyError
from xltlib.data.synthetic import CATEGORIES, SLOT_CATEGORY, SYNONYMS, World
from xltlib.data.tasks import PairExample, SpanExample
from xltlib.data.tokenization import OWN, Specials
from xltlib.finetuning.options import FOREIGN
from xltlib.noise.typing import code_switch, rs_da_copies

# perturb.py of Robust-XLT: 10 for PAWS-X, 3 for XNLI; it has no question answering: as few as for XNLI
COPIES = {"paraphrase": 10, "nli": 3, "qa": 3}

Example = PairExample | SpanExample


# Perturbed embeddings


def movable(ids: Tensor, special: Specials = OWN) -> Tensor:
    """Which positions (B, T) a perturbation may move: all but special tokens and padding."""
    return ~torch.isin(ids, torch.tensor(sorted(special.ids), device=ids.device))


def typical_norm(embeds: Tensor, moved: Tensor) -> Tensor:
    """Mean length of the embeddings (B, T, H) at the movable positions: the unit of every perturbation."""
    norms = embeds.detach().norm(dim=-1)
    return (norms * moved).sum() / moved.sum().clamp(min=1)


def project(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    """The nearest perturbation (B, T, H) in the ball of each token's vector.

    "l2": its length is at most `radius`. "linf": each of its H numbers is at most radius / sqrt(H), so that
    the corners of this cube lie on the l2 ball of the same radius.
    """
    if norm == "linf":
        bound = radius / delta.shape[-1] ** 0.5
        return delta.clamp(-bound, bound)
    return delta * (radius / delta.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)


def ascend(delta: Tensor, gradient: Tensor, step: Tensor, norm: str) -> Tensor:
    """One step of length `step` uphill: along the gradient of each token, or along its signs for "linf"."""
    if norm == "linf":
        return delta + step / delta.shape[-1] ** 0.5 * gradient.sign()
    return delta + step * gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def pgd(
    loss: Callable[[Tensor], Tensor], embeds: Tensor, moved: Tensor, radius: Tensor,
    norm: str = "l2", steps: int = 2, step_size: float = 0.75, clean_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A perturbation (B, T, H) within the ball that raises the loss, and the loss without any, detached.

    Projected gradient steps (Madry et al. 2018) from 0, where the loss is the clean one.

    Parameters
    ----------
    loss : of input embeddings (B, T, H).
    moved : (B, T) positions that may move.
    step_size : length of a step, relative to the radius.
    clean_weight : above 0, the backward pass of the first step also leaves the gradient of `clean_weight` x
        clean loss in the weights, which costs less than a pass of its own.
    """
    delta, where = torch.zeros_like(embeds), moved.unsqueeze(-1)
    clean = None
    for _ in range(steps):
        delta.requires_grad_(True)
        if clean is None and clean_weight > 0:
            value = loss(embeds + delta)
            (clean_weight * value).backward()
            gradient = delta.grad
        else:
            value = loss(embeds.detach() + delta)
            (gradient,) = torch.autograd.grad(value, delta)
        clean = value.detach() if clean is None else clean
        with torch.no_grad():
            delta = project(ascend(delta, gradient * where, step_size * radius, norm), radius, norm) * where
    return delta.detach(), clean


def adversarial_loss(
    loss: Callable[[Tensor], Tensor], embeds: Callable[[], Tensor], moved: Tensor, epsilon: float,
    norm: str, steps: int, step_size: float, clean_weight: float,
) -> dict[str, Tensor]:  # fmt: skip
    """clean_weight x clean loss + (1 - clean_weight) x loss at the perturbation that PGD finds.

    The gradient of the first part is in the weights when this returns, that of the second comes with
    `backward`: an update then costs no more than 1 + `steps` standard ones. `embeds` looks the embeddings
    (B, T, H) up, once for each part.
    """
    table = embeds()
    radius = epsilon * typical_norm(table, moved)
    delta, clean = pgd(loss, table, moved, radius, norm, steps, step_size, clean_weight)
    attacked = loss(embeds() + delta)
    mixed = clean_weight * clean + (1 - clean_weight) * attacked
    return {"loss": mixed, "clean": clean, "attacked": attacked.detach()}


def randomly_moved(
    embeds: Tensor, moved: Tensor, size: float, distribution: str, rng: np.random.Generator
) -> Tensor:
    """Embeddings (B, T, H) plus a random vector at each movable position, of root mean square length
    `size` x the mean length of the embeddings; its H numbers are independent, "normal" or "uniform".
    """
    draw = rng.standard_normal if distribution == "normal" else lambda shape, dtype: rng.random(shape, dtype)
    noise = torch.from_numpy(draw(tuple(embeds.shape), np.float32)).to(embeds)
    if distribution == "uniform":
        noise = (2 * noise - 1) * 3**0.5
    spread = size * typical_norm(embeds, moved) / embeds.shape[-1] ** 0.5
    return embeds + spread * noise * moved.unsqueeze(-1)


# Exchanged words


def with_texts(example: Example, texts: Sequence[str]) -> Example:
    """The example with two new texts, each with as many words (between single spaces) as the old one.

    The label stays. An answer becomes the words that stand in its place, read from the new context; where
    it ends within a word that has changed, it is widened to the whole word.
    """
    first, second = texts
    if isinstance(example, PairExample):
        return replace(example, text_a=first, text_b=second)
    answers = tuple(_moved_answer(example, second, start, text) for start, text in example.answers)
    return replace(example, question=first, context=second, answers=answers)


def _moved_answer(example: SpanExample, context: str, start: int, text: str) -> tuple[int, str]:
    old, new = example.context.split(" "), context.split(" ")
    if len(old) != len(new):
        raise StudyError(f"example {example.id}: {len(new)} words in place of {len(old)}")
    ends = np.cumsum([len(word) + 1 for word in old]) - 1  # where each word ends
    first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, start + len(text))
    begin, end = (sum(len(word) + 1 for word in new[:i]) for i in (first, last + 1))
    if old[first] == new[first]:
        begin += start - (int(ends[first]) - len(old[first]))
    end -= 1
    if old[last] == new[last]:
        end -= int(ends[last]) - (start + len(text))
    return int(begin), context[begin:end]


def _texts(example: Example) -> tuple[str, str]:
    if isinstance(example, PairExample):
        return example.text_a, example.text_b
    return example.question, example.context


def rs_da_examples(
    examples: Sequence[Example], copies: int, neighbours: Mapping, rng: np.random.Generator
) -> list[Example]:
    """`copies` perturbed copies of every example, without the original, as released with Robust-XLT.

    The i-th variants of its two texts make up the i-th copy; all texts are drawn independently.
    """
    return [
        with_texts(example, texts)
        for example in examples
        for texts in rs_da_copies(_texts(example), copies, neighbours, rng)
    ]


def switched_examples(
    examples: Sequence[Example], passes: int, lexicon: Mapping, ratio: float, cross: float,
    rng: np.random.Generator,
) -> list[Example]:  # fmt: skip
    """Every example `passes` times, code-switched by a dictionary anew each time (CoSDA-ML)."""
    out = []
    for _ in range(passes):
        for example in examples:
            words = (text.split(" ") for text in _texts(example))
            texts = [" ".join(code_switch(w, lexicon, rng, cross=cross, ratio=ratio)) for w in words]
            out.append(with_texts(example, texts))
    return out


def mistranslated(
    example: Example, errors: Mapping[str, Sequence[str]], share: float, rng: np.random.Generator
) -> Example:
    """The example with a share of its words replaced by wrong ones of the same language."""
    words = (text.split(" ") for text in _texts(example))
    texts = [" ".join(code_switch(w, {"": errors}, rng, cross=share, lower=False)) for w in words]
    return with_texts(example, texts)


# Words of the synthetic languages


def concepts(world: World, language: str) -> list[list[str]]:
    """The words of each concept in a language: its synonyms in all their forms, in one order everywhere."""
    forms, found = world.grammar(language).lexicon(), []
    for category, (classes, members) in CATEGORIES.items():
        slot = SLOT_CATEGORY.index(category)
        for concept in range(classes * members + classes):
            stems = {int(world.stem(slot, np.array(concept), np.array(s))) for s in range(SYNONYMS)}
            found.append([form for stem in sorted(stems) for form in forms[stem]])
    return found


def translations(world: World, source: str, languages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """{language: {source word: all words of its concept}}: what counts as a right translation."""
    own, out = concepts(world, source), {}
    for language in languages:
        pairs = zip(own, concepts(world, language), strict=True)
        out[language] = {word: others for words, others in pairs for word in words}
    return out


def mistranslations(world: World, language: str) -> dict[str, list[str]]:
    """For each word of a language those of the same category and form that a poor translation may have."""
    forms, found = world.grammar(language).lexicon(), {}
    for category, (classes, members) in CATEGORIES.items():
        slot = SLOT_CATEGORY.index(category)
        first = int(world.stem(slot, np.array(0), np.array(0)))
        stems = forms[first : first + classes * members * SYNONYMS + classes]
        for own in stems:
            for place, word in enumerate(own):
                found[word] = [other[place] for other in stems if other is not own and place < len(other)]
    return found


def neighbours(world: World, source: str, foreign: float = FOREIGN) -> dict[str, list[str]]:
    """Neighbours of each source word as RS-DA needs them: its synonyms, and by accident foreign words.

    Only words of the same concept, so that no substitution changes a label. With chance `foreign`, each
    concept has one word of each other language (drawn from those that the source has not) in the list of one
    of its source words.
    """
    rng, own = np.random.default_rng([world.seed, 51]), concepts(world, source)
    found = {word: [other for other in words if other != word] for words in own for word in words}
    taken = set(found)
    for language in world.languages:
        for words, others in zip(own, concepts(world, language), strict=True):
            strange = [word for word in others if word not in taken]
            draws = rng.random(3)  # as many for each concept, so that one language's words leave the others'
            if strange and draws[0] < foreign:
                found[words[int(draws[1] * len(words))]].append(strange[int(draws[2] * len(strange))])
    return found
