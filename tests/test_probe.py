"""The probe's laws on encoders whose answer is known, what it holds out, what it refuses, and its report."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from clip_folders import video_folder
from synthetic import make_dataset
from torch import Tensor

from alam_models.latent_action import ALAM, ALAMConfig, LossWeights, variant
from alam_models.weights import load_alam, save_weights
from alam_sim.metaworld_env import metaworld_contract
from training.data.corpus import Corpus
from training.data.lerobot import Episode, join_episodes, stage_episode
from training.data.loader import DataConfig, TripletLoader
from training.data.mixture import SourceConfig, validate
from training.probe import main, read_card
from training.probing.clips import anchors, choose, open_corpus, robots, split_clips, unseen_clips
from training.probing.figures import structure_figure
from training.probing.linear import linear_probes
from training.probing.measures import Probed, algebra, estimate, mean, probed, ratio_of_means, reconstructions, scores
from training.probing.pictures import compositions, most_moving, moved_alike, pick, references, sibling
from training.probing.survey import estimates, survey

HORIZONS = [1, 2, 3, 4, 5, 8]
SIZE = ALAMConfig(image_size=32, width=32, heads=2, depth=1, queries=2, latent_width=4, weights=LossWeights(perc=0))
HELD_OUT = 0.4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "squares", episodes=10)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(folder / name, data, name) for name in ("lam", "alam")}


@pytest.fixture
def encoders(trained: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies, whose cards may be written."""
    return {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in trained.items()}


def train(out: Path, data: Path, name: str, seed: int = 0, steps: int = 4, split_seed: int | None = None) -> Path:
    """A few steps of a variant, saved as `train.py pretrain` does."""
    torch.manual_seed(seed)
    model = ALAM(variant(SIZE, name))
    config = DataConfig(data, stride=2, max_gap=2, held_out=HELD_OUT, split_seed=split_seed, workers=0)
    loader = TripletLoader(config, "training", 32, batch=4, seed=seed)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for _, batch in zip(range(steps), loader, strict=False):
        loss = model(batch.frames.movedim(-1, -3).float() / 255)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_weights(out, "alam", model.state_dict(), model.config)
    settings = {"data": {"max_gap": 2}, "seed": seed}
    card = {"commit": "x", "settings": settings, "data": loader.description(), "steps": steps}
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return out


def made(encode: object, decode: object = None) -> Probed:
    return Probed(32, 32, encode, decode or (lambda frames, z: frames), lambda z: z.round(decimals=6))  # type: ignore[arg-type]


def difference(frames: Tensor, pairs: object, factor: float = 1.0) -> Tensor:
    """Exactly additive: each colour's mean over a frame, target less source."""
    colour = frames.double().mean((-1, -2))
    return torch.stack([factor * (colour[:, j] - colour[:, i]) for i, j in pairs], 1)  # type: ignore[attr-defined]


def noisy(frames: Tensor, pairs: object, factor: float = 1.0) -> Tensor:
    z = difference(frames, pairs, factor)
    return z + factor * 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)


def clip(anchors: int = 6, frames: int = 9) -> Tensor:
    return torch.rand(anchors, frames, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_an_additive_encoder_has_no_error_and_composes_as_well_as_it_jumps() -> None:
    def shift(frames: Tensor, z: Tensor) -> Tensor:
        return (frames + z[:, :, None, None].float()).clamp(0, 1)

    encoder = made(difference, shift)
    errors, ways = algebra(encoder, clip(), HORIZONS)
    assert errors["add"].max() < 1e-12 and errors["add_two_legs"].max() < 1e-12 and errors["rev"].max() == 0
    assert errors["norm"].min() > 1e-4
    found = reconstructions(encoder, clip(), ways, HORIZONS)
    for metric in ("psnr", "ssim"):
        assert np.allclose(found[f"{metric}_direct"], found[f"{metric}_cumulative"], atol=1e-4)
        assert np.allclose(found[f"{metric}_direct"], found[f"{metric}_two_legs"], atol=1e-4)
    assert not np.allclose(found["psnr_direct"][:, :1], found["psnr_direct"])
    copied = scores(clip()[:, 0], clip()[:, 5])
    for metric in ("psnr", "ssim"):
        assert np.allclose(found[f"{metric}_copy"][:, HORIZONS.index(5)], copied[metric])
        assert np.allclose(found[f"{metric}_zero"], found[f"{metric}_copy"])  # this decoder moves nothing on z = 0
    assert (found["psnr_direct"] > found["psnr_copy"]).mean() > 0.9


def test_a_decoder_that_ignores_transitions_is_no_better_than_what_it_does_with_none(tmp_path: Path) -> None:
    corpus = Corpus(validate((SourceConfig("v", video_folder(tmp_path / "v", [40, 40]), stride=2),)))
    darker = made(difference, lambda frames, z: 0.9 * frames)
    found = survey({"darker": darker, "copier": made(difference)}, corpus, [0, 1], HORIZONS, 4, 0)
    values = found.values["darker"]
    assert np.array_equal(values["psnr_zero"], values["psnr_direct"])
    figures = {name: estimates(found, name, name, 0) for name in ("darker", "copier")}
    assert figures["copier"]["psnr_over_copy"]["value"] == figures["copier"]["ssim_over_copy"]["value"] == [0.0] * 6
    wanted = (values["psnr_direct"] - values["psnr_copy"]).mean(0)
    assert figures["darker"]["psnr_over_copy"]["value"] == pytest.approx(wanted.tolist()) and abs(wanted).min() > 0.1
    assert not {"delta_psnr_copy", "delta_psnr_zero"} & figures["darker"].keys()


def test_a_constant_transition_is_relatively_twice_wrong_in_reverse() -> None:
    errors, _ = algebra(made(lambda frames, pairs: torch.ones(len(frames), len(pairs), 5)), clip(), HORIZONS)
    assert np.allclose(errors["rev"] / errors["norm"], 2)
    assert np.allclose(errors["add"] / errors["norm"], np.array(HORIZONS) - 1)  # t of them in place of one
    assert np.allclose(errors["add_two_legs"] / errors["norm"], [0, 1, 1, 1, 1, 1])


def test_scale_changes_the_absolute_errors_alone() -> None:
    small, _ = algebra(made(noisy), clip(), HORIZONS)
    large, _ = algebra(made(lambda f, p: noisy(f, p, 1000.0)), clip(), HORIZONS)
    for error in ("add", "add_two_legs", "rev"):
        assert np.allclose(1000 * small[error], large[error]) and small[error][:, 1:].min() > 0
        assert np.allclose(small[error] / small["norm"], large[error] / large["norm"])
    assert (small["add"][:, 0] == 0).all()  # one step is its own sum


def test_a_models_errors_are_the_papers_definitions(trained: dict[str, Path]) -> None:
    model, frames = load_alam(trained["alam"]), clip(3, 6)
    errors, ways = algebra(probed(model), frames, [1, 2, 5])

    def z(i: int, j: int) -> Tensor:
        return model.encoder(frames[:, i], frames[:, j]).flatten(1)

    total = z(0, 1) + z(1, 2) + z(2, 3) + z(3, 4) + z(4, 5)
    assert np.allclose(errors["add"][:, 2], (z(0, 5) - total).norm(dim=1), rtol=1e-4)
    assert np.allclose(errors["rev"][:, 1], (z(0, 2) + z(2, 0)).norm(dim=1), rtol=1e-4)
    assert np.allclose(errors["add_two_legs"][:, 2], (z(0, 5) - z(0, 2) - z(2, 5)).norm(dim=1), rtol=1e-4)
    decoded = model.decoder(
        model.quantizer(ways["cumulative"][:, 2])[0], model.encoder.embed(frames[:, 0]), frames[:, 0]
    )
    wanted = -10 * (decoded - frames[:, 5]).square().mean((1, 2, 3)).log10()
    assert np.allclose(
        reconstructions(probed(model), frames, ways, [1, 2, 5])["psnr_cumulative"][:, 2], wanted, rtol=1e-4
    )


def test_intervals_count_episodes_not_frames() -> None:
    random = np.random.default_rng(0)
    values, groups = random.normal(5, 1, 20), np.arange(20)
    value, low, high = estimate(mean, (values, np.ones(20)), groups)
    assert value == pytest.approx(values.mean()) and low < value < high  # type: ignore[operator]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20**0.5, rel=0.1)  # type: ignore[operator]
    copies = estimate(mean, (values.repeat(50), np.ones(1000)), groups.repeat(50))
    assert copies == pytest.approx((value, low, high))
    assert estimate(ratio_of_means, (3 * values, values, values, values), groups) == pytest.approx((3, 3, 3))
    assert estimate(mean, (values, np.zeros(20)), groups) == (None, None, None)
    assert estimate(mean, (values, np.ones(20)), np.zeros(20)) == (pytest.approx(values.mean()), None, None)


def corpus_of(data: Path, encoders: dict[str, Path]) -> tuple[Corpus, dict[str, dict]]:
    cards = {name: read_card(folder) for name, folder in encoders.items()}
    return open_corpus(data, cards), cards


def test_what_is_probed_was_held_out_from_every_encoder(data: Path, encoders: dict[str, Path], tmp_path: Path) -> None:
    encoders["other"] = train(tmp_path / "other", data, "alam", seed=3, steps=1)
    corpus, cards = corpus_of(data, encoders)
    training, held_out = split_clips(corpus, cards)
    assert 0 < len(held_out) < len(corpus.split("held_out", 0, HELD_OUT))  # two seeds share some only
    config = DataConfig(data, stride=2, max_gap=2, held_out=HELD_OUT, workers=0)
    for seed in (0, 3):
        seen = TripletLoader(config, "training", 32, batch=1, seed=seed, corpus=corpus).numbers
        assert not set(held_out) & set(seen) and set(training) <= set(seen)
    names = {corpus.clip(int(n)).name for n in held_out}
    made_encoders = {name: probed(load_alam(folder)) for name, folder in encoders.items()}
    found = survey(made_encoders, corpus, held_out.tolist(), HORIZONS, 3, 0)
    assert set(found.clips) == names and len({len(v["add"]) for v in found.values.values()}) == 1
    assert len(np.unique(found.groups)) == len({name.split("/")[1] for name in names})  # both views: one episode


def test_encoders_of_many_seeds_and_one_split_are_probed_together(data: Path, tmp_path: Path) -> None:
    folders = {str(seed): train(tmp_path / str(seed), data, "alam", seed, 1, split_seed=4) for seed in (0, 3)}
    corpus, cards = corpus_of(data, folders)
    training, held_out = split_clips(corpus, cards)
    assert np.array_equal(held_out, corpus.split("held_out", 4, HELD_OUT))
    assert len(training) + len(held_out) == len(corpus)
    for card in cards.values():  # one from before there were two seeds: split by its only one
        card["data"]["seed"] = card["data"].pop("split_seed")
    assert np.array_equal(split_clips(corpus, cards)[1], held_out)


def test_short_clips_leave_out_long_horizons_only(tmp_path: Path) -> None:
    sources = validate((SourceConfig("short", video_folder(tmp_path / "v", [9, 40]), stride=2),))
    corpus = Corpus(sources)
    found = survey({"one": made(noisy)}, corpus, [0, 1], HORIZONS, 4, 0)
    rows = found.values["one"]["add"]
    assert len(rows) == 5 and not np.isnan(rows[:, :4]).any()  # 9 frames: one anchor, four strides
    assert np.isnan(rows[0, 4:]).all() and not np.isnan(rows[1:]).any()
    figures = estimates(found, "one", "one", 0)
    assert figures["add"]["value"][0] == 0 and figures["delta_psnr_direct"]["value"][0] == 0
    assert figures["relative_rev"]["value"][2] == pytest.approx(
        found.values["one"]["rev"][:, 2].mean() / found.values["one"]["norm"][:, 2].mean()
    )
    both = survey({"base": made(lambda f, p: noisy(f, p, 7.0)), "one": made(noisy)}, corpus, [0, 1], HORIZONS, 4, 0)
    times = estimates(both, "one", "base", 0)
    assert times["times_add"]["value"][1] == pytest.approx(7) and times["times_add"]["low"][1] == pytest.approx(7)
    assert times["times_relative_rev"]["value"] == pytest.approx([1.0] * 6)
    assert times["times_add"]["value"][0] is None  # 0 / 0


def test_clips_are_drawn_evenly_and_anchors_leave_room(tmp_path: Path) -> None:
    folders = {"many": [30] * 9, "few": [30] * 2}
    corpus = Corpus(
        validate(tuple(SourceConfig(n, video_folder(tmp_path / n, c), stride=3) for n, c in folders.items()))
    )
    chosen = choose(corpus, np.arange(11), 5, 0)
    assert (corpus.source[chosen] == 1).sum() == 2 and len(set(chosen.tolist())) == 5
    assert set(choose(corpus, np.arange(11), 99, 0).tolist()) == set(range(11))
    starts = anchors(corpus, 0, 8, 99, 0)
    assert starts.tolist() == list(range(6))  # 30 frames, 8 strides of 3: up to frame 5 + 24
    assert np.array_equal(anchors(corpus, 0, 8, 3, 0), anchors(corpus, 0, 8, 3, 0))


def quadrants(folder: Path) -> Path:
    """A dataset whose four state channels are the brightness of a frame's quarters, moved by the action alone."""
    contract = metaworld_contract()
    staging = folder / "staging"
    staging.mkdir(parents=True)
    for seed in range(6):
        action = np.random.default_rng(seed).uniform(-1, 1, (40, 4)).astype(np.float32)
        level = 128 + 8 * np.cumsum(np.vstack([np.zeros(4), action[:-1]]), 0)
        frames = np.kron(level.reshape(40, 2, 2), np.ones((64, 64)))[..., None].repeat(3, -1).round().clip(0, 255)
        both = dict.fromkeys(contract.roles, frames.astype(np.uint8))
        state = level / 800
        stage_episode(staging, Episode(both, state, action, np.ones(40, bool), "x", "x", seed), 80)
    join_episodes(folder, sorted(staging.glob("*.npz")), contract)
    return folder


def test_linear_probes_read_what_is_there(tmp_path: Path) -> None:
    """States and actions are aligned to the pair: an encoder that sees them explains them, noise does not."""
    corpus = Corpus(validate((SourceConfig("q", quadrants(tmp_path / "q"), stride=2),)))

    def quarters(frames: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
        level = torch.nn.functional.adaptive_avg_pool2d(frames.flatten(0, 1).mean(1, keepdim=True), 2)
        level = level.flatten(1).unflatten(0, frames.shape[:2])
        return torch.stack([level[:, j] - level[:, i] for i, j in pairs], 1)

    def noise(frames: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
        return torch.randn(len(frames), len(pairs), 4, generator=torch.Generator().manual_seed(0))

    training, held_out = corpus.split("training", 0, 0.3).tolist(), corpus.split("held_out", 0, 0.3).tolist()
    datasets, without = robots(corpus)
    found = linear_probes({"q": made(quarters), "n": made(noise)}, corpus, datasets, training, held_out, 16, 0)
    assert not without and set(found["q"]) == {"third_person", "wrist"}
    for view in found["q"]:
        for span in ("1", "5"):
            for target in ("state_change", "action", "state_change_within_tasks", "action_within_tasks"):
                seen, guessed = (found[name][view][span][target] for name in ("q", "n"))
                assert 0.98 < seen["low"] <= seen["value"] <= seen["high"] and guessed["value"] < 0.2
        assert found["q"][view]["1"]["tested"] == 32


def test_pictures_stay_in_their_places(data: Path, encoders: dict[str, Path]) -> None:
    corpus, cards = corpus_of(data, encoders)
    datasets, _ = robots(corpus)
    _, held_out = split_clips(corpus, cards)
    chosen = pick(corpus, held_out, datasets, 0)
    clips = [corpus.clip(n) for n in chosen]
    assert len(chosen) == 2 and len({c.view for c in clips}) == 1  # one of each task
    other = sibling(corpus, chosen[0], held_out, datasets)
    assert other in held_out and corpus.clip(other).episode != clips[0].episode
    assert datasets[0].instruction(int(corpus.clip(other).episode)) == datasets[0].instruction(int(clips[0].episode))
    (panel,) = compositions({"exact": made(difference)}, [(corpus, chosen[0], datasets)])
    filmed, exact = panel.rows
    assert len(filmed.images) == 3 and len(exact.images) == 4 and exact.agreement_db == 100.0
    assert np.array_equal(exact.images[0], filmed.images[0]) and exact.same_codes
    (panel,) = compositions(
        {"constant": made(lambda f, pairs: torch.ones(1, len(pairs), 3))}, [(corpus, chosen[0], {})]
    )
    assert not panel.rows[1].same_codes  # 1 + 1 is not 1


def test_a_transfer_stands_beside_what_the_target_filmed(data: Path, tmp_path: Path) -> None:
    corpus = Corpus(validate((SourceConfig("q", quadrants(tmp_path / "q"), stride=2),)))
    datasets, _ = robots(corpus)
    source, target = (corpus, 0, datasets), (corpus, 2, datasets)  # one view of two episodes
    at = most_moving(source)
    assert at.shape == (1, 3) and np.array_equal(moved_alike(source, at, source)[0], at)  # nothing moves more alike

    def moved(number: int, index: np.ndarray) -> np.ndarray:
        state = datasets[0].state[datasets[0].episodes[int(corpus.clip(number).episode)]["dataset_from_index"] + index]
        return (state[:, 1:] - state[:, :1]) / 0.1  # channels vary alike

    there, alike = moved_alike(source, at, target)
    everywhere = np.stack([moved(2, at - at[0, 0] + start) for start in range(30)])
    apart = np.square(everywhere - moved(0, at)).sum((1, 2, 3))
    assert alike and np.square(moved(2, there) - moved(0, at)).sum() < np.quantile(apart, 0.1)
    other = (Corpus(validate((SourceConfig("v", video_folder(tmp_path / "v", [40]), stride=2),))), 0, {})
    for pair in ((source, other), (other, source)):
        there, alike = moved_alike(pair[0], most_moving(pair[0]), pair[1])
        assert not alike and np.array_equal(there, most_moving(pair[1]))

    def shift(frames: Tensor, z: Tensor) -> Tensor:
        return (frames + z[:, :, None, None].float()).clamp(0, 1)

    panel, unlike = references({"exact": made(difference, shift)}, [(source, target), (source, other)])
    filmed, ground_truth, own, transferred = panel.rows
    assert len(filmed.images) == len(ground_truth.images) == 3 and len(own.images) == len(transferred.images) == 4
    assert all(np.array_equal(row.images[0], ground_truth.images[0]) for row in (own, transferred))
    assert not np.allclose(own.images[2], transferred.images[2], atol=1e-3)
    brightness = filmed.images[2].mean() - filmed.images[0].mean()
    assert transferred.images[2].mean() - transferred.images[0].mean() == pytest.approx(brightness, abs=0.02)
    assert own.filmed_db and transferred.filmed_db and own.same_codes and unlike.rows[3].filmed_db is None


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["probe.py", *map(str, words)])
    main()


def words_for(encoders: dict[str, Path], data: Path, out: Path) -> list[object]:
    small = ("--anchors", 2, "--horizons", 2, 5, 8)
    return [*(w for n, f in encoders.items() for w in ("--encoder", f"{n}={f}")), "--data", data, "--out", out, *small]


def test_the_report_is_whole_and_the_card_keeps_the_rest(
    data: Path,
    encoders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-backbone"))
    out, before = tmp_path / "report", {name: read_card(folder) for name, folder in encoders.items()}
    run(monkeypatch, *words_for(encoders, data, out))
    printed = capsys.readouterr().out
    assert "lam/alam" in printed and "46x" in printed and "LPIPS not measured" in printed

    result = json.loads((out / "probe.json").read_text())
    assert (
        result["horizons"] == [1, 2, 5, 8]
        and result["metrics"] == ["psnr", "ssim"]
        and "vgg" in result["lpips_missing"]
    )
    assert result["longest_trained"] == 4  # alam's pair (a, c), two gaps of 2; lam's pairs reach 2
    for name, encoder in result["encoders"].items():
        assert encoder["measures"]["add"]["value"][0] == 0 and encoder["measures"]["add"]["value"][2] > 0
        low, value, high = (encoder["measures"]["rev"][key][2] for key in ("low", "value", "high"))
        assert low < value < high and not any("lpips" in m for m in encoder["measures"])
        assert set(encoder["linear_r2"]) == {"third_person", "wrist"} and encoder["steps"] == 4
        copied, gained, direct = (encoder["measures"][f"psnr_{n}"]["value"][2] for n in ("copy", "over_copy", "direct"))
        assert gained == pytest.approx(direct - copied) and f"{copied:.4g}" in printed
        card = read_card(encoders[name])
        assert card.pop("probe")["relative_add"] == encoder["measures"]["relative_add"]["value"]
        assert card == before[name] and list(card) == list(before[name])

    for encoder in result["encoders"].values():  # one horizon, at which Add is 0
        encoder["measures"] = {m: {k: v[:1] for k, v in ends.items()} for m, ends in encoder["measures"].items()}
    assert structure_figure({**result, "horizons": [1]}).axes[0].get_yscale() == "linear"
    result = json.loads((out / "probe.json").read_text())

    page = (out / "index.html").read_text()
    linked = set(re.findall(r"(?:src|href|srcset)=[\"']([^\"']+)[\"']", page))
    assert {"figure.png", "figure-dark.png", "composition.png", "transfer.png", "reconstruction.png"} <= linked
    assert {"transfer_ground_truth.png", "transfer_ground_truth-dark.png"} <= linked
    assert all((out / name).stat().st_size > 0 and "/" not in name for name in linked)
    assert {p.name for p in out.iterdir()} - {"index.html"} <= linked

    cards = {name: (folder / "card.yaml").read_bytes() for name, folder in encoders.items()}
    monkeypatch.setattr("training.probe.save_both", lambda draw, path: None)
    run(monkeypatch, *words_for(encoders, data, tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "probe.json").read_text())["encoders"] == result["encoders"]
    assert {name: (folder / "card.yaml").read_bytes() for name, folder in encoders.items()} == cards


def test_a_second_corpus_lends_frames(
    data: Path, encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_dataset(tmp_path / "others", episodes=2)
    _, cards = corpus_of(data, encoders)
    assert len(unseen_clips(Corpus(validate((SourceConfig("others", other, stride=2),))), cards)) == 4  # all of them
    same = unseen_clips(Corpus(validate((SourceConfig("moved", data, stride=2),))), cards)
    assert np.array_equal(same, split_clips(*corpus_of(data, encoders))[1])
    drawn = []
    monkeypatch.setattr("training.probe.save_both", lambda draw, path: drawn.append(path.name))
    run(monkeypatch, *words_for({"alam": encoders["alam"]}, data, tmp_path / "report"), "--transfer-data", other)
    assert "transfer.png" in drawn


def rubbish(folder: Path) -> None:
    (folder / "alam.safetensors").write_bytes(b"rubbish")


def no_split(folder: Path) -> None:
    card = read_card(folder)
    del card["data"]["seed"]
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


def other_stride(folder: Path) -> None:
    card = read_card(folder)
    card["data"]["sources"]["squares"]["stride"] = 3
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


def no_gap(folder: Path) -> None:
    card = read_card(folder)
    del card["settings"]["data"]
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (rubbish, "safetensors"),
        (no_gap, "alam: card.yaml: wanted the largest gap"),
        (no_split, "nothing is known to be held out"),
        (other_stride, "stride: wanted 3"),
        (lambda folder: (folder / "card.yaml").unlink(), "card.yaml"),
        (lambda folder: (folder / "card.yaml").write_text("a: [1"), "damaged"),
        (lambda folder: (folder / "card.yaml").write_text("- 1"), "list"),
        (shutil.rmtree, "card.yaml"),
    ],
)
def test_what_is_no_encoder_is_refused_in_a_sentence(
    damage, said: str, data: Path, encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(encoders["alam"])
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *words_for(encoders, data, tmp_path / "report"))
    assert said in str(ended.value.code) and str(ended.value.code).startswith("probe: ")
    assert "\n" not in str(ended.value.code)
    assert not (tmp_path / "report").exists()


def test_what_was_not_held_out_is_refused(
    data: Path, encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *words)
        return str(ended.value.code)

    report = tmp_path / "report"
    grown = make_dataset(tmp_path / "grown" / "squares", episodes=11)  # same name, other episodes
    assert "cannot be repeated on other data" in refused(*words_for(encoders, grown, report))
    listed = tmp_path / "mixture.yaml"
    listed.write_text(f"squares: {{path: {data}, weight: 1}}\nmore: {{path: {grown}, weight: 1}}\n")
    assert "got 'more'" in refused(*words_for(encoders, listed, report))
    assert "/nowhere" in refused(*words_for(encoders, Path("/nowhere"), report))
    assert "twice" in refused(*words_for(encoders, data, report), "--encoder", f"lam={encoders['lam']}")
    assert "at least 1" in refused(*words_for(encoders, data, report), "--clips", 0)
    single = make_dataset(tmp_path / "single" / "squares", episodes=1)
    card = read_card(encoders["lam"])
    card["data"] |= Corpus(validate((SourceConfig("squares", single, stride=2),))).description()
    (encoders["lam"] / "card.yaml").write_text(yaml.safe_dump(card))
    assert "hold one out" in refused(*words_for({"lam": encoders["lam"]}, single, report))
    corpus = Corpus(validate((SourceConfig("squares", data, stride=2),)))
    sides = {seed: set(corpus.split("held_out", seed, HELD_OUT).tolist()) for seed in range(200)}
    seed = next(seed for seed in sides if not sides[0] & sides[seed])
    other = train(tmp_path / "apart", data, "alam", seed=seed, steps=1)
    assert "none in common" in refused(*words_for({"alam": encoders["alam"], "apart": other}, data, report))
    assert not report.exists()
