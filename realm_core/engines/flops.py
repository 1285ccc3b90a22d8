"""How many floating-point operations an embedding needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from realm_core.modeling.configuration import RealmConfig


def embedder_flops(config: RealmConfig, lengths_R: np.ndarray) -> float:
    """Operations of the matrix products for rows of these lengths in tokens, a multiplication and an addition each.

    Counted is what an embedding needs: in the last layer keys and values of all tokens, all else of [CLS] alone. A
    forward pass that computes all rows of the last layer does more for the same result, 7 % of BERT-base's, and padding
    is no work. Softmax, normalization and activations are left out, as is usual.
    """
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    lengths = np.asarray(lengths_R, dtype=np.float64)
    num_tokens, num_pairs, num_rows = lengths.sum(), (lengths**2).sum(), len(lengths)
    keys_and_values, the_rest = 2 * hidden**2, 2 * hidden**2 + 2 * hidden * wide
    full_layers = (layers - 1) * (num_tokens * (keys_and_values + the_rest) + num_pairs * 2 * hidden)
    last_layer = num_tokens * (keys_and_values + 2 * hidden) + num_rows * the_rest
    head = num_rows * (hidden**2 + hidden * config.retriever_proj_size)
    return float(2 * (full_layers + last_layer + head))
