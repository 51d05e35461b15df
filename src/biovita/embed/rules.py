"""By which rule stored vectors were made, so that a query and further files go the same way."""

from itertools import product
from typing import get_args

from biovita.embed.extract import How, facts_of
from biovita.embed.store import Facts
from biovita.errors import EmbeddingError
from biovita.models.encoder import Embedder, Pool, Window


def rule_of(encoder: Embedder, facts: Facts) -> How:
    """Find the windows and the pooling by which this encoder makes vectors that join the stored ones.

    Weights and preprocessing decide; a model's name may differ, but for one whose weights have no hash.

    Args:
        encoder: the model.
        facts: of the stored vectors.

    Raises:
        EmbeddingError: the vectors are another model's, or made in another way; both are named.
    """
    rules = [How(window=window, pool=pool) for window, pool in product(get_args(Window), (*get_args(Pool), None))]
    for rule in rules:
        own = facts_of(encoder, rule)
        same_weights = own["weights_sha256"] == facts["weights_sha256"]
        if same_weights and not own["weights_sha256"]:
            same_weights = own["model"] == facts["model"]
        if same_weights and own["preprocess"] == facts["preprocess"]:
            return rule
    own = facts_of(encoder, How())
    raise EmbeddingError(
        f"the stored vectors are of {_shown(facts)}, and this model is {_shown(own)}; "
        f"use the model that made them, or embed again"
    )


def _shown(facts: Facts) -> str:
    return f"{facts['model']!r} (weights {facts['weights_sha256'][:12] or 'unknown'}, {facts['preprocess']})"
