"""Loading the model offline and checked, and encoding texts with it."""

import hashlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from truthgraph.ml.onnx_embedder import MODEL_FILE, OnnxEmbedder
from truthgraph.ml.settings import DIMENSION, MODEL_PACKAGE, Settings

if TYPE_CHECKING:
    import numpy

log = logging.getLogger("truthgraph.ml.embedder")


def model_directory(settings: Settings) -> Path:
    """Find the weights without importing the package that carries them."""
    if settings.model_path:
        return Path(settings.model_path)
    package = importlib.util.find_spec(MODEL_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            f"the package {MODEL_PACKAGE} with the model's weights is not installed; "
            "install requirements/model.txt or set TRUTHGRAPH_MODEL_PATH"
        )
    return Path(next(iter(package.submodule_search_locations))) / "model"


def check_weights(directory: Path, expected: str) -> None:
    """Refuse weights that are not the ones that were asked for."""
    weights = directory / "model.safetensors"
    with weights.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != expected.lower():
        raise ValueError(
            f"{weights} has SHA-256 {actual}, expected {expected}; install the right weights "
            "or set TRUTHGRAPH_MODEL_SHA256"
        )


class Embedder:
    """The loaded model. Made and used in one thread."""

    def __init__(self, settings: Settings) -> None:
        directory = model_directory(settings)
        check_weights(directory, settings.model_sha256)
        # Nothing is fetched while serving: what is missing is an error.
        os.environ["HF_HUB_OFFLINE"] = "1"
        # One thread encodes. The tokenizer's own threads would only compete with torch's.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # Imported here, since it takes seconds and the service answers its health meanwhile.
        import torch
        from sentence_transformers import SentenceTransformer

        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        self.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_size = settings.max_batch
        self._model = SentenceTransformer(str(directory), device=self.device, local_files_only=True)
        # The first encoding is slow, so no request should be it. It also shows the model's true dimension.
        dimension = self.encode(["warm up"]).shape[1]
        if dimension != DIMENSION:
            raise ValueError(f"the model in {directory} has dimension {dimension}, expected {DIMENSION}")
        log.info("model loaded from %s on %s, %d torch threads", directory, self.device, torch.get_num_threads())

    def encode(self, texts: list[str]) -> "numpy.ndarray":
        """Answer one unit vector for each text."""
        return self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )


def load(settings: Settings) -> Embedder | OnnxEmbedder:
    """Load the model as it was installed: the weights for torch, or what was exported for ONNX Runtime."""
    directory = model_directory(settings)
    return OnnxEmbedder(settings, directory) if (directory / MODEL_FILE).is_file() else Embedder(settings)
