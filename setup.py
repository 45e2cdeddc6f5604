"""Dataflow stages this file (`--setup_file`) to bring the code to its workers. All metadata stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=find_packages(include=["features", "features.*", "pipelines", "pipelines.*"]))
