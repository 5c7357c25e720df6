"""Golden vectors of LeRobot's pi0, small models with drawn weights, into one npz a case beside this file.

    python tools/peer_env.py PATH
    PATH/bin/python tests/golden/make_pi0_golden.py

Only results and the names and shapes of the weights are kept: weights and inputs come from pi0_recipe.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent / "tools"), str(HERE)]

import numpy as np  # noqa: E402 (after the paths)
import torch  # noqa: E402
from pi0_recipe import CASES, TAUS, Case, inputs, weight  # noqa: E402

import peer_pi0  # noqa: E402


@torch.no_grad()
def golden(case: Case) -> dict[str, np.ndarray]:
    """A case -> LeRobot's last keys and values of the prefix, velocities, elementwise loss and sampled actions."""
    model = peer_pi0.make(case.config, case.horizon, case.action_width)
    shapes = {}
    for key, parameter in model.named_parameters():  # a tied tensor once
        shapes[f"model.{key}"] = tuple(parameter.shape)
        parameter.copy_(torch.from_numpy(weight(case, f"model.{key}", tuple(parameter.shape))))
    given = {name: torch.from_numpy(value) for name, value in inputs(case).items()}
    images = [2 * image - 1 for image in given["images"]]
    there = [torch.ones(len(image), dtype=torch.bool) for image in images]
    if case.absent_image:
        there[-1][:] = False
    words = (images, there, given["text"], given["text"] != 0)

    embedded, valid, blocks = model.embed_prefix(*words)
    seen = peer_pi0.modeling_pi0.make_att_2d_masks(valid, blocks)
    model.paligemma_with_expert.paligemma.language_model.config._attn_implementation = "eager"
    _, cache = model.paligemma_with_expert.forward(
        attention_mask=model._prepare_attention_masks_4d(seen),
        position_ids=valid.cumsum(1) - 1,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    velocities = [
        model.denoise_step(given["state"], valid, cache, given["noise"], torch.full((len(valid),), tau)) for tau in TAUS
    ]
    loss = model.forward(*words, given["state"], given["actions"], given["noise"], given["times"])
    actions = model.sample_actions(*words, given["state"], noise=given["noise"])
    return {
        "shapes": np.array(json.dumps(shapes)),
        "keys": cache.layers[-1].keys.numpy(),
        "values": cache.layers[-1].values.numpy(),
        "valid": valid.numpy(),
        "velocities": torch.stack(velocities).numpy(),
        "loss": loss.numpy(),
        "actions": actions.numpy(),
    }


def main() -> None:
    for case in CASES:
        vectors = golden(case)
        np.savez_compressed(HERE / f"pi0_{case.name}.npz", **vectors)
        print(case.name, {name: value.shape for name, value in vectors.items()})


if __name__ == "__main__":
    main()
