"""The settings of a sweep: schema, tasks, controls and axes, and reading them with errors that name their place."""
