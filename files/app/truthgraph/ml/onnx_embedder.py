"""Encoding texts with ONNX Runtime, with what export.py has made of the model."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from truthgraph.ml.settings import DIMENSION, Settings

if TYPE_CHECKING:
    import numpy

log = logging.getLogger("truthgraph.ml.embedder")

MODEL_FILE = "model.onnx"


class OnnxEmbedder:
    """The loaded model. Made and used in one thread."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        about = json.loads((directory / "onnx.json").read_text(encoding="utf-8"))
        if about["weights"] != settings.model_sha256.lower():
            raise ValueError(
                f"{directory / MODEL_FILE} was made of weights with SHA-256 {about['weights']}, expected "
                f"{settings.model_sha256}; export it again or set TRUTHGRAPH_MODEL_SHA256"
            )
        # Imported here, so that the service answers its health meanwhile.
        import onnxruntime
        from tokenizers import Tokenizer

        self.device = "cpu"
        self._batch_size = settings.max_batch
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(about["max_seq_length"])
        self._tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        # It knows nothing of the variable that torch's threads follow.
        options.intra_op_num_threads = settings.torch_threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
        self._session = onnxruntime.InferenceSession(
            str(directory / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        dimension = self.encode(["warm up"]).shape[1]
        if dimension != DIMENSION:
            raise ValueError(f"the model in {directory} has dimension {dimension}, expected {DIMENSION}")
        log.info("model loaded from %s by ONNX Runtime", directory)

    def encode(self, texts: list[str]) -> "numpy.ndarray":
        """Answer one unit vector for each text."""
        import numpy

        # Texts of like length together, so that little is computed for padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = numpy.empty((len(texts), DIMENSION), dtype=numpy.float32)
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            encoded = self._tokenizer.encode_batch([texts[index] for index in chosen])
            inputs = {
                "input_ids": numpy.array([one.ids for one in encoded], dtype=numpy.int64),
                "attention_mask": numpy.array([one.attention_mask for one in encoded], dtype=numpy.int64),
            }
            vectors[chosen] = self._session.run(["embeddings"], inputs)[0]
        return vectors
