"""Small random checkpoints with the key names of other projects, and plain-torch forward passes of them."""

import math
from collections.abc import Callable

import torch
from torch import nn

WIDTH, DIM, PATCH, SIDE, LENGTH, LAYERS = 128, 24, 8, 32, 30, 2
TALL = (48, 16)  # pixels; three times as high as wide, like 384 x 128
State = dict[str, torch.Tensor]


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def openai_state(vocabulary: int = 64, grid: tuple[int, int] = (4, 4), length: int = LENGTH) -> State:
    """Random weights under OpenAI's names: 2 heads, 2 layers per encoder, patches of 8 px."""
    torch.manual_seed(1)
    state = {
        "visual.conv1.weight": torch.randn(WIDTH, 3, PATCH, PATCH) * 0.05,
        "visual.class_embedding": torch.randn(WIDTH),
        "visual.positional_embedding": torch.randn(grid[0] * grid[1] + 1, WIDTH),
        "visual.proj": torch.randn(WIDTH, DIM) * 0.1,
        "token_embedding.weight": torch.randn(vocabulary, WIDTH),
        "positional_embedding": torch.randn(length, WIDTH),
        "text_projection": torch.randn(WIDTH, DIM) * 0.1,
        "logit_scale": torch.tensor(3.0),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for tower in ("visual.transformer", "transformer"):
        for layer in range(LAYERS):
            block = f"{tower}.resblocks.{layer}"
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
            state[f"{block}.attn.in_proj_weight"] = torch.randn(3 * WIDTH, WIDTH) * 0.1
            state[f"{block}.attn.in_proj_bias"] = torch.randn(3 * WIDTH) * 0.1
            for name, (rows, columns) in {
                "attn.out_proj": (WIDTH, WIDTH),
                "mlp.c_fc": (2 * WIDTH, WIDTH),
                "mlp.c_proj": (WIDTH, 2 * WIDTH),
            }.items():
                state[f"{block}.{name}.weight"] = torch.randn(rows, columns) * 0.1
                state[f"{block}.{name}.bias"] = torch.randn(rows) * 0.1
    for norm in norms:
        state[f"{norm}.weight"] = 1 + 0.2 * torch.randn(WIDTH)
        state[f"{norm}.bias"] = 0.2 * torch.randn(WIDTH)
    return state


def long_clip_state() -> State:
    """Two tables of 248 text positions: Long-CLIP reads the first 20 of one table and the rest of the other."""
    state = openai_state(length=248)
    state["positional_embedding_res"] = torch.randn(248, WIDTH)
    return state


def open_clip_state() -> State:
    """open_clip's CustomTextCLIP: the keys of the text encoder start with `text.`."""
    state = openai_state()
    text = {"token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight", "ln_final.bias"}
    return {f"text.{key}" if key in text or key.startswith("transformer.") else key: v for key, v in state.items()}


def irra_state(heads: bool = True) -> State:
    """IRRA: CLIP in base_model without a temperature, a tall grid, and its training heads."""
    grid = (TALL[0] // PATCH, TALL[1] // PATCH)
    state = {f"base_model.{key}": value for key, value in openai_state(grid=grid).items() if key != "logit_scale"}
    if heads:
        state |= training_heads()
    return state


def training_heads() -> State:
    """MLM and identity heads of IRRA; TBPS-CLIP uses the same names."""
    return {
        "classifier.weight": torch.randn(5, DIM),
        "classifier.bias": torch.randn(5),
        "cross_attn.in_proj_weight": torch.randn(3 * DIM, DIM),
        "cross_modal_transformer.resblocks.0.mlp.c_fc.weight": torch.randn(4 * DIM, DIM),
        "ln_pre_t.weight": torch.ones(DIM),
        "ln_post.weight": torch.ones(DIM),
        "mlm_head.dense.weight": torch.randn(DIM, DIM),
        "mlm_head.fc.weight": torch.randn(64, DIM),
    }


def rde_state() -> State:
    """RDE: IRRA's base_model and the two layers of its token selection, with the spelling of its code."""
    state = irra_state(heads=False)
    for layer in ("visul_emb_layer", "texual_emb_layer"):
        state[f"{layer}.linear.weight"] = torch.randn(2 * DIM, DIM)
        state[f"{layer}.mlp.bns.0.num_batches_tracked"] = torch.tensor(7)
        state[f"{layer}.mlp.layers.0.weight"] = torch.randn(DIM, DIM)
    state["visul_emb_layer.fc.weight"] = torch.randn(2 * DIM, DIM)
    return state


def tbps_clip_state() -> State:
    """TBPS-CLIP: the text encoder is called encode_text; there is a SimCLR head."""
    text = {"token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight", "ln_final.bias"}
    state = openai_state()
    state = {f"encode_text.{k}" if k in text or k.startswith("transformer.") else k: v for k, v in state.items()}
    return state | training_heads() | {"simclr_mlp.0.weight": torch.randn(DIM, DIM)}


def norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])


def blocks(
    state: State, tower: str, x: torch.Tensor, causal: bool, activation: Callable = quick_gelu, head: int = 64
) -> torch.Tensor:
    """OpenAI's residual attention blocks: fused projection, heads of 64."""
    for layer in range(LAYERS):
        name = f"{tower}.resblocks.{layer}"
        fused = norm(state, f"{name}.ln_1", x) @ state[f"{name}.attn.in_proj_weight"].T
        query, key, value = (fused + state[f"{name}.attn.in_proj_bias"]).split(WIDTH, dim=-1)
        query, key, value = (part.unflatten(-1, (WIDTH // head, head)).transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(head)
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + mixed @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        hidden = norm(state, f"{name}.ln_2", x) @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
        x = x + activation(hidden) @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return x


def image_tokens(
    state: State, pixels: torch.Tensor, prefix: str = "", activation: Callable = quick_gelu, head: int = 64
) -> torch.Tensor:
    """Every token after the last norm. IRRA, RDE and TBPS-CLIP project all tokens, the others the first."""
    visual = f"{prefix}visual"
    tokens = nn.functional.conv2d(pixels, state[f"{visual}.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    tokens = torch.cat([state[f"{visual}.class_embedding"].expand(len(tokens), 1, -1), tokens], dim=1)
    tokens = norm(state, f"{visual}.ln_pre", tokens + state[f"{visual}.positional_embedding"])
    return norm(state, f"{visual}.ln_post", blocks(state, f"{visual}.transformer", tokens, False, activation, head))


def text_tokens(
    state: State,
    ids: torch.Tensor,
    prefix: str = "",
    activation: Callable = quick_gelu,
    positions: torch.Tensor | None = None,
    head: int = 64,
) -> torch.Tensor:
    """Every token after the last norm. `positions` replaces the table of that name."""
    positions = state[f"{prefix}positional_embedding"] if positions is None else positions
    tokens = state[f"{prefix}token_embedding.weight"][ids] + positions[: ids.shape[1]]
    return norm(state, f"{prefix}ln_final", blocks(state, f"{prefix}transformer", tokens, True, activation, head))


def unit(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(x, dim=-1)


def encode_image(state: State, pixels: torch.Tensor, **kwargs: object) -> torch.Tensor:
    """The image embedding of OpenAI CLIP: the projected class token."""
    return unit(image_tokens(state, pixels, **kwargs)[:, 0] @ state["visual.proj"])


def encode_text(state: State, ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
    """The text embedding of OpenAI CLIP: the projected token with the largest id."""
    tokens = text_tokens(state, ids, **kwargs)
    return unit(tokens[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"])


def captions(length: int) -> torch.Tensor:
    """`[3, length]`: start 62, words, end 63, then padding with 0 as OpenAI's code does."""
    torch.manual_seed(2)
    ids = torch.randint(1, 60, (3, length))
    ids[:, 0] = 62
    for row, end in enumerate((length - 1, length // 2, 4)):
        ids[row, end], ids[row, end + 1 :] = 63, 0
    return ids
