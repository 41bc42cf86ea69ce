"""Encoding texts with ONNX Runtime, with what export.py has made of the model."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from truthgraph.ml.lengths import CPU_CALL, of_like_length
from truthgraph.ml.settings import DIMENSION, Settings

if TYPE_CHECKING:
    import numpy

log = logging.getLogger("truthgraph.ml.embedder")

MODEL_FILE = "model.onnx"


class OnnxEmbedder:
    """The loaded model. Made and used in one thread."""

    # It computes on the CPU, in the precision of the export.
    device = "cpu"
    precision = "float32"
    agreement = None
    card = None

    def __init__(self, settings: Settings, directory: Path) -> None:
        if settings.device not in ("", self.device):
            raise ValueError(
                f"an exported model is computed on the CPU only, not on {settings.device}; unset TRUTHGRAPH_DEVICE, "
                "or use the model's own weights, which torch computes"
            )
        if settings.precision not in ("", self.precision):
            raise ValueError(
                f"an exported model is computed in float32 only, not in {settings.precision}; unset "
                "TRUTHGRAPH_PRECISION, or use the model's own weights, which torch computes"
            )
        about = json.loads((directory / "onnx.json").read_text(encoding="utf-8"))
        if about["weights"] != settings.model_sha256.lower():
            raise ValueError(
                f"{directory / MODEL_FILE} was made of weights with SHA-256 {about['weights']}, expected "
                f"{settings.model_sha256}; export it again or set TRUTHGRAPH_MODEL_SHA256"
            )
        # Imported here, so that the service answers its health meanwhile.
        import onnxruntime
        from tokenizers import Tokenizer

        self._max_batch = settings.max_batch
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

        vectors = numpy.empty((len(texts), DIMENSION), dtype=numpy.float32)
        for call in of_like_length(texts, self._max_batch, CPU_CALL):
            encoded = self._tokenizer.encode_batch([texts[place] for place in call])
            inputs = {
                "input_ids": numpy.array([one.ids for one in encoded], dtype=numpy.int64),
                "attention_mask": numpy.array([one.attention_mask for one in encoded], dtype=numpy.int64),
            }
            vectors[call] = self._session.run(["embeddings"], inputs)[0]
        return vectors
