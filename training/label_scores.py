"""The scores of labels from those of their words, and the loss on them, as pure functions.

A word's score is the mean log-probability of its tokens (arXiv 2205.05638, section 3.2), so that a long word is not
unlikely for its length alone. A label's score is the logarithm of the mean of exp(score) over its words, the average
verbaliser (Hu et al., Knowledgeable Prompt-tuning, ACL 2022, section 3.4), so that more words do not count for more.
"""

from __future__ import annotations

import torch


def label_scores(words: torch.Tensor, label_of_word: torch.Tensor, labels: int) -> torch.Tensor:
    """Return the labels' scores, shape (rows, labels), from their words', shape (rows, words).

    `label_of_word`, int64 (words,), says which label each word stands for; every label has one word or more.
    """
    of = [words[:, label_of_word == label] for label in range(labels)]
    counts = words.new_tensor([part.shape[1] for part in of])
    return torch.stack([part.logsumexp(dim=1) for part in of], dim=1) - counts.log()


def label_loss(scores: torch.Tensor, right: torch.Tensor, likelihood_weight: float) -> torch.Tensor:
    """Return mean over rows of -log softmax(scores)[right] - likelihood_weight · scores[right].

    `scores`: natural logarithms, (rows, labels). `right`: int64 (rows,). Source: L_LN and L_LM of arXiv 2205.05638,
    section 3.2, without the unlikelihood loss.
    """
    cross_entropy = torch.nn.functional.cross_entropy(scores, right)
    return cross_entropy - likelihood_weight * scores.gather(1, right[:, None]).mean()
