"""One model on any number of benchmarks: settings, responses, verdicts and the files of a run."""
