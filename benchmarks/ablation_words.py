"""Word vectors from counts alone: what the ablation's reader knows of words before it is trained.

Shapes: V vocabulary, R blocks, H hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from benchmarks.ablation_corpus import BlocksInMemory

SEED = 0
OVERSAMPLED = 32
POWER_ITERATIONS = 4
SHORTEST = 1e-4


def word_vectors(blocks: BlocksInMemory, *, vocab_size: int, hidden_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [V, H] of unit length by latent semantic analysis, and which words [V] have one: those of the corpus.

    Deerwester et al. (1990): the left singular vectors, by their values, of words x blocks, each entry being
    (1 + log count) x log(R / blocks of the word), each block of unit length.
    """
    matrix_VR = _weights(blocks, vocab_size)
    torch.manual_seed(SEED)  # of the random projection that the decomposition begins with
    most = min(*matrix_VR.shape)
    rank = min(hidden_size + OVERSAMPLED, most)
    left_VK, values_K, _ = torch.svd_lowrank(matrix_VR, q=rank, niter=POWER_ITERATIONS)
    vectors_VH = torch.zeros(vocab_size, hidden_size)
    num_kept = min(hidden_size, rank)
    vectors_VH[:, :num_kept] = (left_VK * values_K)[:, :num_kept]
    lengths_V1 = vectors_VH.norm(dim=1, keepdim=True)
    is_known_V = lengths_V1[:, 0] > SHORTEST  # of a word that does not occur there is a rounding error
    return torch.where(is_known_V[:, None], vectors_VH / lengths_V1, 0.0), is_known_V


def _weights(blocks: BlocksInMemory, vocab_size: int) -> torch.Tensor:
    num_blocks = len(blocks)
    words = np.concatenate(blocks.body_ids).astype(np.int64)
    of_block = np.repeat(np.arange(num_blocks), [len(body) for body in blocks.body_ids])
    pairs, counts = np.unique(words * num_blocks + of_block, return_counts=True)
    words, of_block = pairs // num_blocks, pairs % num_blocks
    num_blocks_of_word_V = np.bincount(words, minlength=vocab_size)
    weights = (1 + np.log(counts)) * np.log(num_blocks / num_blocks_of_word_V[words])
    squares_R = np.bincount(of_block, weights**2, minlength=num_blocks)
    weights /= np.sqrt(np.where(squares_R > 0, squares_R, 1.0))[of_block]
    places = torch.from_numpy(np.stack([words, of_block]))
    shape = (vocab_size, num_blocks)
    return torch.sparse_coo_tensor(places, torch.from_numpy(weights).float(), shape, check_invariants=True)
