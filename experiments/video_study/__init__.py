"""The study of what the theory of learning from video predicts: its parts, its verdicts, its report."""
