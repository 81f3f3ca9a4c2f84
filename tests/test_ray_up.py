"""README's cluster section, word for word: a real `ray up`, job, `ray rsync-down` and `ray down` on machines that are
Linux namespaces (tests/machines), reached by a stand-in ssh."""

import copy
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from .machines import Machines, refusal

ROOT = Path(__file__).parents[1]
SHIPPED = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
LAPTOP, HEAD, WORKER = "10.77.0.1", "10.77.0.2", "10.77.0.3"
PIP = "-m pip install --no-cache-dir -c constraints.txt ."
# The sweep that stands in for sweeps/sst2.yaml, whose model needs a GPU and the hub.
SWEEP = """\
name: sst2
model: embedded
task: sst2
data: embedded
demonstrations: 8
seeds: 4
split: {selection: 20, measured: 40}
search:
  seeds: {keep: 3, slices: [20]}
finetune: {learning_rate: 3.0}
controls: {random_step: true}
execution: {replicas: 1}
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(refusal() is not None, reason=f"no machines of namespaces here: {refusal()}"),
]


def commands(document: str, title: str) -> list[str]:
    """The commands in the bash blocks of one section of a document, without their comments."""
    text = (ROOT / document).read_text(encoding="utf-8")
    section = text.split(f"\n{title}\n", 1)[1]
    section = re.split(r"\n#{1,2} ", section)[0]
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ")
    lines = [re.sub(r"\s+# .*$", "", line).strip() for line in blocks.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def derived() -> dict:
    """The shipped cluster.yaml with what a computer without AWS, Docker and GPUs can't have taken out, and no more."""
    cluster = copy.deepcopy(SHIPPED)
    # Ray's provider for machines that are there; it refuses types of nodes, and takes every worker at once.
    cluster["provider"] = {"type": "local", "head_ip": HEAD, "worker_ips": [WORKER]}
    for key in ("available_node_types", "head_node_type", "upscaling_speed"):
        del cluster[key]
    cluster["max_workers"] = 1
    cluster["auth"] = {"ssh_user": "root"}
    # No containers: what they would be given is the machines' environment, see `options_of_containers`.
    del cluster["docker"]
    # These prepare the host for Docker.
    cluster["initialization_commands"] = []
    # This one stops a worker without a GPU.
    cluster["worker_setup_commands"] = []
    # What the types of nodes say in the shipped file: the head has no CPU for tasks. Two for the worker, whatever
    # this computer has.
    for role, cpus in (("head", 0), ("worker", 2)):
        start = cluster[f"{role}_start_ray_commands"]
        start[-1] += f" --num-cpus={cpus} --num-gpus=0 --object-store-memory=300000000"
    return cluster


def options_of_containers(role: str) -> dict[str, str]:
    """The environment that the shipped file gives to the containers of a role."""
    docker = SHIPPED["docker"]
    options = [*docker["run_options"], *docker.get(f"{role}_run_options", [])]
    return dict(option.removeprefix("--env ").split("=", 1) for option in options if option.startswith("--env "))


@pytest.fixture
def machines(tmp_path):
    found = Machines(tmp_path)
    # There is no network: pip notes what it was asked for. The nodes take the package from the copied folder.
    found.program(
        "python",
        f'case "$*" in "-m pip install"*) echo "$PWD: $*" >> ~/pip.log; exit 0;; esac\n'
        f'exec {shutil.which("python")} "$@"',
    )
    found.program("pip", 'exec python -m pip "$@"')
    found.program("sudo", 'echo "$*" >> ~/sudo.log')
    found.add("laptop", "/home/laptop", {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": "/home/laptop/raydual"})
    for role in ("head", "worker"):
        environment = options_of_containers(role) | {"PYTHONPATH": "/home/ray/raydual", "OMP_NUM_THREADS": "1"}
        found.add(role, "/home/ray", environment)
    # What --volume makes in the container.
    assert found.all[1].run("mkdir runs").returncode == 0
    try:
        yield found
    finally:
        found.close()


def checkout(laptop, folder: Path, cluster: dict) -> None:
    """A copy of this tree at ~/raydual of the laptop, with the cluster file and the small sweep."""
    ignore = shutil.ignore_patterns(".git", "runs", "*cache*", "__pycache__", ".venv", "tests", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=ignore)
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False), encoding="utf-8")
    (folder / "sweeps" / "sst2.yaml").write_text(SWEEP, encoding="utf-8")
    (folder / "runs").mkdir()
    (folder / "runs" / "stays-here").write_text("")
    assert laptop.run(f"cp -r {folder} raydual").returncode == 0


def test_readme_gives_a_report(machines, tmp_path):
    laptop, head, worker = machines.all
    checkout(laptop, tmp_path / "checkout", derived())
    shown = commands("README.md", "## On a cluster")
    first_words = [" ".join(command.split()[:2]) for command in shown]
    assert first_words.index("ray up") < first_words.index("mkdir -p") < first_words.index("ray down")

    before = laptop.run("cd raydual && python -m raydual.cluster.check cluster.yaml")
    assert before.returncode == 2
    missing = "error: cluster.yaml: file_mounts: ~/.ray/auth_token does not exist; `ray get-auth-token --generate"
    assert before.stdout.splitlines()[-1].startswith(missing)

    said = {}
    for command in shown:
        done = laptop.run(f"cd raydual && {command}", timeout=400)
        print(f"$ {command}\n{done.stdout}")
        assert done.returncode == 0, (command, done.stdout)
        said[command] = done.stdout
        if command.startswith("ray up"):
            check_the_cluster(head, worker)
    (logs,) = (text for command, text in said.items() if "job logs" in command)
    assert "report.html" in logs
    (status,) = (text for command, text in said.items() if "job status" in command)
    assert "succeeded" in status

    assert laptop.run(f"cp -r raydual/runs/sst2 {tmp_path}/fetched").returncode == 0
    fetched = tmp_path / "fetched"
    assert (fetched / "report.html").stat().st_size > 10_000
    summary = pq.read_table(fetched / "summary.parquet").to_pandas()
    assert set(summary[summary["metric"] == "simaou"]["n"]) == {3}

    assert "install boto3" in laptop.run("cat pip.log").stdout
    for machine in (head, worker):
        assert not machine.run("pgrep -x 'raylet|gcs_server'").stdout.strip(), "ray down leaves no Ray"


def check_the_cluster(head, worker) -> None:
    """What `ray up` has made of the two machines."""
    wait = "for i in $(seq 100); do ray status 2>&1 | grep -q '/2.0 CPU' && exit 0; sleep 1; done; ray status; exit 1"
    done = head.run(wait, timeout=200)
    assert done.returncode == 0, done.stdout + head.run("cat /tmp/ray/session_latest/logs/monitor.*").stdout
    for machine in (head, worker):
        installed = machine.run("cat pip.log").stdout.splitlines()
        assert f"/home/ray/raydual: {PIP}" in installed
        token = machine.run("stat -c '%a %s' ~/.ray/auth_token").stdout.split()
        assert token[0] == "600"
        assert int(token[1]) >= 32
        assert machine.run("ls raydual/runs/stays-here").returncode != 0, "runs/ is not copied"
    assert "boto3" in head.run("cat pip.log").stdout
    assert head.run("readlink raydual/runs").stdout.strip() == "/home/ray/runs"
    stranger = head.run("RAY_AUTH_MODE=disabled ray status")
    assert stranger.returncode != 0 or "authenticat" in stranger.stdout.lower()
