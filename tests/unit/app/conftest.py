"""Makes the reference application importable, without installing it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

APP = Path(__file__).resolve().parents[3] / "files" / "app"


def load(name: str, path: str) -> ModuleType:
    """Load one file by its path. Its package would import the web framework too."""
    spec = importlib.util.spec_from_file_location(name, APP / path)
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
    for name in ("DATABASE_URL", "ML_SERVICE_URL", "PYTHON_ENV"):
        monkeypatch.delenv(name, raising=False)
    return APP
