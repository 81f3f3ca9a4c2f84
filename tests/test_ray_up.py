"""The commands of the documents' cluster sections, word for word, on machines of Linux namespaces (tests/machines).

A real `ray up`, job, `ray rsync-down` and `ray down` over a stand-in ssh, and the Slurm script.
"""

import copy
import re
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from .machines import Machines, refusal

ROOT = Path(__file__).parents[1]
SHIPPED = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
LAPTOP, HEAD, WORKER = "10.77.0.1", "10.77.0.2", "10.77.0.3"
PIP = "-m pip install --no-cache-dir -c constraints.txt ."
# The sweeps that stand in for sweeps/sst2.yaml, whose model needs a GPU and the hub.
SHORT = """\
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
LONG = """\
name: sst2
model: embedded
task: sst2
data: embedded
demonstrations: 16
seeds: 16
split: {selection: 0, measured: 200}
finetune: {learning_rate: 3.0}
execution: {replicas: 1, seeds_per_batch: 1}
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
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
    return on_two_cpus(cluster)


def options_of_containers(role: str) -> dict[str, str]:
    """The environment that the shipped file gives to the containers of a role."""
    docker = SHIPPED["docker"]
    options = [*docker["run_options"], *docker.get(f"{role}_run_options", [])]
    return dict(option.removeprefix("--env ").split("=", 1) for option in options if option.startswith("--env "))


def on_two_cpus(cluster: dict) -> dict:
    """No CPU for tasks on the head, as the shipped file has it, and two on the worker, whatever this computer has."""
    for role, cpus in (("head", 0), ("worker", 2)):
        start = cluster[f"{role}_start_ray_commands"]
        start[-1] += f" --num-cpus={cpus} --num-gpus=0 --object-store-memory=300000000"
    return cluster


@pytest.fixture
def machines(tmp_path):
    """Laptop, head and worker, without a network: pip notes what it was asked for."""
    found = Machines(tmp_path)
    python = shutil.which("python")
    # The nodes take the package from the copied folder, see PYTHONPATH, and its requirements from this environment.
    found.program(
        "python", f'case "$*" in "-m pip install"*) echo "$PWD: $*" >> ~/pip.log; exit 0;; esac\nexec {python} "$@"'
    )
    found.program("pip", 'exec python -m pip "$@"')
    venv = f'mkdir -p "$3/bin"; touch "$3/bin/activate"; ln -sf {found.programs}/python "$3/bin/python"'
    found.program("python3", f'if [ "$1 $2" = "-m venv" ]; then {venv}; else exec {python} "$@"; fi')
    try:
        yield found
    finally:
        found.close()


def add_machines(machines: Machines, environments: dict[str, dict[str, str]]) -> list:
    """A laptop, and nodes with these environments."""
    machines.add("laptop", "/home/laptop", {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": "/home/laptop/raydual"})
    for role, environment in environments.items():
        machines.add(role, "/home/ray", environment | {"PYTHONPATH": "/home/ray/raydual", "OMP_NUM_THREADS": "1"})
    return machines.all


def checkout(folder: Path, files: dict[str, str]) -> None:
    """A copy of this tree, with other contents for some files."""
    ignore = shutil.ignore_patterns(".git", "runs", "*cache*", "__pycache__", ".venv", "tests", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=ignore)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "runs").mkdir()
    (folder / "runs" / "stays-here").write_text("")


def run_shown(laptop, command: str) -> str:
    """Execute a command in the root of the laptop's repository; its output."""
    done = laptop.run(f"cd raydual && {command}", timeout=600)
    print(f"$ {command}\n{done.stdout}")
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


def wait_until(condition, seconds: float, complaint) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint()
        time.sleep(1)


def test_readme_gives_a_report(machines, tmp_path):
    laptop, head, worker = add_machines(machines, {role: options_of_containers(role) for role in ("head", "worker")})
    assert head.run("mkdir runs").returncode == 0, "what --volume makes in the container"
    files = {"cluster.yaml": yaml.safe_dump(derived(), sort_keys=False), "sweeps/sst2.yaml": SHORT}
    checkout(tmp_path / "checkout", files)
    assert laptop.run(f"cp -r {tmp_path}/checkout raydual").returncode == 0
    shown = commands("README.md", "## On a cluster")
    first_words = [" ".join(command.split()[:2]) for command in shown]
    assert first_words.index("ray up") < first_words.index("mkdir -p") < first_words.index("ray down")

    before = laptop.run("cd raydual && python -m raydual check cluster.yaml")
    assert before.returncode == 2
    missing = "error: cluster.yaml: file_mounts: ~/.ray/auth_token does not exist; `ray get-auth-token --generate"
    assert before.stdout.splitlines()[-1].startswith(missing)

    said = {}
    for command in shown:
        said[command] = run_shown(laptop, command)
        if command.startswith("ray up"):
            check_the_cluster(head, worker)
    (logs,) = (text for command, text in said.items() if "job logs" in command)
    assert "2 node(s), 2 CPU, no GPU" in logs
    assert "report.html" in logs
    (status,) = (text for command, text in said.items() if "job status" in command)
    assert "succeeded" in status
    check_the_report(laptop, tmp_path, seeds=3)
    assert "install boto3" in laptop.run("cat pip.log").stdout
    no_ray_is_left(head, worker)


def check_the_cluster(head, worker) -> None:
    """What `ray up` has made of the two machines."""
    log = "cat /tmp/ray/session_latest/logs/monitor.*"
    wait_until(lambda: "/2.0 CPU" in head.run("ray status").stdout, 200, lambda: head.run(log).stdout)
    for machine in (head, worker):
        installed = machine.run("cat pip.log").stdout.splitlines()
        assert f"/home/ray/raydual: {PIP}" in installed
        token = machine.run("stat -c '%a %s' ~/.ray/auth_token").stdout.split()
        assert token[0] == "600"
        assert int(token[1]) >= 32
        assert machine.run("ls raydual/runs/stays-here").returncode != 0, "runs/ is not copied"
    assert "boto3" in head.run("cat pip.log").stdout
    assert head.run("readlink raydual/runs").stdout.strip() == "/home/ray/runs"
    # As docs/cluster.md says under "What listens".
    (dashboard,) = re.findall(r"(\S+):8265\s", head.run("ss -ltnH").stdout)
    assert dashboard == "127.0.0.1"
    read = f"import urllib.request as u; print(u.urlopen('http://{WORKER}:8080/metrics').read().decode())"
    assert "ray_node_cpu" in head.run(f'python -c "{read}"').stdout
    stranger = worker.run("RAY_AUTH_MODE=disabled timeout 20 ray status --address 10.77.0.2:6379")
    assert "CPU" not in stranger.stdout


def check_the_report(laptop, folder: Path, seeds: int) -> None:
    """What was fetched to the laptop."""
    assert laptop.run(f"cp -r raydual/runs/sst2 {folder}/fetched").returncode == 0
    fetched = folder / "fetched"
    assert (fetched / "report.html").stat().st_size > 10_000
    summary = pq.read_table(fetched / "summary.parquet").to_pandas()
    assert set(summary[summary["metric"] == "simaou"]["n"]) == {seeds}


def no_ray_is_left(*nodes) -> None:
    """On the workers it ends by itself when the head is gone."""
    for node in nodes:
        wait_until(lambda node=node: not rays(node), 240, lambda node=node: f"{node.name}: {rays(node)}")


def rays(node) -> str:
    return node.run("ps -eo args | grep -E '[r]aylet/raylet|[g]cs/gcs_server'").stdout.strip()


def test_machines_of_your_own(machines, tmp_path):
    """docs/clusters/local.yaml, with a job that is stopped and gone on with as docs/cluster.md says."""
    laptop, head, worker = add_machines(machines, {"head": {}, "worker": {}})
    name = "docs/clusters/local.yaml"
    cluster = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    cluster["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    cluster["auth"]["ssh_user"] = "root"
    checkout(tmp_path / "checkout", {name: yaml.safe_dump(on_two_cpus(cluster)), "sweeps/sst2.yaml": LONG})
    assert laptop.run(f"cp -r {tmp_path}/checkout raydual; mkdir .ssh; touch .ssh/id_ed25519").returncode == 0
    (make_token,) = [command for command in commands("README.md", "## On a cluster") if "get-auth-token" in command]
    run_shown(laptop, make_token)

    check, up, submit, logs, fetch, down = commands("docs/cluster.md", "## Machines of your own")
    run = [command.replace("cluster.yaml", name) for command in commands("docs/cluster.md", "## Run")]
    assert run[:2] == [submit, logs]
    status, stop, again = run[2:5]
    run_shown(laptop, check)
    run_shown(laptop, up)
    wait_until(lambda: "/2.0 CPU" in head.run("ray status").stdout, 200, lambda: head.run("ray status").stdout)
    run_shown(laptop, submit)
    measured = "ls runs/sst2/measurements/*.parquet | wc -l"
    wait_until(
        lambda: int(head.run(measured).stdout.split()[-1]) >= 2, 400, lambda: head.run("ray job logs sst2").stdout
    )
    run_shown(laptop, stop)
    assert "stopped" in run_shown(laptop, status).lower()
    assert head.run("ls runs/sst2/report.html").returncode != 0
    run_shown(laptop, again)
    assert "report.html" in run_shown(laptop, logs.replace("sst2'", "sst2-again'"))
    run_shown(laptop, fetch)
    check_the_report(laptop, tmp_path, seeds=16)
    run_shown(laptop, down)
    no_ray_is_left(head, worker)


def test_a_finished_sweep_stops_what_costs(machines, tmp_path):
    """The job that ends its cluster, and `ray exec --stop`; `sudo` and the script that asks EC2 only note the call."""
    laptop, head, worker = add_machines(machines, {role: options_of_containers(role) for role in ("head", "worker")})
    assert head.run("mkdir runs").returncode == 0
    machines.program("sudo", 'echo "$*" >> ~/sudo.log')
    python = (machines.programs / "python").read_text(encoding="utf-8").removeprefix("#!/bin/bash\n")
    machines.program("python", f'case "$*" in *stop_head.py) echo "$*" >> ~/stopped.log; exit 0;; esac\n{python}')
    # The local provider starts its worker again at once, so that `ray down` runs into its limit, here a shorter one.
    machines.program("timeout", f'shift; exec {shutil.which("timeout")} 15 "$@"')
    files = {"cluster.yaml": yaml.safe_dump(derived(), sort_keys=False), "sweeps/sst2.yaml": SHORT}
    checkout(tmp_path / "checkout", files)
    assert laptop.run(f"cp -r {tmp_path}/checkout raydual").returncode == 0
    (make_token,) = [command for command in commands("README.md", "## On a cluster") if "get-auth-token" in command]
    run_shown(laptop, make_token)
    run_shown(laptop, "ray up --yes cluster.yaml")
    wait_until(lambda: "/2.0 CPU" in head.run("ray status").stdout, 200, lambda: head.run("ray status").stdout)
    (ends_itself,) = [command for command in commands("docs/cluster.md", "## What it costs") if "stop_head" in command]
    run_shown(laptop, ends_itself)
    wait_until(lambda: head.run("cat stopped.log").returncode == 0, 500, lambda: head.run("ray job logs sst2").stdout)
    assert head.run("ls runs/sst2/report.html").returncode == 0
    assert head.run("ls raydual/docs/clusters/aws/stop_head.py").returncode == 0
    logs = head.run("ray job logs sst2").stdout
    assert f"{WORKER}: Terminating node" in logs

    document = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert "ray stop; ray teardown ~/ray_bootstrap_config.yaml --yes --workers-only; sudo shutdown -h now" in document
    stopped = laptop.run("cd raydual && ray exec --stop cluster.yaml false", timeout=200)
    assert "No such command 'teardown'" in stopped.stdout
    assert head.run("cat sudo.log").stdout.strip() == "shutdown -h now"
    assert not rays(head)


def test_slurm(machines, tmp_path):
    """The script as it stands, on two nodes; `srun` and `scontrol` are stand-ins, and nodes are named by address."""
    laptop, first, second = add_machines(machines, {"first": {}, "second": {}})
    shared = tmp_path / "shared"
    checkout(shared, {"sweeps/sst2.yaml": SHORT})
    machines.program("scontrol", f'[ "$*" = "show hostnames nodes[1-2]" ] && printf "%s\\n" {HEAD} {WORKER}')
    machines.program(
        "srun",
        'while [[ "$1" == --* ]]; do shift; done\n'
        "given=$(export -p | grep -E ' (RAY_|SLURM_)')\n"
        f'for node in {HEAD} {WORKER}; do\n  ssh $node "$given; cd $PWD; $(printf "%q " "$@")" < /dev/null &\ndone\n'
        "code=0; for job in $(jobs -p); do wait $job || code=$?; done; exit $code",
    )
    given = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "nodes[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
    }  # fmt: skip
    (command,) = commands("docs/cluster.md", "## Slurm")
    exports = "; ".join(f"export {key}='{value}'" for key, value in given.items())
    done = first.run(f"cd {shared}; {exports}; {command.replace('sbatch', 'bash')}", timeout=600)
    print(done.stdout)
    assert done.returncode == 0
    assert "2 node(s), 2 CPU, no GPU" in done.stdout
    assert (shared / "runs" / "sst2" / "report.html").stat().st_size > 10_000
    assert not list(shared.glob(".ray-token*"))
    no_ray_is_left(first, second)
