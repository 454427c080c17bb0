"""Strict validation of manifests without a cluster: KubeRay's own schemas, its rules in CEL as asserts, and the core schemas."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator

from deploy.kustomize import Manifest

KUBERNETES = "1.34"
_SCHEMAS = Path(__file__).parent / "crds"
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
_MAX_NAME = {"RayCluster": 53, "RayJob": 47}
"""Of the operator: names of services and clusters are made from these."""


def problems(manifest: Manifest) -> list[str]:
    """What an API server and the operator would refuse; empty for a good manifest."""
    kind = manifest["kind"]
    if manifest["apiVersion"] == "ray.io/v1":
        found = [f"{kind} {error.json_path}: {error.message[:300]}" for error in _validator(kind).iter_errors(manifest)]
        return found or [f"{kind}: {problem}" for problem in _rules(manifest)]
    if manifest["apiVersion"] == "monitoring.coreos.com/v1":
        return [f"{kind} {error.json_path}: {error.message[:300]}" for error in _monitoring(kind).iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{kind}: {error}"]
    return []


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    schema = json.loads(gzip.decompress((_SCHEMAS / f"ray.io_v1_{kind}.json.gz").read_bytes()))
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": _MAX_NAME[kind]},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    strict = _strict(schema)
    strict["required"] = sorted({*strict.get("required", []), "spec"})
    return Draft202012Validator(strict)


def _strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as JSON Schema that knows no other fields."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    for key in ("properties", "patternProperties"):
        if key in result:
            result[key] = {name: _strict(inner) for name, inner in result[key].items()}
    for key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "not"):
        if key in result:
            result[key] = _strict(result[key])
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    closed = result.get("type") == "object" and "properties" in result
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if result.pop("nullable", False) and "type" in result:
        result["type"] = [result["type"], "null"]
    return result


def _rules(manifest: Manifest) -> list[str]:
    """The schemas' rules in CEL and what the operator's own validation refuses."""
    spec = manifest["spec"]
    cluster = spec if manifest["kind"] == "RayCluster" else spec.get("rayClusterSpec")
    found = [f"managedBy {spec['managedBy']!r}"] if spec.get("managedBy", _MANAGERS[0]) not in _MANAGERS else []
    if manifest["kind"] == "RayJob":
        found += _job_rules(spec)
    return found + (_cluster_rules(cluster) if cluster is not None else [])


def _job_rules(spec: Manifest) -> list[str]:
    found = []
    selects = spec.get("clusterSelector")
    if (selects is None) == (spec.get("rayClusterSpec") is None):
        found.append("exactly one of clusterSelector and rayClusterSpec")
    if selects is not None and not selects.get("ray.io/cluster"):
        found.append("clusterSelector names no ray.io/cluster")
    if selects is not None and (spec.get("suspend") or spec.get("shutdownAfterJobFinishes")):
        found.append("a job on another's cluster neither suspends nor shuts it down")
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        found.append("ttlSecondsAfterFinished without shutdownAfterJobFinishes")
    if spec.get("activeDeadlineSeconds", 1) <= 0 or spec.get("backoffLimit", 0) < 0:
        found.append("deadlines are positive and backoffLimit is not negative")
    strategy = spec.get("deletionStrategy")
    if strategy is not None:
        legacy = {"onSuccess", "onFailure"} & strategy.keys()
        if legacy and "deletionRules" in strategy:
            found.append("deletionRules together with onSuccess or onFailure")
        if not strategy.get("deletionRules") and legacy != {"onSuccess", "onFailure"}:
            found.append("deletionRules, or both onSuccess and onFailure")
        for rule in strategy.get("deletionRules", []):
            if len({"jobStatus", "jobDeploymentStatus"} & rule["condition"].keys()) != 1:
                found.append("a deletion condition names one status")
    return found


def _cluster_rules(spec: Manifest) -> list[str]:
    found = []
    scales = spec.get("enableInTreeAutoscaling", False)
    if spec.get("authOptions", {}).get("mode") == "token" and not spec.get("rayVersion"):
        found.append("token authentication needs rayVersion")
    groups = [("headgroup", spec["headGroupSpec"]), *((g["groupName"], g) for g in spec.get("workerGroupSpecs", []))]
    if len({name for name, _ in groups}) < len(groups):
        found.append("two groups of one name")
    for name, group in groups:
        start = group.get("rayStartParams", {})
        if not group["template"]["spec"]["containers"]:
            found.append(f"{name}: no container")
        if "labels" in start:
            found.append(f"{name}: labels belong to the group, not to rayStartParams")
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & start.keys():
            found.append(f"{name}: resources both in the group and in rayStartParams")
        if scales and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            found.append(f"{name}: pods of a scaled cluster restart never")
        low, now, high = (group.get(key, 1) for key in ("minReplicas", "replicas", "maxReplicas"))
        if not low <= now <= high:
            found.append(f"{name}: {now} replicas are not within {low} to {high}")
    return found


@functools.cache
def _monitoring(kind: str) -> Draft202012Validator:
    """The fields of the Prometheus operator's kinds that are used here, and no others."""
    text: dict[str, Any] = {"type": "string"}
    texts: dict[str, Any] = {"type": "object", "additionalProperties": text}
    relabeling = _object({"action": text, "sourceLabels": {"type": "array", "items": text}, "targetLabel": text})
    endpoint = _object({"port": text, "interval": text, "relabelings": {"type": "array", "items": relabeling}}, "port")
    rule = _object({"alert": text, "expr": text, "for": text, "labels": texts, "annotations": texts}, "alert", "expr")
    group = _object({"name": text, "interval": text, "rules": {"type": "array", "items": rule}}, "name", "rules")
    specs = {
        "PodMonitor": _object(
            {
                "jobLabel": text,
                "selector": _object({"matchLabels": texts}, "matchLabels"),
                "podMetricsEndpoints": {"type": "array", "items": endpoint, "minItems": 1},
            },
            "selector",
            "podMetricsEndpoints",
        ),
        "PrometheusRule": _object({"groups": {"type": "array", "items": group, "minItems": 1}}, "groups"),
    }
    metadata = _object({"name": text, "namespace": text, "labels": texts, "annotations": texts}, "name")
    whole = {"apiVersion": text, "kind": text, "metadata": metadata, "spec": specs[kind]}
    return Draft202012Validator(_object(whole, *whole))


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
