"""Tests that need a real vLLM; `make test-vllm` installs it, starts it and runs them."""
