"""A bundle is its policy, in every precision: verified before it is written, served from buffers that stay."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.onnx_model import OnnxModel

from alam_models import export as exporter
from alam_models import graphs
from alam_models import precision as precisions
from alam_models.contract import Contract, encode_instruction
from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
from alam_models.pi0 import SIZES
from alam_models.precision import PRECISIONS
from alam_models.runtime import Observation, load_policy
from alam_models.runtime.bundle import digest, read_card
from alam_models.runtime.policy import words
from alam_models.small_backbone import SmallConfig
from alam_models.weights import save_weights
from alam_sim.metaworld_env import metaworld_contract
from untrained_bundle import export_random

SMALL = FlowPolicyConfig(backbone=SmallConfig(32, 2, 1), latent_width=8, projected_width=8, horizon=4)
SIDE = SIZES["tiny"].image_size
PI0 = replace(SMALL, backbone=SIZES["tiny"], image_sizes=(SIDE, SIDE), text_length=16)


def make(folder: Path, config: FlowPolicyConfig, precision: str) -> Path:
    robot = metaworld_contract()
    if config is PI0:
        robot = replace(robot, cameras=tuple(replace(camera, width=SIDE, height=SIDE) for camera in robot.cameras))
    return export_random(folder / "bundle", robot, config, (0.0,) * 4, 1.0, {}, queries=2, precision=precision)


def look(policy: Any, number: int = 0, instruction: str = "reach the goal") -> Observation:
    random = np.random.default_rng(number)
    images = {role: random.integers(0, 256, (128, 128, 3), dtype=np.uint8) for role in policy.contract.roles}
    return Observation(images, np.array([0.0, 0.6, 0.2, 1.0]), instruction, number)


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (SMALL, "fp16"),
        (SMALL, "int8"),
        (PI0, "fp32"),
        pytest.param(PI0, "fp16", marks=pytest.mark.slow),
        pytest.param(PI0, "int8", marks=pytest.mark.slow),
    ],
    ids=["small-fp16", "small-int8", "pi0-fp32", "pi0-fp16", "pi0-int8"],
)
def test_a_precision_gives_pytorchs_chunk_and_the_same_bits_again(
    config: FlowPolicyConfig, precision: str, tmp_path: Path
) -> None:
    bundle = make(tmp_path, config, precision)
    about = read_card(bundle)["export"]
    assert about["precision"] == precision and about["cosine"] >= PRECISIONS[precision]
    assert about["mean_error"] <= about["largest_error"] < (1e-3 if precision == "fp32" else 0.2)
    stored = {tensor.data_type for tensor in onnx.load(bundle / "step.onnx").graph.initializer}
    kinds = onnx.TensorProto
    assert (kinds.FLOAT16 in stored) == (precision == "fp16")
    assert bool({kinds.INT8, kinds.UINT8} & stored) == (precision == "int8")

    served, other = load_policy(bundle, threads=1), load_policy(bundle, threads=1)
    torch.manual_seed(0)
    policy = FlowPolicy(config).eval()
    for text in ("go", "reach the goal", "a") if config is PI0 else ("go",):
        one = look(served, 5, text)
        chunk, again = served.infer(one, 3), other.infer(one, 3)
        assert np.array_equal(chunk.actions, again.actions) and np.array_equal(chunk.latents, again.latents)
        latents, actions = by_pytorch(policy, served, one, 3)
        for wanted, got in ((latents, chunk.latents), (actions, chunk.actions)):
            cosine = float((wanted * got).sum() / np.linalg.norm(wanted) / np.linalg.norm(got))
            assert cosine >= PRECISIONS[precision], (text, cosine)


def test_bfloat16_is_verified_by_rounding_as_it_does_and_served_by_tensorrt_alone(tmp_path: Path) -> None:
    bundles = {name: make(tmp_path / name, SMALL, name) for name in ("fp32", "bf16")}
    about = read_card(bundles["bf16"])["export"]
    assert about["cosine"] >= PRECISIONS["bf16"] and 1e-4 < about["mean_error"] < about["largest_error"] < 0.2
    step = onnx.load(bundles["bf16"] / "step.onnx")
    weights = [t for t in step.graph.initializer if t.data_type == onnx.TensorProto.BFLOAT16]
    assert sum(np.prod(t.dims) for t in weights) > 0.5 * sum(np.prod(t.dims) for t in step.graph.initializer)
    with pytest.raises(ValueError, match="got bf16, which it cannot compute in; take runtime tensorrt"):
        load_policy(bundles["bf16"])

    # By the reference of ONNX, which has bfloat16.
    policy, contract = FlowPolicy(SMALL), Contract.load(bundles["fp32"] / "contract.yaml")
    inputs = graphs.example(policy, contract)
    inputs |= {name: torch.full((1, SMALL.horizon), 0.5) for name in ("tau", "tau_latents")}
    said = {}
    for kind, change in (("bf16", lambda model: model), ("rounded", precisions.rounded)):
        held = dict(inputs)
        for name in ("prefix.onnx", "step.onnx"):
            ordered = OnnxModel(change(onnx.load(bundles["bf16"] / name)))
            ordered.topological_sort()
            session = ReferenceEvaluator(ordered.model)
            given = {n: held[n].numpy() if isinstance(held[n], torch.Tensor) else held[n] for n in session.input_names}
            held |= dict(zip(session.output_names, session.run(None, given), strict=True))
        said[kind] = held["action_velocity"].astype(np.float32)
    assert np.abs(said["bf16"] - said["rounded"]).max() < 0.02 * np.abs(said["bf16"]).max()


def by_pytorch(policy: FlowPolicy, served: Any, one: Observation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The chunk of Policy.infer, all its padding included, by the network that was exported."""
    from alam_models.contract import prepare_frame, standardise

    contract = served.contract
    frames = {
        camera.role: torch.from_numpy(prepare_frame(one.images[camera.role], camera).copy()).permute(2, 0, 1)[None]
        / 255
        for camera in contract.cameras
    }
    text = torch.from_numpy(encode_instruction(one.instruction, contract.tokenizer))[None]
    statistics = contract.normalisation
    state = torch.from_numpy(standardise(one.state, statistics.state_mean, statistics.state_std))[None]
    random, horizon, width = np.random.default_rng([seed, one.id]), policy.config.horizon, policy.config.projected_width
    latents = torch.from_numpy(random.standard_normal((1, horizon, 2, width), np.float32))
    actions = torch.from_numpy(random.standard_normal((1, horizon, 4), np.float32))
    z, u = policy.sample(frames, text, state, latents, actions)
    return (z @ policy.projection).detach().numpy()[0], u.numpy()[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = replace(SMALL, horizon=8)  # the tiny bundle's contract fits
    save_weights(folder, "policy", FlowPolicy(config).state_dict(), config)
    shutil.copy(tiny_bundle / "contract.yaml", folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_weights_too_large_for_one_file_lie_beside_the_graph(
    precision: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner in (graphs, precisions):
        monkeypatch.setattr(owner, "INLINE_BYTES", 1000)
    bundle = exporter.export(weights, tmp_path / "bundle", precision=precision)
    beside = {"prefix.onnx.data", "step.onnx.data"}
    assert beside < set(read_card(bundle)["sha256"]) == {path.name for path in bundle.iterdir()} - {"card.yaml"}
    assert (bundle / "step.onnx").stat().st_size < 200_000 < (bundle / "step.onnx.data").stat().st_size * 5
    assert load_policy(bundle, threads=1).warm_up() > 0
    data = bytearray((bundle / "step.onnx.data").read_bytes())
    data[0] ^= 1
    (bundle / "step.onnx.data").write_bytes(data)
    with pytest.raises(ValueError, match=r"step\.onnx\.data: wanted sha256"):
        load_policy(bundle)


def test_what_disagrees_with_pytorch_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = exporter.convert

    def spoil(path: Path, precision: str, kept: set[str]) -> None:
        true(path, precision, kept)
        if path.name == "step.onnx":
            model = onnx.load(path)
            last = next(node for node in model.graph.node if "action_velocity" in node.output)
            last.output[0] = "before"
            model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["action_velocity"]))
            onnx.save(model, path)

    monkeypatch.setattr(exporter, "convert", spoil)
    with pytest.raises(ValueError, match=r"wanted a cosine of at least 0\.999 to PyTorch, got"):
        exporter.export(weights, tmp_path / "new", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_bundle_that_was_there(
    weights: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = {path.name: digest(path) for path in old.iterdir()}

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(exporter, "convert", fail)
    with pytest.raises(MemoryError):
        exporter.export(weights, old)
    assert {path.name: digest(path) for path in old.iterdir()} == before and list(tmp_path.iterdir()) == [old]
    with pytest.raises(ValueError, match="--precision: wanted one of"):
        exporter.export(weights, old, precision="fp8")


def redo(bundle: Path, change: Callable[[Contract], Contract]) -> None:
    """Another contract in a bundle whose card knows it."""
    change(Contract.load(bundle / "contract.yaml")).save(bundle / "contract.yaml")
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    card["sha256"]["contract.yaml"] = digest(bundle / "contract.yaml")
    (bundle / "card.yaml").write_text(yaml.safe_dump(card))


def smaller(contract: Contract) -> Contract:
    return replace(contract, cameras=tuple(replace(camera, height=32) for camera in contract.cameras))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: replace(c, horizon=7), r"actions: wanted \(1, 7, 4\).*got \(1, 8, 4\)"),
        (lambda c: replace(c, state=c.state[:3]), "state: wanted"),
        (lambda c: replace(c, tokenizer=replace(c.tokenizer, length=40)), "text: wanted"),
        (smaller, "third_person: wanted"),
    ],
)
def test_graphs_that_do_not_fit_the_contract_are_refused(
    change: Callable[[Contract], Contract], said: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    redo(bundle, change)
    with pytest.raises(ValueError, match=said):
        load_policy(bundle)


def test_a_token_beyond_the_vocabulary_is_refused_before_it_reaches_a_graph(tiny_bundle: Path, tmp_path: Path) -> None:
    policy = load_policy(tiny_bundle, threads=1)
    assert policy.contract.tokenizer.vocabulary == 257  # of the small backbone
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    redo(bundle, lambda contract: replace(contract, tokenizer=replace(contract.tokenizer, vocabulary=104)))
    policy = load_policy(bundle, threads=1)
    with pytest.raises(ValueError, match="wanted tokens below the vocabulary of 104, got 112: 'go'"):
        policy.infer(look(policy, instruction="go"))
    assert np.isfinite(policy.infer(look(policy, instruction="bed")).actions).all()


def test_the_backend_refuses_other_shapes_and_dtypes(tiny_bundle: Path) -> None:
    policy = load_policy(tiny_bundle, threads=1)
    backend, contract = policy._backend, policy.contract
    images = {c.role: np.zeros((1, c.height, c.width, 3), np.uint8) for c in contract.cameras}
    text, state = encode_instruction("go", contract.tokenizer)[None], np.zeros((1, 4), np.float32)
    assert words(text, backend) is text, "its graphs want every place for a word"
    for broken, said in [
        (({**images, "wrist": images["wrist"].astype(np.float32)}, text, state), r"wrist: wanted uint8 .*float32"),
        (({**images, "wrist": images["wrist"][:, 1:]}, text, state), "wrist: wanted uint8"),
        ((images, text[:, 1:], state), "text: wanted int64"),
        ((images, text, state.astype(float)), "state: wanted float32"),
    ]:
        with pytest.raises(ValueError, match=said):
            backend.prefix(*broken)


def test_a_chunk_runs_the_prefix_once_and_allocates_nothing_that_stays(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_bundle, threads=1)
    backend = policy._backend
    policy.infer(look(policy))
    calls = []
    for name in ("prefix", "velocity"):
        true = getattr(backend, name)
        monkeypatch.setattr(backend, name, lambda *a, true=true, name=name: (calls.append(name), true(*a))[1])
    policy.infer(look(policy, 1))
    assert calls == ["prefix"] + ["velocity"] * policy.steps
    monkeypatch.undo()

    horizon, views, width = backend.latent_shape
    noise = np.ones((1, horizon, views, width), np.float32), np.ones((1, horizon, 4), np.float32)
    taus = [np.full((1, horizon), 0.5, np.float32)] * 2
    first, second = backend.velocity(*noise, *taus), backend.velocity(*noise, *taus)
    assert all(a is b for a, b in zip(first, second, strict=True)), "the same buffers"
    bound = backend._bindings
    one = look(policy, 2)
    for _ in range(20):
        policy.infer(one)
    tracemalloc.start()
    before, resident = tracemalloc.take_snapshot(), memory()
    for _ in range(200):
        policy.infer(one)
    grown = sum(line.size_diff for line in tracemalloc.take_snapshot().compare_to(before, "filename"))
    tracemalloc.stop()
    assert backend._bindings is bound and grown < 50_000 and memory() - resident < 2_000_000


def memory() -> int:
    """-> resident [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
