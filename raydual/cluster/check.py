"""What `ray up` would stumble over, before it starts: `raydual check`."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from raydual.errors import UserError

_TOKEN_FILE = "/.ray/auth_token"  # noqa: S105
_MAKE_IT = "`ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token` makes it"
_PROVIDER_MODULES = {"aws": ("boto3", "boto3"), "gcp": ("googleapiclient", "google-api-python-client")}
_IMAGE = re.compile(r"rayproject/ray(?:-ml)?:(?P<ray>\d+\.\d+\.\d+)-py(?P<major>\d)(?P<minor>\d+)")
_PRIVATE = 0o077


def problems(path: Path) -> list[str]:
    """What has to be done before `ray up PATH`, a line each.

    Raises
    ------
    UserError
        There is no such file, or it is not YAML.
    """
    cluster = _read(path)
    unknown = list(_schema_errors(cluster))
    if unknown:
        return unknown
    return [
        *_missing_programs(),
        *_provider_problems(cluster["provider"]),
        *_mount_problems(cluster.get("file_mounts") or {}),
        *_image_problems((cluster.get("docker") or {}).get("image", "")),
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        cluster = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run this in the root of the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(cluster, dict):
        raise UserError(f"{path}: not a mapping of settings to values, as a cluster file is")
    return cluster


def _schema_errors(cluster: dict[str, Any]) -> Iterator[str]:
    """What Ray's own schema of cluster files says."""
    from jsonschema import Draft7Validator

    # Found without importing ray, which takes seconds.
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    for error in sorted(Draft7Validator(schema).iter_errors(cluster), key=lambda error: list(map(str, error.path))):
        place = ".".join(map(str, error.path))
        yield f"{place}: {error.message}" if place else error.message


def _missing_programs() -> Iterator[str]:
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            yield f"`ray up` needs the program {program}, which is not installed on this machine"


def _provider_problems(provider: dict[str, Any]) -> Iterator[str]:
    module, package = _PROVIDER_MODULES.get(provider.get("type", ""), (None, None))
    if module is None:
        return
    if importlib.util.find_spec(module) is None:
        yield f"provider {provider['type']} needs {package}, which is not installed: pip install {package}"
    elif module == "boto3" and not _aws_credentials():
        yield "no AWS credentials on this machine: `aws configure`, or set AWS_PROFILE"


def _aws_credentials() -> bool:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:
        return False


def _mount_problems(mounts: dict[str, str]) -> Iterator[str]:
    for remote, local in mounts.items():
        path = Path(local).expanduser()
        is_token = remote.endswith(_TOKEN_FILE)
        if not path.exists():
            remedy = _MAKE_IT if is_token else "make it, or take the line out"
            yield f"file_mounts: {local} does not exist; {remedy}"
        elif is_token:
            yield from _token_problems(local, path)
        elif remote.endswith("/raydual") and not (path / "raydual" / "__init__.py").is_file():
            yield f"file_mounts: {path.absolute()} is not the root of the repository; run this and `ray up` there"


def _token_problems(local: str, path: Path) -> Iterator[str]:
    if not path.is_file() or not path.read_bytes().strip():
        yield f"file_mounts: {local} holds no token; remove it, then {_MAKE_IT}"
    elif stat.S_IMODE(path.stat().st_mode) & _PRIVATE:
        yield f"file_mounts: others on this machine can read {local}: chmod 600 {local}"


def _image_problems(image: str) -> Iterator[str]:
    versions = _IMAGE.match(image)
    if versions is None:
        return
    installed = importlib.metadata.version("ray")
    if versions["ray"] != installed:
        yield f"docker.image has Ray {versions['ray']}, but Ray {installed} is installed here; they have to be the same"
    least = importlib.metadata.metadata("raydual")["Requires-Python"].removeprefix(">=")
    if (int(versions["major"]), int(versions["minor"])) < tuple(map(int, least.split("."))):
        yield f"docker.image has Python {versions['major']}.{versions['minor']}, raydual needs {least} or later"
