"""What a person types at training/train.py: help for every option, one sentence for what cannot be, Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_pretrain import options, tiny, videos

from training.checkpoint import newest
from training.train import main

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "training" / "train.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos(tmp_path_factory.mktemp("data") / "squares")


def ended(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """-> the exit code and what was said."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    return end.value.code, f"{end.value.code if isinstance(end.value.code, str) else ''}{printed.out}{printed.err}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "--data", "/nowhere", "--out", "x"], "/nowhere"),
        (["pretrain", "--data", "x", "--out", "x", "--stepps", "3"], "stepps"),
        (["pretrain", "--config", "huge", "--data", "x", "--out", "x"], "mini"),
        (["pretrain", "--data", "x", "--out", "x", "--variant", "other"], "without_both"),
        (["fine-tune"], "pretrain"),
        (["transfer", "--data", "x", "--out", "x"], "encoder"),
    ],
)
def test_bad_commands_are_refused_without_a_traceback(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = ended(words, monkeypatch, capsys)
    assert code not in (0, None) and said in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        ("", "wanted at least one source"),
        ("a: {path: squares, weight: 0}", "wanted weights whose sum is above 0, got only zeros for a"),
        ("a: {path: nowhere, weight: 1}", "a: wanted a folder of data at"),
        ("a: {path: broken, weight: 1}", r"a: wanted a usable clip in .*broken, got none; .*00\.mp4"),
        ("a: {path: one, weight: 1}", "wanted a source of two episodes or more"),
        (None, "accumulate: wanted equal parts of a batch of 4, got 3"),
    ],
)
def test_data_that_cannot_be_trained_on_end_in_one_sentence(
    mixture: str | None,
    said: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, content in (("broken", b"nothing"), ("one", (data / "00.mp4").read_bytes())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00.mp4").write_bytes(content)
    (tmp_path / "squares").symlink_to(data)
    (tmp_path / "mixture.yaml").write_text("a: {path: squares, weight: 1}" if mixture is None else mixture)
    config = tiny(tmp_path / "mixture.yaml", tmp_path / "run")
    words = [] if mixture is not None else ["--accumulate", "3"]
    code, printed = ended(["pretrain", *options(config), *words], monkeypatch, capsys)
    assert isinstance(code, str) and code.startswith("train: ") and "\n" not in code
    assert re.search(said, code), printed
    assert not newest(config.out)


@pytest.mark.parametrize(
    ("stage", "option", "said"),
    [
        ("pretrain", "--log-every 0", "--log-every: wanted 1 or more, got 0"),
        ("pretrain", "--steps 0", "--steps: wanted 1 or more, got 0"),
        ("pretrain", "--clip 0", "--clip: wanted more than 0, got 0"),
        ("pretrain", "--ema 2", "--ema: wanted a decay below 1, got 2"),
        ("pretrain", "--warm-up -3", "--warm-up: wanted 0 or more, got -3"),
        ("pretrain", "--learning-rate nan", "--learning-rate: wanted more than 0, got nan"),
        ("pretrain", "--model.depth 0", "depth: wanted 1 or more, got 0"),
        ("pretrain", "--model.weights.rec -1", "weights.rec: wanted 0 or more, got -1"),
        ("transfer", "--draws 0", "--draws: wanted 1 or more, got 0"),
        ("transfer", "--shift -1", "--shift: wanted 0 or more, got -1"),
    ],
)
def test_numbers_that_no_training_can_have_end_in_one_sentence(
    stage: str,
    option: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [stage, "--data", str(tmp_path), "--out", str(tmp_path / "run"), *option.split()]
    code, printed = ended(words, monkeypatch, capsys)
    assert code != 0 and said in f"{code} {' '.join(printed.split())}"
    assert "Traceback" not in printed


def explained(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """-> what --help says of each option."""
    monkeypatch.setenv("COLUMNS", "90")  # one column of boxes
    code, text = ended([*words, "--help"], monkeypatch, capsys)
    assert code == 0
    lines = [line.strip("│ ") for line in text.splitlines()]
    starts = [i for i, line in enumerate(lines) if re.match(r"--\w|-h", line)]
    helps = {}
    for i, j in zip(starts, [*starts[1:], len(lines)], strict=True):
        helps[lines[i].split()[0].split("|")[0].removesuffix(",")] = " ".join(lines[i:j])
    return helps


@pytest.mark.parametrize("size", ["mini", "paper"])
def test_every_option_of_the_transfer_says_the_papers_value(
    size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = explained(["transfer", "--config", size], monkeypatch, capsys)
    ours = {"-h", "--data", "--out", "--accept", "--seed", "--log-every", "--save-every"}
    own = {name for name in helps if "." not in name}
    assert ours <= own and {"--pi0", "--tokenizer", "--lora-rank", "--recompute"} <= own
    assert not [name for name in own - ours if "paper: " not in helps[name]]
    for name, value in {
        "learning-rate": "5e-5",
        "weight-decay": "1e-4",
        "batch": "32 per GPU",
        "ema": "not given",
    }.items():
        assert f"paper: {value}" in helps[f"--{name}"]
    assert ("default: 32" in helps["--batch"]) == (size == "paper")


def test_every_option_is_explained_with_the_papers_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = explained(["pretrain"], monkeypatch, capsys)
    # Those of this implementation: where and how, not what.
    ours = {"-h", "--out", "--visits", "--workers", "--prefetch", "--keep-open", "--cache", "--cache-frames"}
    ours |= {"--compile", "--parallel", "--seed", "--log-every", "--save-every"}
    assert ours <= helps.keys() and {"--data", "--variant", "--model.queries", "--model.weights.rev"} <= helps.keys()
    assert not [name for name in helps.keys() - ours if "paper" not in helps[name] and name != "--data"]
    for name, help_ in helps.items():
        assert len(help_.split()) > 5, name
    for name, value in {
        "stride": "paper: 5, CALVIN 10",
        "max-gap": "paper: 16",
        "held-out": "paper: 0.05",
        "batch": "paper: 32, on 128 GPUs",
        "learning-rate": "paper: 1e-4",
        "weight-decay": "paper: 1e-4",
        "model.image-size": "paper: 200",
        "model.patch": "paper: 14",
        "model.width": "paper: 768",
        "model.heads": "paper: 12",
        "model.depth": "paper: 12",
        "model.queries": "paper: 256",
        "model.latent-width": "paper: 128",
        "model.codes": "paper: 7",
    }.items():
        assert value in helps[f"--{name}"], name


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def begin(words: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *launcher, TRAIN, "pretrain", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, text=True, stdout=pipe, stderr=pipe, cwd=ROOT, env=environment, start_new_session=True
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_what_is_kept(data: Path, tmp_path: Path, how: signal.Signals) -> None:
    config = tiny(data, tmp_path / "run", steps=100_000)
    config = replace(config, data=replace(config.data, workers=1))
    process = begin(options(config))
    wait_for(lambda: newest(config.out), process)
    os.killpg(process.pid, how)  # as a terminal does: to the workers, too
    _, printed = process.communicate(timeout=60)
    kept = newest(config.out)
    assert process.returncode == 1 and "Traceback" not in printed
    said = f"train: stopped; the same command goes on from {kept}, steps since then are lost"
    assert said in printed


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun_trains_stops_and_goes_on_to_the_bit(data: Path, tmp_path: Path, parallel: str) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    config = tiny(data, tmp_path / "run", steps=40, parallel=parallel, ema=0.9)
    process = begin(options(config), launcher)
    wait_for(lambda: newest(config.out), process)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=120)
    stopped = newest(config.out)
    assert stopped and stopped.name < "step-00000040" and process.returncode != 0
    assert "train: stopped; the same command goes on from" in printed
    whole = replace(config, out=tmp_path / "whole")
    for each in (config, whole):
        process = begin(options(each), launcher)
        printed = "".join(process.communicate(timeout=240))
        assert process.returncode == 0, printed
        assert printed.count(f"encoder at {each.out}; held-out: ") == 1  # said once, not by each
    for name in ("alam.safetensors", "step-00000040/optimiser.safetensors", "step-00000040/model.safetensors"):
        left, right = load_file(config.out / name), load_file(whole.out / name)
        assert all((left[k] == right[k]).all() for k in left), name
    assert "count: 2" in (config.out / "card.yaml").read_text()
