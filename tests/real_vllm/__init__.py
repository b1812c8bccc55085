"""What only a real vLLM shows: `make test-vllm` installs one, starts it and runs these tests."""
