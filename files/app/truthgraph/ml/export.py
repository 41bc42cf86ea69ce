"""Export the model for ONNX Runtime: `python -m truthgraph.ml.export DIRECTORY`, at the build of the image.

The graph takes token ids and their mask, and answers unit vectors: pooling and normalisation are in it. Beside it lies what
else belongs to the model, the tokenizer and the settings that onnx_embedder.py reads.
"""

import json
import logging
import shutil
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from truthgraph.ml.embedder import check_weights, model_directory
from truthgraph.ml.settings import Settings

OPSET = 18


class SentenceEncoder(torch.nn.Module):
    """The encoder with mean pooling over the tokens that are none of the padding."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Answer one unit vector for each row."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=1)


def export(destination: Path) -> None:
    """Write model.onnx, tokenizer.json and onnx.json."""
    settings = Settings()
    source = model_directory(settings)
    check_weights(source, settings.model_sha256)
    model = SentenceTransformer(str(source), device="cpu", local_files_only=True)
    encoder = SentenceEncoder(model[0].auto_model.eval())
    example = model.tokenize(["one sentence", "and another one, which is longer"])
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=model.max_seq_length)
    destination.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        torch.onnx.export(
            encoder,
            (example["input_ids"], example["attention_mask"]),
            destination / "model.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["embeddings"],
            dynamic_shapes={"input_ids": {0: batch, 1: tokens}, "attention_mask": {0: batch, 1: tokens}},
            opset_version=OPSET,
            external_data=False,
        )
    shutil.copy(source / "tokenizer.json", destination / "tokenizer.json")
    about = {"max_seq_length": model.max_seq_length, "weights": settings.model_sha256}
    (destination / "onnx.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    export(Path(sys.argv[1]))
