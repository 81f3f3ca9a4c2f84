"""cluster.yaml: Ray's own validation, and what that validation lets through."""

import copy
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster.yaml"


def names(text: str) -> dict[str, Any]:
    """Keys whose values are not looked into."""
    return dict.fromkeys(text.split())


# The parameters of EC2's RunInstances, to the depth that cluster.yaml uses them. Left out: the ones that Ray
# sets itself (MinCount, MaxCount, ClientToken, DryRun). SubnetIds is Ray's own.
LEAVES = names("""
    AdditionalInfo CapacityReservationSpecification CpuOptions CreditSpecification DisableApiStop
    DisableApiTermination EbsOptimized EnablePrimaryIpv6 EnclaveOptions HibernationOptions IamInstanceProfile
    ImageId InstanceInitiatedShutdownBehavior InstanceType Ipv6AddressCount Ipv6Addresses KernelId KeyName
    LaunchTemplate LicenseSpecifications MaintenanceOptions Monitoring NetworkInterfaces Operator Placement
    NetworkPerformanceOptions PrivateDnsNameOptions PrivateIpAddress RamdiskId SecurityGroupIds SecurityGroups
    SubnetId SubnetIds UserData
""")
EBS = names("""
    DeleteOnTermination Encrypted Iops KmsKeyId OutpostArn SnapshotId Throughput VolumeSize VolumeType
""")
SPOT = names("BlockDurationMinutes InstanceInterruptionBehavior MaxPrice SpotInstanceType ValidUntil")
METADATA = names("HttpEndpoint HttpProtocolIpv6 HttpPutResponseHopLimit HttpTokens InstanceMetadataTags")
RUN_INSTANCES: dict[str, Any] = LEAVES | {
    "BlockDeviceMappings": {"DeviceName": None, "Ebs": EBS, "NoDevice": None, "VirtualName": None},
    "InstanceMarketOptions": {"MarketType": None, "SpotOptions": SPOT},
    "MetadataOptions": METADATA,
    "TagSpecifications": {"ResourceType": None, "Tags": names("Key Value")},
}

# vCPUs, GPUs, GiB of memory of the instance types that cluster.yaml may use; add the ones you change to.
INSTANCES = {
    "m6i.xlarge": (4, 0, 16),
    "g5.xlarge": (4, 1, 16),
    "g5.2xlarge": (8, 1, 32),
    "g6.xlarge": (4, 1, 16),
    "g6.2xlarge": (8, 1, 32),
}


def unknown_keys(value: Any, known: dict[str, Any] | None, path: str = "") -> list[str]:
    """The keys below `value` that `known` doesn't have, with their paths."""
    if known is None:
        return []
    if isinstance(value, list):
        return [key for item in value for key in unknown_keys(item, known, path)]
    wrong = [f"{path}{key}" for key in value if key not in known]
    inner = [unknown_keys(item, known[key], f"{path}{key}.") for key, item in value.items() if key in known]
    return wrong + [key for keys in inner for key in keys]


def options(commands: list[str], program: str) -> dict[str, str]:
    """The --name=value options of the one command that calls `program`."""
    (command,) = [command for command in commands if program in command]
    words = [word for word in shlex.split(command) if word.startswith("--")]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


@pytest.fixture(scope="module")
def ray_util() -> Any:
    """Imported late: Ray takes seconds, and the other tests of this directory do without it."""
    from ray.autoscaler._private import util

    return util


@pytest.fixture
def written() -> dict[str, Any]:
    """cluster.yaml as it is written."""
    return yaml.safe_load(CLUSTER.read_text())


@pytest.fixture
def cluster(written: dict[str, Any], ray_util: Any) -> dict[str, Any]:
    """cluster.yaml as `ray up` takes it: with Ray's defaults where it is silent, and valid to Ray."""
    prepared = ray_util.prepare_config(copy.deepcopy(written))
    ray_util.validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Package → version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [re.match(r"([\w.-]+)(?:\[.*\])?\s*==\s*([^\s;#]+)", line) for line in lines]
    return {match[1].lower(): match[2] for match in pinned if match}


def test_rays_validation_refuses_an_unknown_key(written: dict[str, Any], ray_util: Any) -> None:
    wrong = ray_util.prepare_config(written | {"idle_timeout_minuets": 10})
    with pytest.raises(ValidationError, match="idle_timeout_minuets"):
        ray_util.validate_config(wrong)


def test_nothing_is_left_to_rays_defaults(written: dict[str, Any], cluster: dict[str, Any]) -> None:
    """Ray fills every key that isn't written from its AWS example; these few are empty there."""
    assert set(cluster) - set(written) <= {
        "cluster_synced_files",
        "file_mounts_sync_continuously",
        "rsync_filter",
    }


def test_node_configs_have_only_keys_of_run_instances(cluster: dict[str, Any]) -> None:
    for name, node_type in cluster["available_node_types"].items():
        assert not unknown_keys(node_type["node_config"], RUN_INSTANCES), name


@pytest.mark.parametrize(
    "typo",
    [
        {"InstanceTpye": "g6.xlarge"},
        {"InstanceMarketOptions": {"MarketTyp": "spot"}},
        {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSise": 200}}]},
        {"MetadataOptions": {"HttpToken": "required"}},
        {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "project", "Valeu": "raydual"}]}]},
    ],
)
def test_a_typo_that_ray_accepts_is_found(cluster: dict[str, Any], ray_util: Any, typo: dict[str, Any]) -> None:
    node_config = cluster["available_node_types"]["gpu-1-spot-g6"]["node_config"]
    node_config.update(typo)
    ray_util.validate_config(cluster)
    assert len(unknown_keys(node_config, RUN_INSTANCES)) == 1


def test_the_image_has_the_pinned_ray_and_the_projects_python(cluster: dict[str, Any], pins: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    python = project["tool"]["mypy"]["python_version"]
    assert cluster["docker"]["image"] == f"rayproject/ray:{pins['ray']}-py{python.replace('.', '')}-gpu"
    assert not {"head_image", "worker_image"} & set(cluster["docker"])


def test_pytorch_is_not_pinned_to_a_build_without_cuda(pins: dict[str, str]) -> None:
    assert "+cpu" not in pins["torch"]


def test_every_node_says_which_machine_image_it_boots(cluster: dict[str, Any]) -> None:
    """Ray's default is Ubuntu 18.04 with a driver that no current PyTorch supports."""
    images = {node_type["node_config"]["ImageId"] for node_type in cluster["available_node_types"].values()}
    assert len(images) == 1
    assert re.fullmatch(r"ami-[0-9a-f]+|resolve:ssm:/\S+", images.pop())


def test_the_dashboard_listens_on_loopback(cluster: dict[str, Any]) -> None:
    for role in ("head", "worker"):
        assert options(cluster[f"{role}_start_ray_commands"], "ray start")["--dashboard-host"] == "127.0.0.1"


def test_workers_join_the_heads_port(cluster: dict[str, Any]) -> None:
    head = options(cluster["head_start_ray_commands"], "ray start")
    worker = options(cluster["worker_start_ray_commands"], "ray start")
    assert worker["--address"] == f"$RAY_HEAD_IP:{head['--port']}"
    assert head["--autoscaling-config"] == "~/ray_bootstrap_config.yaml"


def test_head_and_workers_ask_for_the_token(cluster: dict[str, Any]) -> None:
    """run_options go to every container, and Ray there reads the token where file_mounts puts it."""
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_there_are_no_secrets(written: dict[str, Any]) -> None:
    text = CLUSTER.read_text()
    assert not re.search(r"RAY_AUTH_TOKEN\b|HF_TOKEN\b|aws_(secret_)?access_key|AKIA[0-9A-Z]{16}|\bhf_\w{20,}", text)
    assert "aws_credentials" not in written["provider"]


def test_setup_installs_the_project_and_no_development_build_of_ray(cluster: dict[str, Any]) -> None:
    for role in ("head", "worker"):
        commands = cluster[f"{role}_setup_commands"]
        assert "cd /home/ray/raydual && python -m pip install --no-cache-dir -c constraints.txt ." in commands
        assert not any(re.search(r"ray-wheels|\.whl|nightly|dev0", command) for command in commands)
    assert cluster["file_mounts"]["/home/ray/raydual"] == "."


def test_runs_and_the_environment_stay_on_the_laptop(cluster: dict[str, Any]) -> None:
    assert {"/runs", ".git/", ".venv/"} <= set(cluster["rsync_exclude"])


def test_work_goes_to_gpu_workers_and_not_to_the_head(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"], "losing a spot head would lose the run"
    assert types
    for worker in types.values():
        resources = worker["resources"]
        assert (resources["CPU"], resources["GPU"]) == INSTANCES[worker["node_config"]["InstanceType"]][:2]
        assert resources["CPU"] > resources["GPU"] >= 1, "Ray Data needs a CPU beside the replicas"
        assert worker["min_workers"] == 0, "an idle cluster keeps no GPU"
        assert worker["max_workers"] == cluster["max_workers"], "each type alone can be all that the cloud has"


def test_spot_workers_come_before_on_demand_ones(cluster: dict[str, Any]) -> None:
    """And types with the same number would be taken in the reverse order of their names."""
    types = cluster["available_node_types"]
    types.pop(cluster["head_node_type"])
    numbers = {name: int(re.findall(r"\d+", name)[0]) for name in types}
    assert len(set(numbers.values())) == len(numbers)
    ordered = sorted(types, key=numbers.__getitem__)
    spot = ["InstanceMarketOptions" in types[name]["node_config"] for name in ordered]
    assert spot == sorted(spot, reverse=True)
    assert spot.count(True) >= 2
    assert spot[-1] is False


def test_what_costs_is_tagged(cluster: dict[str, Any]) -> None:
    for node_type in cluster["available_node_types"].values():
        tagged = {tags["ResourceType"]: tags["Tags"] for tags in node_type["node_config"]["TagSpecifications"]}
        assert tagged["instance"] == tagged["volume"] == [{"Key": "project", "Value": "raydual"}]


def test_shared_memory_holds_the_object_store(cluster: dict[str, Any]) -> None:
    """Ray takes 30 % of a node's memory for it, and the rest has to be left for the replicas."""
    (size,) = [option for option in cluster["docker"]["run_options"] if option.startswith("--shm-size=")]
    shared = float(size.removeprefix("--shm-size=").removesuffix("gb"))
    for node_type in cluster["available_node_types"].values():
        memory = INSTANCES[node_type["node_config"]["InstanceType"]][2]
        assert 0.3 * memory <= shared <= 0.5 * memory
