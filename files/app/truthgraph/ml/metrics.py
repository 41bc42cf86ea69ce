"""What the ML service has done and has before it, as Prometheus reads it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truthgraph.ml.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def lines(service: "Service") -> list[str]:
    """The metrics as text. Before the model is loaded nothing was done yet."""
    batcher = service.batcher
    found = [
        ("ready", "gauge", "Whether the model can encode (1) or not (0).", int(service.status == "ok")),
        ("pending_texts", "gauge", "Texts that are worked on or wait.", batcher.pending if batcher else 0),
        ("max_pending_texts", "gauge", "How many that may be; more are refused.", service.settings.max_pending),
        ("texts_total", "counter", "Texts encoded.", batcher.texts if batcher else 0),
        ("batches_total", "counter", "Calls of the model that encoded them.", batcher.batches if batcher else 0),
        ("refused_total", "counter", "Requests refused, since too much waited.", batcher.refused if batcher else 0),
    ]
    return [
        line
        for name, kind, text, value in found
        for line in (
            f"# HELP truthgraph_ml_{name} {text}",
            f"# TYPE truthgraph_ml_{name} {kind}",
            f"truthgraph_ml_{name} {value}",
        )
    ]
