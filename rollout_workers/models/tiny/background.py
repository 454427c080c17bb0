"""How common each token is in the tiny model's texts, for PC-Sampler: `python -m rollout_workers.models.tiny.background`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from rollout_workers.models.tiny import CHECKPOINT_DIR
from rollout_workers.models.tiny.corpus import Corpus
from rollout_workers.models.tiny.vocabulary import build_tokenizer
from rollout_workers.resources import BACKGROUND

NUM_TEXTS = 8192
"""Of each task."""


def background_counts(num_texts: int = NUM_TEXTS) -> dict[str, int]:
    """Token -> how often it occurs in the canvases of that many texts of each task, commonest first."""
    tokenizer = build_tokenizer()
    corpus = Corpus(tokenizer, seed=0)
    counts: Counter[int] = Counter()
    for batch in (corpus.arithmetic(0, batch_size=num_texts), corpus.sudoku(0, batch_size=num_texts)):
        counts.update(batch.canvas_BL.flatten().tolist())
    return {str(tokenizer.convert_ids_to_tokens(token)): count for token, count in counts.most_common()}


def main(folder: Path = CHECKPOINT_DIR) -> int:
    """Writes the file of the shipped model."""
    path = folder / BACKGROUND
    path.write_text(json.dumps({"counts": background_counts()}, indent=1) + "\n")
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
