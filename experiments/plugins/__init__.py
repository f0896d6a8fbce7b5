"""Examples: objectives in other agents; each example is one command."""
