"""Replicas that are lost: how Ray tells it, and why, in words of a line."""

from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError, RayTaskError

LOST = (RayActorError, ActorDiedError, ObjectLostError)
"""What a call raises whose replica, or whose arguments, are gone."""


class StalledError(RayActorError):
    """A replica that gave no sign of life was ended."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


def why_lost(error: BaseException) -> str:
    """Why a replica was lost, in words of a line."""
    if isinstance(error, StalledError):
        return error.reason
    text = str(error)
    if "low on memory" in text or "OutOfMemory" in type(error).__name__:
        return "Ray ended its process because memory ran out on the node"
    if "SIGKILL" in text or "connection error" in text:
        return "its process was killed, which the system does where memory runs out"
    if "node" in text.lower() and "died" in text.lower() and "NODE_DIED" in text:
        return "its node was lost"
    return _one_line(text)


def last_line(error: RayTaskError) -> str:
    """What an error on a worker says, without its traceback."""
    cause = error.cause if error.cause is not None else error
    return f"{type(cause).__name__}: {_one_line(str(cause).strip().splitlines()[-1] if str(cause).strip() else '')}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
