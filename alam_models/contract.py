"""The contract: what a robot, a dataset and a policy agree on.

One dataclass, one YAML file (`contract.yaml`), saved in every dataset and every bundle. A robot or a dataset fills in
the first half (names, order, units, limits, rate, cameras); a policy adds the second (horizon, latent shape,
tokenizer, normalisation statistics). Needs numpy, OpenCV and, for PaliGemma's tokens, sentencepiece; never torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import yaml

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SCHEMA_VERSION = 1
ROLES = ("third_person", "wrist")
TOKENIZERS = ("bytes", "paligemma")


@dataclass(frozen=True)
class Channel:
    """One scalar of a state or action vector: name, SI unit ("1" when dimensionless), lowest and highest value."""

    name: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class Camera:
    """One view: the frame a camera gives (source size [px]) and the frame a network sees (size [px]).

    `crop` is the side of the centred square kept, as a fraction (0, 1] of the shorter source side."""

    role: str
    source_width: int
    source_height: int
    width: int
    height: int
    crop: float = 1.0
    rotate_180: bool = False


@dataclass(frozen=True)
class Latent:
    """Shape of one transition: query tokens Q and width Z of each."""

    queries: int
    width: int


@dataclass(frozen=True)
class Tokenizer:
    """How an instruction becomes `length` tokens, zero-padded behind.

    `bytes` is UTF-8, each byte plus one. `paligemma` is the beginning of a text, the pieces of PaliGemma's
    `tokenizer.model` at `path` and a line's end, as pi0 reads it; a saved contract has that file beside it. vocabulary:
    how many tokens the policy knows, where that is said."""

    kind: str
    length: int
    path: str | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in TOKENIZERS:
            raise ValueError(f"tokenizer: wanted one of {TOKENIZERS}, got {self.kind!r}")
        if (self.path is None) != (self.kind == "bytes"):
            raise ValueError(f"tokenizer {self.kind!r}: wanted a path with 'paligemma' alone, got {self.path!r}")


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each stream over the training split, with a hash over all of them.

    state (S,), action (A,), latent: one (Q*Z,) pair per camera role."""

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    latent_mean: dict[str, tuple[float, ...]]
    latent_std: dict[str, tuple[float, ...]]
    hash: str = ""

    def compute_hash(self) -> str:
        """-> first 16 hex digits of SHA-256 over every number, to float32 precision."""
        numbers = {k: v for k, v in asdict(self).items() if k != "hash"}
        text = json.dumps(numbers, sort_keys=True, default=list)
        text = json.dumps(json.loads(text, parse_float=lambda s: float(np.float32(float(s)))), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Contract:
    """Names, order, units, sizes, rates and normalisation. Fields from `horizon` on are None before a policy exists."""

    robot: str
    state: tuple[Channel, ...]
    action: tuple[Channel, ...]
    control_rate_hz: float
    cameras: tuple[Camera, ...]
    horizon: int | None = None
    latent: Latent | None = None
    tokenizer: Tokenizer | None = None
    normalisation: Normalisation | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _check_kinds(self)
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(f"contract: wanted schema_version {SCHEMA_VERSION}, got {self.schema_version}")
        if not self.control_rate_hz > 0:
            raise ValueError(f"contract: wanted control_rate_hz above 0, got {self.control_rate_hz}")
        for camera in self.cameras:
            if camera.role not in ROLES:
                raise ValueError(f"contract: wanted camera role in {ROLES}, got {camera.role!r}")
            if not 0 < camera.crop <= 1:
                raise ValueError(f"contract: wanted crop of {camera.role} in (0, 1], got {camera.crop}")
        for what, names in (("camera roles", self.roles), ("state", self.state_names), ("action", self.action_names)):
            if not names or len(set(names)) != len(names):
                raise ValueError(f"contract: wanted {what} with one name each, got {names}")
        for channel in (*self.state, *self.action):
            if not channel.low < channel.high:
                raise ValueError(f"contract: wanted low < high for {channel.name}, got {channel.low}, {channel.high}")
        if self.normalisation is not None and self.normalisation.hash != self.normalisation.compute_hash():
            raise ValueError(
                f"contract: wanted normalisation statistics with hash {self.normalisation.hash!r}, got numbers that "
                f"hash to {self.normalisation.compute_hash()!r}; they were edited, take the file from its maker again"
            )

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.state)

    @property
    def action_names(self) -> tuple[str, ...]:
        return tuple(channel.name for channel in self.action)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(camera.role for camera in self.cameras)

    def camera(self, role: str) -> Camera:
        """-> the camera of a role. Raises ValueError for a role this contract lacks."""
        for camera in self.cameras:
            if camera.role == role:
                return camera
        raise ValueError(f"contract of {self.robot}: wanted a camera {role!r}, has {self.roles}")

    def to_yaml(self) -> str:
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False, width=120)

    @classmethod
    def from_yaml(cls, text: str, where: str = "contract") -> Contract:
        """Raises ValueError, naming the field, for anything missing, unknown or of the wrong kind."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{where}: wanted YAML, got something else ({str(error).splitlines()[0]})") from None
        return _build(cls, data, where)

    def save(self, path: Path | str) -> None:
        """Write the YAML and, beside it, the tokenizer's file where there is one: the folder may then move."""
        path, saved = Path(path), self
        if self.tokenizer is not None and self.tokenizer.path is not None:
            beside = path.with_name("tokenizer.model")
            if not (beside.exists() and beside.samefile(self.tokenizer.path)):
                shutil.copyfile(self.tokenizer.path, beside)
            saved = replace(self, tokenizer=replace(self.tokenizer, path=beside.name))
        path.write_text(saved.to_yaml())

    @classmethod
    def load(cls, path: Path | str) -> Contract:
        """Raises ValueError when the file is missing or is no contract."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"wanted a contract at {path}, got no such file")
        contract = cls.from_yaml(path.read_text(), str(path))
        if contract.tokenizer is None or contract.tokenizer.path is None:
            return contract
        tokenizer = replace(contract.tokenizer, path=str(path.parent / contract.tokenizer.path))
        return replace(contract, tokenizer=tokenizer)


def disagreements(wanted: Contract, got: Contract) -> list[str]:
    """Every robot-side field in which two contracts differ, a sentence each; empty when they fit."""
    return [
        f"contract field {name!r}: wanted {_plain(getattr(wanted, name))!r}, got {_plain(getattr(got, name))!r}"
        for name in ("schema_version", "robot", "state", "action", "control_rate_hz", "cameras")
        if getattr(wanted, name) != getattr(got, name)
    ]


def prepare_frame(image: np.ndarray, camera: Camera) -> np.ndarray:
    """image (source_height, source_width, 3) uint8 -> (height, width, 3) uint8: rotate, crop the centre, resize.

    The one way from a camera to a network, for training and for serving. Raises ValueError on another size or dtype."""
    wanted = (camera.source_height, camera.source_width, 3)
    if image.dtype != np.uint8 or image.shape != wanted:
        raise ValueError(
            f"{camera.role} frame: wanted uint8 {wanted}, got {image.dtype} {image.shape}; "
            "set the camera to the size in contract.yaml"
        )
    if camera.rotate_180:
        image = image[::-1, ::-1]
    side = round(min(camera.source_width, camera.source_height) * camera.crop)
    top, left = (camera.source_height - side) // 2, (camera.source_width - side) // 2
    image = np.ascontiguousarray(image[top : top + side, left : left + side])
    if (side, side) == (camera.height, camera.width):
        return image
    return cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)


def encode_instruction(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """-> (length,) int64 tokens, 0 is padding. Raises ValueError on an instruction that is empty or too long or has a
    token beyond the vocabulary, and when the tokenizer's file cannot be used."""
    if tokenizer.kind == "bytes":
        ids, unit = [byte + 1 for byte in text.encode()], "bytes"
    else:
        assert tokenizer.path is not None
        ids, unit = _pieces(tokenizer.path).encode(text.strip() + "\n", add_bos=True), "tokens"
    if not text.strip() or len(ids) > tokenizer.length:
        raise ValueError(f"instruction: wanted words of 1 to {tokenizer.length} {unit}, got {len(ids)}: {text[:80]!r}")
    if tokenizer.vocabulary is not None and max(ids) >= tokenizer.vocabulary:
        raise ValueError(
            f"instruction: wanted tokens below the vocabulary of {tokenizer.vocabulary}, got {max(ids)}: "
            f"{text[:80]!r}; say it in other words, or take the tokenizer that the weights were trained with"
        )
    tokens = np.zeros(tokenizer.length, np.int64)
    tokens[: len(ids)] = ids
    return tokens


@lru_cache
def _pieces(path: str) -> SentencePieceProcessor:
    """The pieces of a tokenizer.model. Raises ValueError when there is none, or one that pads otherwise."""
    if not Path(path).is_file():
        raise ValueError(f"tokenizer: wanted PaliGemma's tokenizer.model at {path}, got no such file")
    try:
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=path)
    except ImportError:
        raise ValueError("tokenizer 'paligemma': wanted the package sentencepiece, got none; install it") from None
    except (RuntimeError, OSError) as error:
        raise ValueError(f"tokenizer: wanted a sentencepiece model at {path}, got another file ({error})") from None
    if pieces.pad_id() != 0 or pieces.bos_id() < 0:
        raise ValueError(
            f"tokenizer: wanted PaliGemma's (padding 0, with a beginning of text), got {path} with padding "
            f"{pieces.pad_id()}, beginning {pieces.bos_id()}"
        )
    return pieces


def standardise(values: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """values (..., C) in contract units -> (..., C) float32 of mean 0 and deviation 1."""
    return ((values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).astype(np.float32)


def unstandardise(values: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """The inverse of standardise."""
    return (values * np.asarray(std, np.float32) + np.asarray(mean, np.float32)).astype(np.float32)


def policy_contract(
    robot_side: Contract, horizon: int, latent: Latent | None, tokenizer: Tokenizer, normalisation: Normalisation
) -> Contract:
    """A dataset's contract completed by what a policy adds, `latent` only where it generates some; the statistics get
    their hash here."""
    normalisation = replace(normalisation, hash=normalisation.compute_hash())
    return replace(robot_side, horizon=horizon, latent=latent, tokenizer=tokenizer, normalisation=normalisation)


def _plain(value: Any) -> Any:
    """Dataclasses and tuples -> dicts and lists, for YAML."""
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _check_kinds(contract: Contract) -> None:
    """Raises ValueError for a number that is none, a size that is not positive, a name that is no text."""
    sizes = ("source_width", "source_height", "width", "height", "queries", "length")
    for item in (*contract.state, *contract.action, *contract.cameras, contract.latent, contract.tokenizer, contract):
        for field in fields(item) if item is not None else ():
            value = getattr(item, field.name)
            if field.name in sizes or (field.name in ("horizon", "vocabulary") and value is not None):
                good, wanted = type(value) is int and value > 0, "a whole number above 0"
            elif field.name in ("low", "high", "crop", "control_rate_hz"):
                good, wanted = type(value) in (int, float) and math.isfinite(value), "a finite number"
            elif field.name in ("name", "unit", "role", "robot", "kind"):
                good, wanted = type(value) is str and bool(value), "text"
            else:
                continue
            if not good:
                raise ValueError(f"contract: wanted {wanted} for {field.name}, got {value!r}")


_NESTED: dict[str, type] = {
    "latent": Latent,
    "tokenizer": Tokenizer,
    "normalisation": Normalisation,
}
_LISTS: dict[str, type] = {"state": Channel, "action": Channel, "cameras": Camera}


def _build(cls: type, data: Any, where: str) -> Any:
    """A dict -> the dataclass `cls`, strict about names; lists become tuples."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: wanted a mapping of {cls.__name__}, got {type(data).__name__}")
    known = {field.name for field in fields(cls)}
    required = {f.name for f in fields(cls) if str(f.default) == str(f.default_factory)}  # both MISSING
    if unknown := set(data) - known:
        raise ValueError(f"{where}: unknown field {sorted(unknown)[0]!r} in {cls.__name__}; known: {sorted(known)}")
    if missing := required - set(data):
        raise ValueError(f"{where}: {cls.__name__} lacks field {sorted(missing)[0]!r}")
    kwargs: dict[str, Any] = {}
    for name, value in data.items():
        if cls is Contract and name in _LISTS:
            if not isinstance(value, list):
                raise ValueError(f"{where}: wanted a list for {name!r}, got {type(value).__name__}")
            kwargs[name] = tuple(_build(_LISTS[name], item, f"{where}: {name}") for item in value)
        elif cls is Contract and name in _NESTED and value is not None:
            kwargs[name] = _build(_NESTED[name], value, f"{where}: {name}")
        elif isinstance(value, list):
            kwargs[name] = tuple(value)
        elif isinstance(value, dict):
            kwargs[name] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        else:
            kwargs[name] = value
    try:
        return cls(**kwargs)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
