"""Examples: objectives in agents that are not ours, each started with one command."""
