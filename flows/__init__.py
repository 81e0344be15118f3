"""Orchestration: command line, settings, processes and Prefect flows around plain steps. The only home of Prefect."""
