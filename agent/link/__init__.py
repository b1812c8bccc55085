"""The way to the coordinator: dial, resume, dial again."""
