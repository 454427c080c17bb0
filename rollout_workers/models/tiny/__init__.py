"""The shipped tiny dLLM: its vocabulary, its training corpus and where its files lie."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT_DIR = Path(__file__).parent / "checkpoint"
"""The shipped model: config.json, model.safetensors and tokenizer files in the Hugging Face folder format."""
