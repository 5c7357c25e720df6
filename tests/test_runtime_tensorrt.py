"""TensorRT: what it reads and builds (tensorrt-rtx, without a GPU), how the runtime moves memory (a stand-in), and
whether it agrees (on a GPU)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("onnxruntime")

import fake_tensorrt
import onnx
from test_export import PI0, SMALL, look, make

from alam_models.runtime import load_policy
from alam_models.runtime.bundle import read_card
from alam_models.runtime.tensorrt_runtime import build_engine, engine_file


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """-> its CUDA; engines are kept in a folder of the test's own."""
    cuda = fake_tensorrt.Cuda()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.tensorrt())
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fake_tensorrt.Builder, "built", [])
    return cuda


def test_memory_goes_where_it_belongs_and_engines_are_built_once(stand_in: Any, tiny_bundle: Path) -> None:
    policy, reference = load_policy(tiny_bundle, "tensorrt"), load_policy(tiny_bundle, threads=1)
    assert len(fake_tensorrt.Builder.built) == 2
    for number in (1, 2, 1):
        one = look(policy, number)
        got, wanted = policy.infer(one, 3), reference.infer(one, 3)
        assert np.allclose(got.actions, wanted.actions, atol=1e-5) and np.allclose(
            got.latents, wanted.latents, atol=1e-5
        )
    taken = len(stand_in.memory)
    policy.infer(look(policy, 4))
    assert len(stand_in.memory) == taken, "all memory is taken at the start"
    load_policy(tiny_bundle, "tensorrt")
    assert len(fake_tensorrt.Builder.built) == 2, "kept for this GPU, TensorRT and graph"
    sys.modules["tensorrt"] = fake_tensorrt.tensorrt("10.1")
    load_policy(tiny_bundle, "tensorrt")
    assert len(fake_tensorrt.Builder.built) == 4


@pytest.mark.slow
def test_an_instruction_of_another_length_needs_no_other_engine(stand_in: Any, tmp_path: Path) -> None:
    bundle = make(tmp_path, PI0, "fp32")
    policy, reference = load_policy(bundle, "tensorrt"), load_policy(bundle, threads=1)
    for text in ("reach the goal", "go", "go", "push the drawer"):
        got, wanted = (each.infer(look(each, 3, text), 1) for each in (policy, reference))
        assert np.allclose(got.actions, wanted.actions, atol=1e-5), text
    assert len(fake_tensorrt.Builder.built) == 2


def test_refusals_are_one_sentence(
    stand_in: Any, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.cudaStreamCreate = lambda: (SimpleNamespace(name="cudaErrorNoDevice"), 0)
    with pytest.raises(
        ValueError, match=r"wanted cudaStreamCreate of CUDA to succeed, got cudaErrorNoDevice; it needs"
    ):
        load_policy(tiny_bundle, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ValueError, match="runtime tensorrt: wanted the package tensorrt, got"):
        load_policy(tiny_bundle, "tensorrt")
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    card["export"]["precision"] = "int8"
    (bundle / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ValueError, match="exported with --precision fp16, bf16 or fp32, got int8"):
        load_policy(bundle, "tensorrt")


def test_another_gpu_version_or_graph_has_another_engine() -> None:
    named = [("step.onnx", "A", "10.1", "ab"), ("step.onnx", "B", "10.1", "ab"), ("prefix.onnx", "A", "10.1", "ab")]
    named += [("step.onnx", "A", "10.2", "ab"), ("step.onnx", "A", "10.1", "cd")]
    assert len({engine_file(Path(), *each) for each in named}) == len(named)


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", [SMALL, pytest.param(PI0, marks=pytest.mark.slow)], ids=["small", "pi0"])
def test_tensorrt_reads_and_builds_both_graphs(config: Any, precision: str, tmp_path: Path) -> None:
    """Without a GPU: tensorrt-rtx (`pip install -e .[tensorrt] -c constraints.txt`) builds for one that is named."""
    trt = pytest.importorskip("tensorrt_rtx")
    bundle = make(tmp_path, config, precision)
    about = read_card(bundle)["export"]

    def for_ada(settings: Any) -> None:
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(trt.ComputeCapability.SM89, 0)

    for graph in ("prefix.onnx", "step.onnx"):
        plan = build_engine(trt, bundle / graph, (1, config.text_length), about["prefix_tokens"], configure=for_ada)
        assert len(plan) > 1000
        kinds = {tensor.data_type for tensor in onnx.load(bundle / graph).graph.initializer}
        for kind, name in ((onnx.TensorProto.FLOAT16, "fp16"), (onnx.TensorProto.BFLOAT16, "bf16")):
            assert (kind in kinds) == (precision == name)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("config", [SMALL, PI0], ids=["small", "pi0"])
def test_on_a_gpu_it_agrees_with_onnx_runtime(
    config: Any, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the packages of docker/requirements-gpu.txt: `make test ARGS="-m gpu tests/test_runtime_tensorrt.py"`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = make(tmp_path, config, precision)
    same = bundle if precision != "bf16" else make(tmp_path / "fp32", config, "fp32")
    policy, reference = load_policy(bundle, "tensorrt"), load_policy(same, threads=1)
    for text in ("reach the goal", "go"):
        got, again, wanted = (each.infer(look(each, 3, text), 1).actions for each in (policy, policy, reference))
        cosine = float((got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted))
        assert cosine > 0.999 and np.array_equal(got, again), text
