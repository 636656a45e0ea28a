"""Tiny checkpoints with random weights, one a family, each laid out like the published one it stands for.

Run by an engine environment's Python: `python tiny_checkpoints.py FOLDER [FAMILY ...]`. The same call writes
the same bytes again (but for the absolute path of its tower in `llava/config.json`).

What engines insist on: a head size of 32 is the smallest that vLLM's CPU attention takes, a vocabulary must
be exactly as long as its tokenizer, `mllama`'s image token is the one id past its output vocabulary, and the
old vLLM counts a vision layer twice if the last one is among mllama's intermediate ones.

`llava` has the weights of `llava_hf` under the original names, without the two vocabulary rows that the
Hugging Face version adds, and the bare SentencePiece model as its tokenizer, as published.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

WIDTH, HEADS, LAYERS, INNER = 64, 2, 2, 128
POSITIONS = 2048
PIECES = 512
IMAGE, PATCH, VISION_WIDTH, VISION_INNER, VISION_LAYERS = 56, 14, 32, 64, 3
PATCHES = (IMAGE // PATCH) ** 2
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
SEED = 0

# What the tokenizers are trained on: benign, with the letters, digits and JSON that replies may need.
LINES = (
    "What is shown in this picture? Describe the image in one short sentence, please.",
    "A chat between a curious human and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "I am sorry, but I cannot help with that request, because it may not be safe.",
    "There is a small red kite above a green field, and a dog that runs behind it.",
    "First look at the left side, then count the windows of the house on the right.",
    '{"label": 1, "label_str": "Safe with refusal", "explanation": "the reply declines"}',
    '{"label": 3, "label_str": "Unsafe", "explanation": "the reply follows the request"}',
    "USER ASSISTANT system user assistant question answer yes no true false null none",
    "0 1 2 3 4 5 6 7 8 9 10 12 25 50 64 100 128 365 1000 2048 (one) [two] {three} - + * / = < >",
)

LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


# Chat templates. A message's content is a text, or parts of the types text and image.


def each_part(image: str) -> str:
    """The parts in their order."""
    return (
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% else %}{{ '" + image + "' }}{% endif %}"
        "{% endfor %}{% endif %}"
    )


def images_then_texts(image: str) -> str:
    """Images before texts whatever their order, as the published LLaVA templates render them."""
    return (
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content if part.type != 'text' %}{{ '" + image + "' }}{% endfor %}"
        "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}"
    )


VICUNA = (
    "{% for message in messages %}{{ message.role.upper() + ': ' }}"
    + images_then_texts("<image>\\n")
    + "{{ '</s>' if message.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\\n' }}"
    + each_part("<|vision_start|><|image_pad|><|vision_end|>")
    + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def llama3(content: str, *, begins: str) -> str:
    """Llama 3's turns. Llama 3.2 Vision's template writes the BOS itself, LLaVA-NeXT's does not."""
    return (
        begins + "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
        + content
        + "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    )


# Tokenizers.


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n")


def byte_level_vocabulary(
    folder: Path,
    *,
    special: Sequence[str],
    bos: str | None,
    eos: str,
    pad: str,
    template: str,
    plain: Sequence[str] = (),
    roles: Mapping[str, str] = MappingProxyType({}),
    length: int = POSITIONS,
) -> dict[str, int]:
    """Write a byte-level tokenizer whose special tokens come last, as Llama 3's and Qwen's do.

    `plain` tokens are added behind them and belong to the text. `roles` are the attributes by which a
    processor asks the tokenizer for a token (`image_token`).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in special])
    tokenizer.add_tokens([AddedToken(each, special=False, normalized=False) for each in plain])
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, ids[bos])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": eos, "pad_token": pad} | ({"bos_token": bos} if bos else {})
    write_json(folder / "special_tokens_map.json", named)
    unchanged = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    settings = {
        "added_tokens_decoder": {
            str(ids[each]): {"content": each, **unchanged, "special": each in special}
            for each in (*special, *plain)
        },
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    asked = {"extra_special_tokens": dict(roles), **roles} if roles else {}
    write_json(folder / "tokenizer_config.json", named | settings | asked)
    write_template(folder, template)
    return ids


def write_template(folder: Path, template: str) -> None:
    """The chat template in every place where some version looks for it."""
    (folder / "chat_template.jinja").write_text(template)
    write_json(folder / "chat_template.json", {"chat_template": template})
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | {"chat_template": template})


def sentencepiece_model() -> bytes:
    """A SentencePiece model of Llama's kind: byte fallback, a blank before the text, nothing normalised."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def llama_tokenizer_config(**changes: Any) -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": POSITIONS,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
    } | changes


def llama_vocabulary(folder: Path) -> dict[str, int]:
    """Write the tokenizer of `llava_hf`: Llama's with `<image>` and `<pad>` behind it."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    write_json(folder / "tokenizer_config.json", llama_tokenizer_config())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    write_template(folder, VICUNA)
    return dict(tokenizer.get_vocab())


# Weights.


def draw(model: torch.nn.Module, embedding_spread: float = 0.5) -> None:
    """Fill every parameter from one seeded generator.

    Wider than usual: with 0.02 a model this small has nearly the same scores for all tokens.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "norm" in name and weight.dim() == 1:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            elif "gate" in name.rsplit(".", 1)[-1] and weight.dim() <= 1:
                # Zero in a fresh mllama, so that images would not matter.
                weight.fill_(1.0)
            elif name.endswith(".bias"):
                weight.zero_()
            elif weight.dim() < 2 or "embed" in name:
                weight.normal_(0.0, embedding_spread, generator=generator)
            else:
                weight.normal_(0.0, 1.2 / math.sqrt(math.prod(weight.shape[1:])), generator=generator)


def is_readable(piece: str) -> bool:
    """Whether a piece of either kind of vocabulary is printable ASCII."""
    text = piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").replace(
        "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", " "
    )
    return text.isascii() and text.isprintable() and not text.startswith(("<", "["))


def keep_replies_readable(head: torch.Tensor, ids: Mapping[str, int], eos: str) -> None:
    """Zero the output rows of all other tokens: they score 0, and the best of the rest well above."""
    for piece, number in ids.items():
        if number < head.shape[0] and piece != eos and not is_readable(piece):
            head[number].zero_()


def published_name(family: str, name: str) -> str:
    """The name that the published files have for a parameter of transformers."""
    if family == "qwen2vl":
        is_tower = name.startswith("model.visual.")
        return name.removeprefix("model.") if is_tower else name.replace("model.language_model.", "model.", 1)
    name = "language_model.lm_head.weight" if name == "lm_head.weight" else name.removeprefix("model.")
    for outer, inner in (("language_model.", ("model.", "lm_head.")), ("vision_tower.", ("vision_model.",))):
        if name.startswith(outer) and not name.removeprefix(outer).startswith(inner):
            return f"{outer}{inner[0]}{name.removeprefix(outer)}"
    return name


def draw_weights(family: str, folder: Path, ids: Mapping[str, int], eos: str) -> dict[str, torch.Tensor]:
    """The tensors of the model that a folder's config describes, by their published names."""
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).to(torch.float32)
    draw(model)
    state = {
        name: tensor.detach() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }
    keep_replies_readable(
        next(tensor for name, tensor in state.items() if name.endswith("lm_head.weight")), ids, eos
    )
    return {published_name(family, name): tensor.clone().contiguous() for name, tensor in state.items()}


# Families.


@dataclass(frozen=True)
class Files:
    """The config files of a checkpoint; one that is empty is not written."""

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    video: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        named = {
            "config.json": self.config,
            "generation_config.json": self.generation,
            "preprocessor_config.json": self.preprocessor,
            "processor_config.json": self.processor,
            "video_preprocessor_config.json": self.video,
        }
        for name, fields in named.items():
            if fields:
                write_json(folder / name, fields)


def llama_config(rows: int, *, bos: int, eos: int, pad: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


CLIP_TOWER: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": VISION_WIDTH,
    "intermediate_size": VISION_INNER,
    "num_hidden_layers": VISION_LAYERS,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "projection_dim": VISION_WIDTH,
}
CLIP_IMAGES: Mapping[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": IMAGE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": IMAGE, "width": IMAGE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
    "do_convert_rgb": True,
}


def llava_family(name: str, ids: Mapping[str, int], bos: int, eos: int, **more: Any) -> dict[str, Any]:
    """What the configs of `llava_hf` and `llava_next` share."""
    return {
        "ignore_index": -100,
        "image_token_index": ids["<image>"],
        "image_seq_length": PATCHES,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": llama_config(len(ids), bos=bos, eos=eos, pad=ids["<pad>"]),
        "vision_config": dict(CLIP_TOWER),
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **more,
    }


def llava_processor(kind: str) -> dict[str, Any]:
    return {
        "processor_class": kind,
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
    }


def write_llava_hf(folder: Path) -> dict[str, torch.Tensor]:
    ids = llama_vocabulary(folder)
    config = llava_family(
        "llava",
        ids,
        1,
        2,
        architectures=["LlavaForConditionalGeneration"],
        model_type="llava",
        pad_token_id=ids["<pad>"],
    )
    Files(
        config,
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": ids["<pad>"]},
        {**CLIP_IMAGES, "processor_class": "LlavaProcessor"},
        llava_processor("LlavaProcessor"),
    ).write(folder)
    tensors = draw_weights("llava_hf", folder, ids, "</s>")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def write_llava_next(folder: Path) -> None:
    ids = byte_level_vocabulary(
        folder,
        special=(*LLAMA3_SPECIAL, "<image>", "<pad>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<pad>",
        template=llama3(images_then_texts("<image>\\n"), begins=""),
    )
    bos, eos = ids["<|begin_of_text|>"], ids["<|eot_id|>"]
    grid = [[IMAGE * high, IMAGE * wide] for high, wide in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    config = llava_family(
        "llava_next",
        ids,
        bos,
        eos,
        architectures=["LlavaNextForConditionalGeneration"],
        model_type="llava_next",
        image_grid_pinpoints=grid,
        use_image_newline_parameter=True,
    )
    images = {
        **CLIP_IMAGES,
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        "image_grid_pinpoints": grid,
        "aspect_ratio_setting": "anyres",
        "do_pad": True,
    }
    ends = [ids["<|end_of_text|>"], eos]
    generation = {"bos_token_id": bos, "eos_token_id": ends, "pad_token_id": ids["<pad>"]}
    Files(config, generation, images, llava_processor("LlavaNextProcessor")).write(folder)
    tensors = draw_weights("llava_next", folder, ids, "<|eot_id|>")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_qwen2vl(folder: Path) -> None:
    ids = byte_level_vocabulary(
        folder, special=QWEN_SPECIAL, bos=None, eos="<|im_end|>", pad="<|endoftext|>", template=CHATML
    )
    quarter = WIDTH // HEADS // 2 // 4
    config = {
        # The published config has the text model's settings at the top.
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": len(ids),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "max_position_embeddings": POSITIONS,
        "max_window_layers": LAYERS,
        "sliding_window": POSITIONS,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [quarter, quarter * 3 // 2, quarter * 3 // 2]},
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": WIDTH,
            "num_heads": 2,
            "mlp_ratio": 2,
            "in_chans": 3,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    # Sampling by default, as published: an engine must be told not to.
    generation = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.1,
        "top_k": 1,
        "top_p": 0.001,
    }
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": IMAGE**2,
        "max_pixels": 16 * IMAGE**2,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": MEAN,
        "image_std": STD,
    }
    Files(config, generation, images).write(folder)
    tensors = draw_weights("qwen2vl", folder, ids, "<|im_end|>")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_mllama(folder: Path) -> None:
    ids = byte_level_vocabulary(
        folder,
        special=(*LLAMA3_SPECIAL, "<|image|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        template=llama3(each_part("<|image|>"), begins="{{ '<|begin_of_text|>' }}"),
    )
    bos, eos, pad = ids["<|begin_of_text|>"], ids["<|eot_id|>"], ids["<|finetune_right_pad_id|>"]
    intermediate = [0, 1]
    config = {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": ids["<|image|>"],
        "torch_dtype": "float32",
        "text_config": llama_config(len(ids) - 1, bos=bos, eos=eos, pad=pad)
        | {
            "architectures": ["MllamaForCausalLM"],
            "model_type": "mllama_text_model",
            "num_hidden_layers": 4,
            "cross_attention_layers": [1, 3],
            "num_key_value_heads": 1,
            "hidden_act": "silu",
            "dropout": 0,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": POSITIONS // 2,
            },
        },
        "vision_config": {
            "architectures": ["MllamaVisionModel"],
            "model_type": "mllama_vision_model",
            "hidden_size": VISION_WIDTH,
            "intermediate_size": VISION_INNER,
            "num_hidden_layers": VISION_LAYERS,
            "num_global_layers": 1,
            "attention_heads": 2,
            "num_attention_heads": 2,
            "hidden_act": "gelu",
            "num_channels": 3,
            "image_size": IMAGE,
            "patch_size": PATCH,
            "norm_eps": 1e-5,
            "max_num_tiles": 4,
            "supported_aspect_ratios": [
                [1, 1],
                [1, 2],
                [1, 3],
                [1, 4],
                [2, 1],
                [2, 2],
                [3, 1],
                [4, 1],
            ],
            "intermediate_layers_indices": intermediate,
            "vision_output_dim": VISION_WIDTH * (1 + len(intermediate)),
            "torch_dtype": "float32",
        },
    }
    generation = {
        "bos_token_id": bos,
        "eos_token_id": [ids["<|end_of_text|>"], ids["<|eom_id|>"], eos],
        "pad_token_id": pad,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    }
    images = {
        "image_processor_type": "MllamaImageProcessor",
        "processor_class": "MllamaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE, "width": IMAGE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_pad": True,
        "max_image_tiles": 4,
    }
    Files(config, generation, images).write(folder)
    tensors = draw_weights("mllama", folder, ids, "<|eot_id|>")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# The original layout.


def original_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The language model and the projector of `llava_hf` by their original names, added rows left out."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("vision_tower."):
            continue
        name = name.removeprefix("language_model.")
        name = name.replace("multi_modal_projector.linear_1.", "model.mm_projector.0.")
        name = name.replace("multi_modal_projector.linear_2.", "model.mm_projector.2.")
        is_vocabulary = name in ("lm_head.weight", "model.embed_tokens.weight")
        found[name] = tensor[:PIECES].clone() if is_vocabulary else tensor
    return found


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Two parts and their index, as `.bin` files."""
    last = ("lm_head.", "model.norm.", "model.mm_projector.")
    parts = [
        {name: tensor for name, tensor in tensors.items() if name.startswith(last) is is_last}
        for is_last in (False, True)
    ]
    placed = {}
    for number, part in enumerate(parts, start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(part, folder / file)
        placed |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    write_json(folder / "pytorch_model.bin.index.json", index)


def write_tower(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """The CLIP tower as a checkpoint of its own, as published: with the text side that LLaVA leaves out."""
    folder.mkdir()
    write_json(
        folder / "config.json",
        {"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": dict(CLIP_TOWER)},
    )
    published_sizes = {"size": IMAGE, "crop_size": IMAGE}
    write_json(folder / "preprocessor_config.json", {**CLIP_IMAGES, **published_sizes})
    tower = {
        name.removeprefix("vision_tower."): tensor
        for name, tensor in tensors.items()
        if name.startswith("vision_tower.")
    }
    positions = {"vision_model.embeddings.position_ids": torch.arange(PATCHES + 1)[None]}
    torch.save({**tower, **positions, "logit_scale": torch.tensor(2.5)}, folder / "pytorch_model.bin")


def write_llava(folder: Path) -> None:
    served = folder / ".served"
    served.mkdir()
    tensors = write_llava_hf(served)
    shutil.rmtree(served)
    write_shards(folder, original_tensors(tensors))
    # Beside the parts in the published folder, and part of the first of them already.
    projector = {name: each for name, each in original_tensors(tensors).items() if "mm_projector" in name}
    torch.save(projector, folder / "mm_projector.bin")
    write_tower(folder / "clip", tensors)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    write_json(folder / "tokenizer_config.json", llama_tokenizer_config())
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", named)
    config = llama_config(PIECES, bos=1, eos=2, pad=0) | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": VISION_WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str((folder / "clip").resolve()),
        "use_mm_proj": True,
    }
    write_json(folder / "config.json", config)
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": POSITIONS}
    write_json(folder / "generation_config.json", generation)


WRITERS = {
    "llava_hf": write_llava_hf,
    "llava_next": write_llava_next,
    "qwen2vl": write_qwen2vl,
    "mllama": write_mllama,
    "llava": write_llava,
}


def write_all(writers: Mapping[str, Callable[[Path], object]], arguments: Sequence[str]) -> None:
    """Write the checkpoints of the families that are named behind the folder, or all."""
    root, *families = arguments
    for family in families or writers:
        folder = Path(root) / family
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        writers[family](folder)


if __name__ == "__main__":
    write_all(WRITERS, sys.argv[1:])
