"""Connects inference servers to a coordinator.

The subpackages `protocol`, `adapters`, `agent`, `coordinator` and `conformance` are folders at the
top of the repository; the links beside this file make them importable under one name, also in an
editable install.
"""
