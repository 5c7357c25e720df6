"""SigLIP and Gemma against the `transformers` library, weights given under its names."""

from __future__ import annotations

import pytest
import torch

from alam_models.gemma import GemmaConfig, GemmaLayer, RMSNorm, rotary
from alam_models.lpips import define_torchvision_operators
from alam_models.siglip import Siglip, SiglipConfig

define_torchvision_operators()  # which the library looks for
transformers = pytest.importorskip("transformers", reason="transformers is in the extra `dev`")

LAYER = {  # ours -> SigLIP's
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
GEMMA_LAYER = {
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def copy_layer(ours: torch.nn.Module, theirs: torch.nn.Module, names: dict[str, str]) -> None:
    for mine, name in names.items():
        getattr(ours, mine).load_state_dict(theirs.get_submodule(name).state_dict())


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, norms too: at their start, ones and zeros hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize(("width", "heads", "depth", "image"), [(32, 2, 2, 28), (48, 4, 3, 56)])
def test_siglip(width: int, heads: int, depth: int, image: int) -> None:
    config = transformers.SiglipVisionConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=depth,
        intermediate_size=3 * width,
        image_size=image,
        patch_size=14,
        vision_use_head=False,
    )
    theirs = shaken(transformers.SiglipVisionModel(config))
    inside = getattr(theirs, "vision_model", theirs)
    ours = Siglip(SiglipConfig(width, depth, heads, 3 * width), image).eval()
    ours.patch.load_state_dict(inside.embeddings.patch_embedding.state_dict())
    ours.position.load_state_dict(inside.embeddings.position_embedding.state_dict(), strict=True)
    ours.norm.load_state_dict(inside.post_layernorm.state_dict())
    for mine, other in zip(ours.layers, inside.encoder.layers, strict=True):
        copy_layer(mine, other, LAYER)
    pixels = torch.rand(2, 3, image, image)
    wanted = theirs(pixel_values=2 * pixels - 1).last_hidden_state
    torch.testing.assert_close(ours(pixels), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("heads", "kv_heads", "depth"), [(4, 1, 2), (4, 2, 3), (2, 2, 1)])
def test_gemma(heads: int, kv_heads: int, depth: int) -> None:
    config = transformers.GemmaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=8,
        hidden_activation="gelu_pytorch_tanh",
    )
    theirs = shaken(transformers.GemmaModel(config))
    mine = [GemmaLayer(GemmaConfig(32, 64, depth, heads, kv_heads, 8)).eval() for _ in range(depth)]
    for layer, other in zip(mine, theirs.layers, strict=True):
        copy_layer(layer, other, GEMMA_LAYER)
    norm = RMSNorm(32)
    norm.load_state_dict(theirs.norm.state_dict())

    ids = torch.randint(0, 50, (2, 9))
    padded = torch.ones(2, 9, dtype=torch.long)
    padded[1, 6:] = 0
    wanted = theirs(input_ids=ids, attention_mask=padded).last_hidden_state
    mask = torch.ones(9, 9, dtype=torch.bool).tril() & padded.bool()[:, None]
    positions = torch.arange(9).expand(2, -1)
    x = theirs.embed_tokens.weight[ids] * 32**0.5
    for layer in mine:
        x, _ = layer(x, rotary(positions, 8), mask)
    there = padded.bool()
    torch.testing.assert_close(norm(x)[there], wanted[there], atol=1e-5, rtol=1e-5)
