"""What `rlrep.experiments.study` stands on: the protocol of a study, its runs, what is kept of them, its report."""
