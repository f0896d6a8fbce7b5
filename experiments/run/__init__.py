"""What a run is: its configuration, agent, data, checkpoint, log and evaluation, and the one driver of all kinds."""
