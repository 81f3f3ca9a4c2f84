"""Ray at the edge: the only package that imports it. What it adapts is computed, and tested, without it."""

import os

# Read by ray at import: no copy of uv's environment, trials that keep the working directory, a Ctrl-C that reaches the
# run and not Tune alone, and none of the loggers and notices that would bury the run's own lines.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# The run tells in its own words which replicas were lost, and why.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed while executing a task")
