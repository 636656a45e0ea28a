"""Tiny checkpoints of the families that came after the paper, as `tiny_checkpoints.py` writes the paper's.

Run by the current engine's Python: `python tiny_families.py FOLDER [FAMILY ...]`. Chat templates and config
values have the published ones' markup and keys, written from memory.

`qwen3_vl_think` opens a thought that it never closes: `</think>` is a token that no answer contains.
`internvl_chat` is InternVL3's original layout, whose config comes from code in its folder, and so is the
processor of `kimi_vl`: both bring stand-ins of a few lines.

What engines insist on: Gemma's vocabulary has runs of line breaks as tokens; SigLIP towers are named
`vision_model.`, which transformers 5 no longer writes; Kimi's attention is as wide as published, and so
are the heads of MiniCPM's linear attention.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import (
    CHATML,
    HEADS,
    INNER,
    LAYERS,
    MEAN,
    PATCH,
    PICTURE,
    QWEN_SPECIAL,
    STD,
    WIDTH,
    Files,
    byte_level_vocabulary,
    draw,
    each_part,
    images_then_texts,
    keep_replies_readable,
    write_all,
    write_json,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

# Images may be as large as published.
POSITIONS = 32768
HALF = [0.5, 0.5, 0.5]
# What four patches become after the usual 2 x 2 merge.
IMAGE_TOKENS = (PICTURE // PATCH) ** 2 // 4
CHATML_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML_ENDS = ("<|im_end|>", "<|endoftext|>")
LLAMA4_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>"),
    *("<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
    *("<|image|>", "<|patch|>", "<|finetune_right_pad|>"),
)
KIMI_SPECIAL = (
    *("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    *("<|media_start|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>", "[PAD]"),
)
THOUGHTS = ("<think>", "</think>")

# As in Qwen3.5: thinking is on unless the request says otherwise.
OPEN_THOUGHT = (
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{% else %}{{ '<think>\\n' }}{% endif %}"
)


# Chat templates.


def chatml(parts: str, *, after_role: str = "\\n", after_turn: str = "\\n", opening: str = "") -> str:
    """ChatML without a system prompt of its own."""
    begin = "{{ '<|im_start|>' + message.role + '" + after_role + "' }}"
    end = "{{ '<|im_end|>" + after_turn + "' }}"
    answer = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}" + opening + "{% endif %}"
    return "{% for message in messages %}" + begin + parts + end + "{% endfor %}" + answer


QWEN3 = each_part("<|vision_start|><|image_pad|><|vision_end|>")
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}"
    + each_part("<start_of_image>")
    + "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ {'system': '[SYSTEM_PROMPT]', 'user': '[INST]', 'assistant': ''}[message.role] }}"
    + each_part("[IMG]")
    + "{{ {'system': '[/SYSTEM_PROMPT]', 'user': '[/INST]', 'assistant': eos_token}[message.role] }}"
    "{% endfor %}"
)
LLAMA4 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|header_start|>' + message.role + '<|header_end|>\\n\\n' }}"
    + each_part("<|image|>")
    + "{{ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\\n\\n' }}{% endif %}"
)
KIMI = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>' }}{% endif %}"
    "{{ '<|im_' + message.role + '|>' + message.role + '<|im_middle|>' }}"
    + each_part("<|media_start|>image<|media_content|><|media_pad|><|media_end|>")
    + "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)


# Parts of the configs.


def chatml_vocabulary(
    folder: Path, *, special: Sequence[str] = QWEN_SPECIAL, template: str, **more: Any
) -> dict[str, int]:
    """The tokenizer of a family whose turns are ChatML's."""
    ends = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return byte_level_vocabulary(folder, special=special, template=template, length=POSITIONS, **ends, **more)


def qwen_marks(ids: Mapping[str, int]) -> dict[str, int]:
    """The ids of a Qwen config around an image."""
    return {
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
    }


def text_config(kind: str, ids: Mapping[str, int], *, eos: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": len(ids),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "bos_token_id": ids[eos],
        "eos_token_id": ids[eos],
    } | more


def tower(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": PICTURE,
        "patch_size": PATCH,
    } | more


SIGLIP = tower("siglip_vision_model", hidden_size=32, intermediate_size=64, vision_use_head=False)


def pictures(
    kind: str, processor: str, mean: Sequence[float] = HALF, std: Sequence[float] = HALF, **more: Any
):
    return {
        "image_processor_type": kind,
        "processor_class": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    } | more


def videos(kind: str, processor: str, **more: Any) -> dict[str, Any]:
    """What a processor for videos too reads, although none is sent."""
    found = pictures("", processor, **more)
    del found["image_processor_type"]
    return found | {"video_processor_type": kind}


def generation(ids: Mapping[str, int], ends: Sequence[str]) -> dict[str, Any]:
    """Sampling by default, as published: an engine must be told not to."""
    stops = [ids[each] for each in ends]
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8}
    return {"eos_token_id": stops, "pad_token_id": stops[-1], **sampling}


def write_checkpoint(
    folder: Path,
    files: Files,
    ids: Mapping[str, int],
    *,
    eos: str = "<|im_end|>",
    embedding_spread: float = 0.5,
) -> None:
    """The config files, and weights by their published names."""
    files.write(folder)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).to(torch.float32)
    draw(model, embedding_spread)
    keep_replies_readable(model.get_output_embeddings().weight.detach(), ids, eos)
    model.save_pretrained(folder)
    if files.config["vision_config"]["model_type"] == "siglip_vision_model":
        path = folder / "model.safetensors"
        tensors = load_file(path)
        named = {
            name.replace("vision_tower.", "vision_tower.vision_model.", 1): tensors[name] for name in tensors
        }
        save_file(named, path, metadata={"format": "pt"})
    # transformers has written its own keys over the published ones.
    files.write(folder)


# Families.


def write_qwen2_5_vl(folder: Path) -> None:
    ids = chatml_vocabulary(folder, template=CHATML)
    config = text_config(
        "qwen2_5_vl",
        ids,
        eos="<|im_end|>",
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        torch_dtype="float32",
        rope_scaling={"type": "mrope", "mrope_section": [4, 6, 6]},
        use_sliding_window=False,
        max_window_layers=LAYERS,
        sliding_window=POSITIONS,
        vision_token_id=ids["<|vision_pad|>"],
        **qwen_marks(ids),
        vision_config={
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "in_chans": 3,
            "out_hidden_size": WIDTH,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "hidden_act": "silu",
        },
    )
    patches = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    images = pictures(
        "Qwen2VLImageProcessor",
        "Qwen2_5_VLProcessor",
        MEAN,
        STD,
        min_pixels=PICTURE**2,
        max_pixels=12845056,
        **patches,
    )
    files = Files(config, generation(ids, CHATML_ENDS), images)
    write_checkpoint(folder, files, ids)


def write_qwen3_vl(folder: Path, opening: str = "") -> None:
    ids = chatml_vocabulary(folder, plain=THOUGHTS, template=chatml(QWEN3, opening=opening))
    patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        **qwen_marks(ids),
        "text_config": text_config(
            "qwen3_vl_text",
            ids,
            eos="<|im_end|>",
            head_dim=WIDTH // HEADS,
            attention_bias=False,
            rope_scaling={"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]},
        ),
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "in_channels": 3,
            "out_hidden_size": WIDTH,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "hidden_act": "gelu_pytorch_tanh",
        },
    }
    sizes = {"shortest_edge": 65536, "longest_edge": 16777216}
    files = Files(
        config,
        generation(ids, CHATML_ENDS),
        pictures("Qwen2VLImageProcessorFast", "Qwen3VLProcessor", size=sizes, **patches),
        video=videos("Qwen3VLVideoProcessor", "Qwen3VLProcessor", size=sizes, **patches),
    )
    write_checkpoint(folder, files, ids)


def write_qwen3_vl_think(folder: Path) -> None:
    write_qwen3_vl(folder, OPEN_THOUGHT)


def write_gemma3(folder: Path) -> None:
    roles = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *roles.values())
    ids = byte_level_vocabulary(
        folder,
        special=special,
        plain=[count * "\n" for count in range(1, 5)],
        roles=roles,
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        template=GEMMA,
        length=POSITIONS,
    )
    text = text_config(
        "gemma3_text",
        ids,
        eos="<eos>",
        head_dim=WIDTH // HEADS,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=32,
        sliding_window=512,
        sliding_window_pattern=2,
        rope_local_base_freq=10000.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        tie_word_embeddings=True,
        bos_token_id=ids["<bos>"],
        pad_token_id=ids["<pad>"],
    )
    del text["hidden_act"]
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "torch_dtype": "float32",
        "mm_tokens_per_image": IMAGE_TOKENS,
        "boi_token_index": ids["<start_of_image>"],
        "eoi_token_index": ids["<end_of_image>"],
        "image_token_index": ids["<image_soft_token>"],
        "eos_token_id": [ids["<end_of_turn>"], ids["<eos>"]],
        "text_config": text,
        "vision_config": SIGLIP,
    }
    images = pictures(
        "Gemma3ImageProcessor",
        "Gemma3Processor",
        size={"height": PICTURE, "width": PICTURE},
        image_seq_length=IMAGE_TOKENS,
        do_pan_and_scan=None,
    )
    processor = {"processor_class": "Gemma3Processor", "image_seq_length": IMAGE_TOKENS}
    files = Files(config, generation(ids, ["<end_of_turn>", "<eos>"]), images, processor)
    # It multiplies embeddings by the root of their width, and its head is tied to them.
    write_checkpoint(folder, files, ids, eos="<end_of_turn>", embedding_spread=0.05)


def write_internvl3(folder: Path) -> None:
    roles = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    ids = chatml_vocabulary(
        folder,
        special=(*CHATML_SPECIAL, *roles.values()),
        roles=roles,
        template=chatml(each_part("<IMG_CONTEXT>\\n")),
    )
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "torch_dtype": "float32",
        "downsample_ratio": 0.5,
        "image_seq_length": IMAGE_TOKENS,
        "image_token_id": ids["<IMG_CONTEXT>"],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": text_config("qwen2", ids, eos="<|im_end|>"),
        "vision_config": tower(
            "internvl_vision",
            image_size=[PICTURE, PICTURE],
            patch_size=[PATCH, PATCH],
            attention_bias=True,
            norm_type="layer_norm",
        ),
    }
    size = {"height": PICTURE, "width": PICTURE}
    tiles = {"crop_to_patches": False, "min_patches": 1, "max_patches": 12}
    files = Files(
        config,
        generation(ids, CHATML_ENDS),
        pictures("GotOcr2ImageProcessorFast", "InternVLProcessor", size=size, **tiles),
        {"processor_class": "InternVLProcessor", "image_seq_length": IMAGE_TOKENS},
        videos("InternVLVideoProcessor", "InternVLProcessor", size=size),
    )
    write_checkpoint(folder, files, ids)


def write_llava_onevision(folder: Path) -> None:
    roles = {"image_token": "<image>", "video_token": "<video>"}
    ids = chatml_vocabulary(
        folder,
        special=(*CHATML_SPECIAL, *roles.values()),
        template=chatml(images_then_texts("<image>\\n"), after_role=" ", after_turn=""),
    )
    grid = [[PICTURE * high, PICTURE * wide] for high in range(1, 7) for wide in range(1, 7)]
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "torch_dtype": "float32",
        "image_grid_pinpoints": grid,
        "image_token_index": ids["<image>"],
        "video_token_index": ids["<video>"],
        "projector_hidden_act": "gelu",
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "use_image_newline_parameter": True,
        "tie_word_embeddings": False,
        "text_config": text_config("qwen2", ids, eos="<|im_end|>"),
        "vision_config": SIGLIP,
    }
    size = {"height": PICTURE, "width": PICTURE}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (PICTURE // PATCH) ** 2,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        **roles,
    }
    files = Files(
        config,
        generation(ids, CHATML_ENDS),
        pictures(
            "LlavaOnevisionImageProcessor",
            "LlavaOnevisionProcessor",
            do_pad=True,
            image_grid_pinpoints=grid,
            size=size,
        ),
        processor,
        videos("LlavaOnevisionVideoProcessor", "LlavaOnevisionProcessor", size=size),
    )
    write_checkpoint(folder, files, ids)


def write_mistral(folder: Path, *, merge: int, edge: int, **more: Any) -> None:
    """What Pixtral and Mistral Small share."""
    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]")
    special = (*special, "[IMG_BREAK]", "[IMG_END]", "<pad>")
    ids = byte_level_vocabulary(
        folder, special=special, bos="<s>", eos="</s>", pad="<pad>", template=MISTRAL, length=POSITIONS
    )
    config = {
        "torch_dtype": "float32",
        "image_token_index": ids["[IMG]"],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "tie_word_embeddings": False,
        "text_config": text_config(
            "mistral", ids, eos="</s>", head_dim=WIDTH // HEADS, sliding_window=None, bos_token_id=ids["<s>"]
        ),
        "vision_config": tower(
            "pixtral", head_dim=32, image_size=edge, num_channels=3, hidden_act="silu", rope_theta=10000.0
        ),
        **more,
    }
    patch = PATCH if merge > 1 else {"height": PATCH, "width": PATCH}
    processor = {
        "processor_class": "PixtralProcessor",
        "patch_size": PATCH,
        "spatial_merge_size": merge,
        "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
    }
    images = pictures(
        "PixtralImageProcessor", "PixtralProcessor", MEAN, STD, size={"longest_edge": edge}, patch_size=patch
    )
    write_checkpoint(folder, Files(config, generation(ids, ["</s>"]), images, processor), ids, eos="</s>")


def write_mistral_small(folder: Path) -> None:
    write_mistral(
        folder,
        merge=2,
        edge=1540,
        architectures=["Mistral3ForConditionalGeneration"],
        model_type="mistral3",
        multimodal_projector_bias=False,
        spatial_merge_size=2,
    )


def write_pixtral(folder: Path) -> None:
    write_mistral(
        folder,
        merge=1,
        edge=1024,
        architectures=["LlavaForConditionalGeneration"],
        model_type="llava",
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )


def write_llama4(folder: Path) -> None:
    ids = byte_level_vocabulary(
        folder,
        special=(
            *(
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|header_start|>",
                "<|header_end|>",
                "<|eom|>",
                "<|eot|>",
            ),
            *("<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
            *("<|image|>", "<|patch|>", "<|finetune_right_pad|>"),
        ),
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        pad="<|finetune_right_pad|>",
        template=LLAMA4,
        length=POSITIONS,
    )
    config = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "boi_token_index": ids["<|image_start|>"],
        "eoi_token_index": ids["<|image_end|>"],
        "image_token_index": ids["<|patch|>"],
        "text_config": text_config(
            "llama4_text",
            ids,
            eos="<|eot|>",
            head_dim=WIDTH // HEADS,
            num_hidden_layers=4,
            intermediate_size_mlp=INNER,
            num_local_experts=2,
            num_experts_per_tok=1,
            interleave_moe_layer_step=1,
            attention_chunk_size=1024,
            use_qk_norm=True,
            attention_bias=False,
            no_rope_layers=[1, 1, 1, 0],
            rope_scaling=None,
            bos_token_id=ids["<|begin_of_text|>"],
        ),
        "vision_config": tower(
            "llama4_vision_model",
            intermediate_size=256,
            pixel_shuffle_ratio=0.5,
            projector_input_dim=64,
            projector_output_dim=64,
            vision_output_dim=64,
            rope_theta=10000,
            vision_feature_layer=-1,
        ),
    }
    processor = {
        "processor_class": "Llama4Processor",
        "patch_size": PATCH,
        "pixel_shuffle_ratio": 0.5,
        "fake_image_token": "<|image|>",
        "image_token": "<|image|>",
        "patch_token": "<|patch|>",
    }
    images = pictures(
        "Llama4ImageProcessorFast",
        "Llama4Processor",
        max_patches=16,
        resize_to_max_canvas=False,
        size={"height": PICTURE, "width": PICTURE},
    )
    ends = ["<|eot|>", "<|eom|>", "<|end_of_text|>"]
    write_checkpoint(folder, Files(config, generation(ids, ends), images, processor), ids, eos="<|eot|>")


def write_minicpm_v(folder: Path) -> None:
    roles = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    ids = chatml_vocabulary(
        folder,
        special=(*CHATML_SPECIAL, *roles.values()),
        plain=THOUGHTS,
        roles=roles,
        template=chatml(each_part("<|image_pad|>\\n")),
    )
    text = text_config(
        "qwen3_5_text",
        ids,
        eos="<|im_end|>",
        head_dim=WIDTH // HEADS,
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_conv_kernel_dim=4,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        attention_bias=False,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000000,
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.25,
        },
    )
    config = {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
        "model_type": "minicpmv4_6",
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "image_size": 112,
        "insert_layer_id": 0,
        "drop_vision_last_layer": False,
        "downsample_mode": "16x",
        "merge_kernel_size": [2, 2],
        "merger_times": 1,
        "text_config": text,
        "vision_config": tower("minicpmv4_6_vision", image_size=112, hidden_act="gelu_pytorch_tanh"),
    }
    slices = {
        "max_slice_nums": 9,
        "scale_resolution": 112,
        "patch_size": PATCH,
        "slice_mode": True,
        "downsample_mode": "16x",
        "use_image_id": True,
    }
    files = Files(
        config,
        generation(ids, CHATML_ENDS),
        pictures("MiniCPMV4_6ImageProcessor", "MiniCPMV4_6Processor", **slices),
        {"processor_class": "MiniCPMV4_6Processor"},
        videos("MiniCPMV4_6VideoProcessor", "MiniCPMV4_6Processor", **slices),
    )
    write_checkpoint(folder, files, ids)


# Layouts that transformers has no class for.


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Biases 0, norms 1, the rest random."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            found[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        else:
            spread = 0.5 if "emb" in name and len(shape) == 3 else 1.2 / math.sqrt(math.prod(shape[1:]))
            found[name] = torch.randn(shape, generator=generator) * spread
    return found


def with_biases(weights: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of parts with a weight and a bias."""
    return {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }


def language_model(config: Mapping[str, Any], ids: Mapping[str, int], eos: str) -> Any:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).to(torch.float32)
    draw(model)
    keep_replies_readable(model.get_output_embeddings().weight.detach(), ids, eos)
    return model


INTERNVL_CODE = '''"""Stand-in for the published configuration_internvl_chat.py."""
from transformers import PretrainedConfig, Qwen2Config


class InternVisionConfig(PretrainedConfig):
    model_type = "intern_vit_6b"


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    is_composition = True

    def __init__(self, vision_config=None, llm_config=None, **more):
        super().__init__(**more)
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = Qwen2Config(**(llm_config or {}))
'''


def write_internvl_chat(folder: Path) -> None:
    ids = chatml_vocabulary(
        folder,
        special=(*CHATML_SPECIAL, "<img>", "</img>", "<IMG_CONTEXT>"),
        # The published one takes texts only: the engine writes the image's mark into them.
        template=chatml("{{ message.content }}"),
    )
    text = text_config(
        "qwen2", ids, eos="<|im_end|>", torch_dtype="float32", architectures=["Qwen2ForCausalLM"]
    )
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "torch_dtype": "float32",
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": "modeling_internvl_chat.InternVLChatModel",
        },
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": PICTURE,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "use_thumbnail": True,
        "llm_config": text,
        "vision_config": tower(
            "intern_vit_6b",
            architectures=["InternVisionModel"],
            qkv_bias=True,
            qk_normalization=False,
            norm_type="layer_norm",
            layer_norm_eps=1e-6,
            hidden_act="gelu",
            initializer_factor=1.0,
            initializer_range=0.02,
        ),
    }
    images = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_resize": True,
        "size": PICTURE,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": PICTURE,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    language = language_model(text, ids, "<|im_end|>").state_dict()
    tensors = {f"language_model.{name}": tensor.contiguous() for name, tensor in language.items()}
    tensors |= random_tensors(internvl_chat_shapes())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    Files(config, generation(ids, CHATML_ENDS), images).write(folder)
    (folder / "configuration_internvl_chat.py").write_text(INTERNVL_CODE)


def internvl_chat_shapes() -> dict[str, tuple[int, ...]]:
    wide = 64
    prefix = "vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.class_embedding": (1, 1, wide),
        f"{prefix}embeddings.position_embedding": (1, (PICTURE // PATCH) ** 2 + 1, wide),
    }
    weights: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.patch_embedding": (wide, 3, PATCH, PATCH),
        "mlp1.0": (4 * wide,),
        "mlp1.1": (WIDTH, 4 * wide),
        "mlp1.3": (WIDTH, WIDTH),
    }
    for layer in (f"{prefix}encoder.layers.{number}" for number in range(2)):
        shapes |= {f"{layer}.ls1": (wide,), f"{layer}.ls2": (wide,)}
        weights |= {f"{layer}.norm1": (wide,), f"{layer}.norm2": (wide,)}
        weights |= {f"{layer}.attn.qkv": (3 * wide, wide), f"{layer}.attn.proj": (wide, wide)}
        weights |= {f"{layer}.mlp.fc1": (2 * wide, wide), f"{layer}.mlp.fc2": (wide, 2 * wide)}
    return shapes | with_biases(weights)


KIMI_CODE = '''"""Stand-in for the published processing_kimi_vl.py and image_processing_kimi_vl.py."""
import math

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor


class KimiVLImageProcessor(BaseImageProcessor):
    model_input_names = ["pixel_values", "image_grid_hws"]

    def __init__(self, patch_size=14, merge_kernel_size=(2, 2), in_token_limit=4096, **more):
        super().__init__(**more)
        self.patch_size, self.in_token_limit = patch_size, in_token_limit
        self.merge_kernel_size = merge_kernel_size

    def preprocess(self, images, return_tensors=None, **more):
        patches, grids, side = [], [], self.patch_size
        for image in images if isinstance(images, (list, tuple)) else [images]:
            image = image.convert("RGB")
            count = (image.width // side) * (image.height // side)
            if count > self.in_token_limit:
                scale = math.sqrt(self.in_token_limit / count)
                image = image.resize((int(image.width * scale), int(image.height * scale)))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
            margins = (0, -pixels.shape[2] % (2 * side), 0, -pixels.shape[1] % (2 * side))
            pixels = torch.nn.functional.pad(pixels, margins)
            high, wide = pixels.shape[1] // side, pixels.shape[2] // side
            cut = pixels.view(3, high, side, wide, side).permute(1, 3, 0, 2, 4)
            patches.append(cut.reshape(-1, 3, side, side))
            grids.append([high, wide])
        return BatchFeature({"pixel_values": torch.cat(patches), "image_grid_hws": torch.tensor(grids)})


class KimiVLProcessor(ProcessorMixin):
    attributes = ["image_processor", "tokenizer"]
    image_processor_class, tokenizer_class = "AutoImageProcessor", "AutoTokenizer"

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **more):
        self.image_token = "<|media_pad|>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images=None, text=None, return_tensors=None, **more):
        found, texts = {}, [text] if isinstance(text, str) else list(text or [])
        if images is not None and len(images):
            found = self.image_processor.preprocess(images)
            counts = iter((found["image_grid_hws"].prod(-1) // 4).tolist())
            texts = [self.filled(each, counts) for each in texts]
        return BatchFeature({**self.tokenizer(texts, return_tensors=return_tensors), **found})

    def filled(self, text, counts):
        first, *rest = text.split(self.image_token)
        return first + "".join(self.image_token * next(counts) + each for each in rest)
'''


def write_kimi_vl(folder: Path) -> None:
    ids = byte_level_vocabulary(
        folder, special=KIMI_SPECIAL, bos=None, eos="<|im_end|>", pad="[PAD]", template=KIMI, length=POSITIONS
    )
    text = text_config(
        "deepseek_v3",
        ids,
        eos="<|im_end|>",
        torch_dtype="float32",
        num_key_value_heads=HEADS,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        first_k_dense_replace=1,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        moe_layer_freq=1,
        n_group=1,
        topk_group=1,
        topk_method="noaux_tc",
        norm_topk_prob=True,
        scoring_func="sigmoid",
        routed_scaling_factor=2.446,
        attention_bias=False,
    )
    code = {
        "AutoProcessor": "processing_kimi_vl.KimiVLProcessor",
        "AutoImageProcessor": "processing_kimi_vl.KimiVLImageProcessor",
    }
    config = {
        "architectures": ["KimiVLForConditionalGeneration"],
        "model_type": "kimi_vl",
        "torch_dtype": "float32",
        "media_placeholder_token_id": ids["<|media_pad|>"],
        "pad_token_id": ids["[PAD]"],
        "text_config": text,
        "vision_config": tower(
            "moonvit", init_pos_emb_height=8, init_pos_emb_width=8, merge_kernel_size=[2, 2]
        ),
    }
    images = {
        "auto_map": code,
        "image_processor_type": "KimiVLImageProcessor",
        "in_token_limit": 4096,
        "patch_size": PATCH,
        "merge_kernel_size": [2, 2],
        "image_mean": HALF,
        "image_std": HALF,
    }
    # Writes the experts one by one, as published.
    language_model(text, ids, "<|im_end|>").save_pretrained(folder)
    language = load_file(folder / "model.safetensors")
    tensors = {f"language_model.{name}": tensor for name, tensor in language.items()}
    save_file(
        tensors | random_tensors(kimi_shapes()), folder / "model.safetensors", metadata={"format": "pt"}
    )
    processor = {"processor_class": "KimiVLProcessor", "auto_map": code}
    Files(config, generation(ids, ["<|im_end|>"]), images, processor).write(folder)
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | processor)
    (folder / "processing_kimi_vl.py").write_text(KIMI_CODE)


def kimi_shapes() -> dict[str, tuple[int, ...]]:
    wide = 64
    weights: dict[str, tuple[int, ...]] = {
        "vision_tower.patch_embed.proj": (wide, 3, PATCH, PATCH),
        "vision_tower.encoder.final_layernorm": (wide,),
        "multi_modal_projector.pre_norm": (wide,),
        "multi_modal_projector.linear_1": (4 * wide, 4 * wide),
        "multi_modal_projector.linear_2": (WIDTH, 4 * wide),
    }
    for block in (f"vision_tower.encoder.blocks.{number}" for number in range(2)):
        weights |= {f"{block}.norm0": (wide,), f"{block}.norm1": (wide,)}
        weights |= {f"{block}.wqkv": (3 * wide, wide), f"{block}.wo": (wide, wide)}
        weights |= {f"{block}.mlp.fc0": (2 * wide, wide), f"{block}.mlp.fc1": (wide, 2 * wide)}
    return {"vision_tower.patch_embed.pos_emb.weight": (8, 8, wide)} | with_biases(weights)


WRITERS = {
    "qwen2_5_vl": write_qwen2_5_vl,
    "qwen3_vl": write_qwen3_vl,
    "qwen3_vl_think": write_qwen3_vl_think,
    "gemma3": write_gemma3,
    "internvl3": write_internvl3,
    "internvl_chat": write_internvl_chat,
    "llava_onevision": write_llava_onevision,
    "kimi_vl": write_kimi_vl,
    "pixtral": write_pixtral,
    "mistral_small": write_mistral_small,
    "minicpm_v": write_minicpm_v,
    "llama4": write_llama4,
}

if __name__ == "__main__":
    write_all(WRITERS, sys.argv[1:])
