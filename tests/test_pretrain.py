"""The pretraining loop: exact resume, what ends it, what it leaves behind; a toy corpus and a toy model."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_pretrain import MODEL, options, tiny, videos

from alam_models.latent_action import ALAM, VARIANTS, LossWeights
from alam_models.weights import load_encoder
from training import optimiser
from training import pretrain as module
from training.checkpoint import newest
from training.data.frames import to_frames
from training.data.loader import TripletLoader
from training.distributed import Ranks
from training.optimiser import LossWatch, averaged, copy_of, update_average
from training.pretrain import gradients, pretrain

STRUCTURE = {"relative_add", "relative_rev", "effective_rank", "codes_used", "code_perplexity"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, with averaged weights."""
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain(tiny(data, out, ema=0.9))
    return out


class Stop(Exception):
    """Stands for a power cut."""


def stop_in(monkeypatch: pytest.MonkeyPatch, name: str, call: int, after: bool = False) -> None:
    """The training breaks off in that call of one of its functions, counted from 0."""
    original, count = getattr(module, name), iter(range(1000))

    def breaking(*arguments: Any) -> Any:
        breaks = next(count) == call
        if breaks and not after:
            raise Stop
        result = original(*arguments)
        if breaks:
            raise Stop
        return result

    monkeypatch.setattr(module, name, breaking)


def assert_same_files(one: Path, two: Path) -> None:
    """All that two runs have learned and noted is the same to the bit."""
    names = sorted(str(p.relative_to(one)) for p in one.rglob("*.safetensors"))
    assert names == sorted(str(p.relative_to(two)) for p in two.rglob("*.safetensors")) and len(names) == 7
    for name in names:
        left, right = load_file(one / name), load_file(two / name)
        assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left), name
    for step in ("step-00000003", "step-00000006"):
        left, right = (json.loads((run / step / "state.json").read_text()) for run in (one, two))
        assert left == right
    left, right = (yaml.safe_load((run / "card.yaml").read_text()) for run in (one, two))
    assert left["held_out"] == right["held_out"]


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    config = tiny(data, tmp_path / "run", ema=0.9)
    config = replace(config, data=replace(config.data, workers=workers))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_in(patch, "optimise", 4)
        pretrain(config)
    assert newest(config.out) == config.out / "step-00000003" and not (config.out / "alam.safetensors").exists()
    epoch = TripletLoader(config.data, "training", 32, 4, 0).triplets.visits
    place = json.loads((config.out / "step-00000003" / "state.json").read_text())["progress"]["next"]
    assert place == 12 and place % epoch  # in the middle of an epoch
    pretrain(config)
    assert_same_files(whole, config.out)


@pytest.mark.parametrize(("call", "after"), [(0, False), (1, False), (1, True)])
def test_stopped_at_a_checkpoint_loses_nothing_before_it(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, after: bool
) -> None:
    config = tiny(data, tmp_path / "run", ema=0.9)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_in(patch, "save_checkpoint", call, after)
        pretrain(config)
    pretrain(config)
    assert_same_files(whole, config.out)


def test_only_the_same_run_goes_on(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    config = tiny(data, out, ema=0.9)
    for other, said in [
        (replace(config, model=replace(MODEL, width=64)), r"model\.width 32, got 64"),
        (replace(config, seed=1), "seed 0, got 1"),
        (replace(config, data=replace(config.data, max_gap=5)), r"data\.max_gap 4, got 5"),
        (replace(config, data=replace(config.data, mixture=videos(tmp_path / "other", 9))), r"data\.fingerprint"),
        (replace(config, variant="lam"), "variant 'alam', got 'lam'"),
    ]:
        with pytest.raises(ValueError, match=said):
            pretrain(other)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    pretrain(replace(config, data=replace(config.data, workers=1), spike=9.0))  # finished: nothing is touched
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_run_from_before_the_split_had_a_seed_goes_on(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in out.glob("step-*/state.json"):
        record = json.loads(path.read_text())
        del record["identity"]["data"]["split_seed"]
        path.write_text(json.dumps(record))
    pretrain(tiny(data, out, ema=0.9))
    config = tiny(data, out, ema=0.9)
    with pytest.raises(ValueError, match=r"data\.split_seed None, got 3"):
        pretrain(replace(config, data=replace(config.data, split_seed=3)))


def test_trainings_of_one_split_are_scored_on_the_same_triplets(data: Path) -> None:
    config, alone = tiny(data, data), Ranks(0, 1, torch.device("cpu"))
    corpus = module.load_corpus(config.data, 32)
    shared = replace(config, data=replace(config.data, split_seed=1))
    one, two, own = (
        module.held_out_triplets(c, corpus, alone) for c in (shared, replace(shared, seed=7), replace(config, seed=1))
    )
    assert torch.equal(one, two) and torch.equal(one, own)
    assert not torch.equal(one, module.held_out_triplets(config, corpus, alone))


def test_a_run_leaves_an_encoder_that_loads_by_path_and_a_card_that_tells_of_it(data: Path, whole: Path) -> None:
    encoder = load_encoder(whole)
    assert encoder(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)).shape == (2, 2, 4)
    card = yaml.safe_load((whole / "card.yaml").read_text())
    assert card["steps"] == 6 and card["variant"] == "alam" and card["weights"] == "moving average, decay 0.9"
    assert card["sizes"]["latent"] == [2, 4] and card["sizes"]["frame_px"] == 32
    assert card["sizes"]["parameters"]["encoder"] == sum(p.numel() for p in encoder.parameters())
    assert card["settings"]["seed"] == card["data"]["seed"] == 0 and card["settings"]["data"]["max_gap"] == 4
    assert {"rec", "vq", "add", "rev"} | STRUCTURE <= card["held_out"].keys()
    assert card["data"]["sources"]["squares"]["clips"] == 8 and card["data"]["skipped"] == 0
    assert str(data) not in (whole / "card.yaml").read_text()
    kinds = {path.suffix for path in whole.rglob("*") if path.is_file() and "logs" not in path.parts}
    assert kinds == {".safetensors", ".json", ".yaml"}  # nothing pickled


def test_averaged_weights_are_what_is_exported(whole: Path) -> None:
    last = newest(whole)
    assert last is not None
    exported, average, model = (
        load_file(path) for path in (whole / "alam.safetensors", last / "ema.safetensors", last / "model.safetensors")
    )
    assert all(torch.equal(exported[k], average[k]) for k in exported)
    assert not torch.equal(exported["encoder.head.weight"], model["encoder.head.weight"])
    assert torch.equal(exported["quantizer.steps"], model["quantizer.steps"])


def test_an_average_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average = copy_of(model)
        for step, value in enumerate((2.0, 3.0)):  # decays 1/10, then 2/11
            model.weight.fill_(value)
            update_average(average, model, 0.5, step)
        assert average["weight"].item() == pytest.approx(2 / 11 * (0.1 * 1 + 0.9 * 2) + 9 / 11 * 3)
        update_average(average, model, 0.1, 1000)
        assert average["weight"].item() == pytest.approx(0.1 * (2 / 11 * 1.9 + 27 / 11) + 0.9 * 3)
    with averaged(model, average):
        assert torch.equal(model.weight, average["weight"])
    assert model.weight.item() == 3.0


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_tells_of_its_structure(data: Path, tmp_path: Path, name: str) -> None:
    config = tiny(data, tmp_path / "run", variant=name, steps=2)
    pretrain(config)
    encoder = load_encoder(config.out)
    assert encoder.config.pairs == VARIANTS[name][0]
    card = yaml.safe_load((config.out / "card.yaml").read_text())
    assert card["variant"] == name and ("add" in card["held_out"]) == (name != "lam")
    logged = EventAccumulator(str(config.out / "logs")).Reload()
    tags = set(logged.Tags()["scalars"])
    assert {f"{group}/{figure}" for group in ("train", "held_out") for figure in STRUCTURE} <= tags

    alone = Ranks(0, 1, torch.device("cpu"))
    corpus = module.load_corpus(config.data, 32)
    a, b, c = module.to_frames(module.held_out_triplets(config, corpus, alone)).unbind(1)
    z_ab, z_bc, z_ac, z_ba = (encoder(i, j).flatten(1) for i, j in ((a, b), (b, c), (a, c), (b, a)))
    add = (z_ac - z_ab - z_bc).norm(dim=1).mean() / z_ac.norm(dim=1).mean()
    rev = (z_ab + z_ba).norm(dim=1).mean() / z_ab.norm(dim=1).mean()
    assert card["held_out"]["relative_add"] == pytest.approx(add.item(), rel=1e-4)
    assert card["held_out"]["relative_rev"] == pytest.approx(rev.item(), rel=1e-4)
    assert 1 <= card["held_out"]["effective_rank"] <= 8


def test_parts_of_a_batch_give_the_gradients_of_the_batch(data: Path) -> None:
    """Without whitening and with a fixed codebook: what is measured over a batch is measured over each part."""
    torch.manual_seed(0)
    model = ALAM(replace(MODEL, scale="free"))
    model.quantizer.eval()
    frames = torch.randint(0, 256, (8, 3, 32, 32, 3), dtype=torch.uint8)
    found = []
    for accumulate in (1, 4):
        model.zero_grad()
        terms, codes = gradients(model, frames, None, tiny(data, data, batch=8, accumulate=accumulate))
        found.append((terms, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        assert len(found[-1][1]) == len(list(model.parameters())) and codes.numel() == 4 * 8 * 2
    means = ("rec", "vq", "add", "rev", "total")
    for one, two in zip([found[0][0][k] for k in means], [found[1][0][k] for k in means], strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_latents_and_statistics_are_float32_in_a_bfloat16_training(data: Path) -> None:
    torch.manual_seed(0)
    model = ALAM(MODEL)
    frames = torch.randint(0, 256, (8, 3, 32, 32, 3), dtype=torch.uint8)
    seen: dict[str, torch.Tensor] = {}
    model.quantizer.register_forward_hook(lambda _, inputs, __: seen.update(latents=inputs[0]))
    model.encoder.blocks[0].mlp[0].register_forward_hook(lambda _, __, output: seen.update(inside=output))  # type: ignore[union-attr,index]
    terms, _ = gradients(model, frames, None, tiny(data, data, batch=8, precision="bfloat16"))
    assert seen["inside"].dtype == torch.bfloat16 and seen["latents"].dtype == torch.float32
    assert (seen["latents"] != seen["latents"].bfloat16()).any()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    covariance = seen["latents"].flatten(0, 1).T @ seen["latents"].flatten(0, 1) / 64
    torch.testing.assert_close(covariance, torch.eye(4), rtol=0, atol=1e-2)
    assert terms["total"].isfinite()
    compared: list[torch.Tensor] = []

    def distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        compared.extend((prediction, (prediction - target).flatten(1) @ torch.ones(3 * 32 * 32)))
        return compared[-1]

    pixels = ALAM(replace(MODEL, source_skip=False, weights=replace(MODEL.weights, perc=1.0)))
    with torch.autocast("cpu", torch.bfloat16):
        pixels(to_frames(frames), distance)
    assert [x.dtype for x in compared] == [torch.float32] * 2
    assert (compared[0] != compared[0].bfloat16()).any()


def watch_on(out: Path, losses: int = optimiser.WINDOW) -> LossWatch:
    return LossWatch(3.0, 3, out, [1.0] * losses)


def test_a_loss_that_stays_high_ends_the_training_and_one_that_comes_down_does_not(tmp_path: Path) -> None:
    watch = watch_on(tmp_path)
    for step, loss in enumerate([1.0, 3.1, 50.0, 2.9, 3.1, 3.1]):
        watch(loss, 1.0, step)
    assert watch.high_since == 4 and max(watch.losses) == 2.9
    with pytest.raises(ValueError, match=r"loss 3\.1 at step 6: above 3 times its median of before, 1, for 3 steps"):
        watch(3.1, 1.0, 6)
    early = watch_on(tmp_path, optimiser.WINDOW - 1)
    early(1000.0, 1.0, 0)  # too few losses to judge by
    assert early.high_since is None
    with pytest.raises(ValueError, match="for 1 steps"):
        watch_on(tmp_path)(3.1, 1.0, 0, last=True)
    never = LossWatch(0.0, 3, tmp_path, [1.0] * optimiser.WINDOW)
    for step in range(10):
        never(1e9, 1.0, step)
    for loss, norm in [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)]:
        with pytest.raises(ValueError, match=r"became (nan|inf) at step 7; there is no checkpoint in"):
            watch_on(tmp_path)(loss, norm, 7)


def test_a_spike_ends_the_run_at_its_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimiser, "WINDOW", 4)
    monkeypatch.setattr(module, "learning_rate", lambda _, step: 1e-3 if step < 7 else 30.0)  # the weights blow up
    pixels = replace(MODEL, weights=LossWeights(perc=0.0, add=0.0, rev=0.0, vq=0.0))
    config = tiny(data, tmp_path / "run", model=pixels, steps=40, spike=3.0, spike_steps=6, save_every=2)
    with pytest.raises(ValueError, match=r"above 3 times its median .* for 6 steps; the last checkpoint is .*06;"):
        pretrain(config)
    kept = newest(config.out)
    assert kept == config.out / "step-00000006"
    largest = [
        max(v.abs().max() for v in load_file(path / "model.safetensors").values() if v.is_floating_point())
        for path in (kept, config.out / "step-00000008.bad")  # written between the bad step and the loss that shows it
    ]
    assert largest[0] < 20 < largest[1]


def test_what_is_not_finite_ends_the_run_before_it_reaches_the_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, original, steps = tiny(data, tmp_path / "run"), module.to_frames, []
    with monkeypatch.context() as patch:
        patch.setattr(module, "gradients", lambda *arguments: steps.append(1) or gradients(*arguments))
        patch.setattr(module, "to_frames", lambda x: original(x) * (torch.nan if len(steps) > 4 else 1))
        with pytest.raises(ValueError, match=r"loss became nan at step 4; the last checkpoint is .*step-00000003"):
            pretrain(config)
    with monkeypatch.context() as patch:
        patch.setattr(module, "clip_gradients", lambda *_: math.inf)
        with pytest.raises(ValueError, match="the norm of the gradients became inf at step 3; there is no checkpoint"):
            pretrain(config)
    assert (config.out / "step-00000003.bad").is_dir()  # its weights gave them
    pretrain(config)
    assert all(v.isfinite().all() for v in load_file(config.out / "alam.safetensors").values())


def test_clips_found_damaged_before_an_interruption_are_in_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = videos(tmp_path / "videos")
    config = tiny(folder, tmp_path / "run")
    original = TripletLoader.__iter__
    broken = {"videos/00": "wanted frame 3, got none that is whole"}

    def once(loader: TripletLoader):  # type: ignore[no-untyped-def]
        for batch in original(loader):
            if loader.side == "training" and batch.next == 4:
                batch = batch._replace(skipped=tuple(module.Skipped(*row) for row in broken.items()))
                loader.note(batch.skipped[0])
            yield batch

    monkeypatch.setattr(TripletLoader, "__iter__", once)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_in(patch, "optimise", 4)
        pretrain(config)
    pretrain(config)
    assert yaml.safe_load((config.out / "card.yaml").read_text())["data"]["skipped_clips"] == broken


def test_lpips_must_be_there_where_it_is_asked_for(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="LPIPS: wanted the vgg backbone"):
        pretrain(tiny(data, tmp_path / "run", model=replace(MODEL, weights=LossWeights())))


def test_typed_options_are_the_settings(data: Path, tmp_path: Path) -> None:
    """What other tests type is what this one configures."""
    import tyro

    from training.settings import PretrainConfig

    config = tiny(data, tmp_path, ema=0.5, variant="lam", log_every=50)
    config = replace(config, model=replace(MODEL, scale="free"))
    assert tyro.cli(PretrainConfig, args=options(config)) == config


def test_same_seed_same_bits_another_seed_others(data: Path, whole: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        pretrain(tiny(data, tmp_path / str(seed), ema=0.9, seed=seed))
    first, second, third = (load_file(p / "alam.safetensors") for p in (whole, tmp_path / "0", tmp_path / "1"))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["encoder.head.weight"], third["encoder.head.weight"])
    assert np.isfinite([v.abs().sum().item() for v in third.values()]).all()


@pytest.mark.slow
def test_compiled_blocks_train_alike(data: Path, whole: Path, tmp_path: Path) -> None:
    pretrain(tiny(data, tmp_path / "run", ema=0.9, compile=True))
    one, two = load_file(whole / "alam.safetensors"), load_file(tmp_path / "run" / "alam.safetensors")
    assert one.keys() == two.keys()
    torch.testing.assert_close(one["encoder.head.weight"], two["encoder.head.weight"], rtol=1e-2, atol=1e-3)
