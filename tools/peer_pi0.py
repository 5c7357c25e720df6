"""LeRobot's own pi0 at any size, on an unpatched `transformers`; runs in the environment of peer_env.py.

LeRobot 0.4.4 asks for a patched `transformers`. `make` gives the released one what the patch would: norms that return
a gate, embeddings that are not scaled inside, and a cache that a denoising step reads without writing."""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from torch import Tensor, nn

from alam_models.lpips import define_torchvision_operators
from alam_models.pi0 import Pi0Config

define_torchvision_operators()

from lerobot.policies.pi0 import modeling_pi0  # noqa: E402 (after the operators)
from lerobot.policies.pi0.configuration_pi0 import PI0Config  # noqa: E402
from transformers.cache_utils import DynamicCache  # noqa: E402
from transformers.models.gemma import modeling_gemma  # noqa: E402
from transformers.models.paligemma import modeling_paligemma  # noqa: E402


class ReadOnlyCache:
    """A filled cache; `update` gives what is in it and the new tokens, and keeps nothing."""

    def __init__(self, filled: DynamicCache) -> None:
        self.filled = filled

    def update(self, keys: Tensor, values: Tensor, layer: int, _: object = None) -> tuple[Tensor, Tensor]:
        """keys and values (B, G, T, E) of new tokens -> those of all tokens."""
        stored = self.filled.layers[layer]
        return torch.cat([stored.keys, keys], 2), torch.cat([stored.values, values], 2)


def make(config: Pi0Config, horizon: int, action_width: int, steps: int = 10, dtype: str = "float32") -> Any:
    """-> LeRobot's PI0Pytorch in evaluation mode, sized as our backbone of this config. 8 heads only.

    dtype: float32 or bfloat16, which leaves norms and the first layer of the vision tower in float32."""
    _patch()
    sizes = {"language": config.language, "expert": config.expert}

    def gemma_config(variant: str) -> Any:
        size = sizes[variant]
        return modeling_pi0.GemmaConfig(
            size.width, size.depth, size.mlp_width, size.heads, size.kv_heads, size.head_width
        )

    def paligemma(config: Any, theirs: type = modeling_paligemma.PaliGemmaForConditionalGeneration) -> nn.Module:
        vision, ours = config.vision_config, sizes_of_vision
        vision.hidden_size, vision.intermediate_size = ours.width, ours.mlp_width
        vision.num_hidden_layers, vision.num_attention_heads = ours.depth, ours.heads
        vision.patch_size, vision.projection_dim = ours.patch, sizes["language"].width
        config.projection_dim, config.hidden_size = sizes["language"].width, sizes["language"].width
        config._vocab_size = config.image_token_index = config.text_config.vocab_size = vocabulary
        return theirs(config=config)

    def gemma(config: Any, theirs: type = modeling_gemma.GemmaForCausalLM) -> nn.Module:
        config.vocab_size = vocabulary
        return theirs(config=config)

    sizes_of_vision, vocabulary = config.vision, config.vocabulary
    modeling_pi0.get_gemma_config = gemma_config
    modeling_pi0.PaliGemmaForConditionalGeneration = paligemma
    modeling_pi0.GemmaForCausalLM = gemma
    theirs = PI0Config(
        dtype=dtype,
        chunk_size=horizon,
        n_action_steps=horizon,
        max_state_dim=config.state_width,
        max_action_dim=action_width,
        num_inference_steps=steps,
        image_resolution=(config.image_size, config.image_size),
        device="cpu",
    )
    theirs.paligemma_variant, theirs.action_expert_variant = "language", "expert"
    torch.set_default_dtype(getattr(torch, dtype))  # made in it, not cast to it: half the memory at the peak
    model = modeling_pi0.PI0Pytorch(theirs).eval()
    torch.set_default_dtype(torch.float32)
    for name, part in model.named_children():
        if name != "paligemma_with_expert":
            part.float()  # as it would be had it been made in float32
    return model


def _patch() -> None:
    """The changes that the patch of `transformers` makes, once a process."""
    check = types.ModuleType("transformers.models.siglip.check")
    check.check_whether_transformers_replace_is_installed_correctly = lambda: True  # type: ignore[attr-defined]
    sys.modules[check.__name__] = check
    import transformers.models.siglip as siglip

    siglip.check = check
    modeling_gemma._gated_residual = lambda x, y, gate: x + y
    modeling_gemma.GemmaRMSNorm.forward = _norm
    modeling_gemma.GemmaModel.forward = _gemma
    modeling_paligemma.PaliGemmaModel.get_image_features = _image_features


def _norm(self: Any, x: Tensor, cond: None = None) -> tuple[Tensor, None]:
    return (self._norm(x.float()) * (1.0 + self.weight.float())).type_as(x), None


def _image_features(self: Any, pixel_values: Tensor) -> Tensor:
    tower = self.vision_tower.vision_model
    x = tower.embeddings(pixel_values).to(self.multi_modal_projector.linear.weight.dtype)  # they stay float32
    return self.multi_modal_projector(tower.post_layernorm(tower.encoder(inputs_embeds=x).last_hidden_state))


def _gemma(
    self: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    past_key_values: DynamicCache | None = None,
    use_cache: bool | None = None,
    adarms_cond: None = None,
) -> Any:
    x = inputs_embeds.to(self.layers[0].self_attn.q_proj.weight.dtype)
    turn, attention_mask = self.rotary_emb(x, position_ids), attention_mask.to(x.dtype)
    written = DynamicCache() if use_cache else None
    cache = ReadOnlyCache(past_key_values) if past_key_values is not None else written
    for layer in self.layers:
        h, _ = layer.input_layernorm(x)
        h, _ = layer.self_attn(h, turn, attention_mask, past_key_values=cache)
        x = x + h
        h, _ = layer.post_attention_layernorm(x)
        x = x + layer.mlp(h)
    x, _ = self.norm(x)
    return modeling_gemma.BaseModelOutputWithPast(last_hidden_state=x, past_key_values=written)
