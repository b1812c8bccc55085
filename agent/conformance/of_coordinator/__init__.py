"""The cases for coordinators."""
