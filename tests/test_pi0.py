"""The pi0 backbone's laws: what padding, order and the cached prefix may change, and what not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from alam_models.gemma import GemmaConfig, GemmaLayer, rotary, rotate, split_heads
from alam_models.pi0 import PADDING, SIZES, Pi0Backbone, Pi0Config
from alam_models.siglip import SiglipConfig
from alam_models.transformer import Prefix, time_embedding

TINY = SIZES["tiny"]
SIDE = TINY.image_size
TOKENS = 6
ROLES = ("third_person", "wrist")


def backbone_of(config: Pi0Config, roles: tuple[str, ...] = ROLES) -> Pi0Backbone:
    return Pi0Backbone(config, roles, (config.image_size,) * len(roles), config.state_width)


def tiny(roles: tuple[str, ...] = ROLES) -> Pi0Backbone:
    torch.manual_seed(0)
    return backbone_of(TINY, roles).eval()


def context(batch: int = 2, roles: tuple[str, ...] = ROLES, seed: int = 0) -> dict[str, object]:
    random = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 257, (batch, 7), generator=random)
    for row in range(batch):
        text[row, 7 - row :] = PADDING  # rows of different lengths
    return {
        "images": {role: torch.rand(batch, 3, SIDE, SIDE, generator=random) for role in roles},
        "text": text,
        "state": torch.randn(batch, TINY.state_width, generator=random),
    }


def run(backbone: Pi0Backbone, inputs: dict[str, object], tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool) if mask is None else mask
    with torch.no_grad():
        return backbone.expert(tokens, backbone.prefix(**inputs), mask)  # type: ignore[arg-type]


def some_tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, TOKENS, TINY.expert.width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def in_one_pass(backbone: Pi0Backbone, inputs: dict[str, object], tokens: Tensor, mask: Tensor) -> Tensor:
    """Prefix, state and tokens through every layer side by side, one softmax over all of them, nothing cached."""
    config = backbone.config
    x, valid = backbone.embed(inputs["images"], inputs["text"])  # type: ignore[arg-type]
    y = torch.cat([backbone.state(inputs["state"])[:, None], tokens], 1)
    length, behind = x.shape[1], y.shape[1]
    valid = torch.cat([valid, torch.ones(len(x), behind, dtype=torch.bool)], 1)
    seen = torch.zeros(length + behind, length + behind, dtype=torch.bool)
    seen[:, :length] = True  # the prefix is seen by all,
    seen[length:, length] = True  # the state by itself and the tokens,
    seen[length + 1 :, length + 1 :] = mask  # a token by tokens alone
    bias = torch.where(seen & valid[:, None, None], 0.0, -torch.inf)
    turn = rotary(valid.cumsum(1) - 1, config.language.head_width)

    def keys(layer: GemmaLayer, stream: Tensor) -> tuple[Tensor, Tensor]:
        h = layer.norm1(stream)
        return split_heads(layer.k(h), layer.head_width), split_heads(layer.v(h), layer.head_width)

    def queries(layer: GemmaLayer, stream: Tensor) -> Tensor:
        return split_heads(layer.q(layer.norm1(stream)), layer.head_width)

    def rest(layer: GemmaLayer, stream: Tensor, attended: Tensor) -> Tensor:
        stream = stream + layer.out(attended)
        h = layer.norm2(stream)
        return stream + layer.down(torch.nn.functional.gelu(layer.gate(h), approximate="tanh") * layer.up(h))

    for i, right in enumerate(backbone.expert_layers):
        last = i == config.expert.depth - 1
        left = backbone.language_end if last else backbone.language[i]
        (k1, v1), (k2, v2) = keys(left, x), keys(right, y)  # type: ignore[arg-type]
        # The last prefix layer answers nobody: any query does.
        q1 = torch.zeros(len(x), config.language.heads, length, config.language.head_width)
        q = torch.cat([q1 if last else queries(left, x), queries(right, y)], 2)  # type: ignore[arg-type]
        k, v = torch.cat([k1, k2], 2), torch.cat([v1, v2], 2)
        scores = rotate(q, turn) @ rotate(k, turn).transpose(2, 3) / math.sqrt(config.language.head_width) + bias
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = rest(right, y, attended[:, length:])  # type: ignore[arg-type]
        if not last:
            x = rest(left, x, attended[:, :length])  # type: ignore[arg-type]
    return backbone.expert_norm(y[:, 1:])


@pytest.mark.parametrize("causal", [False, True])
def test_the_cached_prefix_gives_what_one_joint_pass_gives(causal: bool) -> None:
    backbone, inputs, tokens = tiny(), context(), some_tokens()
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    mask = mask.tril() if causal else mask
    torch.testing.assert_close(
        run(backbone, inputs, tokens, mask), in_one_pass(backbone, inputs, tokens, mask), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("before", "behind"), [(0, 5), (3, 0)])
def test_padding_changes_nothing(before: int, behind: int) -> None:
    backbone, inputs, tokens = tiny(), context(), some_tokens()
    longer = {**inputs, "text": torch.nn.functional.pad(inputs["text"], (before, behind), value=PADDING)}  # type: ignore[arg-type]
    torch.testing.assert_close(run(backbone, inputs, tokens), run(backbone, longer, tokens), atol=1e-5, rtol=1e-5)


def test_a_short_instruction_in_a_batch_is_as_if_alone() -> None:
    backbone, inputs, tokens = tiny(), context(), some_tokens()
    alone = {
        "images": {role: image[1:] for role, image in inputs["images"].items()},  # type: ignore[attr-defined]
        "text": inputs["text"][1:, :6],  # type: ignore[index]
        "state": inputs["state"][1:],  # type: ignore[index]
    }
    torch.testing.assert_close(
        run(backbone, inputs, tokens)[1:], run(backbone, alone, tokens[1:]), atol=1e-5, rtol=1e-5
    )


def test_a_permuted_batch_gives_permuted_results() -> None:
    backbone, inputs, tokens = tiny(), context(3), some_tokens(3)
    order = torch.tensor([2, 0, 1])
    permuted = {
        "images": {role: image[order] for role, image in inputs["images"].items()},  # type: ignore[attr-defined]
        "text": inputs["text"][order],  # type: ignore[index]
        "state": inputs["state"][order],  # type: ignore[index]
    }
    torch.testing.assert_close(
        run(backbone, inputs, tokens)[order], run(backbone, permuted, tokens[order]), atol=1e-5, rtol=1e-5
    )


def test_images_are_told_apart_by_role_and_not_by_the_order_of_a_dictionary() -> None:
    backbone, inputs, tokens = tiny(), context(), some_tokens()
    first, second = inputs["images"].items()  # type: ignore[attr-defined]
    wanted = run(backbone, inputs, tokens)
    assert torch.equal(wanted, run(backbone, {**inputs, "images": dict([second, first])}, tokens))
    swapped = {first[0]: second[1], second[0]: first[1]}
    assert not torch.allclose(wanted, run(backbone, {**inputs, "images": swapped}, tokens), atol=1e-4)


@pytest.mark.parametrize("part", ["images", "text", "state"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_part_of_the_context_is_seen_with_any_number_of_images(part: str, count: int) -> None:
    roles = ("third_person", "wrist", "left")[:count]
    backbone, tokens = tiny(roles), some_tokens()
    one, two = context(2, roles), context(2, roles, seed=5)
    prefix = backbone.prefix(**one)  # type: ignore[arg-type]
    assert prefix.valid.shape == (2, 4 * count + 7 + 1)
    assert prefix.valid.sum(1).tolist() == [4 * count + 8, 4 * count + 7]
    if part == "images":  # the last image alone
        two["images"] = {**one["images"], roles[-1]: two["images"][roles[-1]]}  # type: ignore[dict-item,index]
    moved = run(backbone, {**one, part: two[part]}, tokens)
    assert not torch.allclose(run(backbone, one, tokens), moved, atol=1e-4)


def test_a_short_state_is_padded_with_zeros() -> None:
    backbone, inputs, tokens = tiny(), context(), some_tokens()
    short = inputs["state"][:, :5]  # type: ignore[index]
    padded = torch.cat([short, torch.zeros(2, 3)], 1)
    assert torch.equal(
        run(backbone, {**inputs, "state": short}, tokens), run(backbone, {**inputs, "state": padded}, tokens)
    )


def test_half_precision_stays_near() -> None:
    inputs, tokens = context(), some_tokens()
    wanted = run(tiny(), inputs, tokens)
    got = run(tiny().bfloat16(), inputs, tokens.bfloat16())
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(wanted.flatten(), got.float().flatten(), 0) > 0.999


def test_the_paper_size_is_that_of_the_public_weights() -> None:
    with torch.device("meta"):
        backbone = backbone_of(SIZES["paper"])
    assert all(parameter.is_meta for parameter in backbone.parameters()) and not list(backbone.buffers())

    def millions(*modules: torch.nn.Module) -> int:
        return round(sum(p.numel() for module in modules for p in module.parameters()) / 1e6)

    config = SIZES["paper"]
    last = GemmaLayer(GemmaConfig(config.language.width, config.language.mlp_width))
    unread = sum(p.numel() for p in last.parameters()) - sum(p.numel() for p in backbone.language_end.parameters())
    language = millions(backbone.words, backbone.language, backbone.language_end)
    assert millions(backbone.vision) == 412
    assert language + round(unread / 1e6) == pytest.approx(2508, abs=1)  # 2,509 M with its head's norm and projector
    assert millions(backbone.expert_layers, backbone.expert_norm) == 311
    assert backbone.vision.position.num_embeddings == 256


def test_the_small_size_has_an_expert_of_six_million() -> None:
    backbone = backbone_of(SIZES["small"])
    count = sum(p.numel() for p in backbone.expert_layers.parameters())
    assert count == pytest.approx(6e6, rel=0.1)


def test_time_embedding_is_that_of_float64() -> None:
    tau = torch.cat([torch.rand(500, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.001, 1.0])])
    for width in (24, 1024):
        period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, width // 2, dtype=torch.float64)
        angle = 2 * math.pi * tau.double()[:, None] / period
        exact = torch.cat([angle.sin(), angle.cos()], 1)
        got = time_embedding(tau, width)
        assert got.dtype == torch.float32
        assert (got - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(TINY, expert=replace(TINY.expert, depth=4)), "depth"),
        (lambda: backbone_of(TINY, ("wrist", "wrist")), "roles"),
        (lambda: Pi0Backbone(TINY, ROLES, (28, 14), 8), "28 px"),
        (lambda: Pi0Backbone(TINY, ROLES, (28, 28), 9), "at most 8"),
        (lambda: GemmaConfig(32, 64, heads=3, kv_heads=2), "kv_heads"),
        (lambda: SiglipConfig(width=10, heads=3), "heads"),
        (lambda: backbone_of(replace(TINY, image_size=30)), "patch"),
    ],
)
def test_impossible_sizes_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_types_of_the_interface() -> None:
    backbone = tiny()
    assert isinstance(backbone.config, Pi0Config) and backbone.width == TINY.expert.width
    assert isinstance(backbone.prefix(**context()), Prefix)  # type: ignore[arg-type]
