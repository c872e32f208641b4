"""A tiny random model of the same architecture, in which it shows within a second what is true of the large one: the
same kinds of layers, narrow, with few tokens and few experts. Attention windows are shrunk too, so that short texts
reach beyond them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from extsub.probing.comparison import FAILURES

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY = 320
"""The vocabulary of a twin, in tokens."""
WINDOW = 12
WIDTH, HEADS, HEAD = 32, 4, 8
DEPTHS = (8, 16, 48)
"""Numbers of layers to try: the first that has all kinds of layers."""
MOST = 5_000_000
"""The most parameters of a twin."""

LAYERS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"),
    *("num_decoder_layers", "num_encoder_layers", "num_blocks", "depth"),
)
SIZES = (
    (VOCABULARY, "vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size"),
    (512, "max_position_embeddings n_positions max_source_positions max_target_positions"),
    (
        48,
        "intermediate_size n_inner dff d_inner ffn_dim dim_ff decoder_ffn_dim encoder_ffn_dim feed_forward_size "
        "ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
        "moe_shared_expert_intermediate_size expert_ffn_hidden_size intermediate_size_mlp dense_intermediate_size "
        "shared_experts_intermediate_size",
    ),
    (
        WIDTH,
        "hidden_size d_model n_embd emb_dim embedding_dim dim embed_dim word_embed_proj_dim embedding_size "
        "input_embedding_size output_embedding_size lru_width hidden_dim hidden_size_per_layer_input vision_output_dim "
        "out_hidden_size projection_dim shape_embed_dim pronunciation_embed_dim",
    ),
    (2 * HEAD, "qk_head_dim swa_head_dim attention_head_dim"),
    (
        HEAD,
        "head_dim v_head_dim dim_head d_head attention_head_size linear_key_head_dim linear_value_head_dim "
        "index_head_dim linear_head_dim global_head_dim kv_channels qk_rope_head_dim qk_nope_head_dim q_lora_rank "
        "kv_lora_rank o_lora_rank state_size mamba_d_state ssm_state_size mamba_dt_rank time_step_rank laurel_rank "
        "adapter_rank d_rel hc_lowrank gated_norm_rank chunk_size mamba_chunk_size block_size",
    ),
    (32, "index_n_heads"),  # few give many ties
    (
        HEADS,
        "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
        "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads "
        "num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads "
        "linear_num_heads zero_expert_num rotary_dim",
    ),
    (
        2,
        "num_experts_per_tok num_experts_per_token moe_topk moe_k linear_num_key_heads num_kv_shared_layers n_group "
        "num_expert_group",
    ),
    (1, "topk_group"),
)
SMALL = {name: size for size, names in SIZES for name in names.split()}
"""What a twin has less of, and how much."""
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups")
STATE_HEADS = (
    *(("mamba_n_heads", "mamba_d_head"), ("mamba_num_heads", "mamba_head_dim"), ("n_mamba_heads", "mamba_headdim")),
    ("num_heads", "head_dim"),
)
"""Mamba's (number, width): they fill the whole width"""
WINDOWS = (
    *("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_attention"),
    *("attention_chunk_size", "keep_window_size", "index_topk", "local_attn_chunk_length", "lsh_attn_chunk_length"),
)
"""Fields that say after how many tokens attention becomes another."""


def twin(model: PreTrainedModel, device: torch.device, windows: bool = True) -> PreTrainedModel | None:
    """A tiny model like this one, in float32 and ready to be asked; None if none can be made.

    Args:
        model: its weights are not looked at, and may be on the meta device.
        windows: shrink attention windows to ``WINDOW`` tokens.
    """
    kinds = _layer_kinds(model)
    for depth in DEPTHS:
        try:
            with torch.random.fork_rng(devices=()), torch.no_grad():
                torch.manual_seed(0)
                small = _made(type(model), shrunk(model.config, depth, windows))
                if small is not None and kinds <= _layer_kinds(small):
                    return small.to(device).eval()
        except FAILURES:
            continue
    return None


def _made(architecture: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel | None:
    """With weights that make much of everything: as models begin, hardly any token depends on the others."""
    with torch.device("meta"):
        sketch = architecture(config)
    if sum(weight.numel() for weight in sketch.parameters()) > MOST:
        return None
    model = architecture(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(0, weight.shape[-1] ** -0.5)
        else:
            weight.add_(0.1 * torch.randn_like(weight))  # a gate may begin at zero
    return model


def _layer_kinds(model: nn.Module) -> set[type]:
    """The classes of its modules that are the architecture's own, and no adapter's."""
    return {type(module) for module in model.modules() if type(module).__module__.startswith("transformers.")}


def tokens_for(model: PreTrainedModel, count: int) -> list[int]:
    """Random tokens that a model and its twin know; no special ones."""
    size = min(VOCABULARY, model.config.get_text_config().vocab_size)
    return torch.randint(5, size, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def windows_of(config: PreTrainedConfig) -> list[int]:
    """After how many tokens attention may become another."""
    values = config.get_text_config().to_dict()
    windows = [values.get(name) for name in WINDOWS]
    rope = values.get("rope_parameters") or {}
    if "longrope" in str(rope):
        windows += [section.get("original_max_position_embeddings") for section in (values, rope)]
    windows += (values.get("compress_rates") or {}).values()
    return [window for window in windows if isinstance(window, int) and window > 0]


def shrunk(config: PreTrainedConfig, depth: int, windows: bool = True) -> PreTrainedConfig:
    """A config of the same architecture with at most ``depth`` layers, all narrow."""
    values = config.to_dict()
    for name in ("dtype", "quantization_config"):
        values.pop(name, None)
    small = type(config).from_dict(_shrunk(values, depth, windows))
    small._attn_implementation = config._attn_implementation
    return small


def _shrunk(values: dict[str, Any], depth: int, windows: bool) -> dict[str, Any]:
    """A config's values, and those of the configs in it."""
    layers = next((values[name] for name in LAYERS if isinstance(values.get(name), int)), 0)
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name == "per_layer_config" and value:
            value = {place: config for place, config in value.items() if int(place) < depth}
        if isinstance(value, (list, tuple, str)) and len(value) == layers > depth:
            value = value[:depth]
        if isinstance(value, dict) and not name.endswith(("2label", "2id")):
            result[name] = _shrunk(value, depth, windows)
        elif isinstance(value, list) and value and all(type(item) is int for item in value):
            result[name] = _shrunk_list(name, value, depth)
        elif name in ("short_factor", "long_factor"):
            result[name] = value[: HEAD // 2]
        elif type(value) is int:
            result[name] = _shrunk_number(name, value, depth, windows, values)
        else:
            result[name] = 0.0 if "drop" in name and isinstance(value, float) else value
    for number, width in STATE_HEADS:
        if number in values and width in values and (number != "num_heads" or "expand" in values):
            full = WIDTH * (values.get("mamba_expand") or values.get("expand") or 1)
            result |= {number: full // HEAD, width: HEAD} | ({"mamba_d_ssm": full} if values.get("mamba_d_ssm") else {})
    return result


def _shrunk_list(name: str, value: list[int], depth: int) -> list[int]:
    if small := SMALL.get(name.removesuffix("_per_layer")):
        return [min(size, small) for size in value]
    return [layer for layer in value if layer < depth] if "layer" in name or "idx" in name else value


def _shrunk_number(name: str, value: int, depth: int, windows: bool, values: dict[str, Any]) -> int:
    if name in LAYERS:
        return min(value, depth)
    if name in KEY_HEADS:
        every = next((values[field] for field in ("num_attention_heads", "n_head") if field in values), None)
        return 1 if value == 1 else HEADS if value == every else HEADS // 2
    if name == "attention_hidden_size" and values.get("hidden_size"):
        return value * WIDTH // values["hidden_size"]
    if name.endswith(("token_id", "token_index")):
        return {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}.get(name, 2)
    if name in (*WINDOWS, "original_max_position_embeddings"):
        return min(value, WINDOW) if windows else value
    return min(value, SMALL.get(name, value))
