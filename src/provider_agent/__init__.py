"""Connects inference servers to a coordinator: protocol, adapters, agent and reference coordinator.

The four subpackages are folders at the top of the repository; the links beside this file make them
importable under one name, also in an editable install.
"""
