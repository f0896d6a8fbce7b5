"""The code behind offline_report: compares finished offline runs with and without an objective."""
