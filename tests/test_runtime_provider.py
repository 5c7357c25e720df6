"""Where ONNX Runtime computes: a provider that is not there is refused, never replaced in silence."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from alam_models.runtime import load_policy
from alam_models.runtime.bundle import RUNTIMES
from alam_models.runtime.onnx import PROVIDERS, engine_folder, execution_providers

onnxruntime = pytest.importorskip("onnxruntime")
ALL = [PROVIDERS["tensorrt"], PROVIDERS["cuda"], PROVIDERS["cpu"]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_provider_that_is_asked_for_comes_first_and_the_cpu_last(provider):
    asked = execution_providers(provider, ALL)
    names = [entry if isinstance(entry, str) else entry[0] for entry in asked]
    assert names[0] == PROVIDERS[provider] and names[-1] == PROVIDERS["cpu"]
    assert len(names) == len(set(names)) and set(names) <= set(ALL)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_one_that_is_not_there_is_refused_with_what_there_is_and_what_to_do(provider):
    with pytest.raises(ValueError, match=rf"provider {provider}: wanted {PROVIDERS[provider]}.*got CPUExec.*cpu$"):
        execution_providers(provider, ["CPUExecutionProvider"])


def test_an_unknown_one_is_named():
    with pytest.raises(ValueError, match=r"wanted one of \('cpu', 'cuda', 'tensorrt'\), got 'npu'"):
        execution_providers("npu", ALL)


def test_engines_are_not_kept_in_the_bundle(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ((_, options), *_) = execution_providers("tensorrt", ALL)
    assert options["trt_engine_cache_path"] == str(engine_folder()) == str(tmp_path / "alam-tensorrt")
    assert "trt_fp16_enable" not in options, "full precision unless somebody asks"


class FallsBack(types.SimpleNamespace):
    """ONNX Runtime built with CUDA, on a machine whose libraries do not load: it goes on with the CPU."""

    def __init__(self):
        super().__init__(
            get_available_providers=lambda: ALL,
            preload_dlls=lambda: None,
            SessionOptions=onnxruntime.SessionOptions,
            OrtValue=onnxruntime.OrtValue,
            InferenceSession=lambda path, options, _: onnxruntime.InferenceSession(path, options, [PROVIDERS["cpu"]]),
        )


def test_a_fall_back_to_the_cpu_is_refused(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", FallsBack())
    with pytest.raises(ValueError, match="provider cuda: wanted CUDAExecutionProvider to start, got CPUExecution"):
        load_policy(tiny_bundle, provider="cuda")
    assert load_policy(tiny_bundle, provider="cpu").warm_up() > 0


def test_tensorrt_without_its_package_is_refused(tiny_bundle, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", FallsBack())
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="provider tensorrt: wanted the package tensorrt, got"):
        load_policy(tiny_bundle, provider="tensorrt")


def test_node_launch_and_runtime_list_the_same_ones():
    import alam_policy.settings

    (parameter,) = (each for each in alam_policy.settings.PARAMETERS if each.name == "provider")
    assert parameter.choices == tuple(PROVIDERS) and parameter.default == "cpu"
    door = (Path(__file__).resolve().parent.parent / "launch/piper.launch.py").read_text()
    listed = ", ".join(f'"{name}"' for name in PROVIDERS)
    assert f'argument("provider", "cpu", "where ONNX Runtime computes", [{listed}])' in door
    (parameter,) = (each for each in alam_policy.settings.PARAMETERS if each.name == "runtime")
    assert parameter.choices == RUNTIMES and parameter.default == "onnxruntime"
    listed = ", ".join(f'"{name}"' for name in RUNTIMES)
    assert f'argument("runtime", "onnxruntime", "library that runs the policy", [{listed}])' in door


@pytest.mark.ros
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("provider:=cuda", "policy: provider cuda: wanted CUDAExecutionProvider in ONNX Runtime, got"),
        ("runtime:=tensorrt", "policy: runtime tensorrt: wanted the package tensorrt, got"),
        ("runtime:=torch", "policy: parameter runtime: wanted str, `onnxruntime`, `tensorrt`; got 'torch'"),
    ],
)
def test_the_node_ends_at_once_with_the_sentence(tiny_bundle, option, said):
    if PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    options = ["-p", f"bundle:={tiny_bundle}", "-p", option]
    done = subprocess.run(
        [sys.executable, "-m", "alam_policy.policy_node", "--ros-args", *options],
        capture_output=True, text=True, timeout=120, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert said in done.stderr
