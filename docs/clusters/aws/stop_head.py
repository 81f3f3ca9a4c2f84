"""Stop the EC2 instance that this runs on: `python raydual/docs/clusters/aws/stop_head.py`, on the head, after a sweep.

Its disk with the runs stays, and `ray up` starts it again. The instance's role has to allow ec2:StopInstances.
"""

import os
import urllib.request

import boto3

METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")


def metadata(path: str) -> str:
    """What the instance knows about itself, by a session as `HttpTokens: required` demands."""
    ask = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    session = _read(urllib.request.Request(f"{METADATA}/latest/api/token", method="PUT", headers=ask))  # noqa: S310
    header = {"X-aws-ec2-metadata-token": session}
    return _read(urllib.request.Request(f"{METADATA}/latest/meta-data/{path}", headers=header))  # noqa: S310


def _read(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return answer.read().decode()


def main() -> None:
    """Stop this instance."""
    instance = metadata("instance-id")
    boto3.client("ec2", region_name=metadata("placement/region")).stop_instances(InstanceIds=[instance])
    print(f"stopping {instance}")


if __name__ == "__main__":
    main()
