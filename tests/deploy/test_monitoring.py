"""One table of metrics: documents, dashboard and alerts name what is in it; the alerts do what their tests say."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.kustomize import build
from rollout_workers.exported import EXPORTED

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = json.loads((ROOT / "deploy" / "kuberay" / "components" / "monitoring" / "dashboard.json").read_text())
NAMES = {metric.name: metric for metric in EXPORTED}
SERIES = {
    f"ray_{metric.name}{suffix}"
    for metric in EXPORTED
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def own_series(expression: str) -> set[str]:
    return set(re.findall(r"\bray_dllm_\w+", expression))


def test_documents_have_the_table():
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(dllm_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    expected = [(m.name, m.kind, ", ".join(f"`{label}`" for label in m.labels), m.help) for m in EXPORTED]
    assert [(name, kind, labels.strip(), what) for name, kind, labels, what in rows] == expected


def test_dashboard_and_alerts_name_only_what_is_exported():
    for expression in [*queries(), *(rule["expr"] for rule in rules())]:
        assert own_series(expression) <= SERIES, expression


def test_the_dashboard_shows_every_metric():
    shown = set().union(*map(own_series, queries()))
    hidden = {name for name in NAMES if not any(series.startswith(f"ray_{name}") for series in shown)}
    assert not hidden


def test_labels_in_expressions_exist():
    known = {label for metric in EXPORTED for label in metric.labels}
    of_ray = {"ray_job", "ray_io_cluster", "WorkerId", "instance", "le", "Location"}
    for expression in [*queries(), *(rule["expr"] for rule in rules())]:
        used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        assert used <= known | of_ray, expression


def test_panels_have_a_place_and_say_what_they_show():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for a, b in itertools.combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (a, b)
    for panel in panels():
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["description"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert {"datasource", "cluster", "job"} == {each["name"] for each in DASHBOARD["templating"]["list"]}


def test_every_alert_says_how_bad_it_is_and_where_to_read_on():
    headings = re.findall(r"^## (.*)$", (ROOT / "deploy" / "RUNBOOK.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert file == "RUNBOOK.md"
        assert anchor in anchors, rule["alert"]


def test_rules_and_dashboard_of_the_operator_are_the_plain_ones():
    built = {each["kind"]: each for each in build("cpu", "cluster", ["monitoring"])}
    assert built["PrometheusRule"]["spec"] == yaml.safe_load(RULES.read_text())
    assert json.loads(built["ConfigMap"]["data"]["dashboard.json"]) == DASHBOARD


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_rules_and_configuration():
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(RULES.with_name("prometheus.yaml")))


def test_alerts_fire_when_they_should_and_only_then():
    cases = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())["tests"]
    tested = {alert["alertname"] for case in cases for alert in case["alert_rule_test"] if alert["exp_alerts"]}
    assert tested == {rule["alert"] for rule in rules()}
    promtool("test", "rules", str(Path(__file__).parent / "alerts.yaml"))
