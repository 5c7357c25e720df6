"""The backbone of pi0 (Black et al. 2024): SigLIP, PaliGemma's language model, and an action expert joined to it.

The prefix (images, instruction, state) is computed once; the expert's tokens attend to it layer by layer.
Letters: B batch, L prefix tokens, T expert tokens, D expert width, S state width, s image side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alam_models.gemma import GemmaConfig, GemmaLayer, KeysValuesLayer, RMSNorm, rotary
from alam_models.siglip import Siglip, SiglipConfig
from alam_models.transformer import KeysValues, Prefix

PADDING = 0  # the text token that is not there


@dataclass(frozen=True)
class Pi0Config:
    """Sizes."""

    language: GemmaConfig
    expert: GemmaConfig
    vision: SiglipConfig = SiglipConfig()
    image_size: int = 224  # [px], of every image
    vocabulary: int = 257_152  # PaliGemma's; 257 for byte tokens
    state_width: int = 32  # shorter states are padded with zeros

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "kv_heads", "head_width"):
            one, two = getattr(self.language, name), getattr(self.expert, name)
            if one != two:
                raise ValueError(f"pi0: wanted the same {name} in language and expert, got {one} and {two}")


SIZES = {
    "tiny": Pi0Config(  # for tests
        GemmaConfig(32, 64, depth=3, heads=4, head_width=8),
        GemmaConfig(24, 48, depth=3, heads=4, head_width=8),
        SiglipConfig(16, 2, 2, 32),
        image_size=28,
        vocabulary=257,
        state_width=8,
    ),
    "small": Pi0Config(  # an expert of 6 M parameters, for two CPU cores
        GemmaConfig(256, 1024, depth=6, head_width=32),
        GemmaConfig(256, 1024, depth=6, head_width=32),
        SiglipConfig(192, 6, 6, 768),
        image_size=112,
        vocabulary=257,
    ),
    "paper": Pi0Config(GemmaConfig(2048, 16_384), GemmaConfig(1024, 4096)),  # PaliGemma-2B and Gemma-300M
}


class Pi0Backbone(nn.Module):
    """What FlowPolicy asks of a backbone: `prefix`, `expert`, and the width of the expert's tokens."""

    def __init__(
        self, config: Pi0Config, roles: tuple[str, ...], image_sizes: tuple[int, ...], state_width: int
    ) -> None:
        """roles: the images, in the order of the prefix; image_sizes [px], one a role. Raises ValueError for sizes that
        are not the config's, and for a state wider than its."""
        super().__init__()
        if not roles or len(set(roles)) != len(roles):
            raise ValueError(f"pi0: wanted image roles with one name each, got {roles}")
        if image_sizes != (config.image_size,) * len(roles):
            raise ValueError(f"pi0: wanted images of {config.image_size} px for each of {roles}, got {image_sizes}")
        if state_width > config.state_width:
            raise ValueError(f"pi0: wanted a state of at most {config.state_width} numbers, got {state_width}")
        self.config, self.roles = config, roles
        self.width = config.expert.width
        language, depth = config.language, config.language.depth
        self.vision = Siglip(config.vision, config.image_size)
        self.projector = nn.Linear(config.vision.width, language.width)
        self.words = nn.Embedding(config.vocabulary, language.width)
        nn.init.normal_(self.words.weight, std=language.width**-0.5)
        self.language = nn.ModuleList(GemmaLayer(language) for _ in range(depth - 1))
        self.language_end = KeysValuesLayer(language)  # the prefix is read by keys and values alone
        self.state = nn.Linear(config.state_width, self.width)
        self.expert_layers = nn.ModuleList(GemmaLayer(config.expert) for _ in range(depth))
        self.expert_norm = RMSNorm(self.width)

    def prefix(self, images: dict[str, Tensor], text: Tensor, state: Tensor) -> Prefix:
        """images {role: (B, 3, s, s) in [0, 1]}, text (B, L) int64, 0 is padding, state (B, S) standardised -> Prefix.

        Images and words see each other; the state, the expert's first token, sees them and itself."""
        config = self.config
        x, valid = self.embed(images, text)
        turn = rotary(valid.cumsum(1) - 1, config.language.head_width)
        keys_values = []
        for layer in self.language:
            x, own = layer(x, turn, valid[:, None])
            keys_values.append(own)
        keys_values.append(self.language_end(x, turn))
        context = Prefix(keys_values, valid)

        padded = F.pad(state, (0, config.state_width - state.shape[1])).to(self.state.weight.dtype)
        token = self.state(padded)[:, None]
        itself = torch.ones(1, 1, dtype=torch.bool, device=token.device)
        _, owns = self.run_expert(token, context, itself)
        joined = [
            (torch.cat([k, own_k], 2), torch.cat([v, own_v], 2))
            for (k, v), (own_k, own_v) in zip(keys_values, owns, strict=True)
        ]
        return Prefix(joined, torch.cat([valid, itself.expand(len(valid), 1)], 1))

    def expert(self, tokens: Tensor, prefix: Prefix, mask: Tensor) -> Tensor:
        """tokens (B, T, D), mask (T, T) True where a token (row) sees another -> (B, T, D) after the last norm."""
        return self.expert_norm(self.run_expert(tokens, prefix, mask)[0])

    def run_expert(self, x: Tensor, prefix: Prefix, mask: Tensor) -> tuple[Tensor, list[KeysValues]]:
        """As `expert`, before the last norm; also the tokens' own keys and values of every layer."""
        batch, tokens = x.shape[:2]
        first = prefix.valid.sum(1, keepdim=True)
        turn = rotary(first + torch.arange(tokens, device=x.device), self.config.expert.head_width)
        context = prefix.valid[:, None].expand(batch, tokens, -1)
        seen = torch.cat([context, mask.expand(batch, -1, -1)], 2)
        owns = []
        for layer, joint in zip(self.expert_layers, prefix.keys_values, strict=True):
            x, own = layer(x, turn, seen, joint)
            owns.append(own)
        return x, owns

    def embed(self, images: dict[str, Tensor], text: Tensor) -> tuple[Tensor, Tensor]:
        """-> tokens (B, L, language width) of all images and then the words, valid (B, L) bool."""
        seen = self.projector(self.vision(torch.cat([images[role] for role in self.roles])))
        words = self.words(text) * self.config.language.width**0.5
        tokens = torch.cat([*seen.chunk(len(self.roles)), words], 1)
        there = torch.ones(tokens.shape[0], tokens.shape[1] - text.shape[1], dtype=torch.bool, device=text.device)
        return tokens, torch.cat([there, text != PADDING], 1)
