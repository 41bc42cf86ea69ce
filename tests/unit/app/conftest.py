"""Makes the reference application importable, without installing it."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

APP = Path(__file__).resolve().parents[3] / "files" / "app"


def load(name: str, path: str) -> ModuleType:
    """Load one file by its path. Its package would import the web framework too."""
    spec = importlib.util.spec_from_file_location(name, APP / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def batching() -> ModuleType:
    """The batching of the ML service, which needs the standard library only."""
    return load("truthgraph_batching_under_test", "truthgraph/ml/batching.py")


@pytest.fixture
def app_path(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The application on the path, and none of its settings from this machine's environment."""
    monkeypatch.syspath_prepend(str(APP))
    for name in list(os.environ):
        if name in ("DATABASE_URL", "ML_SERVICE_URL", "PYTHON_ENV") or name.startswith("TRUTHGRAPH_"):
            monkeypatch.delenv(name)
    return APP


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A directory's only card. It need not be a device: only whether it can be opened counts."""
    path = tmp_path / "dev" / "nvidia0"
    path.parent.mkdir()
    path.touch()
    return path
