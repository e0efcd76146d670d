"""Run by itself in an environment that holds svdproj and its core dependencies alone: the main job, and what absent extras say."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

import svdproj
from svdproj import HackDirection, ProjectedOptimizer
from svdproj.nulls import null_cosine


def main() -> None:
    """Raises where something does not work."""
    assert "site-packages" in svdproj.__file__, svdproj.__file__
    assert version("svdproj") == svdproj.__version__
    assert (Path(svdproj.__file__).parent / "py.typed").is_file()
    direction = _round_trip(_direction())
    for space in ("gradient", "update"):
        _train(direction, space)
    assert 0 < null_cosine(4, 1000) < 1
    _absent_extras()
    print(f"svdproj {svdproj.__version__} works with torch {torch.__version__} on Python {sys.version.split()[0]}")


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.Tanh(), torch.nn.Linear(32, 24))


def _direction() -> HackDirection:
    torch.manual_seed(1)
    gradients = {name: torch.randn(12, *p.shape) for name, p in _model().named_parameters() if p.ndim == 2}
    return HackDirection.from_gradients(gradients, chart_rank=8, k=4)


def _round_trip(direction: HackDirection) -> HackDirection:
    with tempfile.TemporaryDirectory() as folder:
        direction.save(Path(folder) / "direction.safetensors")
        loaded = HackDirection.load(Path(folder) / "direction.safetensors")
    assert loaded.fingerprint == direction.fingerprint
    assert "2 parameters" in loaded.summary()
    return loaded


def _train(direction: HackDirection, space: str) -> None:
    model = _model()
    optimizer = ProjectedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), direction, model, space=space)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 24)).square().sum().backward()
        optimizer.step()
    metrics = optimizer.metrics()
    assert metrics["svdproj/projected"] == 2
    assert metrics["svdproj/removed"] > 0
    assert metrics["svdproj/residual"] < 1e-4
    optimizer.load_state_dict(optimizer.state_dict())


def _absent_extras() -> None:
    for module, extra in (("integrations.transformers", "trl"), ("integrations.trl", "trl"), ("adapters", "peft")):
        (message,) = _import_error(f"svdproj.{module}").splitlines()
        assert f"pip install 'svdproj[{extra}]'" in message, message
    command = subprocess.run([Path(sys.executable).with_name("svdproj"), "--help"], capture_output=True, text=True)
    assert command.returncode != 0
    assert "svdproj[cli]" in command.stderr, command.stderr
    assert "Traceback" not in command.stderr, command.stderr


def _import_error(module: str) -> str:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return str(error)
    raise AssertionError(f"{module} was imported: the environment is not empty")


if __name__ == "__main__":
    main()
