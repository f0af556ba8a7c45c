"""One run in one folder: resolve, seed, train, evaluate, checkpoint, resume."""
