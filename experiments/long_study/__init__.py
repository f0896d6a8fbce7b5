"""The code behind `rlrep.experiments.study`: a study's protocol, runs, stored results and report."""
