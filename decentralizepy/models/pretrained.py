"""Pretrained text models, by `transformers`, from files of this machine.

A folder is what `save_pretrained` writes: `config.json` and `model.safetensors`. In its place may
stand a published name whose files are in the cache of Hugging Face's tools; nothing is downloaded.
Options of a model stand in the section [MODEL] of the INI. Parameters have the library's names.
"""

from typing import Any

import torch
from torch import Tensor, nn

from decentralizepy.errors import ConfigError


class _Pretrained(nn.Module):
    """A model of the library's, whose parts are this module's own."""

    def __init__(self, kind: str, folder: str, pretrained: bool, **configured: Any) -> None:
        super().__init__()
        model = _load(kind, folder, pretrained, configured)
        for name, part in model.named_children():
            self.add_module(name, part)
        self._whole = [model]  # in a list: its parameters are registered under the names above
        self.padding = int(model.config.pad_token_id or 0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits for tokens [B, T]; padding is not attended to."""
        found: Tensor = self._whole[0](input_ids=x, attention_mask=x != self.padding).logits
        return found


class TextClassifier(_Pretrained):
    """A sequence classifier: tokens int64 [B, T] to logits [B, classes].

    With ``pretrained = False`` all weights are drawn anew, and ``config.json`` is enough.
    """

    def __init__(self, *, folder: str, classes: int, pretrained: bool = True) -> None:
        kind = "AutoModelForSequenceClassification"
        super().__init__(kind, folder, pretrained, num_labels=classes)


class NextToken(_Pretrained):
    """A causal language model: tokens int64 [B, T] to logits [B, T, words] of the following ones.

    With ``pretrained = False`` all weights are drawn anew, and ``config.json`` is enough.
    """

    def __init__(self, *, folder: str, pretrained: bool = True) -> None:
        super().__init__("AutoModelForCausalLM", folder, pretrained)


def _load(kind: str, folder: str, pretrained: bool, configured: dict[str, Any]) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "pretrained models need transformers, which is not installed: "
            "pip install 'decentralizepy[text]' (or pip install transformers)"
        ) from error
    transformers.utils.logging.set_verbosity_error()  # new last layers are what is wanted
    transformers.utils.logging.disable_progress_bar()
    factory = getattr(transformers, kind)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, **configured
        )
        if not pretrained:
            return factory.from_config(config, dtype=torch.float32)
        return factory.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # of a last layer for other classes
        )
    except Exception as error:  # the library may raise nearly anything
        raise ConfigError(
            f"[MODEL] folder = {folder}: neither a folder of a pretrained model nor in the cache "
            f"of Hugging Face's tools (get it with: hf download {folder}): {error!s:.200}"
        ) from None
