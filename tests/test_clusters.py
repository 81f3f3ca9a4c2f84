"""The files in docs/clusters, as far as they can be checked without the places they are for."""

import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydual.cluster.gauges import METRICS

ROOT = Path(__file__).parents[1]
CLUSTERS = ROOT / "docs" / "clusters"
SHIPPED = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]

# The fields of KubeRay's RayJob that the manifest may use; below `template` are Kubernetes' own pods.
RAY_JOB = {
    "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "activeDeadlineSeconds",
    "submissionMode", "runtimeEnvYAML", "rayClusterSpec",
}  # fmt: skip
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "authOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["local.yaml", "gcp.yaml"])
def test_ray_accepts_the_cluster_files(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", ["local.yaml", "gcp.yaml"])
def test_they_are_the_shipped_cluster_elsewhere(name: str) -> None:
    cluster = read(name)
    assert cluster["file_mounts"] == SHIPPED["file_mounts"]
    assert cluster["rsync_exclude"] == SHIPPED["rsync_exclude"]
    assert cluster["worker_start_ray_commands"] == SHIPPED["worker_start_ray_commands"]
    assert cluster["head_start_ray_commands"] == SHIPPED["head_start_ray_commands"]
    if "docker" in cluster:
        assert cluster["docker"]["image"] == SHIPPED["docker"]["image"]
        assert set(cluster["docker"]["run_options"]) == set(SHIPPED["docker"]["run_options"])


def test_gcp_keeps_work_off_the_head_and_starts_with_no_worker() -> None:
    types = read("gcp.yaml")["available_node_types"]
    assert types.pop("head")["resources"] == {"CPU": 0}
    assert [(worker["min_workers"], worker["resources"]["GPU"]) for worker in types.values()] == [(0, 1)]


def test_the_image_is_the_shipped_one_with_the_pinned_versions() -> None:
    lines = (CLUSTERS / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert f"FROM {SHIPPED['docker']['image']}" in lines
    assert any("pip install" in line and "-c /tmp/raydual/constraints.txt" in line for line in lines)


def test_the_ray_job_has_only_known_fields() -> None:
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= RAY_JOB
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER
    assert cluster["rayVersion"] == RAY
    assert cluster["authOptions"] == {"mode": "token"}
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert worker["minReplicas"] == 0
    for group in (head, worker):
        assert set(group) <= GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"], "Ray counts what is requested"
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert container["image"] == head["template"]["spec"]["containers"][0]["image"] == f"REGISTRY/raydual:{version}"


def test_the_ray_jobs_entrypoint_is_a_sweep_that_the_command_line_takes() -> None:
    from raydual.commands.program import commands

    words = read("rayjob.yaml")["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "raydual.sweep"]
    given = commands().commands["sweep"].make_context("sweep", words[3:]).params
    assert (ROOT / "sweeps" / given["config"].name).is_file()
    assert given["address"] == "auto"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_script_is_bash() -> None:
    """tests/test_ray_up.py runs it."""
    done = subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def statements(name: str) -> list[dict[str, Any]]:
    policy = json.loads((CLUSTERS / "aws" / name).read_text(encoding="utf-8"))
    assert policy["Version"] == "2012-10-17"
    return policy["Statement"]


def several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_results_role_reaches_one_folder_of_one_bucket() -> None:
    bucket, objects = statements("results.json")
    assert bucket["Resource"] == "arn:aws:s3:::BUCKET"
    assert objects["Resource"] == "arn:aws:s3:::BUCKET/raydual/*"
    assert all(action.startswith("s3:") and "*" not in action for s in (bucket, objects) for action in s["Action"])


def test_the_heads_role_changes_nothing_but_its_own_workers() -> None:
    found = {statement["Sid"]: statement for statement in statements("head.json")}
    for statement in found.values():
        actions, resources = several(statement["Action"]), several(statement["Resource"])
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions)
        if "*" in resources:
            assert all(action.startswith("ec2:Describe") for action in actions)
        else:
            assert all(re.fullmatch(r"arn:aws:(ec2|ssm|iam):(REGION)?:(ACCOUNT)?:\S+", name) for name in resources)
    ends = found["EndItsOwnWorkers"]
    tag = {"aws:ResourceTag/ray-cluster-name": SHIPPED["cluster_name"]}
    assert ends["Condition"] == {"StringEquals": tag}
    assert statements("trust-ec2.json")[0]["Principal"] == {"Service": "ec2.amazonaws.com"}


def unknown(expression: str) -> list[str]:
    """What an expression names that is no gauge, or no tag of the gauges in it."""
    names = re.findall(r"\bray_(\w+)", expression)
    tags = {tag for name in names for tag in METRICS.get(name, ())}
    asked = {tag.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for tag in group.split(",")}
    asked |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    return [name for name in names if name not in METRICS] + sorted(asked - tags)


def test_the_dashboard_asks_only_for_gauges_and_tags_there_are() -> None:
    dashboard = json.loads((CLUSTERS / "grafana" / "raydual.json").read_text(encoding="utf-8"))
    shown = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert unknown(target["expr"]) == [], panel["title"]
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            by = {tag.strip() for tag in re.search(r"\bby \(([^)]*)\)", target["expr"])[1].split(",")}
            assert legend <= by, panel["title"]
            shown |= set(re.findall(r"\bray_(\w+)", target["expr"]))
    assert shown == set(METRICS), "every gauge has its curve"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    name, tag = re.fullmatch(r"label_values\(ray_(\w+), (\w+)\)", variables["run"]["definition"]).groups()
    assert tag in METRICS[name]


@pytest.mark.parametrize(
    "expression",
    ["sum by (run) (ray_raydual_unit)", "sum by (rum) (ray_raydual_units)", 'ray_raydual_trials{control="none"}'],
)
def test_the_check_of_expressions_can_fail(expression: str) -> None:
    assert unknown(expression)


class Metadata(BaseHTTPRequestHandler):
    """The instance metadata service, sessions only."""

    def do_PUT(self) -> None:
        self.answer("session" if self.path == "/latest/api/token" else "")

    def do_GET(self) -> None:
        known = {"/latest/meta-data/instance-id": "i-1", "/latest/meta-data/placement/region": "us-west-2"}
        self.answer(known[self.path] if self.headers["X-aws-ec2-metadata-token"] == "session" else "")

    def answer(self, text: str) -> None:
        self.send_response(200 if text else 401)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def test_a_head_can_stop_itself(tmp_path: Path) -> None:
    """With a stand-in boto3 that prints what it is asked for."""
    (tmp_path / "boto3.py").write_text(
        "class Client:\n"
        "    def stop_instances(self, InstanceIds):\n"
        "        print('stop_instances', InstanceIds)\n"
        "def client(service, region_name):\n"
        "    print(service, region_name)\n"
        "    return Client()\n"
    )
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [sys.executable, str(CLUSTERS / "aws" / "stop_head.py")], capture_output=True, text=True, check=False,
            env={
                "PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            },
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["ec2 us-west-2", "stop_instances ['i-1']", "stopping i-1"]
