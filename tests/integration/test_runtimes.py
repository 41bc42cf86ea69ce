# What computes the embeddings: the same vectors, whatever it is.
import json
import pathlib
import typing as t

import pytest
import testinfra.host

from ansible_collections.truthgraph.platform.molecule.shared.fleet import Fleet
from ansible_collections.truthgraph.platform.tests.integration.conftest import Build

# Of all lengths that the model is made for, and some that it cuts off.
WORDS = "Paris lies on the Seine and London on the Thames while nobody knows where the sources of all claims really are".split()
LENGTHS = [1 + number % 60 if number % 40 else 300 for number in range(200)]
SENTENCES = [
    " ".join(WORDS[(number + step) % len(WORDS)] for step in range(length)) + f" {number}."
    for number, length in enumerate(LENGTHS)
]

# Answers the vectors of the sentences, as the service computes them.
EMBED = """
import json, os, sys, time
from truthgraph.ml.embedder import load
from truthgraph.ml.settings import Settings
embedder = load(Settings())
began = time.monotonic()
vectors = embedder.encode(json.load(sys.stdin))
print(json.dumps({"by": type(embedder).__name__, "device": embedder.device, "seconds": time.monotonic() - began,
                  "vectors": vectors.tolist()}))
"""


def embed(host: testinfra.host.Host, reference: str, options: str = "") -> t.Any:
    command = f"docker run --rm --interactive --network none --read-only --tmpfs /tmp {options} %s python3 -c %s"
    # Too long for an argument.
    text = json.dumps(SENTENCES)
    return json.loads(host.check_output(f"printf %s %s | {command}", "%s", text, reference, EMBED))


@pytest.fixture
def compare(fleet: Fleet, build: Build, tree: pathlib.Path) -> t.Callable[..., tuple[float, t.Any, t.Any]]:
    # The least cosine between what two images of the application answer, and the size of the first.
    def run(options: str = "", **variables: t.Any) -> tuple[float, t.Any, t.Any]:
        host = fleet.of_group("truthgraph_build")[0].host
        usual = build(tree, "ml")[0]["ml"]
        other = build(tree, "ml", **variables)[0]["ml"]
        assert other["digest"] != usual["digest"]
        one, two = embed(host, usual["reference"]), embed(host, other["reference"], options)
        pairs = zip(one["vectors"], two["vectors"], strict=True)
        cosines = [sum(left * right for left, right in zip(*pair, strict=True)) for pair in pairs]
        assert len(cosines) == len(SENTENCES)
        print(f"{two['by']} on {two['device']}: {other['unpacked_bytes']} bytes, least cosine {min(cosines):.7f}, "
              f"{one['seconds']:.2f} s with torch, {two['seconds']:.2f} s with it")
        return min(cosines), other, two

    return run


def test_onnx_runtime(compare: t.Callable[..., tuple[float, t.Any, t.Any]]) -> None:
    least, image, answer = compare(image_build_ml_runtime="onnx")
    assert answer["by"] == "OnnxEmbedder"
    assert least >= 0.999
    assert image["unpacked_bytes"] <= 600_000_000
