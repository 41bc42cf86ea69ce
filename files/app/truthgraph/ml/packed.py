"""Computing texts of any lengths in one call without padding: their tokens stand in one row, and each attends to its own text.

On a CPU a call costs what its tokens cost, whether they are somebody's or padding. A card computes padding beside the rest.
"""

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ATTENTION = "within_texts"
# What takes the places of the tokens as an argument, and adds nothing to the attention.
KNOWN = ("bert",)


def attend_within_texts(_module, query, key, value, _mask, *, lengths, scaling=None, **_others):
    """Let the tokens of each text attend to each other. The tensors are (1, heads, tokens of all texts, size)."""
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    states = [scaled_dot_product_attention(*part, scale=scaling) for part in parts]
    return torch.cat(states, 2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend_within_texts)
AttentionMaskInterface.register(ATTENTION, lambda *_arguments, **_others: None)


def can_pack(model: "SentenceTransformer") -> bool:
    """Say whether a model is of a kind that can be computed so."""
    config = model[0].auto_model.config
    return config.model_type in KNOWN and not config.is_decoder


class Packed:
    """A model that is computed so from now on, by this only."""

    def __init__(self, model: "SentenceTransformer") -> None:
        model[0].auto_model.set_attn_implementation(ATTENTION)
        self._model = model.eval()

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> torch.Tensor:
        """Answer one vector for each text, as (texts, dimension)."""
        tokens = self._model.preprocess(texts)
        mask = tokens["attention_mask"].bool()
        lengths = mask.sum(1).tolist()
        row = {name: tokens[name][mask][None] for name in ("input_ids", "token_type_ids") if name in tokens}
        places = torch.cat([torch.arange(length) for length in lengths])[None]
        states = self._model[0].auto_model(**row, position_ids=places, lengths=lengths).last_hidden_state[0]
        # What comes after, pooling above all, is as the model says, and takes texts side by side.
        features = {
            "token_embeddings": torch.nn.utils.rnn.pad_sequence(states.split(lengths), batch_first=True),
            "attention_mask": tokens["attention_mask"],
        }
        for module in list(self._model)[1:]:
            features = module(features)
        return features["sentence_embedding"]
