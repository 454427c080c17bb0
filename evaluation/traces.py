"""Rows recorded pass by pass as JSON, for the report's replay. Confidences are whole per cent; only asked positions have one."""

from __future__ import annotations

import json
from typing import Any

from evaluation.records import ExampleRecord
from rollout_workers.lease import RowTrace, TracedPass


def trace_document(record: ExampleRecord, trace: RowTrace) -> dict[str, Any]:
    """The trace of `record` with what a reader needs to know about it; token ids stand for places in `pieces`."""
    place = {token: number for number, token in enumerate(sorted(trace.pieces))}
    return {
        "sampler": record.sampler,
        "parameters": json.loads(record.parameters),
        "block_length": record.block_length,
        "policy": record.policy,
        "seed": record.seed,
        "example_id": record.example_id,
        "prompt": trace.prompt,
        "pieces": [trace.pieces[token] for token in place],
        "mask": place.get(trace.mask_id, -1),
        "passes": [_pass(each, place) for each in trace.passes],
        "final": [place[int(token)] for token in trace.final_L],
    }


def _pass(each: TracedPass, place: dict[int, int]) -> dict[str, Any]:
    asked = [i for i, token in enumerate(each.guess_L.tolist()) if token >= 0]
    return {
        "canvas": [place[int(token)] for token in each.canvas_L],
        "nfe": each.nfe,
        "asked": asked,
        "guess": [place[int(each.guess_L[i])] for i in asked],
        "confidence": [round(100 * float(each.confidence_L[i])) for i in asked],
        "commit": [i for i, committed in enumerate(each.commit_L.tolist()) if committed],
    }
